"""Tokenizers that contradict the weights are refused, whoever's they are; honest differences are not."""

import json

import pytest
from pico import CP_TOKENS, save_family

from chatvec_lab import Checkpoint, load_family, preflight


def with_tokens(folder, change):
    """The folder's tokenizer.json with `change` of its vocabulary, a dict of tokens and rows."""
    file = folder / "tokenizer.json"
    made = json.loads(file.read_text("utf-8"))
    made["model"]["vocab"] = change(dict(made["model"]["vocab"]))
    file.write_text(json.dumps(made), "utf-8")


def ordinary(folder, count):
    """Some ordinary tokens that all members have."""
    made = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    special = {token["content"] for token in made["added_tokens"]}
    return [t for t in made["model"]["vocab"] if t not in special and t not in CP_TOKENS[-2:]][-count:]


def exchanged(a, b):
    return lambda tokens: tokens | {a: tokens[b], b: tokens[a]}


def renamed(a, b):
    return lambda tokens: {(b if token == a else token): row for token, row in tokens.items()}


def found(root):
    base, chat, cp = (Checkpoint(root / member) for member in ("base", "chat", "cp"))
    report = preflight(cp, chat - base)
    return [finding for finding in report.findings if finding.name == "tokens"]


@pytest.mark.parametrize("member", ["base", "chat", "cp"])
@pytest.mark.parametrize("how", ["exchanged", "renamed"])
def test_a_token_with_another_ones_numbers_is_named(tmp_path, member, how):
    save_family(tmp_path, cp_tokens=CP_TOKENS)
    assert not found(tmp_path), "a CP with more tokens in another order is honest"
    a, b = ordinary(tmp_path / "base", 2)
    with_tokens(tmp_path / member, exchanged(a, b) if how == "exchanged" else renamed(a, "otherwise"))
    (finding, *_) = found(tmp_path)
    assert finding.refuses and "tokenizer.json" in finding.text and repr(a) in finding.text
    with pytest.raises(ValueError, match="contradict the weights"):
        cp, chat, base = (Checkpoint(tmp_path / m) for m in ("cp", "chat", "base"))
        (cp + (chat - base)).save(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_reserved_token_may_get_a_name(tmp_path):
    save_family(tmp_path)
    file = tmp_path / "chat" / "tokenizer.json"
    made = json.loads(file.read_text("utf-8"))
    *_, last = (token for token in made["added_tokens"] if token["content"] != "<unk>")
    first, last["content"] = last["content"], "<|reserved|>"
    made["model"]["vocab"] = renamed(first, "<|reserved|>")(made["model"]["vocab"])
    file.write_text(json.dumps(made), "utf-8")
    assert not found(tmp_path)


def test_the_shipped_families_do_not_contradict_themselves():
    nano = load_family("nano")
    tau = nano.chat - nano.base
    for member in ("cp_zh", "cp_ko", "cp_zh_extended"):
        assert "tokens" not in {finding.name for finding in preflight(nano[member], tau).findings}
