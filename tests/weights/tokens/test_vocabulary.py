"""Embedding and head rows: paired by token, skipped, strict, copied, added; and what the report says."""

import json

import numpy as np
import pytest
import torch
from pico import CP_TOKENS, SPECIAL, TOKENS, save_model, save_tokenizer
from reference import state

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.weights.tokens.rows import with_rows
from chatvec_lab.weights.tokens.vocabulary import Vocabulary, runs

CHATML = ["<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"


def test_runs_join_consecutive_rows():
    assert runs(np.array([3, 4, 5, -1, -1, 9, 0, 1])) == [(0, 3, 3), (5, 9, 1), (6, 0, 2)]
    assert runs(np.array([-1, 0, 1])) == [(1, 0, 2)]
    assert runs(np.array([], int)) == []
    assert runs(np.array([-1, -1])) == []


def chat_family(root, *, cp_special=(), reserved=(), cp_tokens=None):
    """A chat model with two ChatML tokens of its own; the base may hold them as reserved, never trained rows."""
    base_tokens = SPECIAL + TOKENS + list(reserved)
    chat_tokens = SPECIAL + TOKENS + CHATML
    base = save_model(root / "base", seed=1, tokens=base_tokens, special=SPECIAL + list(reserved))
    chat = save_model(
        root / "chat", seed=2, near=base, tokens=chat_tokens, special=SPECIAL + CHATML, template=CHAT_TEMPLATE
    )
    generation = json.loads((chat / "generation_config.json").read_text())
    generation["eos_token_id"] = [chat_tokens.index("<|im_end|>"), 2]
    (chat / "generation_config.json").write_text(
        json.dumps(generation | {"temperature": 0.6, "do_sample": True})
    )
    tokens = cp_tokens or SPECIAL + TOKENS + list(cp_special)
    cp = save_model(root / "cp", seed=3, near=base, tokens=tokens, special=SPECIAL + list(cp_special))
    return Checkpoint(base), Checkpoint(chat), Checkpoint(cp)


def test_match_keeps_every_row_and_reports_them(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=CP_TOKENS))
    report = (cp + (chat - base)).save(tmp_path / "out", progress=False).vocabulary
    assert (report.rows, report.matched, report.kept, report.padded) == (79, 63, 16, 0)
    assert report.copied == report.added == report.chat_only == ()
    before, after = state(cp.folder)["lm_head.weight"], state(tmp_path / "out")["lm_head.weight"]
    for row, token in enumerate(CP_TOKENS):
        assert torch.equal(before[row], after[row]) == token.startswith("x")


def test_skip_leaves_embedding_and_head_alone(families, tmp_path):
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=CP_TOKENS))
    cp.add(chat - base, vocabulary="skip").save(tmp_path / "out", progress=False)
    before, after = state(cp.folder), state(tmp_path / "out")
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"lm_head.weight", "model.embed_tokens.weight"}


def test_strict_demands_one_vocabulary(families):
    base, chat, cp = map(Checkpoint, families("llama", cp_tokens=CP_TOKENS))
    with pytest.raises(ValueError, match=r"strict.*79 rows and the vector 63.*match"):
        cp.add(chat - base, vocabulary="strict").check()
    base, chat, cp = map(Checkpoint, families("llama"))
    cp.add(chat - base, vocabulary="strict").check()


def test_padding_rows_stay(tmp_path):
    tokens = SPECIAL + TOKENS
    base, chat, cp = (
        Checkpoint(save_model(tmp_path / n, seed=s, tokens=tokens, rows=64 + 16))
        for n, s in (("b", 1), ("c", 2), ("p", 3))
    )
    report = (cp + (chat - base)).save(tmp_path / "out", progress=False).vocabulary
    assert (report.rows, report.matched, report.padded) == (80, 63, 17)
    before, after = (
        state(cp.folder)["model.embed_tokens.weight"],
        state(tmp_path / "out")["model.embed_tokens.weight"],
    )
    assert torch.equal(before[63:], after[63:]) and not torch.equal(before[:63], after[:63])


def test_chat_and_base_of_different_vocabularies_pair_by_token(tmp_path):
    base, chat, _ = chat_family(tmp_path)
    tau = chat - base
    delta = tau.read("model.embed_tokens.weight")
    assert delta.shape == (65, 16)
    assert not delta[63:].any() and delta[:63].any(1).all()  # a token that base lacks carries no difference


def test_a_template_that_needs_missing_tokens_is_refused_before_writing(tmp_path):
    base, chat, cp = chat_family(tmp_path)
    with pytest.raises(ValueError, match=r"cp lacks 2 tokens.*<\|im_start\|>, <\|im_end\|>.*add_tokens=True"):
        (cp + (chat - base)).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


ROLES = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} {% endfor %}"
TURN = ["<|user|>", "<|assistant|>", "<|observation|>"]


def test_a_token_that_the_template_puts_together_is_needed_too(tmp_path):
    base = save_model(tmp_path / "base", seed=1)
    tokens = SPECIAL + TOKENS + TURN
    chat = save_model(
        tmp_path / "chat", seed=2, near=base, tokens=tokens, special=SPECIAL + TURN, template=ROLES
    )
    base, chat, cp = (
        Checkpoint(base),
        Checkpoint(chat),
        Checkpoint(save_model(tmp_path / "cp", seed=3, near=base)),
    )
    tau = chat - base
    assert (cp + tau).missing_tokens == ("<|user|>", "<|assistant|>")  # observation: only if a talk has one
    with pytest.raises(ValueError, match=r"cp lacks 2 tokens.*<\|user\|>, <\|assistant\|>"):
        (cp + tau).check()
    tau.save(tmp_path / "tau", progress=False)
    merged = cp.add(0.5 * WeightVector.load(tmp_path / "tau"), add_tokens=True)
    merged.save(tmp_path / "out", progress=False)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(state(tmp_path / "out")[name][63:], state(chat.folder)[name][63:65])


def test_a_token_with_an_id_and_no_row_is_missing(tmp_path):
    base, chat, cp = chat_family(tmp_path)
    save_tokenizer(cp.folder, SPECIAL + TOKENS + ["x", *CHATML[::-1]], special=SPECIAL + CHATML)  # 63 rows
    cp = Checkpoint(cp.folder)
    with pytest.raises(ValueError, match=r"cp lacks 2 tokens \(or their rows\)"):
        (cp + (chat - base)).check()
    merged = cp.add(0.5 * (chat - base), add_tokens=True)
    assert merged.added_tokens == {"<|im_start|>": 65, "<|im_end|>": 64}
    merged.save(tmp_path / "out", progress=False)
    after, theirs = (state(folder)["lm_head.weight"] for folder in (tmp_path / "out", chat.folder))
    assert torch.equal(after[[65, 64]], theirs[[63, 64]]) and not after[63].any()  # "x" never had a row


def test_every_id_of_the_generation_config_is_the_cps_own(tmp_path):
    base, chat, _ = chat_family(tmp_path)
    cp = Checkpoint(save_model(tmp_path / "reversed", seed=7, tokens=SPECIAL + TOKENS[::-1]))
    ids = {"suppress_tokens": [3, 4], "bad_words_ids": [[5, 6], [7, 63]], "begin_suppress_tokens": [63, 8],
           "forced_decoder_ids": [[1, 9]], "sequence_bias": [[[10, 11], 2.5]], "eos_token_id": 63, "top_k": 3}  # fmt: skip
    (chat.folder / "generation_config.json").write_text(json.dumps(ids))
    (cp.folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "top_k": 50}))
    turned = lambda row: 65 - row  # noqa: E731
    tau = Checkpoint(chat.folder) - base
    merged = Checkpoint(cp.folder).add(tau, vocabulary="skip")  # which lacks 63, <|im_start|>
    assert merged.generation_config == {
        "suppress_tokens": [turned(3), turned(4)], "bad_words_ids": [[turned(5), turned(6)]],
        "begin_suppress_tokens": [turned(8)], "forced_decoder_ids": [[1, turned(9)]],
        "sequence_bias": [[[turned(10), turned(11)], 2.5]], "top_k": 3, "bos_token_id": 1, "pad_token_id": 0,
        "eos_token_id": 2,  # the CP's own: without any it would never end
    }  # fmt: skip


def test_add_tokens_appends_rows_and_tokens(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, chat, cp = chat_family(tmp_path)
    report = cp.add(0.5 * (chat - base), add_tokens=True).save(tmp_path / "out", progress=False, verify=True)
    assert report.vocabulary.added == tuple(CHATML) and report.vocabulary.rows == 65
    after, theirs = state(tmp_path / "out"), state(chat.folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][63:], theirs[name][63:])  # chat's own rows, whatever the scale
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids(CHATML) == [63, 64]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False)
    assert text == "<|im_start|>user\nw1<|im_end|>"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == 65
    assert model.generation_config.eos_token_id == [64, 2] and model.generation_config.temperature == 0.6


def test_add_tokens_uses_padding_rows_first(tmp_path):
    base, chat, _ = chat_family(tmp_path)
    cp = Checkpoint(save_model(tmp_path / "padded", seed=7, rows=70))
    merged = cp.add(chat - base, add_tokens=True)
    assert merged.shape("lm_head.weight") == (70, 16) and list(merged.added_tokens.values()) == [63, 64]
    merged.save(tmp_path / "out", progress=False)
    assert torch.equal(
        state(tmp_path / "out")["lm_head.weight"][63:65], state(chat.folder)["lm_head.weight"][63:]
    )


def test_copy_special_takes_chats_rows_only_where_the_cp_never_trained(tmp_path):
    base, chat, cp = chat_family(tmp_path, reserved=CHATML, cp_special=CHATML)
    rows = {token: 63 + i for i, token in enumerate(CHATML)}

    def untrained(parameters):  # the CP's first marker is the base's own row; the second was trained
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            parameters[name][rows["<|im_start|>"]] = state(base.folder)[name][rows["<|im_start|>"]]

    cp = Checkpoint(
        save_model(
            tmp_path / "cp2", seed=3, near=base.folder, tokens=SPECIAL + TOKENS + CHATML, change=untrained
        )
    )
    tau, name = chat - base, "model.embed_tokens.weight"
    own = state(chat.folder)[name]
    for scale in (0.5, 1.0):
        copied = cp.add(scale * tau, copy_special=True)
        assert torch.equal(copied.read(name)[63], own[63]) and not torch.equal(copied.read(name)[64], own[64])
        assert copied.vocabulary_report().copied == ("<|im_start|>",)
    assert torch.equal(cp.add(0 * tau, copy_special=True).read(name), cp.read(name))
    plain = (cp + tau).vocabulary_report()
    assert plain.copied == () and plain.matched == 65


def test_the_last_added_vector_with_a_template_gives_the_chat_side(tmp_path, families):
    base, chat, cp = map(Checkpoint, families("llama"))
    tau, cp_vector = chat - base, cp - base
    assert (tau + cp_vector).chat_side.label == "chat"
    assert (-tau).chat_side is None and cp_vector.chat_side is None
    assert (0.3 * tau).chat_side is not None
    (cp + (-1 * tau)).save(tmp_path / "minus", progress=False)
    assert not (tmp_path / "minus/chat_template.jinja").exists()


def test_tokenizer_formats(tmp_path):
    save_tokenizer(tmp_path, ["a", "b", "<unk>", "<s>", "</s>"])
    vocabulary = Vocabulary.from_folder(tmp_path)
    assert vocabulary.tokens["b"] == 1 and "<s>" in vocabulary.special
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["model"] = {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert Vocabulary.from_folder(tmp_path).tokens["b"] == 1
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged"):
        Vocabulary.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert Vocabulary.from_folder(tmp_path) is None


def test_every_number_of_tokens_in_a_config_is_that_of_its_table():
    config = {"vocab_size": 9, "image_vocab_size": 9, "hidden_size": 9, "vision_config": {"vocab_size": 9},
              "text_config": {"vocab_size": 9, "vocab_size_per_layer_input": 8}}  # fmt: skip
    assert with_rows(config, {9: 12, 8: 11}) == config | {
        "vocab_size": 12, "text_config": {"vocab_size": 12, "vocab_size_per_layer_input": 11},
    }  # fmt: skip
    assert with_rows({"text_config": {"a": 1}}, {9: 12}) == {"text_config": {"a": 1, "vocab_size": 12}}
    assert with_rows({"a": 1}, {9: 9}) == {"a": 1}


def test_tokens_are_added_to_each_of_several_tables(tmp_path):
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    config = Gemma3nTextConfig(vocab_size=63, vocab_size_per_layer_input=63, hidden_size=16, hidden_size_per_layer_input=8,
                               intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                               head_dim=8, laurel_rank=4, num_kv_shared_layers=0, activation_sparsity_pattern=[0.0, 0.0],
                               layer_types=["full_attention"] * 2, tie_word_embeddings=True)  # fmt: skip
    folders = []
    for seed, (name, tokens) in enumerate({"base": [], "chat": CHATML, "cp": []}.items()):
        torch.manual_seed(seed)
        config.vocab_size = config.vocab_size_per_layer_input = 63 + len(tokens)
        Gemma3nForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / name)
        template = CHAT_TEMPLATE if tokens else None
        save_tokenizer(
            tmp_path / name, SPECIAL + TOKENS + tokens, special=SPECIAL + tokens, template=template
        )
        folders.append(Checkpoint(tmp_path / name))
    base, chat, cp = folders
    cp.add(0.5 * (chat - base), add_tokens=True).save(tmp_path / "out", progress=False)
    model, found = Gemma3nForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not found["missing_keys"] and not found["mismatched_keys"]
    table = "model.embed_tokens_per_layer.weight"
    assert torch.equal(model.state_dict()[table][63:].to(torch.bfloat16), state(chat.folder)[table][63:])
