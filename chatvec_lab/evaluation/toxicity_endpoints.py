"""What scores the toxicity of a text elsewhere: a moderation endpoint, or one in the Perspective API's form.

Answers are kept by the hash of what was asked, as a judge's are, so a rerun asks only for what is missing.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ._frames import text_of
from .cache import JsonlCache
from .http import Endpoint, map_concurrent
from .language import read_language
from .responses import digest
from .toxicity_scorers import covers, language_set, uncovered

__all__ = ["ModerationEndpoint", "PerspectiveEndpoint"]


class ModerationEndpoint:
    """Category scores of an OpenAI-shaped moderation endpoint (POST /moderations).

    The categories are harms rather than rudeness, and no vendor lists the languages reliably: `languages` are
    those that you trust it in, best after `toxicity.validate`. Answers are kept in `cache`, as a judge's are.
    The vendor changes the model behind a name: the version is the name and the day of scoring.
    """

    scale = "category score, 0 to 1"

    def __init__(
        self,
        model: str = "omni-moderation-latest",
        base_url: str | Endpoint = "https://api.openai.com/v1",
        *,
        languages: Iterable[str],
        attributes: Sequence[str] = (
            "harassment",
            "harassment/threatening",
            "hate",
            "hate/threatening",
            "violence",
        ),
        key_env: str | None = "OPENAI_API_KEY",
        cache: str | Path | None = None,
        workers: int = 8,
        progress: bool = True,
    ):
        self.name, self.languages = model, language_set(languages)
        self._categories = tuple(attributes)
        self.attributes = tuple(re.sub(r"\W+", "_", a) for a in attributes)
        self._endpoint = base_url if isinstance(base_url, Endpoint) else Endpoint(base_url, key_env=key_env)
        self._cache, self._workers, self._progress = JsonlCache(cache), workers, progress

    @property
    def version(self) -> str:
        return datetime.now(UTC).date().isoformat()

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame:
        notes = [uncovered(text, self.languages) for text in texts]
        requests = [
            None if note else {"model": self.name, "input": text_of(t)}
            for t, note in zip(texts, notes, strict=True)
        ]

        def read(body: dict) -> dict:
            found = body["results"][0]["category_scores"]
            return {c: _probability(found[c]) for c in self._categories}

        answers = _ask_each(
            self._endpoint, "/moderations", requests, read, self._cache, self._workers, self._progress
        )
        return _endpoint_table(answers, self._categories, self.attributes, notes)


class PerspectiveEndpoint:
    """Scores of a server that speaks the Perspective API's language, in the paper's six attributes.

    The Perspective API itself closes at the end of 2026 and gives no new keys; its models changed without
    versions, so older numbers cannot be repeated. `url` is the whole address, for a key of old or a server of
    the same form; the key goes into the header X-Goog-Api-Key, since an address ends up in logs. Texts are
    clipped at 3,000 bytes, between characters, and Traditional Chinese is converted to Simplified, the only
    Chinese that it was made for (needs `pip install opencc`); `note` says so.
    """

    name = "Perspective"
    scale = "probability that a reader finds it so, 0 to 1"
    languages = frozenset(
        {"en", "es", "fr", "de", "it", "pt", "ru", "ar", "zh", "cs", "nl", "id", "ja", "ko", "pl", "hi"}
    )
    attributes = ("toxicity", "severe_toxicity", "identity_attack", "insult", "profanity", "threat")

    def __init__(
        self,
        url: str = "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze",
        *,
        key_env: str | None = "PERSPECTIVE_API_KEY",
        key_header: str = "X-Goog-Api-Key",
        per_second: float | None = 1.0,
        cache: str | Path | None = None,
        workers: int = 4,
        progress: bool = True,
        **options: Any,
    ):
        self._endpoint = Endpoint(
            url, key_env=key_env, key_header=key_header, per_second=per_second, **options
        )
        self._cache, self._workers, self._progress = JsonlCache(cache), workers, progress

    @property
    def version(self) -> str:
        return f"unversioned, {datetime.now(UTC).date().isoformat()}"

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame:
        names = [a.upper() for a in self.attributes]
        notes, requests = [], []
        for text in texts:
            note = uncovered(text, self.languages)
            request = None
            if not note:
                language = next(
                    x for x in read_language(text_of(text)).shares if x and covers(self.languages, x)
                )
                text, note = _prepared(text_of(text), language)
                request = {
                    "comment": {"text": text},
                    "languages": [language.split("-")[0]],
                    "requestedAttributes": {name: {} for name in names},
                    "doNotStore": True,
                }
            notes.append(note)
            requests.append(request)

        def read(body: dict) -> dict:
            return {n: _probability(body["attributeScores"][n]["summaryScore"]["value"]) for n in names}

        answers = _ask_each(self._endpoint, "", requests, read, self._cache, self._workers, self._progress)
        return _endpoint_table(answers, names, self.attributes, notes)


def _prepared(text: str, language: str) -> tuple[str, str]:
    """The text as the Perspective API takes it, and what was done to it."""
    notes = []
    if language == "zh-Hant":
        try:
            from opencc import OpenCC
        except ImportError as error:
            raise ImportError(
                "Perspective knows Simplified Chinese only, and converting needs opencc: pip install opencc"
            ) from error
        text = OpenCC("t2s").convert(text)
        notes.append("converted from zh-Hant to zh-Hans")
    if len(content := text.encode()) > 3000:
        text = content[:3000].decode(errors="ignore")  # a half character at the end goes
        notes.append("clipped at 3000 bytes")
    return text, "; ".join(notes)


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no number from 0 to 1")
    return float(value)


def _ask_each(
    endpoint: Endpoint,
    path: str,
    requests: Sequence[dict | None],
    read: Callable[[dict], dict],
    cache: JsonlCache,
    workers: int,
    progress: bool,
) -> list[dict | Exception | None]:
    """The answer to each request, each different one asked once and kept; None stays None."""
    keys = [request and digest([endpoint.base_url, path, request]) for request in requests]
    todo = {k: r for k, r in zip(keys, requests, strict=True) if k and cache.get(k) is None}

    def ask(item: tuple[str, dict]) -> None:
        key, request = item
        cache.put(key, endpoint.post(path, request, read=read))

    description = "toxicity" if progress and todo else None
    results = map_concurrent(ask, todo.items(), workers=workers, description=description)
    errors = {k: e for k, e in zip(todo, results, strict=True) if e is not None}
    return [key and (errors.get(key) or cache.get(key)) for key in keys]


def _endpoint_table(
    answers: list, names: Sequence[str], columns: Sequence[str], notes: list[str]
) -> pd.DataFrame:
    is_answer = [isinstance(answer, dict) for answer in answers]
    values = [
        [answer[name] if ok else np.nan for name in names]
        for answer, ok in zip(answers, is_answer, strict=True)
    ]
    notes = [
        f"failed: {answer}" if isinstance(answer, Exception) else note
        for answer, note in zip(answers, notes, strict=True)
    ]
    table = pd.DataFrame(
        np.array(values, dtype=float).reshape(len(notes), len(columns)), columns=list(columns)
    )
    return table.assign(note=notes)
