"""GGUF files, written with the gguf package as llama.cpp's converter writes them, against the model inside them."""

import json
import pickle

import numpy as np
import pytest
import torch
from pico import TEMPLATE
from transformers import AutoModelForCausalLM

from chatvec_lab import Checkpoint
from chatvec_lab.interop import mergekit_export
from chatvec_lab.weights.inspect import inspect

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
from gguf_files import save_llama, write_gguf  # noqa: E402

MATRIX = "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    root = tmp_path_factory.mktemp("gguf")
    base = save_llama(root / "base")
    return (
        root,
        base,
        save_llama(root / "chat", near=base, seed=1, template=TEMPLATE),
        save_llama(root / "cp", near=base, seed=2),
    )


@pytest.mark.parametrize(
    ("kind", "dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
def test_an_unquantised_file_is_the_model(llamas, kind, dtype):
    root, base, *_ = llamas
    ours, original = Checkpoint(write_gguf(base, root / f"base-{kind}.gguf", kind)), Checkpoint(base)
    assert set(ours.names) == set(original.names) and ours.note == ""
    for name in original.names:
        expected = original.read(name)
        expected = expected if expected.dim() == 1 else expected.to(dtype)
        assert ours.dtype(name) == expected.dtype and torch.equal(ours.read(name), expected), name
    assert torch.equal(ours.read(MATRIX, slice(5, 21)), original.read(MATRIX).to(dtype)[5:21])
    for key in (
        "hidden_size",
        "num_key_value_heads",
        "rms_norm_eps",
        "tie_word_embeddings",
        "eos_token_id",
        "vocab_size",
    ):
        assert ours.config[key] == original.config[key], key
    assert ours.vocabulary.tokens == original.vocabulary.tokens and ours.chat_template == TEMPLATE


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_quantised_file_reads_as_transformers_dequantises_it(llamas, kind):
    root, base, *_ = llamas
    ours = Checkpoint(write_gguf(base, root / f"base-{kind}.gguf", kind))
    theirs = AutoModelForCausalLM.from_pretrained(
        root, gguf_file=f"base-{kind}.gguf", dtype=torch.float32
    ).state_dict()
    for name in ours.names:
        assert ours.dtype_name(name) == "float32" and torch.equal(ours.read(name), theirs[name]), name
    original = Checkpoint(base).read(MATRIX)
    error = (ours.read(MATRIX) - original).norm() / original.norm()
    assert 0 < error < (0.01 if kind == "Q8_0" else 0.2)
    assert torch.equal(ours.read(MATRIX, slice(3, 19)), ours.read(MATRIX)[3:19])
    assert ours.label == f"base-{kind}.gguf ({kind}, dequantised)"
    page = inspect(str(root / f"base-{kind}.gguf"))
    assert f"dequantised from {kind}" in page and "63 tokens" in page
    assert pickle.loads(pickle.dumps(ours)).names == ours.names


def test_quantised_and_unquantised_are_not_subtracted(llamas):
    root, base, chat, cp = llamas
    eight, four = (
        Checkpoint(write_gguf(p, root / f"{p.name}-{k}-x.gguf", k))
        for p, k in ((base, "Q8_0"), (chat, "Q4_0"))
    )
    also_eight = Checkpoint(write_gguf(chat, root / "chat-Q8_0-x.gguf", "Q8_0"))
    for plus, minus in ((Checkpoint(chat), eight), (four, Checkpoint(base)), (four, eight)):
        with pytest.raises(ValueError, match="The rounding would pass for a part of the vector"):
            _ = plus - minus
    with pytest.warns(UserWarning, match="holds the rounding noise of both"):
        tau = also_eight - eight
    assert torch.equal(tau.read(MATRIX), also_eight.read(MATRIX) - eight.read(MATRIX))
    plain = Checkpoint(write_gguf(base, root / "base-F32-x.gguf"))
    exact = Checkpoint(chat) - plain  # a GGUF that is not quantised is a source like any other
    assert torch.equal(exact.read(MATRIX), (Checkpoint(chat) - Checkpoint(base)).read(MATRIX))
    with pytest.raises(ValueError, match="mergekit reads no GGUF files"):
        mergekit_export.recipe(Checkpoint(cp) + exact)


def test_a_merge_into_a_quantised_cp_says_so(llamas, tmp_path):
    root, base, chat, cp = llamas
    source = Checkpoint(write_gguf(cp, root / "cp-Q8_0.gguf", "Q8_0"))
    tau = Checkpoint(chat) - Checkpoint(base)
    with pytest.raises(
        ValueError, match=r"is dequantised from Q8_0, chat is not quantised.*allow_mixed=True"
    ):
        (source + 0.5 * tau).save(tmp_path / "out", progress=False)
    report = source.add(0.5 * tau, allow_mixed=True).save(tmp_path / "out", progress=False)
    assert report.dtypes == ("float32",)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["recipe"]["cp"] == "cp-Q8_0.gguf (Q8_0, dequantised)"
    assert any(s["name"] == "cp-Q8_0.gguf (Q8_0, dequantised)" for s in manifest["sources"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = source.read(MATRIX).double() + 0.5 * (
        Checkpoint(chat).read(MATRIX).double() - Checkpoint(base).read(MATRIX).double()
    )
    assert torch.equal(model.state_dict()[MATRIX], expected.float())
    saved = Checkpoint(tmp_path / "out")
    assert saved.vocabulary.tokens == Checkpoint(cp).vocabulary.tokens and saved.chat_template == TEMPLATE


def test_a_tied_file_has_no_head(tmp_path):
    folder = save_llama(tmp_path / "tied", tied=True)
    ours = Checkpoint(write_gguf(folder, tmp_path / "tied.gguf"))
    assert ours.is_tied and "lm_head.weight" not in ours.names
    assert ours.resolve("lm_head.weight") == "model.embed_tokens.weight"


def test_what_is_not_mapped_is_refused_by_name(llamas, tmp_path):
    base = llamas[1]
    other = write_gguf(base, tmp_path / "g.gguf", architecture="bloom")
    with pytest.raises(ValueError, match=r"architecture 'bloom'; only 'llama'"):
        _ = Checkpoint(other).names
    odd = write_gguf(base, tmp_path / "o.gguf", extra=[("blk.0.attn_sinks.weight", torch.zeros(4).numpy())])
    with pytest.raises(ValueError, match=r"1 tensors have no name in transformers: blk.0.attn_sinks.weight"):
        _ = Checkpoint(odd).names
    (tmp_path / "broken.gguf").write_bytes(b"not a GGUF file at all")
    with pytest.raises(ValueError, match="is damaged or no GGUF file"):
        _ = Checkpoint(tmp_path / "broken.gguf").names
    with pytest.raises(FileNotFoundError, match="no file"):
        Checkpoint(tmp_path / "none.gguf")


def test_a_file_has_one_fingerprint_and_other_files_another(llamas, tmp_path):
    """Two openings agree, so that a save goes on; replies that are kept of one file are not those of another."""
    from chatvec_lab.experiment.replies import recipe

    base, chat = llamas[1], llamas[2]
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, other = (write_gguf(m, tmp_path / f / "m.gguf", "F16") for m, f in ((base, "a"), (chat, "b")))
    assert Checkpoint(one).fingerprint() == Checkpoint(one).fingerprint() != Checkpoint(other).fingerprint()
    assert recipe(Checkpoint(one)) == recipe(Checkpoint(one)) != recipe(Checkpoint(other))


def patched(file, target, key, value):
    """The same file with one number of its metadata changed."""
    data, field = bytearray(file.read_bytes()), gguf.GGUFReader(file).get_field(key)
    at = field.offset + 8 + len(key) + 4
    kind = field.parts[field.data[0]].dtype.newbyteorder("<")
    data[at : at + kind.itemsize] = np.array([value], kind).tobytes()
    target.write_bytes(data)
    assert gguf.GGUFReader(target).get_field(key).contents() == value
    return target


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("llama.attention.head_count", 3, "64 rows, which are not 3 heads of 16"),
        ("llama.attention.head_count_kv", 4, "32 rows, which are not 4 heads of 16"),
        ("llama.rope.dimension_count", 32, "64 rows, which are not 4 heads of 32"),
        ("llama.attention.head_count", 0, "head_count 0, expected positive"),
        ("llama.embedding_length", 32, "embedding_length is 32, but the embedding has the shape"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(llamas, tmp_path, key, value, said):
    file = write_gguf(llamas[1], tmp_path / "m.gguf", "F16")
    with pytest.raises(ValueError, match=rf"wrong\.gguf: .*{said}"):
        _ = Checkpoint(patched(file, tmp_path / "wrong.gguf", key, value)).names


def test_a_file_that_is_cut_or_longer_is_refused(llamas, tmp_path):
    file = write_gguf(llamas[1], tmp_path / "m.gguf", "F16")
    data = file.read_bytes()
    for wrong in (data[:-100], data + bytes(64), data[:400]):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"m\.gguf is damaged"):
            _ = Checkpoint(file).names


def test_one_of_several_parts_is_no_model(tmp_path):
    folder = save_llama(tmp_path / "model")
    split = write_gguf(folder, tmp_path / "m-00001-of-00002.gguf", facts=[("split.count", 2)])
    with pytest.raises(ValueError, match=r"m-00001-of-00002\.gguf is one of 2 parts.*--merge"):
        _ = Checkpoint(split).names


def test_an_end_of_turn_of_its_own_ends_a_reply_too(tmp_path):
    folder = save_llama(tmp_path / "model")
    for rows, wanted in (({"eot": 5}, [2, 5]), ({"eot": 2}, 2), ({"eot": 5, "eom": 6}, [2, 5, 6])):
        facts = [(f"tokenizer.ggml.{key}_token_id", row) for key, row in rows.items()]
        path = write_gguf(folder, tmp_path / "-".join(map(str, [*rows.values(), "m.gguf"])), facts=facts)
        assert Checkpoint(path).generation_config["eos_token_id"] == wanted


def of_raw_blocks(path, kind):
    """A file with one matrix (256, 256) of random bytes, the codes and scales of a format."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in ((writer.add_context_length, 64), (writer.add_embedding_length, 256), (writer.add_block_count, 1),
                       (writer.add_feed_forward_length, 256), (writer.add_head_count, 4), (writer.add_head_count_kv, 4),
                       (writer.add_rope_dimension_count, 64), (writer.add_layer_norm_rms_eps, 1e-5)):  # fmt: skip
        add(value)
    raw = np.random.default_rng(0).integers(0, 255, (256, 256 // block * size), dtype=np.uint8)
    writer.add_tensor("token_embd.weight", np.ones((8, 256), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(256, np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return raw


WHOLE = {"F32", "F16", "BF16", "F64"}
BLOCKS = [kind for kind in gguf.GGMLQuantizationType if kind.name not in WHOLE]
UNREAD = {"I8", "I16", "I32", "I64", "Q8_1", "Q8_K", "Q1_0"}


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_each_block_format_is_read_as_gguf_dequantises_it_or_refused(tmp_path, kind):
    raw, name = of_raw_blocks(tmp_path / "m.gguf", kind), "model.layers.0.mlp.up_proj.weight"
    member = Checkpoint(tmp_path / "m.gguf")
    if kind.name in UNREAD:
        with pytest.raises(
            ValueError, match=rf"up_proj\.weight is stored as {kind.name}, of which the package gguf reads no"
        ):
            _ = member.names
        return
    assert member.note == f"dequantised from {kind.name}"
    with np.errstate(all="ignore"):  # some random scales are no numbers
        wanted = gguf.dequantize(raw, kind)
        assert np.array_equal(member.read(name).numpy(), wanted, equal_nan=True)
        assert np.array_equal(member.raw(name, 100, 700), wanted.reshape(-1)[100:700], equal_nan=True)
