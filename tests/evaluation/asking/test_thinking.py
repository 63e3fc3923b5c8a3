"""Thought and answer are told apart in every format that we know, closed or not, and the response stays raw."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from word_models import SIZES, make_tokenizer

from chatvec_lab.evaluation.asking.generation import respond
from chatvec_lab.evaluation.asking.thinking import (
    FORMATS,
    answer_of,
    answers,
    begun_inside,
    format_of,
    split,
    thinking_scores,
    with_answers,
)

HARMONY = "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>"
TAGGED = [name for name, form in FORMATS.items() if name != "harmony" and not form.leading]


@pytest.mark.parametrize("name", TAGGED)
def test_a_thought_between_marks(name):
    form = FORMATS[name]
    for format in ("auto", name, f"{name}/{form.version}"):
        whole = split(f"{form.opening}\nTwo and two.\n{form.closing}\n\nFour.", format)
        assert whole == ("Two and two.", "Four.", f"{name}/{form.version}")
        assert split(f"{form.opening}Two and", format) == ("Two and", None, f"{name}/{form.version}")
        assert split(form.opening[:-1], format).answer is None  # cut off while the mark was written
        behind = split(f"Two and two.{form.closing}Four.", format)  # the prompt had opened it
        assert behind[:2] == ("Two and two.", "Four.")
        assert split(f"{form.opening}\n\n{form.closing}\n\nFour.", format)[:2] == ("", "Four.")
    assert split("Two and two", f"{name}:inside").answer is None
    assert split("Four.", name) == (None, "Four.", f"{name}/{form.version}")


@pytest.mark.parametrize("other", TAGGED)
@pytest.mark.parametrize("name", TAGGED)
def test_a_thought_may_end_with_the_mark_of_another_format(name, other):
    opening, closing = FORMATS[name].opening, FORMATS[other].closing
    for format in ("auto", name):
        assert split(f"{opening}\nTwo.\n{closing}\nFour.", format)[:2] == ("Two.", "Four.")
    assert split(f"Two.\n{closing}\nFour.", f"{name}:inside")[:2] == ("Two.", "Four.")
    assert answer_of(f"{opening}Two `{opening}` and `{closing}`") is None  # spoken about
    own = f"{opening}a {closing} b{FORMATS[name].closing}Four."  # its own mark is there: the other is part of the thought
    assert answer_of(own) == "Four."
    # the template's format, and a reply that begins in another
    assert split(f"{FORMATS[other].opening}Two.{closing}Four.", name)[:2] == ("Two.", "Four.")
    assert answer_of(f"The mark {FORMATS[other].opening} opens it") is None
    if name != other:
        said = f"The mark {FORMATS[other].opening} opens it"
        assert split(said, name).answer == said, "a template's format is not looked for in others' marks"


@pytest.mark.parametrize(
    "written", ["<THINK>a</Think>b", "<think >a</ think>b", "< think>a</think>b", "<Thinking>a</think>b"]
)
def test_marks_that_are_only_nearly_written(written):
    assert split(written)[:2] == ("a", "b")


def test_thoughts_in_plain_words():
    for opening, closing in (
        ("Here is my thought process:", "Here is my response:"),
        ("Here's my thought process:", "Here’s my response:"),
        ("**Here is my thought process:**", "**Here is my response:**"),
    ):
        for format in ("auto", "granite"):
            assert split(f"{opening}\nTwo.\n\n{closing}\n\nFour.", format) == ("Two.", "Four.", "granite/1")
            assert split(f"{opening}\nTwo", format) == ("Two", None, "granite/1")
    assert answer_of("Here is my thought pro") is None
    for said in (
        "Here",
        "Here is my thought process for the plan. Here is my response: no.",
        "Here is my response: Four.",
        "He said: Here is my thought process: none. Here is my response: no.",
    ):
        assert split(said) == (None, said, "none")
    template = "Write down your thoughts after 'Here is my thought process:' and then 'Here is my response:'."
    assert format_of(template) == "granite/1"
    assert thinking_scores(
        with_answers(replies(("Here is my thought process: Hm.", "length")))
    ).no_answer.tolist() == [1]


def test_thoughts_and_blocks_of_code():
    # a block that is called a thought, and blocks around a thought or around all
    assert split("```thinking\nTwo.\n```\nFour.") == ("Two.", "Four.", "fence/1")
    assert split("~~~ reasoning\nTwo.\n~~~\nFour.")[:2] == ("Two.", "Four.")
    assert split("```think\nTwo.") == ("Two.", None, "fence/1")
    assert split("```\n<think>\nTwo.\n</think>\n```\nFour.") == ("Two.", "Four.", "think/1")
    assert split("```xml\n<think>Two.</think>\nFour.\n```")[:2] == ("Two.", "Four.")
    assert split("```\n[THINK]Two.")[:2] == ("Two.", None)
    # marks that a block behind prose shows
    for said in (
        "Write this:\n```\n<think>Hm</think>\n```\nThen ask.",
        "So:\n~~~text\n[THINK]",
        "```python\nprint(1)\n```",
    ):
        assert split(said) == (None, said, "none")
    assert (
        answer_of("<think>Hm</think>Like this:\n```\n<think>a</think>\n```")
        == "Like this:\n```\n<think>a</think>\n```"
    )
    # code within a thought, whose block may never close
    assert split("<think>Try\n```py\nx\n</think>```py\ny\n```")[:2] == ("Try\n```py\nx", "```py\ny\n```")
    assert split("Try\n```py\nx\n</think>Four.")[:2] == ("Try\n```py\nx", "Four.")


def test_the_answer_may_be_wrapped_or_in_pieces():
    assert answer_of("<think>Hm</think>\n<answer>Four.</answer>") == "Four."
    assert answer_of("<reasoning>Hm</reasoning>\n<answer>Four.</answer>") == "Four."
    open_thoughts = "<|begin_of_thought|>Hm<|end_of_thought|>\n<|begin_of_solution|>Four.<|end_of_solution|>"
    assert answer_of(open_thoughts) == answer_of("<unused94>thought\nHm<unused95>Four.") == "Four."
    assert split("<unused94>thought\nHm<unused95>Four.").thinking == "Hm"
    assert answer_of("<|START_THINKING|>Hm<|END_THINKING|><|START_RESPONSE|>Four.<|END_RESPONSE|>") == "Four."
    assert split("<think>a</think>One.<think>b</think> Two.")[:2] == ("a\n\nb", "One. Two.")
    assert answer_of("One.\n<think>and") is None
    assert split("a</think>b</think>c")[:2] == ("a\n\nb", "c")
    assert split("<|channel>thought\nHm<channel|>Four.")[:2] == ("Hm", "Four.")


def test_replies_that_began_inside_a_thought_are_known_by_the_others():
    assert begun_inside(["a</think>b", "cut off", None, "c</think>d"]) == "think/1:inside"
    assert begun_inside(["a[/THINK]b", "cut off"]) == "magistral/1:inside"
    assert begun_inside(["a</think>b", "<think>c</think>d"]) is None  # some began their own
    assert begun_inside(["a</think>b", "c[/THINK]d"]) is None
    assert begun_inside(["plain", HARMONY]) is None and begun_inside([]) is None


def test_the_channels_of_harmony():
    assert split(HARMONY) == ("Two and two.", "Four.", "harmony/1")
    bare = "analysisTwo and two.assistantfinalFour."  # a server that drops special tokens
    assert split(bare) == ("Two and two.", "Four.", "harmony/1")
    assert (
        answer_of(HARMONY.partition("<|start|>")[0]) is None and answer_of("analysisThe user wants") is None
    )
    cut = HARMONY.partition("Four.")[0]
    assert (
        answer_of(cut) == ""
        and answer_of("analysis of the case: it is fine") == "analysis of the case: it is fine"
    )
    preamble = "<|channel|>commentary<|message|>I look it up.<|end|>" + HARMONY
    assert split(preamble)[:2] == ("I look it up.\n\nTwo and two.", "Four.")


def test_what_is_no_thought_stays_as_it_is():
    for text in (
        "Four.\n",
        "",
        "Use `<think>` and `</think>` around it.",
        '"<think>" opens it',
        "a < b > c",
        "「[THINK]」",
    ):
        assert split(text) == (None, text, "none")
    assert split(None)[:2] == (None, None) and answer_of(np.nan) is None
    assert split("<think>a</think>b", "none") == (None, "<think>a</think>b", "none")
    for wrong in ("tink", "think/9", "auto/1", "think:inside/2"):
        with pytest.raises(ValueError, match="choose 'auto', 'none' or one of think/1"):
            split("x", wrong)


def test_the_template_says_the_format():
    qwen = "{{ m.content.split('</think>')[-1] }}"
    assert format_of(qwen, "<|im_start|>assistant\n") == "think/1"
    assert format_of(qwen, "<|im_start|>assistant\n<think>\n") == "think/1:inside"
    assert format_of(qwen, "<|im_start|>assistant\n<think>\n\n</think>\n\n") == "think/1"
    assert format_of("<|start|>assistant<|channel|>final<|message|>") == "harmony/1"
    assert format_of("<|user|>{{ m.content }}<|end|>") == "auto"
    assert format_of("[THINK]{{ x }}[/THINK]") == "magistral/1"


def replies(*rows):
    table = pd.DataFrame(rows, columns=["response", "finish_reason"])
    return table.assign(
        prompt_id=[str(i) for i in range(len(rows))], language="ko", prompt="?", turn=1, sample=0
    )


def test_columns_and_measures():
    table = replies(
        ("<think>Let me think about the bus.</think>\n버스가 늦었어요.", "stop"),
        ("<think>그 사람은 버스를 기다리고", "length"),
        ("버스가 늦었어요.", "stop"),
        ("<think>Hm, a long thought.</think>\n\n", "length"),
        (None, "error"),
    )
    read = with_answers(table)
    assert read.response.equals(table.response)
    assert read.answer[[0, 2]].eq("버스가 늦었어요.").all() and read.answer[[1, 3, 4]].isna().all()
    assert answers(read) == answers(table)
    scores = thinking_scores(read)
    assert scores.thinks.tolist()[:4] == [1, 1, 0, 1] and scores.no_answer.tolist()[:4] == [0, 1, 0, 1]
    assert scores.thinking_language.tolist()[:2] == ["en", "ko"]
    assert (
        scores.ended.tolist()[:4] == [1, 0, 1, 0]
        and scores.iloc[4][["thinks", "no_answer", "ended"]].isna().all()
    )
    assert np.isnan(scores.thinking_tokens[0]) and scores.thinking_tokens[2] == 0, (
        "nobody counted the thought"
    )
    told = table.assign(thinking_format="think/1:inside")
    assert answers(told)[2] is None


@pytest.fixture(scope="module")
def thinker():
    """A model that says one thing: <think> w3 </think> w4, with marks that are special tokens."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES | {"vocab_size": len(tokenizer)})).eval()
    said = [tokenizer.convert_tokens_to_ids(word) for word in ("[THINK]", "w3", "[/THINK]", "w4", "<eos>")]

    def speak(module, given, named, output):
        step = named["past_key_values" if "past_key_values" in named else "cache"].get_seq_length()
        place = min(step - speak.asked, len(said) - 1) if speak.asked else 0
        speak.asked = speak.asked or step
        output.logits[:] = 0
        output.logits[..., said[place]] = 1
        return output

    speak.asked = 0
    model.register_forward_hook(speak, with_kwargs=True)
    return model, tokenizer


def test_marks_that_are_special_tokens_stay_in_the_response(thinker):
    model, tokenizer = thinker
    found = respond(model, tokenizer, ["w1"], max_tokens=8, progress=False)
    assert found.response.tolist() == ["[THINK] w3 [/THINK] w4"] and found.finish_reason[0] == "stop"
    assert answers(found) == ["w4"] and found.thinking_format[0] == "auto"
    assert thinking_scores(with_answers(found, tokenizer=lambda: tokenizer)).thinking_tokens.tolist() == [1]
