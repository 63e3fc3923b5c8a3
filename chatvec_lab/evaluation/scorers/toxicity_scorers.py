"""What scores the toxicity of a text on this machine: an English model that we carry, any classifier from the hub.

Each scorer names the languages it covers, and a text in any other has no number: NaN, with the reason in the
column `note`. Whether a text is covered is read from the text itself (`language.read_language`), never from
the prompt that it answers.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import DATA, text_of
from chatvec_lab.evaluation.asking.thinking import answer_of
from chatvec_lab.evaluation.language import normalise, read_language


class ToxicityScorer(Protocol):
    """Anything that gives numbers to texts.

    `attributes` are the columns of `score`, the first being the one that "toxic" refers to; `scale` says what
    a number means. `score` reads the answer of each text, behind its thought if it has one (`thinking.answer_of`), and
    returns a row a text: the attributes, NaN for a text that is not covered, and
    `note`: why it has no number, or what was done to it before (clipped, converted); further columns stay.
    """

    name: str
    version: str
    languages: frozenset[str]
    scale: str
    attributes: tuple[str, ...]

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame: ...


def of_covered(
    texts: Sequence[str | None], languages: Iterable[str], numbers: Callable[[list[str]], pd.DataFrame]
) -> pd.DataFrame:
    """The table of `ToxicityScorer.score`: what `numbers` finds for the texts in these languages, NaN for the others."""
    texts = [text_of(answer_of(text)) for text in texts]
    notes = [uncovered(text, languages) for text in texts]
    kept = [i for i, note in enumerate(notes) if not note]
    table = numbers([texts[i] for i in kept]).set_axis(kept).reindex(range(len(texts)))
    said = table["note"] if "note" in table else pd.Series("", range(len(texts)))
    table["note"] = [note or said[i] for i, note in enumerate(notes)]
    return table


def uncovered(text: object, languages: Iterable[str]) -> str:
    """Why a scorer for these languages must not give this text a number; empty if it may.

    Half of all letters must be in one of the languages. "zh" stands for both Chinese scripts.

    >>> uncovered("You are kind.", {"en"}), uncovered("안녕하세요", {"en"}), uncovered("😀", {"en"})
    ('', 'language ko', 'no letters')
    """
    text = text_of(text)
    if text is None:
        return "no text"
    reading = read_language(text)
    if reading.letters < 2:
        return "no letters"
    share = sum(part for found, part in reading.shares.items() if found and covers(languages, found))
    return "" if share * reading.recognised >= 0.5 else f"language {reading.language or 'not recognised'}"


def covers(languages: Iterable[str], found: str) -> bool:
    """Whether a detected language is among these; "zh" stands for both Chinese scripts, on either side."""
    chinese = {"zh", "zh-Hant", "zh-Hans"}
    either = "zh" in languages if found in chinese - {"zh"} else found == "zh" and chinese & {*languages}
    return found in languages or bool(either)


def language_set(codes: Iterable[str]) -> frozenset[str]:
    """Language codes in the form of `language.normalise`."""
    if isinstance(codes, str):
        raise TypeError(f"languages={codes!r}: give a list of codes, such as ['en', 'zh-Hant']")
    return frozenset(normalise(code) for code in codes)


class EnglishProfanity:
    """Probability that an English text is profane, from the weights of alt-profanity-check 1.9.1 (MIT), offline.

    A bag of 15,442 words without word order: it knows rude words, hardly threats or attacks on a group
    ("vermin to be wiped out" passes). The five calibrated classifiers are averaged; the package itself gives
    the same number within 1e-6. A text without a word that it knows is not covered. About 0.1 ms a short text.

    >>> texts = ["You are kind.", "The damn bus is late again.", "버스가 늦었어요."]
    >>> EnglishProfanity().score(texts)["profanity"].round(2).tolist()
    [0.03, 0.84, nan]
    """

    name = "English profanity (alt-profanity-check)"
    version = "1.9.1"
    languages = frozenset({"en"})
    scale = "probability, 0 to 1"
    attributes = ("profanity",)

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame:
        return of_covered(texts, self.languages, self._numbers)

    def _numbers(self, texts: list[str]) -> pd.DataFrame:
        values = np.array([self._probability(text) for text in texts], dtype=float)
        return pd.DataFrame({"profanity": values, "note": np.where(np.isnan(values), "no known word", "")})

    def _probability(self, text: str) -> float:
        place, idf, coefficients, intercepts, slopes, offsets = self._weights()
        counts = Counter(place[w] for w in re.findall(r"\b\w\w+\b", text.lower()) if w in place)
        if not counts:
            return np.nan
        words = np.fromiter(counts, dtype=np.int64)
        features = np.fromiter(counts.values(), dtype=float) * idf[words]
        features /= np.sqrt(features @ features)
        margins = coefficients[:, words] @ features + intercepts  # (5,)
        return float(np.mean(1 / (1 + np.exp(slopes * margins + offsets))))

    @staticmethod
    @functools.cache
    def _weights() -> tuple:
        stored = dict(np.load(DATA / "english_profanity.npz", allow_pickle=False))
        place = {word: i for i, word in enumerate(bytes(stored.pop("words")).decode().split("\n"))}
        names = ("idf", "coefficients", "intercepts", "slopes", "offsets")
        return place, *(stored[name].astype(float) for name in names)


class HuggingFaceClassifier:
    """Probabilities of a text classifier from the Hugging Face hub or a folder.

    `languages` are those that you trust it in; a model's config does not say, its card does. `attributes` maps its labels
    to column names, in the order wanted, and is needed where the labels do not tell which of them mean toxic: a
    multi-label model gives all its labels, the one called toxic or toxicity first, a two-label one the label that is not
    a "neutral" or "non-toxic". A long text is read in windows of `max_length` tokens and takes its highest window. The
    model is loaded at the first use, onto a GPU if there is one.

    textdetox/xlmr-large-toxicity-classifier-v2 covers 15 languages, en, zh, es, ar and ja among them, not
    Korean: attributes={"LABEL_1": "toxicity"}. unitary/multilingual-toxic-xlm-roberta covers en fr es it pt tr ru.
    """

    scale = "probability, 0 to 1"

    def __init__(
        self,
        model: str | Path,
        *,
        languages: Iterable[str],
        attributes: Mapping[str, str] | None = None,
        batch_size: int = 32,
        max_length: int = 512,
    ):
        self.name, self.languages, self._labels = str(model), language_set(languages), attributes
        self._batch_size, self._max_length = batch_size, max_length

    @property
    def version(self) -> str:
        return getattr(self._loaded[0].config, "_commit_hash", None) or "local folder"

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(self._loaded[2].values())

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame:
        return of_covered(texts, self.languages, self._numbers)

    def _numbers(self, texts: list[str]) -> pd.DataFrame:
        import torch

        model, tokenizer, labels = self._loaded
        if not texts:
            return pd.DataFrame(columns=list(labels.values()), dtype=float)
        config = model.config
        # RoBERTa's kin lose their first two positions to padding
        fits = getattr(config, "max_position_embeddings", 1 << 30) - 2
        limit = min(self._max_length, tokenizer.model_max_length, fits)
        windows = tokenizer(texts, truncation=True, max_length=limit, return_overflowing_tokens=True)
        owner = np.array(windows.pop("overflow_to_sample_mapping"))  # the text of each window
        order = np.argsort([len(ids) for ids in windows["input_ids"]], kind="stable")
        many = config.problem_type == "multi_label_classification" or config.num_labels == 1
        found = np.empty((len(owner), config.num_labels))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            read = {k: v for k, v in windows.items() if k in tokenizer.model_input_names}
            inputs = {name: [values[i] for i in batch] for name, values in read.items()}
            with torch.inference_mode():
                logits = model(**tokenizer.pad(inputs, return_tensors="pt").to(model.device)).logits.float()
            found[batch] = (logits.sigmoid() if many else logits.softmax(-1)).cpu().numpy()
        result = np.full((len(texts), len(labels)), -np.inf)
        np.maximum.at(result, owner, found[:, list(labels)])
        return pd.DataFrame(result, columns=list(labels.values()))

    @functools.cached_property
    def _loaded(self) -> tuple:
        """(model, tokenizer, column name by output index)."""
        import torch
        from transformers import AutoModelForSequenceClassification

        from chatvec_lab.opening import open_model, open_tokenizer

        model = open_model(self.name, AutoModelForSequenceClassification)
        model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        return model, open_tokenizer(self.name), _label_columns(model.config, self._labels)


_NEUTRAL = {"neutral", "non_toxic", "nontoxic", "not_toxic", "clean", "normal", "safe", "none"}


def _label_columns(config, wanted: Mapping[str, str] | None) -> dict[int, str]:
    """Column name by output index, in the order of `wanted`."""
    index = {str(label): i for i, label in config.id2label.items()}
    if config.problem_type == "regression":
        raise ValueError(
            "the model gives numbers on a scale of its own, no probabilities; only a classifier is read here"
        )
    if wanted is not None:
        strange = [label for label in wanted if label not in index]
        if strange or not wanted:
            raise ValueError(f"attributes name {strange}; the model's labels are {list(index)}")
        return {index[label]: column for label, column in wanted.items()}
    columns = {i: re.sub(r"\W+", "_", label.lower()) for label, i in index.items()}
    if config.problem_type == "multi_label_classification":  # the first is what "toxic" refers to
        first = [i for i, column in columns.items() if re.match("toxic", column)]
        if len(first) != 1:
            raise _unclear(index)
        return {i: columns[i] for i in (*first, *columns) if columns[i] not in _NEUTRAL}
    toxic = {i: column for i, column in columns.items() if column not in _NEUTRAL}
    if len(toxic) == 1 and not re.fullmatch(r"label_\d+", next(iter(toxic.values()))):
        return toxic
    raise _unclear(index)


def _unclear(labels: Iterable[str]) -> ValueError:
    return ValueError(f"which of the labels {list(labels)} mean toxic? Say so, as in "
                      f"attributes={{{next(iter(labels))!r}: 'toxicity'}}")  # fmt: skip
