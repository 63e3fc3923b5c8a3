"""Toxicity: no number for a text that is not covered, exact metrics, and endpoints that fail."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from flaky_server import FlakyServer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatvec_lab.evaluation.asking.http import Endpoint
from chatvec_lab.evaluation.scorers.toxicity import Toxicity, labelled_texts, validate
from chatvec_lab.evaluation.scorers.toxicity_endpoints import ModerationEndpoint, PerspectiveEndpoint
from chatvec_lab.evaluation.scorers.toxicity_scorers import EnglishProfanity, HuggingFaceClassifier, uncovered

KEY = "AIza-test-88c1-never-show-this"
STRANGE = [
    "",
    " \n\t",
    "😀🔥",
    "12345 !?",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "hello " * 16_667,
    "你" * 100_000,
    "half a character \ud83d is here",
    "\x00\x1b[0m",
    "\u202eevil\u202c",
    "a",
    None,
    float("nan"),
]
# alt-profanity-check 1.9.1 itself, predict_prob on these texts
REFERENCE = {
    "You are kind.": 0.03046719079994246,
    "You are a stupid fool.": 0.999979703715311,
    "The damn bus is late again.": 0.8426058048276079,
    "I hate this rubbish film; it is pathetic garbage.": 0.9995021370486065,
    "How do I kill a process in Linux?": 0.07644075910558576,
    "Dick Whittington walked to London with his cat.": 0.6352892532586213,
    "You people are disgusting and should go away.": 0.7360487092813964,
    "stupid stupid stupid garden": 0.9998482137175602,
    "She said it's a hell of a good book.": 0.5787864833466918,
    "They are vermin and should be wiped out.": 0.2839038612149202,
}


def table(texts, **columns):
    frame = pd.DataFrame(
        {"prompt_id": [f"p{i}" for i in range(len(texts))], "language": "en", "turn": 1, "sample": 0}
    )
    return frame.assign(response=pd.Series(list(texts), dtype=object), **columns)


# --- the English model ---


def test_our_copy_of_the_weights_gives_the_packages_numbers():
    found = EnglishProfanity().score(list(REFERENCE))["profanity"]
    assert np.abs(found - list(REFERENCE.values())).max() < 1e-6


def test_stop_words_case_and_unknown_words_change_nothing():
    scorer = EnglishProfanity()
    a, b = (scorer._probability(t) for t in ("The damn bus", "A DAMN BUS zzqx and the"))
    assert a == pytest.approx(b, abs=1e-12)
    assert np.isnan(scorer._probability("the and of zzqx"))
    assert scorer.score(["He is a zzqxer of the qqzwk."])["note"][0] in (
        "no known word",
        "language not recognised",
    )


@pytest.mark.parametrize(
    "row",
    labelled_texts().query("language != 'en'").to_dict("records"),
    ids=lambda r: f"{r['language']}-{r['id']}",
)
def test_the_english_model_says_nothing_about_other_languages(row):
    found = EnglishProfanity().score([row["text"]]).iloc[0]
    assert np.isnan(found["profanity"]) and found["note"]


SCRIPTS = [
    "가나다라마바사아자차카타파하",
    "あいうえおかきくけこさしすせそ漢字",
    "的一是在不了有和人這",
    "ابتثجحخدذرزسش",
    "абвгдежзик",
    "กขคงจฉชซ",
]


def test_shared_characters_are_covered_by_a_scorer_of_either_script():
    assert uncovered("天天向上吃白菜很好", {"zh-Hant"}) == "" == uncovered("天天向上吃白菜很好", {"zh"})
    assert uncovered("这个软件很好", {"zh-Hant"}) == "language zh-Hans"
    assert uncovered("抱歉。", {"zh-Hant"})  # it may be Japanese


@example("1กกขกกขกขกขจ", " kill")
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SCRIPTS).flatmap(lambda letters: st.text(letters + " 。!?\n😀1", min_size=1)),
    st.sampled_from(["", " kill", " damn"]),
)
def test_text_in_another_script_never_gets_a_number(text, word):
    if sum(c.isalpha() for c in text) > 2 * len(word):  # else the English word may be most of it
        assert np.isnan(EnglishProfanity().score([text + word])["profanity"][0])


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec=None)))
def test_whatever_the_text_a_score_is_a_probability_or_has_a_reason(text):
    found = EnglishProfanity().score([text]).iloc[0]
    assert 0 <= found["profanity"] <= 1 or (np.isnan(found["profanity"]) and found["note"])
    if uncovered(text, {"en"}):
        assert np.isnan(found["profanity"])


def test_strange_texts_crash_nothing():
    found = EnglishProfanity().score(STRANGE)
    assert found["profanity"].notna().tolist() == [
        t is not None and isinstance(t, str) and t.startswith(("hello", "half")) for t in STRANGE
    ]
    assert (found.loc[found["profanity"].isna(), "note"] != "").all()
    assert list(found["note"][[0, 2, 11]]) == ["no letters", "no letters", "no text"]


# --- as a scorer of replies ---


def test_a_reply_is_toxic_from_the_threshold_on_and_unknown_where_nothing_covers_it():
    class Two:
        name, version, languages, scale, attributes = (
            "two",
            "1",
            frozenset({"en"}),
            "length",
            ("rude", "loud"),
        )

        def score(self, texts):
            rude = [len(t) / 4 if isinstance(t, str) else None for t in texts]
            return pd.DataFrame({"rude": rude, "loud": [0.5] * len(texts), "note": ""})

    scorer = Toxicity(Two())
    found = scorer.score(pd.DataFrame(), pd.DataFrame({"answer": ["a", "bb", "ccc", None]}))
    assert [c.name for c in scorer.columns] == ["toxic", "rude", "loud"] and scorer.columns[
        1
    ].unit == "length"
    assert found.toxic.tolist()[:3] == [0, 1, 1] and np.isnan(found.toxic[3])
    assert found.rude.tolist()[:3] == [0.25, 0.5, 0.75] and found.loud.eq(0.5).all()


def test_a_validation_table_shows_what_the_english_model_is_worth():
    found = validate(EnglishProfanity()).set_index(["language", "metric"])["estimate"]
    assert found["en", "coverage"] == 1
    assert (found["en", "recall"], found["en", "false positive rate"]) == (6 / 8, 1 / 8)
    assert 0.4 < found["en", "correlation"] <= 1
    assert all(
        found[x, "coverage"] == 0 and np.isnan(found[x, "recall"])
        for x in ("ko", "ja", "zh-Hant", "sw", "ar", "es")
    )


def test_the_labelled_sentences_are_parallel():
    texts = labelled_texts()
    assert texts.groupby("language").size().to_dict() == dict.fromkeys(
        ["ar", "en", "es", "ja", "ko", "sw", "zh-Hans", "zh-Hant"], 16
    )
    assert texts.groupby("id")[["toxic", "grade"]].nunique().eq(1).all(axis=None)
    assert (texts["toxic"] == (texts["grade"] > 0)).all() and texts["text"].is_unique


# --- a classifier ---


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A pico BERT with two labels and a vocabulary of letters and a few words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcdefghijklmnopqrstuvwxyz",
        *("##" + c for c in "abcdefghijklmnopqrstuvwxyz"),
        "you",
        "are",
        "kind",
        "stupid",
        "bus",
        "late",
        "the",
    ]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        initializer_range=0.5,
        id2label={0: "neutral", 1: "toxic"},
        label2id={"neutral": 0, "toxic": 1},
    )
    folder = tmp_path_factory.mktemp("classifier")
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(folder)
    return folder


def by_hand(folder, text):
    """Highest probability of "toxic" over windows of 30 tokens, one at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = [ids[i : i + 30] for i in range(0, len(ids), 30)]
    with torch.no_grad():
        return max(model(torch.tensor([[2, *w, 3]])).logits.softmax(-1)[0, 1].item() for w in windows)


def test_a_classifier_scores_the_languages_that_it_is_trusted_in(classifier):
    texts = [
        "You are kind.",
        "The bus is late again, and you are stupid.",
        "너는 바보야.",
        "",
        "You are stupid " * 40,
        "Eres muy amable conmigo.",
    ]
    scorer = HuggingFaceClassifier(classifier, languages=["en"], batch_size=3)
    found = scorer.score(texts)
    assert scorer.attributes == ("toxic",) and scorer.version == "local folder"
    for i in (0, 1, 4):
        assert found["toxic"][i] == pytest.approx(by_hand(classifier, texts[i]), abs=1e-5)
    assert list(found["note"]) == ["", "", "language ko", "no letters", "", "language es"]
    assert found["toxic"][[2, 3, 5]].isna().all()


def test_a_classifier_survives_strange_texts(classifier):
    found = HuggingFaceClassifier(classifier, languages=["en"], batch_size=64).score(
        [t[:5000] if isinstance(t, str) else t for t in STRANGE]
    )
    assert found["toxic"].dropna().between(0, 1).all() and found["toxic"].notna().sum() == 2


def test_labels_that_do_not_tell_have_to_be_named(classifier):
    named = HuggingFaceClassifier(
        classifier, languages=["en"], attributes={"toxic": "toxicity", "neutral": "calm"}
    )
    found = named.score(["You are kind."])
    assert list(found) == ["toxicity", "calm", "note"] and found["toxicity"][0] + found["calm"][
        0
    ] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"labels are \['neutral', 'toxic'\]"):
        HuggingFaceClassifier(classifier, languages=["en"], attributes={"LABEL_1": "toxicity"}).score(
            ["You are kind."]
        )
    config = json.loads((classifier / "config.json").read_text())
    from transformers import BertConfig

    from chatvec_lab.evaluation.scorers.toxicity_scorers import _label_columns

    plain = BertConfig.from_dict(
        config | {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    )
    with pytest.raises(ValueError, match="Say so"):
        _label_columns(plain, None)
    several = {"problem_type": "multi_label_classification"}
    assert _label_columns(BertConfig.from_dict(config | several), None) == {1: "toxic"}

    def columns(names, **more):
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        return _label_columns(BertConfig.from_dict(config | labels | more), None)

    found = columns(["severe_toxic", "obscene", "toxic"], **several)
    assert list(found.items()) == [
        (2, "toxic"),
        (0, "severe_toxic"),
        (1, "obscene"),
    ]  # the first is what "toxic" means
    for names in (["hate", "sexual"], ["LABEL_0", "LABEL_1"], ["toxic", "toxic_insult"]):
        with pytest.raises(ValueError, match="Say so"):
            columns(names, **several)
    with pytest.raises(ValueError, match="no probabilities"):
        columns(["toxicity"], problem_type="regression")
    with pytest.raises(TypeError, match="list of codes"):
        HuggingFaceClassifier(classifier, languages="en")


# --- endpoints ---


def perspective_answer(path, body):
    value = (len(body["comment"]["text"]) % 10) / 10
    return {
        "attributeScores": {
            n: {"summaryScore": {"value": value, "type": "PROBABILITY"}} for n in body["requestedAttributes"]
        }
    }


def perspective(server, **options):
    return PerspectiveEndpoint(
        f"{server.url}/v1alpha1/comments:analyze",
        **{
            "key_env": None,
            "per_second": None,
            "progress": False,
            "timeout": 20,
            "retries": 30,
            "backoff": 0.001,
            **options,
        },
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_every_text_ends_with_exactly_one_score(tmp_path, monkeypatch, caplog, seed):
    monkeypatch.setenv("PERSPECTIVE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    texts = [f"You are as kind as number {'x' * i}" for i in range(40)] + [
        "안녕하세요, 반갑습니다.",
        "",
        "You are as kind as number ",
    ]
    cache = tmp_path / "toxicity.jsonl"
    server = FlakyServer(perspective_answer, trouble=0.3, seed=seed)
    server.echo = KEY
    with server.running():
        options = {"key_env": "PERSPECTIVE_KEY", "cache": cache, "workers": 8, "timeout": 0.8}
        found = perspective(server, **options).score(texts)
        again = perspective(server, **options).score(texts)
        asked = sum(server.requests.values())
    covered = [t for t in texts if t]
    assert list(found["toxicity"].dropna()) == [len(t) % 10 / 10 for t in covered]
    assert (found["note"] == "").sum() == len(covered) and found.equals(again)
    assert len(server.requests) == len(set(covered)) == len(cache.read_bytes().splitlines())
    assert sum(server.troubles.values()) > 5 and asked > len(set(covered))
    assert KEY not in caplog.text + cache.read_text() and {h["X-Goog-Api-Key"] for h in server.headers} == {
        KEY
    }


def test_perspective_is_asked_in_its_own_form():
    with FlakyServer(perspective_answer).running() as server:
        found = perspective(server).score(
            [
                "You are kind.",
                "這個軟體很好用，我們都喜歡。",
                "é" + "the bus is late " * 300,
                "Wewe ni mjinga sana, ndugu yangu.",
            ]
        )
        bodies = {b["comment"]["text"]: b for b in server.bodies}
    assert bodies["You are kind."]["languages"] == ["en"] and bodies["You are kind."]["doNotStore"] is True
    assert set(bodies["You are kind."]["requestedAttributes"]) == {
        "TOXICITY",
        "SEVERE_TOXICITY",
        "IDENTITY_ATTACK",
        "INSULT",
        "PROFANITY",
        "THREAT",
    }
    assert bodies["这个软体很好用，我们都喜欢。"]["languages"] == ["zh"]
    assert max(len(t.encode()) for t in bodies) == 3000
    assert list(found["note"]) == [
        "",
        "converted from zh-Hant to zh-Hans",
        "clipped at 3000 bytes",
        "language sw",
    ]
    assert np.isnan(found["toxicity"][3]) and len(bodies) == 3


def test_a_text_is_clipped_between_characters():
    from chatvec_lab.evaluation.scorers.toxicity_endpoints import _prepared

    text, note = _prepared("ab" + "안" * 1000, "ko")
    assert text == "ab" + "안" * 999 and len(text.encode()) == 2999 and note == "clipped at 3000 bytes"
    assert _prepared("안" * 1000, "ko") == ("안" * 1000, "")


def moderation(server, **options):
    endpoint = Endpoint(server.url, timeout=20, retries=4, backoff=0.001)
    return ModerationEndpoint(base_url=endpoint, languages=["en"], progress=False, **options)


def test_moderation_scores_come_back_by_category():
    names = ("harassment", "harassment/threatening", "hate", "hate/threatening", "violence")

    def answer(path, body):
        assert path == "/moderations" and body["model"] == "omni-moderation-latest"
        return {
            "results": [
                {"flagged": True, "category_scores": dict(zip(names, (0.5, 0.4, 0.3, 0.2, 0.1), strict=True))}
            ]
        }

    with FlakyServer(answer).running() as server:
        scorer = moderation(server)
        found = scorer.score(["You are a fool, my friend.", "바보야, 너는."])
        rude = Toxicity(scorer).score(
            pd.DataFrame(), pd.DataFrame({"answer": ["You are a fool, my friend."]})
        )
    assert scorer.attributes == (
        "harassment",
        "harassment_threatening",
        "hate",
        "hate_threatening",
        "violence",
    )
    assert list(found.iloc[0])[:6] == [0.5, 0.4, 0.3, 0.2, 0.1, ""] and found.iloc[1, :5].isna().all()
    assert rude.iloc[0].tolist() == [1, 0.5, 0.4, 0.3, 0.2, 0.1, ""]
    assert (scorer.name, scorer.version, found.date.notna()[0]) == (
        "omni-moderation-latest",
        "as served",
        True,
    )


@pytest.mark.parametrize("value", [True, "0.5", None, 1.5, float("nan")])
def test_an_answer_that_is_no_probability_is_no_score(value):
    answer = {"results": [{"category_scores": {"harassment": value}}]}
    with FlakyServer(lambda path, body: answer).running() as server:
        found = moderation(server, attributes=["harassment"]).score(["You are a fool, my friend."])
        assert sum(server.requests.values()) == 5
    assert np.isnan(found["harassment"][0]) and found["note"][0].startswith("failed: POST")


def test_other_scales_and_other_texts_results_are_no_score():
    def answer(path, body):
        found = perspective_answer(path, body)
        found["attributeScores"]["TOXICITY"]["summaryScore"]["type"] = "PERCENT"
        return found

    with FlakyServer(answer).running() as server:
        found = perspective(server, retries=1).score(["You are kind."])
    assert np.isnan(found["toxicity"][0]) and "type PERCENT" in found["note"][0]
    two = {"results": [{"category_scores": {"harassment": score}} for score in (0.1, 0.9)]}
    with FlakyServer(lambda path, body: two).running() as server:
        found = moderation(server, attributes=["harassment"]).score(["You are a fool, my friend."])
    assert np.isnan(found["harassment"][0])


def test_a_refused_text_fails_alone():
    def answer(path, body):
        return (
            (400, {"error": "LANGUAGE_NOT_SUPPORTED", "status": "INVALID_ARGUMENT", "message": "languages"})
            if "late" in body["comment"]["text"]
            else perspective_answer(path, body)
        )

    with FlakyServer(answer).running() as server:
        found = perspective(server).score(["You are kind.", "The bus is late.", "You are a good person."])
    assert (
        list(found["toxicity"].notna()) == [True, False, True]
        and "LANGUAGE_NOT_SUPPORTED" in found["note"][1]
    )


@pytest.mark.parametrize("scorer", [perspective, moderation])
def test_endpoints_are_never_asked_about_what_they_do_not_cover(scorer):
    def answer(path, body):
        text = body.get("input") or body["comment"]["text"]
        assert text.startswith(("hello", "half", "مرحبا", "你"))
        return {
            "results": [{"category_scores": {"harassment": 0.5}}],
            **perspective_answer(
                path,
                {
                    "comment": {"text": text},
                    "requestedAttributes": [a.upper() for a in PerspectiveEndpoint.attributes],
                },
            ),
        }

    options = {"attributes": ["harassment"]} if scorer is moderation else {}
    with FlakyServer(answer).running() as server:
        found = scorer(server, **options).score(STRANGE)
    expected = ("hello", "half") if scorer is moderation else ("hello", "half", "مرحبا", "你")
    assert list(found.iloc[:, 0].notna()) == [isinstance(t, str) and t.startswith(expected) for t in STRANGE]
