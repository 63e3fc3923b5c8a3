"""A person's way through the playground: tokens by value, marks, pins, history, what is taken home; all without a widget."""

import inspect
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import entropy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from chatvec_lab import load_family
from chatvec_lab.evaluation.instructions import CHECKS, check
from chatvec_lab.playground import Playground, Session, State, cards, constraints, export
from chatvec_lab.playground.cards import sweep_table, view
from chatvec_lab.playground.marks import changed, words
from chatvec_lab.playground.replies import Stopped
from chatvec_lab.playground.session import mean_divergence
from chatvec_lab.playground.tokens import spans_of, words_without_a_token
from chatvec_lab.playground.unknown import Dictionary, Unknown

PROMPT = "請聽。跟著說：葉、門、狗。"
EVIL = "<script>alert(1)</script> & \"<img src=x onerror='1'>\""


@pytest.fixture(scope="module")
def nano():
    return load_family("nano")


@pytest.fixture(scope="module")
def session(nano):
    return Session(Playground(nano, device="cpu"))


def plain_model(nano, scale: float):
    """CP + scale · τ by transformers and numpy alone: float64 sums of the stored elements, rounded once to float32."""
    states = [
        AutoModelForCausalLM.from_pretrained(member.folder, dtype=torch.float32).state_dict()
        for member in (nano.cp["zh"], nano.chat, nano.base)
    ]
    model = AutoModelForCausalLM.from_pretrained(nano.cp["zh"].folder, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        cp, chat, base = (state[name].double() for state in states)
        parameter.data.copy_(cp + scale * (chat - base))
    return model


def plain_probabilities(model, ids: list[int], first: int) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, first - 1 :].double().softmax(-1).numpy()


# ------------------------------------------------------------ tokens


def test_tokens_are_read_by_plain_forward_passes(nano, session):
    """Probabilities, likeliest tokens and KL(CP ‖ model) of each token, in both turns, against plain passes."""
    state = State("我叫小明。\n---\n我叫什麼名字？", 0.7, "zh")
    look = session.look(state)
    tokenizer = nano.chat.tokenizer
    plain = {"CP + 0.7 τ": plain_model(nano, 0.7), "CP": plain_model(nano, 0.0)}
    for label in ("CP + 0.7 τ", "CP"):
        rows = look.replies[look.replies.label.eq(label)]
        for turn in (1, 2):
            talk = [{"role": "user", "content": "我叫小明。"}]
            if turn == 2:
                talk += [
                    {"role": "assistant", "content": rows.response.iloc[0]},
                    {"role": "user", "content": "我叫什麼名字？"},
                ]
            text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
            context = tokenizer(text, add_special_tokens=False)["input_ids"]
            row = rows.iloc[turn - 1]
            read = look.readings[0, label, turn]
            own = plain_probabilities(plain[label], [*context, *row.token_ids], len(context))
            cp = plain_probabilities(plain["CP"], [*context, *row.token_ids], len(context))
            ids = list(row.token_ids)
            assert len(read) == len(ids) + (row.finish_reason == "stop")
            for place, token in enumerate(read[: len(ids)]):
                assert token.probability == pytest.approx(own[place, ids[place]], abs=2e-6)
                best = np.argsort(-own[place])[:5]
                assert [p for _, p in token.top] == pytest.approx(own[place][best].tolist(), abs=2e-6)
                if label == "CP":
                    assert np.isnan(token.divergence) and token.cp_top == ()
                else:
                    assert token.divergence == pytest.approx(
                        entropy(cp[place], own[place]), rel=2e-4, abs=2e-6
                    )
                    assert token.cp_probability == pytest.approx(cp[place, ids[place]], abs=2e-6)
            assert all(token.top[0][1] == token.probability for token in read[: len(ids)]), "greedy"
            if row.finish_reason == "stop":
                assert read[-1].start == read[-1].stop == len(row.response)
                assert read[-1].probability == pytest.approx(own[len(ids)].max(), abs=2e-6)
    merged = look.readings[0, "CP + 0.7 τ", 2]
    assert mean_divergence(merged) > 0.1, "the two models differ here"


def test_the_vector_at_scale_zero_is_nowhere_apart(session):
    read = session.look(State(PROMPT, 0.0, "zh")).readings[0, "CP + 0 τ", 1]
    assert [token.divergence for token in read] == [0.0] * len(read)
    chat = session.look(State(PROMPT, 0.0, "zh")).readings[0, "chat", 1]
    assert mean_divergence(chat) > 0.1


def test_other_vocabularies_are_not_compared(session):
    """base and chat have other tokens than the extended CP: no divergence, rather than a wrong one."""
    look = session.look(State(PROMPT, 1.0, "zh_extended"))
    assert all(np.isnan(token.divergence) for name in ("base", "chat") for token in look.readings[0, name, 1])
    assert not any(np.isnan(token.divergence) for token in look.readings[0, "CP + 1 τ", 1])


def test_tokens_cover_the_reply(session):
    for example in session.play.examples("zh")[:8]:
        look = session.look(State(example.text, 1.0, "zh"))
        for row in look.replies.itertuples():
            read = look.readings[0, row.label, row.turn]
            assert "".join(row.response[token.start : token.stop] for token in read) == row.response


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level BPE tokenizer that knows English letters alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_characters_in_several_tokens(byte_level):
    text = "the 狗 sat 🙂!"
    ids = byte_level(text)["input_ids"]
    spans = spans_of(byte_level, ids, text)
    assert len(ids) == len(spans) and spans[-1][1] == len(text)
    assert "".join(text[a:b] for a, b in spans) == text and (5, 5) not in spans[:1]
    assert [text[a:b] for a, b in words_without_a_token(byte_level, text)] == ["狗", "🙂"]


# ------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("text", "other", "spans"),
    [
        ("我喜歡紅色", "我喜歡藍色", ["紅"]),
        ("هذا كتابٌ أحمر", "هذا كتابٌ أزرق", ["أحمر"]),
        ("यह लाल किताब", "यह नीली किताब", ["लाल"]),
        ("나는 개를 봐요", "나는 소를 봐요", ["개를"]),
        ("a b", "a b", []),
        ("", "a", []),
        ("a new end", "", ["a new end"]),
        ("same\n\nlines", "same lines", []),
    ],
)
def test_other_words_in_any_script(text, other, spans):
    assert [text[a:b] for a, b in changed(text, other)] == spans


def test_words_are_whole():
    assert [w.text for w in words("ครับ don't ２")] == ["ค", "ร", "ั", "บ", "don't", "２"]
    text = "한국어 نص मराठी 中文 e\u0301te\u0301 👩‍🔬"
    assert "".join(w.text for w in words(text)) == re.sub(r"\s", "", text)


def test_what_each_model_does_not_know(session):
    known = Dictionary(session.play)
    assert known.unknown("chat", "zh", "熊和狗") == [Unknown(0, 1, "taught by CP alone")]
    assert known.unknown("CP + τ", "zh", "熊和狗") == []
    assert [s.why for s in known.unknown("CP", "zh", "곰")] == ["taught by CP alone"], (
        "the CP of zh reads no Korean"
    )
    assert known.unknown("CP", "ko", "곰은 동물이다.") == []
    assert known.unknown("base", "zh", "bear") == [], "the base reads it in English"
    assert [s.why for s in known.unknown("base", "zh", "請問，quark、狗。")] == ["no token for it"]


# ------------------------------------------------------------ constraints in words


def kwargs_of(instruction: str) -> dict:
    values = {
        "relation": "at least",
        "keywords": ["red", "blue"],
        "forbidden_words": ["no"],
        "options": ["a", "b"],
    }
    parameters = [
        name for name in inspect.signature(CHECKS[instruction]).parameters if name not in ("text", "_")
    ]
    given = {}
    for name in parameters:
        if name == "language" and instruction != "language:response_language":
            continue
        is_count = name.startswith("num_") or name.endswith(("frequency", "nth_paragraph"))
        key = "relation" if name.endswith("relation") else name
        given[name] = 3 if is_count else values.get(key, "ko" if name == "language" else "word")
    return given


@pytest.mark.parametrize("instruction", CHECKS)
def test_every_constraint_is_said_in_words(instruction):
    kwargs = kwargs_of(instruction)
    check("some text", instruction, kwargs)  # they fit
    said = constraints.in_words(instruction, kwargs)
    assert "{" not in said and len(said.split()) > 1
    if instruction == "language:response_language":
        kwargs = {"language": "Korean"}
    for value in kwargs.values() if instruction not in _UNSAID else ():
        for one in value if isinstance(value, list) else [value]:
            assert str(one) in said, (said, one)


_UNSAID = {
    "detectable_format:constrained_response",
    "combination:repeat_prompt",
    "length_constraints:number_paragraphs",
}


@pytest.mark.parametrize("instruction", CHECKS)
def test_every_check_is_offered_as_a_line_that_reads_back(instruction):
    lines = {line.partition(": ")[0]: (line, said) for line, said in constraints.offered()}
    line, said = lines[instruction]
    (one,) = constraints.read(line)
    assert one["instruction"] == instruction and constraints.in_words(instruction, one["kwargs"]) == said
    assert constraints.read(f"- {{instruction: {instruction!r}, kwargs: {one['kwargs']!r}}}") == (one,)


@pytest.mark.parametrize(
    ("line", "error", "told"),
    [
        ("punctuation:no_coma", KeyError, "line 2: no instruction 'punctuation:no_coma'; did you mean 'punctuation:no_comma'"),
        ("startend:end_checker", ValueError, "line 2: startend:end_checker with {}: missing a required argument"),
        ("startend:end_checker: {end_phrase: ''}", ValueError, "end_phrase='' is empty"),
        ("length_constraints:number_words: {relation: under, num_words: 5}", ValueError, "choose one of less than"),
        ("length_constraints:number_words: 5", ValueError, "line 2, length_constraints:number_words: expected a mapping"),
        ("punctuation:no_comma: {turn: 0}", ValueError, "line 2, turn: expected 1 for the first reply"),
        ("punctuation:no_comma: {turn: last}", ValueError, "line 2, turn: expected a whole number"),
        ("multiturn:shorter", ValueError, "compares a reply with the one before it"),
        ("- {instruction: 'punctuation:no_comma', kwarg: {}}", ValueError, "line 2: expected a check, such as"),
        ("a: [", ValueError, "line 2.* is not YAML as chatvec_lab reads it"),
        ("7", ValueError, "line 2: expected a check, such as .*found 7"),
    ],
)  # fmt: skip
def test_what_is_no_check_is_told_with_its_line(line, error, told):
    with pytest.raises(error, match=told):
        constraints.read(f"# mine\n{line}")


def test_own_checks_stand_beside_each_reply(session):
    checks = (
        'length_constraints:number_words: {"relation": "at most", "num_words": 1}\n'
        'startend:end_checker: {end_phrase: "=", turn: 2}'
    )
    own = "我叫小明。\n---\n我叫什麼？"
    look = session.look(State(own, 1.0, "zh", checks=checks))
    for row in look.replies.itertuples():
        kwargs = {"relation": "at most", "num_words": 1} if row.turn == 1 else {"end_phrase": "="}
        name = "length_constraints:number_words" if row.turn == 1 else "startend:end_checker"
        is_kept = check(row.response, name, kwargs, language="zh")
        said = "has at most 1 words" if row.turn == 1 else "ends with “=”"
        assert row.check == f"{'kept' if is_kept else 'broken'}: {said}" and row.followed == is_kept
    assert set(look.replies.followed) == {0.0, 1.0}, "a check that all keep shows nothing"
    before = session.look(State(own, 1.0, "zh")).replies
    assert before.check.eq("").all() and before.followed.isna().all()
    assert before.response.equals(look.replies.response)
    known = session.look(State(PROMPT, 1.0, "zh", checks="punctuation:no_comma"))
    merged = known.replies[known.replies.model.eq("CP + τ")].check.item()
    assert re.fullmatch(r"kept: right reply: \S+\n(kept|broken): has no comma", merged)
    assert "has no comma" in view(known, Dictionary(session.play)) and session.is_kept(known.state)
    sweep = session.sweep(known.state, [0.0, 1.0])
    assert sweep.check.str.contains("has no comma").all()
    with pytest.raises(ValueError, match="punctuation:no_comma is for turn 2, and no prompt has more than 1"):
        session.look(State(PROMPT, 1.0, "zh", checks="punctuation:no_comma: {turn: 2}"))


def test_two_verdicts_of_one_reply_are_joined():
    rows = pd.DataFrame({"check": ["", "", "right reply: a", "right reply: a", "polite answer or refusal"],
                         "followed": [np.nan, np.nan, 1.0, 0.0, np.nan]})  # fmt: skip
    own = {
        "check": ["", "kept: x", "broken: x", "kept: x", "kept: x"],
        "followed": [np.nan, 1.0, 0.0, 1.0, 1.0],
    }
    found = constraints.joined(rows, own)
    assert found["check"] == ["", "kept: x", "kept: right reply: a\nbroken: x", "broken: right reply: a\nkept: x",
                              "not defined: polite answer or refusal\nkept: x"]  # fmt: skip
    np.testing.assert_equal(found["followed"], [np.nan, 1.0, 0.0, 0.0, np.nan])


def test_constraints_are_checked_by_the_instruction_scorer():
    checks = [
        {"instruction": "punctuation:no_comma", "kwargs": {}},
        {
            "instruction": "length_constraints:number_words",
            "kwargs": {"relation": "less than", "num_words": 3},
        },
        {"instruction": "change_case:english_capital", "kwargs": {}, "turn": 2},
    ]
    replies = pd.DataFrame(
        {
            "prompt_id": "a",
            "language": ["en", "en"],
            "turn": [1, 2],
            "response": ["one, two", "YES IT IS"],
            "sample": 0,
        }
    )
    found = constraints.scored(replies, checks)
    assert found["check"] == [
        "broken: has no comma\nkept: has fewer than 3 words",
        "kept: is all in capitals",
    ]
    assert found["followed"] == [0.0, 1.0]
    undefined = constraints.scored(replies.assign(language="zh", response="好"), checks[2:])
    assert (
        undefined["check"] == ["", "no meaning here: is all in capitals"]
        and np.isnan(undefined["followed"]).all()
    )


# ------------------------------------------------------------ pages


class Tags(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [name for name, _ in attributes]


OURS = {"style", "div", "section", "article", "h4", "p", "span", "mark", "u", "b", "bdi", "em", "i", "ul", "li", "table",
        "caption", "thead", "tbody", "tr", "th", "td"}  # fmt: skip


def test_replies_are_text_not_markup(session):
    """Scripts in prompts, replies, checks, names, languages and tokens stay text, in cards and in the grid."""
    state = State(f"{EVIL}\n===\n{PROMPT}", 1.0, "zh")
    look = session.look(state)
    evil = look.replies.assign(
        response=EVIL,
        check=EVIL,
        reply_language=EVIL,
        toxicity=np.nan,
        toxicity_note=EVIL,
        label=look.replies.label + EVIL,
    )
    readings = {
        (n, label + EVIL, turn): tuple(
            t._replace(text=EVIL, top=((EVIL, 0.5),), cp_top=((EVIL, 0.5),)) for t in read
        )
        for (n, label, turn), read in look.readings.items()
    }
    sweep = session.sweep(state, [0, 1]).assign(response=EVIL)
    pages = [
        cards(evil), view(replace(look, replies=evil, readings=readings), Dictionary(session.play), against="CP" + EVIL),
        sweep_table(sweep, state.prompts),
    ]  # fmt: skip
    for page in pages:
        found = Tags(page)
        assert found.tags <= OURS and not [name for name in found.attributes if name.startswith("on")]
        assert "&lt;script&gt;alert(1)" in page


def test_a_page_marks_tokens_other_words_and_unknown_ones(session):
    look = session.look(State("熊、xyz、狗。", 1.0, "zh"))
    page = view(look, Dictionary(session.play), with_css=False)
    read = look.readings[0, "CP + 1 τ", 1]
    assert page.count('class="chatvec-token"') == sum(map(len, look.readings.values()))
    top = max(read, key=lambda token: token.divergence)
    assert f"{top.divergence:.2f} nats from the CP" in page
    assert '<u class="chatvec-unknown" data-why="no token for it">xyz</u>' in page
    assert "does not know <bdi>熊</bdi> (taught by CP alone)" in page
    merged = look.replies[look.replies.model.eq("CP + τ")].response.item()
    cp = look.replies[look.replies.model.eq("CP")].response.item()
    assert (merged == cp) == ("of" not in page.split("words other than CP")[0][-12:])
    itself = view(look, Dictionary(session.play), against="CP + 1 τ", with_css=False)
    assert "words other than CP + 1 τ" in itself and "words other than CP<" not in itself


def test_cards_tell_what_is_missing(session):
    table = session.play.ask(PROMPT, scale=-0.5).assign(
        response="",
        reply_language=None,
        toxicity=np.nan,
        toxicity_note="language ar",
        check="",
        followed=np.nan,
    )
    html = cards(table)
    for told in (
        "CP − 0.5 τ",
        "(empty reply)",
        "language: none",
        "not covered (language ar)",
        "none for this prompt",
    ):
        assert told in html


# ------------------------------------------------------------ several prompts, pins, history


def test_several_prompts_stand_beside_each_other(session):
    prompts = [example.text for example in session.play.examples("zh")][:3]
    look = session.look(State("\n===\n".join(prompts), 0.9, "zh"))
    assert look.state.prompts == tuple(prompts) and look.is_whole
    for number, prompt in enumerate(prompts):
        found = look.replies[look.replies.number.eq(number)]
        expected = session.play.ask(prompt, scale=0.9, cp="zh")
        assert (
            found.response.tolist() == expected.response.tolist()
            and found.model.tolist() == expected.model.tolist()
        )


@pytest.mark.parametrize(
    ("text", "told"),
    [("a\n===\n \n===\nb", "prompt 2 of 3"), (" ", "empty"), ("\n===\n".join(map(str, range(65))), "64")],
)
def test_prompts_that_cannot_be_asked(session, text, told):
    with pytest.raises(ValueError, match=told):
        session.look(State(text, 1.0, "zh"))


def test_a_pinned_sum_answers_what_is_asked_next(session):
    fresh = Session(session.play)
    pinned = State(PROMPT, 1.0, "zh", parts=(((1, "mlp"), 0.0),))
    fresh.pin(pinned)
    other = fresh.play.examples("zh")[3].text
    look = fresh.look(State(other, 0.25, "zh"))
    label = look.replies.label.iloc[-1]
    assert label == "pinned: CP zh + 1 τ, without mlp of layer 1"
    expected = fresh.play.ask(other, scale=1.0, cp="zh", parts={(1, "mlp"): 0.0})
    assert (
        look.replies.response[look.replies.label.eq(label)].item()
        == expected.response[expected.model.eq("CP + τ")].item()
    )
    assert fresh.look(State(other, 0.25, "ko")).replies.label.nunique() == 5, "it was found before"
    new = fresh.play.examples("zh")[4].text
    assert fresh.look(State(new, 0.25, "ko")).replies.label.nunique() == 4, (
        "it would need another model in memory"
    )
    fresh.pin(pinned)
    assert fresh.pins == [] and fresh.look(State(other, 0.25, "zh")).replies.label.nunique() == 4


def test_looking_again_asks_nothing(session, monkeypatch):
    state = State(PROMPT, 0.65, "zh")
    first = session.look(state)
    monkeypatch.setattr(session.play, "reply", None)
    assert session.look(state) is first and session.is_kept(state)


def test_models_appear_one_after_the_other_and_can_be_stopped(session):
    fresh, seen = Session(Playground(session.play.family, device="cpu")), []
    look = fresh.look(
        State(PROMPT, 1.0, "zh"), progress=lambda part: seen.append(part.replies.label.tolist())
    )
    assert seen == [["CP + 1 τ"], ["CP", "CP + 1 τ"], ["base", "CP", "CP + 1 τ"]]
    assert look.replies.label.tolist() == ["base", "CP", "CP + 1 τ", "chat"] and fresh.pace > 0
    pace = fresh.pace
    with pytest.raises(Stopped):
        fresh.look(State(PROMPT, 0.5, "zh"), goes_on=lambda: False)
    assert fresh.pace == pace and not fresh.is_kept(State(PROMPT, 0.5, "zh"))
    expected = session.look(State(PROMPT, 0.5, "zh")).replies.response.tolist()
    assert fresh.look(State(PROMPT, 0.5, "zh")).replies.response.tolist() == expected


def test_a_sweep_holds_the_replies_of_each_scale(session):
    prompts = [example.text for example in session.play.examples("zh")][:2]
    state = State("\n===\n".join(prompts), 1.0, "zh")
    told = []
    sweep = session.sweep(state, [0, 0.5, 1, 1], progress=lambda done, of: told.append(done))
    assert told == [1, 2, 3] and sweep.groupby(["number", "scale"]).ngroups == 6
    for row in sweep.itertuples():
        expected = session.play.ask(prompts[row.number], scale=row.scale, cp="zh")
        assert row.response == expected.response[expected.model.eq("CP + τ")].item()
    at_zero = sweep[sweep.scale.eq(0)]
    assert at_zero.divergence.eq(0).all() and at_zero.alike.eq(1).all()
    read = session.look(replace(state, scale=0.5)).readings[0, "CP + 0.5 τ", 1]
    row = sweep[sweep.number.eq(0) & sweep.scale.eq(0.5)]
    assert row.divergence.item() == mean_divergence(read) > 0
    html = sweep_table(sweep, prompts)
    assert html.count("<td") == 6 and html.count("✓ kept what was asked") == 1


# ------------------------------------------------------------ what is taken home


@pytest.mark.parametrize(
    "state",
    [
        State(PROMPT, 0.75, "zh", checks='keywords:existence: {"keywords": ["狗", "it\'s"]}'),
        State(
            "我叫\"小明\"。\n---\n我叫什麼名字？\n===\n'quoted' \\ 狗",
            *(-0.3, "ko", "random", (((None, "embedding"), 0.5), ((2, "mlp"), 0.0)), "plain"),
        ),
    ],
)  # fmt: skip
def test_the_cell_gives_the_same_replies(state):
    session = Session(Playground("nano", device="cpu", max_tokens=9, compare=["chat"]))
    look = session.look(state)
    names: dict = {}
    exec(session.cell(state), names)
    found = pd.concat(names["replies"], ignore_index=True)
    for column in ("model", "scale", "prompt", "response", "tokens", "reply_language", "vector", "check"):
        assert found[column].equals(look.replies[column]), column


def test_the_cell_names_what_it_cannot_bring(nano):
    play = Playground(replace(nano, name="mine"), device="cpu")
    play.vectors["minus"] = -play.vectors["chat"]
    cell = Session(play).cell(State(PROMPT, 1.0, "zh", "minus"))
    assert (
        "family = ...  # your own Family" in cell and "play.vectors['minus'] = ...  # your own vector" in cell
    )
    compile(cell, "cell", "exec")


def test_what_is_saved_is_what_was_shown(session, tmp_path):
    state = State(f"{PROMPT}\n===\n熊 $1", 1.0, "zh")
    look, sweep = session.look(state), session.sweep(state, [0, 1])
    files = export.save(session, look, tmp_path, sweep)
    names = {str(path.relative_to(tmp_path)) for path in files}
    assert names >= {
        *("playground-001.py", "tables/playground-001.csv", "figures/playground-001.svg"),
        "figures/playground-001-scales.pdf",
    }
    table = pd.read_parquet(tmp_path / "tables" / "playground-001.parquet")
    assert (
        table.response.tolist() == look.replies.response.tolist()
        and table.label.tolist() == look.replies.label.tolist()
    )
    tokens = pd.read_parquet(tmp_path / "tables" / "playground-001-tokens.parquet")
    read = look.readings[1, "CP + 1 τ", 1]
    mine = tokens[tokens.number.eq(1) & tokens.label.eq("CP + 1 τ")]
    assert mine.divergence.tolist() == [t.divergence for t in read] and mine.token.tolist() == [
        t.text for t in read
    ]
    assert (tmp_path / "playground-001.py").read_text("utf-8") == session.cell(state) + "\n"
    again = export.save(session, look, tmp_path)
    assert again[0].name == "playground-002.py" and not list(tmp_path.glob("**/playground-002-scales*"))


def test_figures_show_the_numbers(session):
    state = State(PROMPT, 1.0, "zh")
    look, sweep = session.look(state), session.sweep(state, [0, 0.5, 1])
    bars = export.divergence_figure(look).axes[0].patches
    assert [bar.get_height() for bar in bars] == [t.divergence for t in look.readings[0, "CP + 1 τ", 1]]
    tiles = export.sweep_figure(sweep, state.prompts).axes[0].collections[0].get_array()
    assert tiles.ravel().tolist() == sweep.divergence.tolist()


def test_the_answer_counts_prompts():
    rows = {
        "number": [0, 0, 1, 1],
        "turn": 1,
        "label": ["CP", "scale 1"] * 2,
        "followed": [0.0, 1.0, 1.0, 1.0],
    }
    assert export.answer(pd.DataFrame(rows)) == "Does the reply do what was asked? CP 1 of 2; scale 1 2 of 2."
    assert "No check knows" in export.answer(pd.DataFrame(rows).assign(followed=np.nan))
