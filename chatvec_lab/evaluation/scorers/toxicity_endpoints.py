"""What scores the toxicity of a text elsewhere: a moderation endpoint, or one in the Perspective API's form.

Answers are kept by the hash of what was asked, as a judge's are, so a rerun asks only for what is missing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import text_of
from chatvec_lab.evaluation.asking.cache import JsonlCache
from chatvec_lab.evaluation.asking.http import Endpoint, map_concurrent
from chatvec_lab.evaluation.asking.responses import digest
from chatvec_lab.evaluation.asking.thinking import answer_of
from chatvec_lab.evaluation.language import read_language
from chatvec_lab.evaluation.scorers.toxicity_scorers import covers, language_set, uncovered

__all__ = ["ModerationEndpoint", "PerspectiveEndpoint"]


class ModerationEndpoint:
    """Category scores of an OpenAI-shaped moderation endpoint (POST /moderations).

    The categories are harms rather than rudeness, and no vendor lists the languages reliably: `languages` are
    those that you trust it in, best after `toxicity.validate`. Answers are kept in `cache`, as a judge's are.
    The vendor may change the model behind a name, so each score has its date.
    """

    version = "as served"
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
        endpoint = base_url if isinstance(base_url, Endpoint) else Endpoint(base_url, key_env=key_env)
        self._asker = _Asker(endpoint, cache, workers, progress)

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame:
        texts = list(map(answer_of, texts))
        notes = [uncovered(text, self.languages) for text in texts]
        requests = [
            None if note else {"model": self.name, "input": text_of(t)}
            for t, note in zip(texts, notes, strict=True)
        ]

        return self._asker.table(
            "/moderations",
            requests,
            notes,
            columns=dict(zip(self._categories, self.attributes, strict=True)),
            value=lambda body, name: body["results"][0]["category_scores"][name],
        )


class PerspectiveEndpoint:
    """Scores of a server that speaks the Perspective API's language, in the paper's six attributes.

    The Perspective API itself closes at the end of 2026 and gives no new keys; its models changed without
    versions, so older numbers cannot be repeated. `url` is the whole address, for a key of old or a server of
    the same form; the key goes into the header X-Goog-Api-Key, since an address ends up in logs. Texts are
    clipped at 3,000 bytes, between characters, and Traditional Chinese is converted to Simplified, the only
    Chinese that it was made for (needs `pip install opencc`); `note` says so. Each score has its date.
    """

    name, version = "Perspective", "unversioned"
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
        endpoint = Endpoint(url, key_env=key_env, key_header=key_header, per_second=per_second, **options)
        self._asker = _Asker(endpoint, cache, workers, progress)

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame:
        names = [a.upper() for a in self.attributes]
        notes, requests = [], []
        for text in map(answer_of, texts):
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

        return self._asker.table(
            "",
            requests,
            notes,
            columns=dict(zip(names, self.attributes, strict=True)),
            value=lambda body, name: body["attributeScores"][name]["summaryScore"]["value"],
        )


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


class _Asker:
    """An endpoint that gives each request some numbers; every different request is made once and kept."""

    def __init__(self, endpoint: Endpoint, cache: str | Path | None, workers: int, progress: bool):
        self.endpoint, self.cache = endpoint, JsonlCache(cache)
        self.workers, self.progress = workers, progress

    def table(
        self,
        path: str,
        requests: Sequence[dict | None],
        notes: Sequence[str],
        *,
        columns: Mapping[str, str],
        value: Callable[[Any, str], Any],
    ) -> pd.DataFrame:
        """A row a request; `columns` maps the endpoint's names to ours, `value(body, name)` finds a number."""
        names = list(columns)
        keys = [request and digest([self.endpoint.base_url, path, names, request]) for request in requests]
        todo = {k: r for k, r in zip(keys, requests, strict=True) if k and self.cache.get(k) is None}

        def ask(item: tuple[str, dict]) -> None:
            key, request = item

            def answer() -> dict:
                scores = self.endpoint.post(
                    path, request, read=lambda body: {name: _probability(value(body, name)) for name in names}
                )
                return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "scores": scores}

            self.cache.ask(key, answer)

        description = "toxicity" if self.progress and todo else None
        results = map_concurrent(ask, todo.items(), workers=self.workers, description=description)
        errors = {k: f"failed: {e}" for k, e in zip(todo, results, strict=True) if e is not None}
        records = [(key and self.cache.get(key)) or {} for key in keys]
        table = pd.DataFrame(
            {ours: [r["scores"][name] if r else np.nan for r in records] for name, ours in columns.items()}
        ).astype(float)
        table["note"] = [errors.get(key, note) for key, note in zip(keys, notes, strict=True)]
        table["date"] = pd.array([r.get("date") for r in records], dtype="str")
        return table
