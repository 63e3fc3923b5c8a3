"""Two tokenizers with one vocabulary can cut a chat prompt into other pieces; the report says so and how to mend it."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from chatvec_lab import Checkpoint, WeightVector
from chatvec_lab.weights.preflight import examine, preflight
from chatvec_lab.weights.tokens.tokenizers import compare_prompts, mending, other_rules, rules_of

PIECES = [
    "<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "[", "]", "/", "I", "N", "S", "T",
    "▁[", "IN", "ST", "INST", "▁[INST", "[INST", "h", "i", "▁h", "▁hi",
]  # fmt: skip
MERGES = [
    ("▁", "["),
    ("I", "N"),
    ("S", "T"),
    ("IN", "ST"),
    ("▁[", "INST"),
    ("▁", "h"),
    ("▁h", "i"),
    ("[", "INST"),
]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def llamas(tmp_path_factory):
    """`llamas(cp)` -> base, chat (not legacy, with a template) and a CP whose tokenizer_config.json has these changes."""
    root, generator = tmp_path_factory.mktemp("llamas"), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                    intermediate_size=24)
    )  # fmt: skip
    for name in ("base", "chat", "cp"):
        model.save_pretrained(root / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.003 * torch.randn(parameter.shape, generator=generator))

    def made(cp: dict):
        for name, changes in (("base", {}), ("chat", {"legacy": False}), ("cp", cp)):
            tokenizer = LlamaTokenizer(
                vocab={piece: i for i, piece in enumerate(PIECES)},
                merges=MERGES,
                legacy=bool(changes.get("legacy")),
            )
            if name == "chat":
                tokenizer.chat_template = TEMPLATE
            tokenizer.save_pretrained(root / name)
            file = root / name / "tokenizer_config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))
            if changes.get("tokenizer_class") == "PreTrainedTokenizerFast":  # as transformers 4 wrote it
                file = root / name / "tokenizer.json"
                steps = [{"type": "Prepend", "prepend": "▁"},
                         {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]  # fmt: skip
                old = {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
                file.write_text(json.dumps(json.loads(file.read_text()) | old))
        return [Checkpoint(root / name) for name in ("base", "chat", "cp")]

    return made


@pytest.mark.parametrize(
    ("changes", "cure"),
    [
        ({"legacy": True}, '"legacy": false'),
        (
            {"tokenizer_class": "PreTrainedTokenizerFast"},
            '"tokenizer_class": "LlamaTokenizer", "legacy": false',
        ),
    ],
)
def test_a_prompt_that_is_cut_another_way_is_told_with_its_cure(llamas, changes, cure):
    base, chat, cp = llamas(changes)
    assert other_rules(rules_of(cp), rules_of(chat))
    count, lines = compare_prompts(cp + (chat - base))
    assert len(lines) == count == 3 and lines[0].startswith("piece 2 of") and "▁[INST" in lines[0]
    report = preflight(cp, chat - base)
    (told,) = [finding for finding in report.findings if finding.name == "chat prompts"]
    assert not told.refuses and ", chat <s> [INST ]" in told.text
    mend = mending(cp + (chat - base))
    assert (
        mend in (cure, cure.split(", ")[0]) and f"With {mend} in tokenizer_config.json of the CP" in told.text
    )


def test_the_cure_cures(llamas):
    base, chat, cp = llamas({"legacy": True})
    mend = json.loads("{" + mending(cp + (chat - base)) + "}")
    base, chat, cp = llamas(mend)
    assert compare_prompts(cp + (chat - base)) == (3, [])


def test_equal_rules_need_no_tokenizer(llamas, monkeypatch):
    """A merge does not open (slow) tokenizers where the files say that both cut alike."""
    base, chat, cp = llamas({"legacy": False})
    merged = cp + (chat - base)
    monkeypatch.setattr("chatvec_lab.weights.preflight.findings.compare_prompts", lambda *_: 1 / 0)
    assert examine(merged).sections["chat prompts"] == ["the tokenizer's rules are chat's (its files say so)"]


def test_a_saved_vector_knows_how_chat_cuts(llamas, tmp_path):
    base, chat, cp = llamas({"legacy": True})
    loaded = WeightVector.load((chat - base).save(tmp_path / "tau", progress=False))
    assert compare_prompts(cp + loaded) == compare_prompts(cp + (chat - base))
    assert "chat prompts" in [finding.name for finding in preflight(cp, loaded).findings]
