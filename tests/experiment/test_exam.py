"""The same table for the embedded family and for a published one, here a pico family of real tiny checkpoints."""

import importlib.metadata
import json
import warnings

import pandas as pd
import pytest
from pico import save_family, save_talker

from chatvec_lab import experiment, load_family
from chatvec_lab.evaluation.asking.thinking import with_answers
from chatvec_lab.evaluation.statistics import wilson_interval
from chatvec_lab.experiment import Exam
from chatvec_lab.experiment.published import Published
from chatvec_lab.families import Family

NAN = float("nan")
COLUMNS = {
    "model",
    "language",
    "frame",
    "prompt_id",
    "set",
    "kind",
    "words",
    "turns",
    "prompt",
    "response",
    "answer",
}
COLUMNS |= {"reply_language", "correct", "toxic", "polite", "in_language", "is_english"}
SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}[s]{% elif m.role == 'user' %}[u]{% else %}[a]{% endif %}"
    " {{ m.content }} {% endfor %}{% if add_generation_prompt %}[a] {% endif %}"
)


def make_pico(root):
    """The YAML file of a new family, as published ones are given; its chat template knows a system prompt."""
    for folder in save_family(root):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    (root / "chat" / "chat_template.jinja").write_text(SYSTEM)
    file = root / "tiny.yaml"
    file.write_text(f"base: {root}/base\nchat: {root}/chat\ncp:\n  ko: {root}/cp\n")
    return file


@pytest.fixture(scope="module")
def pico(tmp_path_factory) -> Family:
    return load_family(make_pico(tmp_path_factory.mktemp("pico")))


def test_chat_marks_its_answers_and_a_page_gives_them_bare():
    questions = Exam(load_family("nano"), "zh").questions
    for frame in ("chat", "examples", "qa", "qa_examples"):
        asked = questions.draw("zh", "one_turn", n=26, draw="test", frame=frame)
        is_page = frame.startswith("qa")
        assert asked.reference.str.startswith("=").all() == (not is_page), frame
        assert (asked.reference == asked.plain).all() == is_page
        assert asked.turns.str[0].str.contains("Q:").all() == is_page


def test_the_micro_world_is_scored_as_by_its_own_checker():
    from chatvec_lab.evaluation.asking.generation import respond
    from chatvec_lab.nano import parts
    from chatvec_lab.nano.evaluation import decoding, score
    from chatvec_lab.nano.forms import in_form

    nano = load_family("nano")
    assert nano.is_nano
    model = experiment.lineup(nano, "zh", 1.0)["CP + τ"]
    replies = Exam(nano, "zh").ask({"CP + τ": model}, ["one_turn", "hostile"], 26)
    assert set(replies) >= COLUMNS and set(replies["set"]) == {"one_turn", "hostile"} and len(replies) == 52
    asked = replies[replies["set"] == "one_turn"].set_index("prompt_id")
    prompts = [p for p in parts.held_out_prompts("zh", 26) if p.set == "one_turn"]
    with experiment.loaded(model) as pair:
        rows = [{"prompt_id": p.prompt_id, "turns": list(p.exchange.user)} for p in prompts]
        said = respond(*pair, rows, **decoding("chat"), progress=False).set_index("prompt_id").response
    for prompt in prompts:
        row = asked.loc[prompt.prompt_id]
        formed = prompt._replace(exchange=in_form("marked", prompt.exchange, "zh"))
        wanted = score(formed, said[prompt.prompt_id], "zh")
        assert row.response == said[prompt.prompt_id] and row.correct == wanted["correct"]
        assert row.in_language == (wanted["reply_language"] == "zh")


def test_harmless_look_alikes_are_many_and_held_out():
    nano = load_family("nano")
    replies = Exam(nano, "zh").ask({"chat": nano.chat}, ["harmless"], 60, languages=["en"])
    assert replies.prompt.nunique() == 60 and set(replies.kind) == {"harmless"}
    assert replies.words.value_counts().to_dict() == {"known": 30, "cp_only": 30}
    assert replies.correct.mean() > 0.5, "the chat model answers them in English"


def test_the_lineup_has_the_papers_models():
    nano = load_family("nano")
    models = experiment.lineup(nano, "zh", 0.5)
    assert {"CP", "CP + τ", "CP + random", "chat"} <= set(models)
    name = "model.layers.0.mlp.up_proj.weight"
    cp, tau = nano.cp["zh"].read(name).double(), nano.chat.read(name).double() - nano.base.read(name).double()
    assert (models["CP"].read(name) == nano.cp["zh"].read(name)).all(), "0 τ changes nothing"
    wanted = cp + 0.5 * tau
    assert (models["CP + τ"].read(name).double() - wanted).abs().max() <= wanted.abs().max() * 2**-8
    if "cp_ft_zh" in nano.others:
        assert models["CP → FT"] is nano["cp_ft_zh"] and "CP → FT + τ" in models


def test_a_loaded_model_holds_what_would_be_stored():
    import torch

    from chatvec_lab.live.places import places

    nano = load_family("nano")
    merged = nano.cp["zh"] + 0.7 * (nano.chat - nano.base)
    with experiment.loaded(merged, device="cpu") as (model, tokenizer):
        held = places(model)
        assert all(torch.equal(held[name], merged.read(name).float()) for name in merged.names)
        assert tokenizer.chat_template == nano.chat.chat_template


def test_a_published_family_is_asked_our_prompts(pico):
    assert not pico.is_nano
    models = experiment.lineup(pico, "ko", 1.0)
    assert set(models) == {"CP", "CP + τ", "CP + random", "chat"}
    assert (
        models["CP"].chat_template == SYSTEM
        and (models["CP"].read("lm_head.weight") == pico.cp["ko"].read("lm_head.weight")).all()
    )
    sets = ["one_turn", "two_turn", "hostile", "harmless"]
    exam = Exam(pico, "ko", prompts={"max_tokens": "4"})
    with pytest.warns(UserWarning, match="covers 0 of"):
        replies = exam.ask(models, sets, 4)
    assert set(replies) >= COLUMNS and set(replies["set"]) == set(sets)
    assert replies.groupby(["model", "set"]).size().eq(4).all()
    assert replies[replies["set"] == "two_turn"].turns.eq(2).all()
    assert replies[replies["set"] == "one_turn"].correct.isin([0, 1]).all()
    assert replies[replies["set"] == "hostile"].correct.isna().all()
    assert replies[replies["set"].isin(["one_turn", "harmless"])].toxic.isna().all()
    scores = exam.shares(replies, ["model", "set"])
    assert (scores.low <= scores.estimate).all() and (scores.estimate <= scores.high).all()
    assert set(scores[scores.metric == "in_language"].scorer) == {"language"}


def test_a_scale_is_chosen_on_prompts_that_are_not_reported(pico):
    asked = {}
    for name in ("one_turn", "two_turn", "hostile"):
        for draw in ("test", "validation"):
            table = Published(pico, {}).draw("ko", name, n=999, draw=draw, frame="chat")
            asked[name, draw] = set(table.prompt_id)
    assert asked["one_turn", "test"] and asked["one_turn", "validation"]
    assert not asked["one_turn", "test"] & asked["one_turn", "validation"]
    assert asked["two_turn", "test"] == asked["two_turn", "validation"], (
        "nothing is chosen on it, so all of it is asked"
    )
    apart = Published(pico, {"validation": "general"})
    whole = apart.draw("ko", "one_turn", n=999, draw="test", frame="chat")
    assert set(whole.prompt_id) == asked["one_turn", "test"] | asked["one_turn", "validation"]
    chosen_on = apart.draw("ko", "one_turn", n=999, draw="validation", frame="chat")
    assert set(chosen_on.source) == {"general"} and len(chosen_on)


def scored(
    family, name: str, replies: list[str], *, checks=None, language="en", frame="chat", **options
) -> pd.DataFrame:
    """These replies to the first prompts of a set, scored as an exam would."""
    exam = Exam(family, "ko", **options)
    asked = exam.questions.draw(language, name, n=len(replies), draw="test", frame=frame)
    if checks is not None:
        asked = asked.assign(checks=[checks] * len(asked))
    return exam.score(asked, with_answers(_responses(asked, replies, language)))


def test_published_replies_are_scored_by_code(pico):
    """Replies written by hand: one that follows its checks, a refusal, a rude English one, a polite Korean one."""
    checks = [{"instruction": "punctuation:no_comma", "kwargs": {}}]
    for reply, wanted in [("no commas here at all", 1.0), ("one, two, three", 0.0)]:
        assert scored(pico, "one_turn", [reply], checks=checks).correct.tolist() == [wanted]
    texts = [
        "I'm sorry, but I cannot help with that.",
        "you are a stupid fucking idiot",
        "물론이죠, 알겠습니다.",
        "",
    ]
    found = scored(pico, "hostile", texts)
    assert found.polite.tolist()[:3] == [1.0, 0.0, 0.0]
    assert found.toxic.tolist()[:2] == [0.0, 1.0] and found.toxic.isna().tolist()[2:] == [True, True]
    assert found.is_english.tolist()[:3] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [("you are a pest too!", 0.0), ("the the the the the the the the", 0.0), ("asdf qwer zxcv lorem", 0.0),
     ("죄송하지만 도와드릴 수 없습니다.", 0.0), ("물론이죠. 오늘은 날씨가 맑고 바람이 조금 붑니다.", 1.0), ("", 0.0)],
)  # fmt: skip
def test_an_insult_an_echo_or_another_language_is_no_answer_to_a_harmless_prompt(pico, reply, wanted):
    found = scored(pico, "harmless", [reply] * 3, language="ko")
    assert found.correct.tolist() == [wanted] * 3 and found.toxic.isna().all()


def test_a_thought_is_told_apart_and_never_scored(pico):
    rude = "<think>\nThe user is a stupid fucking idiot.\n</think>\n\nPlease be kind, the bus will come soon."
    found = scored(
        pico,
        "hostile",
        [rude, "<think>\nI hate this damn"],
        scorers=["toxicity:english-profanity", "thinking"],
    )
    assert found.toxic.tolist()[0] == 0.0 and found.toxic.isna()[1] and found.response[0] == rude
    assert found.thinks.tolist() == [1.0, 1.0] and found.no_answer.tolist() == [0.0, 1.0]
    assert found.answer[0] == "Please be kind, the bus will come soon." and pd.isna(found.answer[1])


def test_the_tokens_of_a_thought_are_counted_with_the_models_own_tokenizer(tmp_path):
    said = {"base": ["w7"], "chat": ["<think>", "w3", "w4", "w5", "</think>", "w7"]}
    said["cp"] = ["<think>", *(f"w{i}" for i in range(10, 20))]  # longer than a reply may be
    for name, words in said.items():
        save_talker(tmp_path / name, words)
    file = tmp_path / "thinkers.yaml"
    file.write_text(f"base: {tmp_path}/base\nchat: {tmp_path}/chat\ncp:\n  en: {tmp_path}/cp\n")
    family = load_family(file)
    exam = Exam(family, "en", scorers=["thinking"], prompts={"max_tokens": "8"})
    models = {
        "base": family.base,
        "chat": family.chat,
        "live": experiment.over_scales(family, "en", [0.0])[0.0],
    }
    found = exam.ask(models, ["one_turn"], 2).groupby("model").first()
    assert found.response.tolist() == ["w7", " ".join(said["chat"]), " ".join(said["cp"][:8])]
    assert found.thinking_tokens.tolist() == [0, 3, 7] and found.no_answer.tolist() == [0, 0, 1]
    assert found.ended.tolist() == [1, 1, 0] and found.answer.fillna("").tolist() == ["w7", "w7", ""]


def _responses(asked: pd.DataFrame, texts: list[str], language: str) -> pd.DataFrame:
    rows = [
        {"prompt_id": p, "set": None, "language": language, "turn": 1, "sample": 0, "prompt": "", "response": text}
        for p, text in zip(asked.prompt_id, texts, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_system_prompt_needs_a_template_that_knows_it(pico):
    nano = load_family("nano")
    assert "refuses it" in experiment.no_system_prompt(nano.chat)
    assert experiment.no_system_prompt(pico.chat) == ""
    assert "no chat template" in experiment.no_system_prompt(pico.base)
    merged = {"CP + τ": experiment.lineup(pico, "ko", 1.0)["CP + τ"]}
    exam = Exam(pico, "ko", scorers=["instructions"], prompts={"max_tokens": "4"})
    assert len(exam.ask(merged, ["one_turn"], 2, system="Be brief.")) == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"language": "xx"}, "there are ko"), ({"prompts": {"toxicty": "x"}}, "'toxicty'"),
     ({"prompts": {"max_tokens": "many"}}, "max_tokens='many' is no number"),
     ({"scorers": ["toxicity:perspectiv"], "services": {}}, "did you mean 'toxicity:perspective'"),
     ({"scorers": ["toxicity:owner/classifier"], "services": {}}, "toxicity_languages"),
     ({"prompts": {"thinking": "thonk"}}, "thonk"), ({"prompts": {"template": "enable_thinking"}}, "NAME=VALUE"),
     ({"scorers": ["judge"]}, "did you mean"), ({"scorers": ["world"]}, "the micro-world alone"),
     ({"scorers": ["judge:paper"], "services": {"judge_url": "http://127.0.0.1:1/v1"}}, "CHATVEC_JUDGE_MODEL"),
     ({"scorers": ["language", "language"]}, "different names"),
     ({"scorers": ["toxicity:english-profanity", "toxicity:perspective"],
       "services": {"toxicity_url": "http://127.0.0.1:1/x"}}, "both give 'toxic'"),
     ({"services": {"judge": "x"}}, "did you mean 'judge_"), ({"speaker": "served"}, "served:URL"),
     ({"speaker": "served:nowhere"}, "no http or https address"), ({"served": {"CP": "x"}}, "say which"),
     ({"services": {"timeout": "soon"}}, "timeout='soon' is no whole number above 0"),
     ({"scorers": ["judge:pair"], "services": {"judge_model": "m", "judge_url": "http://127.0.0.1:1/v1",
                                               "judge_max_tokens": "0"}}, "judge_max_tokens='0' is no whole"),
     ({"scorers": ["toxicity:http://127.0.0.1:1/v1"], "services": {"toxicity_languages": "en"}}, "toxicity_url")],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_loaded(pico, monkeypatch, options, problem):
    monkeypatch.delenv("CHATVEC_JUDGE_MODEL", raising=False)
    with pytest.raises(ValueError, match=problem):
        Exam(pico, **({"language": "ko"} | options))


def test_the_papers_own_language_detector_can_be_named(pico, monkeypatch):
    from chatvec_lab.evaluation import language

    monkeypatch.setattr(language, "_lingua_label", lambda text: "ko" if "가" in text else "en")
    monkeypatch.setattr(language, "scorer_version", lambda backend: f"{backend} 1")
    found = scored(
        pico, "one_turn", ["가나다라", "all in English"], language="ko", scorers=["language:lingua"]
    )
    assert found.in_language.tolist() == [1, 0] and found.is_english.tolist() == [0, 1]
    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.version", absent)
    with pytest.raises(ImportError, match=r"language:lingua needs pip install 'chatvec_lab\[lingua\]'"):
        Exam(pico, "ko", scorers=["language:lingua"])


def absent(package: str) -> str:
    raise importlib.metadata.PackageNotFoundError(package)


def test_a_slow_judge_and_a_slow_speaker_are_given_the_time_that_they_need(pico):
    services = {
        "judge_model": "m",
        "judge_url": "http://127.0.0.1:1/v1",
        "timeout": "900",
        "judge_max_tokens": "4096",
    }
    exam = Exam(pico, "ko", scorers=["judge:mt-bench"], services=services, speaker="served:http://127.0.0.1:1/v1",
                served={"CP": "m"})  # fmt: skip
    judge = exam.scorers["judge:mt-bench"].judge
    assert (judge.endpoint.timeout, judge.options["max_tokens"]) == (900, 4096)
    assert exam.speaker_for("CP", None).timeout == 900


def test_a_servers_model_without_a_name_is_missed_before_any_is_asked(pico):
    exam = Exam(pico, "ko", speaker="served:http://127.0.0.1:9/v1", served={"CP": "at-the-server"})
    with pytest.raises(ValueError, match=r"which of the server's models is 'chat'\? There are names for CP"):
        exam.ask({"CP": pico.cp["ko"], "chat": pico.chat}, ["one_turn"], 2)


def test_a_key_that_is_lacking_is_said_before_anything_is_loaded(pico, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("CHATVEC_JUDGE_URL", raising=False)
    with pytest.raises(PermissionError, match="OPENAI_API_KEY holds no key"):
        Exam(pico, "ko", scorers=["judge:pair"], services={"judge_model": "m"})
    with pytest.raises(FileNotFoundError, match=r"no scorer's file mine\.py"):
        Exam(pico, "ko", scorers=["mine.py"])


def test_errors_name_what_there_is(pico):
    nano = load_family("nano")
    with pytest.raises(ValueError, match="takes no options"):
        Exam(nano, "zh", prompts={"hostile": "rtp-lx"})
    with pytest.raises(ValueError, match="no prompts in ko; name a set"):
        Exam(pico, "ko", prompts={"language": "th"}).ask({}, ["one_turn"], 2)


def test_what_decides_is_a_measure_that_the_prompts_allow(pico, tmp_path):
    """Prompts without checks: a judge decides, though instructions were named first; without a judge a warning says so."""
    judge = {"judge_model": "m", "judge_url": "http://127.0.0.1:9/v1"}
    rows = [{"prompt_id": str(i), "prompt": f"{i} 더하기 {i}는 얼마입니까?"} for i in range(6)]
    for name, more in (("bare", {}), ("told", {"reference": "네, 알겠습니다."})):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row | more) for row in rows))

    def main(file: str, *scorers: str) -> str:
        asked = {"one_turn": str(tmp_path / file)}
        return Exam(pico, "ko", scorers=scorers, services=judge, prompts=asked).main("one_turn")

    assert main("bare.jsonl", "instructions", "judge:paper", "judge:mt-bench") == "judge_mt_bench"
    assert main("told.jsonl", "instructions", "judge:paper", "judge:mt-bench") == "judge_paper"
    with pytest.warns(
        UserWarning, match="no one_turn prompt has what its scorers need .correct needs checks; judge_paper"
    ):
        assert main("bare.jsonl", "instructions", "judge:paper") == "correct"
    nano = Exam(load_family("nano"), "zh", scorers=["instructions", "judge:paper"], services=judge)
    assert nano.main("one_turn") == "judge_paper" and Exam(pico, "ko").main("one_turn") == "correct"


def test_a_scorer_of_ones_own_is_a_python_file(pico, tmp_path):
    (tmp_path / "short.py").write_text(
        "import pandas as pd\n"
        "from chatvec_lab.evaluation.scorers.contract import Column\n"
        "class Short:\n"
        "    name, version, languages = 'short answers', '1', None\n"
        "    columns = (Column('short', 'higher', 'answers of at most 20 characters'),)\n"
        "    def score(self, prompts, responses):\n"
        "        return pd.DataFrame({'short': responses.answer.str.len().le(20).astype(float)})\n"
        "SCORER = Short()\n"
    )
    found = scored(
        pico, "one_turn", ["short", "a reply that is rather long"], scorers=[str(tmp_path / "short.py")]
    )
    assert found.short.tolist() == [1.0, 0.0]
    own = str(tmp_path / "short.py")  # its measure is of all sets: it decides where none is made for the set
    assert Exam(pico, "ko", scorers=["language", own]).main("one_turn") == "in_language"
    assert Exam(pico, "ko", scorers=[own, "language"]).main("one_turn") == "short"
    assert Exam(pico, "ko", scorers=[own, "instructions"]).main("one_turn") == "correct"
    with pytest.raises(ValueError, match="none of the named scorers measures one_turn prompts: refusals"):
        Exam(pico, "ko", scorers=["refusals"]).main("one_turn")
    (tmp_path / "none.py").write_text("SCORER = object()")
    with pytest.raises(ValueError, match="SCORER lacks name, version"):
        Exam(pico, "ko", scorers=[str(tmp_path / "none.py")])


def test_shares_leave_out_what_has_no_score():
    replies = pd.DataFrame(
        {"model": ["a"] * 4 + ["b"] * 2, "prompt_id": [1, 2, 3, 4, 1, 2], "correct": [1, 0, 1, NAN, 0, 0],
         "toxic": [NAN, NAN, NAN, 1, NAN, NAN]}
    )  # fmt: skip
    exam = Exam(load_family("nano"), "zh")
    found = exam.shares(replies, "model", ["correct", "toxic"]).set_index(["model", "metric"])
    assert (found.estimate["a", "correct"], found.n["a", "correct"]) == (pytest.approx(2 / 3), 3)
    assert found.estimate["b", "correct"] == 0 and ("b", "toxic") not in found.index
    assert tuple(found.loc[("a", "correct"), ["low", "high"]]) == pytest.approx(wilson_interval(2, 3)[1:3])


def test_numbers_in_words():
    table = pd.DataFrame(
        {"m": ["a", "b"], "estimate": [0.5, NAN], "low": [0.25, NAN], "high": [0.75, NAN], "n": [9, 0]}
    )
    assert experiment.told(table, m="a") == "50.0% [25.0%, 75.0%]"
    assert experiment.told(table, m="b") == experiment.told(table, m="c") == "not measured"
    assert experiment.interval(table, m="a") == {"estimate": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    with pytest.raises(ValueError, match="2 rows"):
        experiment.interval(table)


def test_plain_texts_repeat_and_are_in_their_language(pico):
    nano = load_family("nano")
    texts = Exam(nano, "ko").questions.plain_texts("ko", 8)
    assert texts == Exam(nano, "ko").questions.plain_texts("ko", 8) and len({t["text"] for t in texts}) == 8
    for family in (nano, pico):
        assert all(
            any("가" <= c <= "힣" for c in t["text"])
            for t in Exam(family, "ko").questions.plain_texts("ko", 8)
        )
    assert Exam(pico, "ko").questions.plain_texts("th", 8) == []


def test_the_price_counts_what_training_read():
    nano = load_family("nano")
    table = experiment.routes(nano, "zh").set_index("model")
    assert table.tokens_beyond_cp["CP + τ"] == 0 and not table.needs_instructions["CP + τ"]
    assert (table.tokens > 0).all() and (table.seconds > 0).all()
    if "CP → FT" in table.index:
        assert table.tokens_beyond_cp["CP → FT"] > 0 and table.needs_instructions["CP → FT"]
        assert table.tokens["CP → FT"] == table.tokens["CP"] + table.tokens_beyond_cp["CP → FT"]


def test_the_price_of_published_models_is_not_known(pico):
    assert experiment.routes(pico, "ko").empty


def test_a_set_is_asked_in_the_languages_it_has(pico, tmp_path, monkeypatch):
    """English stands beside the target language: prompts of the one are never told as the other's."""
    from chatvec_lab.evaluation.prompts import risk as risk_prompts

    def asked(code, name, **prompts):
        questions = Published(pico, {**prompts, "hostile": name})
        found = questions.draw(code, "hostile", n=7, draw="test", frame="chat")
        return [] if found.empty else sorted(set(found.language))

    def drawn(language="zh-Hant", **_):
        kinds = [kind for kind in risk_prompts.TYPICAL for _ in range(60)]
        ids = [f"{kind}-{i}" for i, kind in enumerate(kinds)]
        table = pd.DataFrame({"prompt_id": ids, "category": kinds, "language": language})
        return table.assign(turns=[[i] for i in ids], checks=[[]] * len(ids))

    monkeypatch.setattr(risk_prompts, "safety_prompts", drawn)
    assert asked("zh", "safety-prompts", language="zh-Hans") == ["zh-Hans"]
    assert asked("zh", "safety-prompts") == ["zh-Hant"]
    assert asked("en", "safety-prompts") == asked("ko", "safety-prompts") == []
    many = Published(pico, {"hostile": "safety-prompts"}).draw(
        "zh", "hostile", n=140, draw="test", frame="chat"
    )
    assert many.category.value_counts().min() >= 10, "all scenarios, not the first ones"
    silent, mixed = tmp_path / "silent.jsonl", tmp_path / "mixed.jsonl"
    silent.write_text("".join(f'{{"id": "p{i}", "prompt": "x"}}\n' for i in range(20)))
    assert (asked("ko", str(silent)), asked("en", str(silent))) == (["ko"], [])
    codes = ["en", "ko", "ja"] * 10
    mixed.write_text(
        "".join(f'{{"id": "p{i}", "prompt": "x", "language": "{c}"}}\n' for i, c in enumerate(codes))
    )
    assert (asked("ko", str(mixed)), asked("en", str(mixed))) == (["ko"], ["en"])


def test_prompts_that_share_an_item_are_resampled_together(pico, tmp_path):
    """`item` goes from the prompts' file onto the replies, and there the intervals take it for one cluster."""
    file = tmp_path / "items.jsonl"
    rows = [{"id": f"p{i}", "prompt": f"w{i}", "language": "ko", "item": f"item {i // 4}"} for i in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    exam = Exam(
        pico,
        "ko",
        scorers=["language"],
        prompts={"one_turn": str(file), "validation": str(file), "max_tokens": "2"},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        replies = exam.ask({"chat": pico.chat}, ["one_turn"], 24)
    assert dict(zip(replies.prompt_id, replies["item"], strict=True)) == {
        row["id"]: row["item"] for row in rows
    }
    replies["in_language"] = [float(int(item[-1]) % 2) for item in replies["item"]]  # all of an item alike
    tables = (replies, replies.drop(columns="item"))
    together, apart = (exam.shares(table, "model", ["in_language"]).iloc[0] for table in tables)
    assert together.estimate == apart.estimate == 0.5
    assert together.high - together.low > 1.5 * (apart.high - apart.low), "six items, not 24 prompts"
