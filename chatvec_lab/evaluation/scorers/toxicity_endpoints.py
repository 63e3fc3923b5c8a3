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

from chatvec_lab.evaluation._frames import stored, text_column
from chatvec_lab.evaluation.asking.cache import JsonlCache
from chatvec_lab.evaluation.asking.http import Endpoint
from chatvec_lab.evaluation.asking.responses import digest
from chatvec_lab.evaluation.language import converter, read_language
from chatvec_lab.evaluation.scorers.toxicity_scorers import covers, language_set, of_covered

_HARMS = ("harassment", "harassment/threatening", "hate", "hate/threatening", "violence")


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
        attributes: Sequence[str] = _HARMS,
        key_env: str | None = "OPENAI_API_KEY",
        **asking: Any,
    ):
        self.name, self.languages = model, language_set(languages)
        self._columns = {name: re.sub(r"\W+", "_", name) for name in attributes}
        self.attributes = tuple(self._columns.values())
        endpoint = base_url if isinstance(base_url, Endpoint) else Endpoint(base_url, key_env=key_env)
        self._asker = _Asker(endpoint, "/moderations", **asking)

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame:
        return of_covered(texts, self.languages, self._numbers)

    def _numbers(self, texts: list[str]) -> pd.DataFrame:
        requests = [{"model": self.name, "input": text} for text in texts]

        def value(body: Any, name: str) -> Any:
            [result] = body["results"]  # one text was sent
            return result["category_scores"][name]

        return self._asker.table(requests, self._columns, value)


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
    languages = frozenset(stored("scorers")["perspective"])
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
        self._asker = _Asker(endpoint, "", cache=cache, workers=workers, progress=progress)

    def score(self, texts: Sequence[str | None]) -> pd.DataFrame:
        return of_covered(texts, self.languages, self._numbers)

    def _numbers(self, texts: list[str]) -> pd.DataFrame:
        columns = {name.upper(): name for name in self.attributes}
        notes, requests = [], []
        for text in texts:
            language = next(x for x in read_language(text).shares if x and covers(self.languages, x))
            text, note = _prepared(text, language)
            asked = {name: {} for name in columns}
            request = {"comment": {"text": text}, "languages": [language.split("-")[0]]}
            requests.append({**request, "requestedAttributes": asked, "doNotStore": True})
            notes.append(note)
        return self._asker.table(
            requests,
            columns,
            _summary,
            notes,
        )


def _summary(body: Any, name: str) -> Any:
    score = body["attributeScores"][name]["summaryScore"]
    if (kind := score.get("type", "PROBABILITY")) != "PROBABILITY":
        raise ValueError(f"{name} is of the type {kind}, no PROBABILITY")
    return score["value"]


def _prepared(text: str, language: str) -> tuple[str, str]:
    """The text as the Perspective API takes it, and what was done to it."""
    notes = []
    if language == "zh-Hant":
        text = converter("t2s", "Perspective knows Simplified Chinese only")(text)
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

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        *,
        cache: str | Path | None = None,
        workers: int = 8,
        progress: bool = True,
    ):
        self.endpoint, self.path, self.cache = endpoint, path, JsonlCache(cache)
        self.workers, self.description = workers, "toxicity" if progress else None

    def table(
        self,
        requests: Sequence[dict],
        columns: Mapping[str, str],
        value: Callable[[Any, str], Any],
        notes: Sequence[str] = (),
    ) -> pd.DataFrame:
        """A row a request; `columns` maps the endpoint's names to ours, `value(body, name)` finds a number."""
        names = list(columns)
        keys = [digest([self.endpoint.base_url, self.path, names, request]) for request in requests]

        def ask(key: str, request: dict) -> dict:
            scores = self.endpoint.post(
                self.path,
                request,
                read=lambda body: {name: _probability(value(body, name)) for name in names},
            )
            return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "scores": scores}

        asked = dict(zip(keys, requests, strict=True))
        _, failed = self.cache.ask_all(asked, ask, workers=self.workers, description=self.description)
        records = [self.cache.get(key) or {} for key in keys]
        found = [[r["scores"][name] if r else np.nan for name in names] for r in records]
        table = pd.DataFrame(found, columns=list(columns.values()), dtype=float)
        told = {key: f"failed: {error}" for key, error in failed.items()}
        table["note"] = [told.get(k, n) for k, n in zip(keys, notes or [""] * len(keys), strict=True)]
        table["date"] = text_column(r.get("date") for r in records)
        return table
