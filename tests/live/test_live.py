"""A live model holds the bits that a saved merge would, whatever was set before."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pico import CP_TOKENS, SPECIAL, TEMPLATE, TOKENS, save_model, save_tokenizer
from transformers import AutoModelForCausalLM, MusicgenDecoderConfig, MusicgenForCausalLM

from chatvec_lab import Checkpoint
from chatvec_lab.live import LiveModel, loading, places
from chatvec_lab.weights import combinations

SCALES = [0.5, 0.7, 1, 1.3, -0.3, 0]
VOCABULARY = {"model.embed_tokens.weight", "lm_head.weight"}
WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(model):
    """Every parameter and buffer as integers, so that -0.0 and 0.0 differ."""
    return {
        name: tensor.clone().view(WHOLE[tensor.element_size()]) for name, tensor in model.state_dict().items()
    }


def differing(one, other):
    assert one.keys() == other.keys()
    return [
        name
        for name in one
        if one[name].dtype != other[name].dtype or not torch.equal(one[name], other[name])
    ]


def saved_bits(merged, folder, **options):
    merged.save(folder, progress=False, **options)
    return bits(AutoModelForCausalLM.from_pretrained(folder, dtype="auto"))


CHATML = ["<|im_start|>", "<|im_end|>"]


def chatml_family(root, *, reserved=()):
    """A chat model with two tokens of its own, which base and CP may hold as reserved, never trained rows."""
    tokens, special = SPECIAL + TOKENS + list(reserved), SPECIAL + list(reserved)
    base = save_model(root / "base", seed=1, tokens=tokens, special=special)
    cp = save_model(root / "cp", seed=3, near=base, tokens=tokens, special=special)
    template = TEMPLATE.replace("<|{{ m.role }}|>", "<|im_start|>").replace("</s>", "<|im_end|>")
    chat = save_model(
        root / "chat", seed=2, near=base, tokens=SPECIAL + TOKENS + CHATML, special=SPECIAL + CHATML,
        template=template,
    )  # fmt: skip
    return Checkpoint(base), Checkpoint(chat), Checkpoint(cp)


def opened(folders):
    base, chat, cp = map(Checkpoint, folders)
    return cp, chat - base


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"dtype": torch.float16}),
        ("llama", {"dtype": torch.float32}),
        ("qwen2", {"tied": True}),
        ("gemma", {"tied": True}),
        ("gpt_neox", {}),
        ("mixtral", {}),
        ("phi3", {}),
        ("llama", {"cp_tokens": CP_TOKENS}),
        ("qwen2", {"cp_tokens": CP_TOKENS, "tied": True}),
    ],
    ids=str,
)
def test_live_weights_are_the_saved_bits(families, kind, options, tmp_path):
    cp, tau = opened(families(kind, **options))
    live = LiveModel(cp, tau, device="cpu")
    plain = bits(AutoModelForCausalLM.from_pretrained(cp.folder, dtype="auto"))
    assert differing(bits(live.model), plain) == []
    for scale in SCALES:
        live.scale = scale
        assert live.scale == scale
        assert differing(bits(live.model), saved_bits(cp + scale * tau, tmp_path / str(scale))) == []
    assert differing(bits(live.model), plain) == []


def test_a_class_with_several_tables_of_codes_turns_too(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24}
    for seed, name in enumerate(("base", "chat", "cp")):
        torch.manual_seed(seed)
        config = MusicgenDecoderConfig(vocab_size=64, num_codebooks=2, **sizes)
        MusicgenForCausalLM(config).save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name, SPECIAL + TOKENS, template=None, special=SPECIAL)
    cp, tau = opened([tmp_path / name for name in ("base", "chat", "cp")])
    live = LiveModel(cp, tau, device="cpu")
    live.scale = 0.7
    (cp + 0.7 * tau).save(tmp_path / "saved", progress=False)
    assert not differing(bits(live.model), bits(MusicgenForCausalLM.from_pretrained(tmp_path / "saved")))
    with pytest.raises(ValueError, match="MusicgenForCausalLM has no one table of tokens"):
        loading._tokens(live.model)


def test_a_turn_changes_every_parameter_that_tau_changes(families):
    cp, tau = opened(families("mixtral", dtype=torch.float32))
    live = LiveModel(cp, tau, device="cpu")
    before = bits(live.model)
    live.scale = 1
    changed = differing(bits(live.model), before)
    assert {name for name, _ in live.model.named_parameters()} == set(changed)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_dtype_is_rounded_once_as_save_does(families, dtype, tmp_path):
    cp, tau = opened(families("llama"))
    live = LiveModel(cp, tau, device="cpu", dtype=dtype)
    for scale in (0.7, 0):
        live.scale = scale
        assert (
            differing(bits(live.model), saved_bits(cp + scale * tau, tmp_path / f"{scale}", dtype=dtype))
            == []
        )


def test_selected_scheduled_transformed_and_several_vectors(families, tmp_path):
    cp, tau = opened(families("llama", cp_tokens=CP_TOKENS))
    vectors = {
        "selected": tau.select(layers=0, modules="attention|norm"),
        "scheduled": tau.scheduled(lambda layer, module: 0.3 if layer is None else 0.7 * layer),
        "sum": 0.7 * tau + tau.random_like(1).select(layers=1),
        "sparsified": tau.sparsified("dare", density=0.3),
        "low rank": tau.low_rank(2),
    }
    tau.save(tmp_path / "tau", progress=False)
    vectors["loaded"] = type(tau).load(tmp_path / "tau")
    for name, vector in vectors.items():
        live = LiveModel(cp, vector, device="cpu")
        for scale in (1.3, -0.3):
            live.scale = scale
            saved = saved_bits(cp + scale * vector, tmp_path / f"{name} {scale}")
            assert differing(bits(live.model), saved) == [], name


def test_a_merged_checkpoint_can_be_the_cp(families, tmp_path):
    cp, tau = opened(families("llama"))
    halfway = cp + 0.5 * tau
    live = LiveModel(halfway, tau.random_like(3), device="cpu")
    assert differing(bits(live.model), saved_bits(halfway, tmp_path / "half")) == []
    live.scale = 0.7
    assert (
        differing(bits(live.model), saved_bits(halfway + 0.7 * tau.random_like(3), tmp_path / "more")) == []
    )


def test_a_skipped_vocabulary_stays_the_cps(tmp_path, families):
    cp, tau = opened(families("llama", cp_tokens=CP_TOKENS))
    live = LiveModel(cp, tau, device="cpu", vocabulary="skip")
    live.scale = 0.7
    saved = saved_bits(cp.add(0.7 * tau, vocabulary="skip"), tmp_path / "saved")
    assert differing(bits(live.model), saved) == []


def test_added_tokens_have_the_chats_rows(tmp_path):
    base, chat, cp = chatml_family(tmp_path)
    live = LiveModel(cp, chat - base, device="cpu", add_tokens=True)
    live.scale = 0.7
    saved = saved_bits(cp.add(0.7 * (chat - base), add_tokens=True), tmp_path / "saved")
    assert differing(bits(live.model), saved) == []
    assert live.tokenizer.chat_template == chat.chat_template
    assert live.tokenizer("<|im_end|>")["input_ids"] == [64]
    for scale in (0, -0.3):  # a save of these has no such tokens; the rows before them are the same
        live.scale = scale
        saved = saved_bits(cp + scale * (chat - base), tmp_path / f"saved {scale}")
        rows = {
            name: tensor[:63] if name in VOCABULARY else tensor for name, tensor in bits(live.model).items()
        }
        assert differing(rows, saved) == []


def test_copied_special_rows_are_the_chats_at_any_scale_but_zero(tmp_path):
    base, chat, cp = chatml_family(tmp_path, reserved=CHATML)
    row = cp.vocabulary.tokens[CHATML[0]]
    live = LiveModel(cp, chat - base, device="cpu", copy_special=True)
    for scale in (0.3, 1, -0.3, 0):
        live.scale = scale
        saved = saved_bits(cp.add(scale * (chat - base), copy_special=True), tmp_path / f"saved {scale}")
        assert differing(bits(live.model), saved) == []
    assert torch.equal(
        live.model.get_input_embeddings().weight[row], cp.read("model.embed_tokens.weight")[row]
    )


@pytest.mark.parametrize("turns", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_turns_leave_no_trace(tmp_path, turns):
    tokens = [*SPECIAL, "a", "b"]
    base = save_model(tmp_path / "base", seed=1, tokens=tokens)
    others = [save_model(tmp_path / name, seed=2, tokens=tokens, near=base) for name in ("chat", "cp")]
    cp, tau = opened((base, *others))
    live = LiveModel(cp, tau, device="cpu")
    before = bits(live.model)
    live.scale = 0.7
    once = bits(live.model)
    rng = np.random.default_rng(0)
    for scale in rng.normal(0, 1, turns):
        live.scale = scale
    live.scale = 0.7
    assert differing(bits(live.model), once) == []
    live.scale = 0
    assert differing(bits(live.model), before) == []


def test_at_undoes_itself_also_when_the_body_raises(families):
    cp, tau = opened(families("llama"))
    live = LiveModel(cp, tau, device="cpu")
    live.scale = 0.5
    half = bits(live.model)
    with live.at(1.0) as inside:
        assert inside is live and live.scale == 1.0
        with pytest.raises(RuntimeError, match="body"), live.at(-1):
            raise RuntimeError("body")
        assert live.scale == 1.0
    assert live.scale == 0.5
    assert differing(bits(live.model), half) == []


def test_what_was_done_to_the_weights_meanwhile_is_undone_by_the_next_turn(families):
    cp, tau = opened(families("llama"))
    live = LiveModel(cp, tau, device="cpu")
    before = bits(live.model)
    with torch.no_grad():
        for parameter in live.model.parameters():
            parameter.mul_(3)
    live.scale = 0
    assert differing(bits(live.model), before) == []


def test_a_scale_that_is_no_number_or_overflows_leaves_the_cp(families):
    cp, tau = opened(families("llama", dtype=torch.float16))
    live = LiveModel(cp, tau, device="cpu")
    before = bits(live.model)
    for wrong, error in (
        ("1", TypeError),
        (True, TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
    ):
        live.scale = 1
        with pytest.raises(error, match="scale"):
            live.scale = wrong
    with pytest.raises(
        ValueError, match=r"weight of cp \+ .* too large for float16; the model is the CP again"
    ):
        live.scale = 1e9
    assert live.scale == 0
    assert differing(bits(live.model), before) == []


def test_threads_give_the_same_bits(families, monkeypatch):
    cp, tau = opened(families("mixtral"))
    one, many = LiveModel(cp, tau, device="cpu"), None
    monkeypatch.setattr("chatvec_lab.live.model._FEW", 0)
    monkeypatch.setattr("chatvec_lab.live.slots.BLOCK", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    many = LiveModel(cp, tau, device="cpu")
    assert (one._threads._count, many._threads._count) == (1, 4)
    for scale in (0.7, 0):
        one.scale = many.scale = scale
        assert differing(bits(one.model), bits(many.model)) == []


def test_places_out_of_reach_are_filled_by_a_copy(families, monkeypatch):
    """As on a GPU, or where a parameter holds a tensor transposed."""
    cp, tau = opened(families("mixtral"))
    direct = LiveModel(cp, tau, device="cpu")
    monkeypatch.setattr("chatvec_lab.live.slots.Slot.is_raw", False)
    copied = LiveModel(cp, tau, device="cpu")
    for scale in (0.7, 0):
        direct.scale = copied.scale = scale
        assert differing(bits(direct.model), bits(copied.model)) == []


def test_every_tensor_without_a_place_is_named(families, monkeypatch):
    cp, tau = opened(families("gpt_neox"))
    real = places.places

    def places_of(model):
        found = real(model)
        del found["embed_out.weight"], found["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"]
        found["gpt_neox.layers.1.attention.dense.bias"] = found["gpt_neox.layers.0.attention.dense.bias"] + 1
        return found

    monkeypatch.setattr("chatvec_lab.live.loading.places", places_of)
    with pytest.raises(ValueError, match="3 of 28 tensors of cp did not reach the model") as error:
        LiveModel(cp, tau, device="cpu")
    size = cp.shape("gpt_neox.layers.1.attention.dense.bias")[0]
    for line in (
        "embed_out.weight   has no place in GPTNeoXForCausalLM",
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight   has no place",
        f"gpt_neox.layers.1.attention.dense.bias   is not what the model holds in its place: {size} of {size} elements",
    ):
        assert line in str(error.value)


def test_a_vector_that_does_not_pair_is_refused_before_loading(families, tmp_path):
    cp, _ = opened(families("llama"))
    _, other = opened(families("gpt_neox"))
    with pytest.raises(ValueError, match="do not pair"):
        LiveModel(cp, other)


def test_dtype_auto_is_the_stored_one_also_where_the_config_says_otherwise(tmp_path, families):
    import json
    import shutil

    base, chat, cp = families("llama")
    copy = tmp_path / "cp"
    shutil.copytree(cp, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    live = LiveModel(Checkpoint(copy), Checkpoint(chat) - Checkpoint(base), device="cpu")
    assert live.model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype='int8': expected 'auto' or one of"):
        LiveModel(Checkpoint(copy), Checkpoint(chat) - Checkpoint(base), dtype="int8")


def _holds(live, merged, name: str) -> bool:
    return torch.equal(live.model.state_dict()[name], merged.read(name))


def test_two_threads_never_leave_weights_of_mixed_scales(families):
    base, chat, cp = map(Checkpoint, families("llama"))
    tau = chat - base
    live, names = LiveModel(cp, tau, device="cpu"), ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    expected = {scale: cp + scale * tau for scale in (0.3, 0.9)}
    mixed = []

    def turn(scale):
        for _ in range(60):
            live.scale = scale
            with live.at(scale):  # nobody else turns it in here
                mixed.extend(n for n in names if live.scale != scale or not _holds(live, expected[scale], n))

    threads = [threading.Thread(target=turn, args=(scale,)) for scale in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not mixed and not any(thread.is_alive() for thread in threads)
    assert all(_holds(live, expected[live.scale], name) for name in names)


def test_a_forked_process_turns_its_own_copy(families):
    base, chat, cp = map(Checkpoint, families("llama"))
    live = LiveModel(cp, chat - base, device="cpu")
    live._threads._count = 2  # as for a large model
    live.scale = 0.5
    with live.at(0.7):  # the lock is held at the fork
        child = os.fork()
        if not child:
            live.scale = 0.2
            os._exit(0 if _holds(live, cp + 0.2 * (chat - base), "model.norm.weight") else 1)
        deadline = time.monotonic() + 30
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.05)
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert ended[0] and os.waitstatus_to_exitcode(ended[1]) == 0
    assert live.scale == 0.5


@pytest.mark.parametrize("kind", ["AfmoeForCausalLM", "LaraMiniForCausalLM", "HrmTextForCausalLM"])
def test_float32_and_split_weights_are_the_saved_bits(kind, tmp_path):
    """Biases of routers that transformers keeps in float32; stored tensors that it splits, or whose rows it reorders."""
    from architecture_sweep import Members

    models = Members(kind, tmp_path)
    assert models.merge("extended") == "" and models.live("extended") == ""


def test_a_stored_tensor_of_several_parameters_is_filled_run_by_run():
    from chatvec_lab.live.places import Pieces

    q, v = torch.zeros(2, 3), torch.zeros(1, 3)
    place = Pieces((3, 3), [(0, q.view(-1)), (6, v.view(-1))])
    place.detach().copy_(torch.arange(9.0).view(3, 3))
    assert torch.equal(q, torch.arange(6.0).view(2, 3)) and torch.equal(v, torch.arange(6.0, 9.0).view(1, 3))
    assert torch.equal(place[:2], q) and place.numel() == 9 and not place.is_contiguous()


def mixture(vectors, numbers):
    first, second = numbers
    return combinations.weighted(vectors, [lambda layer, module: first if module == "mlp" else 0.3, second])


@pytest.mark.parametrize("options", [{}, {"cp_tokens": CP_TOKENS, "tied": True}], ids=str)
def test_mixed_weights_are_the_saved_bits_and_go_back(families, options, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama", **options))
    vectors = [chat - base, (chat - base).low_rank(2), (chat - base).random_like(0)]
    held = combinations.weighted(vectors[:2], [1, 1])
    live = LiveModel(cp, held, device="cpu")
    live.scale = 0.5
    before = bits(live.model)
    for i, numbers in enumerate([(1.0, 0.25), (0.0, -0.5), (0.0, 0.0)]):
        mixed = mixture(vectors[:2], numbers)
        with live.turned(mixed):
            assert np.isnan(live.scale)
            assert not differing(bits(live.model), saved_bits(cp + mixed, tmp_path / str(i)))
        assert live.scale == 0.5 and not differing(bits(live.model), before)
    with live.turned(mixture(vectors[:2], (1.0, 0.25))):
        outer = bits(live.model)
        with live.turned(mixture(vectors[:2], (2.0, 0.25))), live.at(0):
            pass
        assert not differing(bits(live.model), outer), "one inside another goes back to the outer one"
    with pytest.raises(ValueError, match="not made of the terms"), live.turned(mixture(vectors[1:], (1, 1))):
        pass
    huge = combinations.weighted(vectors[:2], [1e300, 1])
    with pytest.raises(ValueError, match="the model is the CP again"), live.turned(huge):
        pass
    assert live.scale == 0, "the CP again"


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_the_vector_in_some_tensors_only_is_a_save_of_these(families, dtype, tmp_path):
    cp, tau = opened(families("llama"))
    live = LiveModel(cp, tau, device="cpu", dtype=dtype)
    live.scale = 0.5
    before = bits(live.model)
    some = {slot.name for slot in live.slots if live.part(slot).module == "mlp"}
    assert len(some) == 6
    with live.at(0.7, only=some):
        told = {} if dtype == "auto" else {"dtype": dtype}
        wanted = saved_bits(cp + 0.7 * tau.select(modules="mlp"), tmp_path / "mlp", **told)
        assert differing(bits(live.model), wanted) == [] and np.isnan(live.scale)
        with live.at(1.0):
            assert live.scale == 1
        assert differing(bits(live.model), wanted) == []
    assert live.scale == 0.5 and differing(bits(live.model), before) == []
    with live.at(0.7, only=()):
        assert differing(bits(live.model), bits(LiveModel(cp, tau, device="cpu", dtype=dtype).model)) == []


def test_computing_takes_float32_on_a_cpu_with_the_same_weights(families):
    live = LiveModel(*opened(families("llama")), device="cpu")
    with live.computing(0.5) as model:
        assert model.dtype == torch.float32 and live.scale == 0.5
        for own, theirs in zip(live.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(own.float(), theirs)
    wide = LiveModel(*opened(families("llama")), device="cpu", dtype="float32")
    with wide.computing(0.5) as model:
        assert model is wide.model


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base if isinstance(array, np.ndarray) else None
    return array is not None


@pytest.mark.parametrize("options", [{}, {"cp_tokens": CP_TOKENS}], ids=["same rows", "other rows"])
@pytest.mark.parametrize("resident", ["cp", "all", "none"])
def test_what_is_mapped_gives_the_same_bits(families, tmp_path, options, resident):
    cp, tau = opened(families("llama", **options))
    live = LiveModel(cp, tau, resident=resident)
    for scale in (0.7, -0.3, 0):
        live.scale = scale
        assert differing(bits(live.model), saved_bits(cp + scale * tau, tmp_path / str(scale))) == []
    inner = [slot for slot in live.slots if slot.name not in VOCABULARY]
    sides = [a for slot in inner for part in slot.parts for a in part[2:]]
    assert sides and all(is_mapped(a) == (resident != "all") for a in sides)
    assert all(is_mapped(slot.cp) == (resident == "none") for slot in inner)


@pytest.mark.parametrize("resident", ["cp", "all", "none"])
def test_a_merged_model_is_computed_and_never_mapped(families, tmp_path, resident):
    cp, tau = opened(families("llama"))
    merged = cp + 0.5 * tau
    vector = merged - tau.base
    live = LiveModel(merged, vector, resident=resident)
    for scale in (0.7, 0):
        live.scale = scale
        saved = saved_bits(merged + scale * vector, tmp_path / str(scale), force=["descent", "cp-is-base"])
        assert differing(bits(live.model), saved) == []


def test_a_mapped_file_that_changed_is_refused_and_the_scale_stays(families, tmp_path):
    folders = [tmp_path / Path(folder).name for folder in families("llama")]
    for there, here in zip(families("llama"), folders, strict=True):
        shutil.copytree(there, here)
    cp, tau = opened(folders)
    live = LiveModel(cp, tau)
    live.scale = 0.5
    before = bits(live.model)
    [file] = tau.sources()[0].folder.glob("*.safetensors")
    with open(file, "r+b") as opened_again:
        opened_again.seek(-2, os.SEEK_END)
        opened_again.write(b"xx")
    os.utime(file, ns=(1, 1))
    with pytest.raises(OSError, match=f"{file.parent.name}.*was changed"):
        live.scale = 1.0
    assert live.scale == 0.5 and differing(bits(live.model), before) == []
    live._mapped.clear()  # as if it had been changed while the model was turned
    checks = iter([None, OSError("was changed")])
    live._check = lambda: (_ for _ in ()).throw(error) if (error := next(checks)) else None
    with pytest.raises(OSError, match="was changed"):
        live.scale = 1.0
    assert live.scale == 0
    with pytest.raises(ValueError, match="resident='mapped': expected 'cp', 'all' or 'none'"):
        LiveModel(cp, tau, resident="mapped")
