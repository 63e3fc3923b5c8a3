"""A language model as the judge of replies, over any OpenAI-compatible endpoint.

Three protocols: the paper's rating against a standard answer, MT-Bench's [[rating]] of one answer or of a
dialogue's last one, and MT-Bench's comparison of two answers, asked in both orders. Raw judgements are kept
by the hash of what was asked, so a rerun asks only for what is missing. A judgement that cannot be read is
counted as such and its score is missing, never zero. Judges often rate a fluent answer in the wrong language
high: report `language.language_scores` beside these scores.
"""

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import identity, text_column
from chatvec_lab.evaluation.asking.cache import JsonlCache
from chatvec_lab.evaluation.asking.http import Endpoint, read_completion
from chatvec_lab.evaluation.asking.responses import digest, some
from chatvec_lab.evaluation.scorers import judge_prompts as asking
from chatvec_lab.evaluation.scorers.contract import is_last
from chatvec_lab.evaluation.scorers.verdicts import CUT_OFF, read_rating, read_score, read_verdict, said_by

OPENAI = "https://api.openai.com/v1"


class Judge:
    """A model behind an OpenAI-compatible endpoint, with its judgements kept on disk.

    `model` and `base_url` (an address or an `Endpoint` with retries and time-outs of your own) come from
    CHATVEC_JUDGE_MODEL and CHATVEC_JUDGE_URL when None; without either, base_url is OpenAI's.
    `key_env` names the environment variable that holds the key; None for a server without one.
    `cache` is a JSONL file of raw judgements, keyed by the hash of model, messages and options (not of the
    address or the date); None keeps them in memory. `workers` requests run at a time.
    Other options (`seed=1`, `top_p=0.9`) go into the requests; `temperature=None` or `max_tokens=None` leaves
    that one out, for models that refuse it.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | Endpoint | None = None,
        *,
        key_env: str | None = "OPENAI_API_KEY",
        cache: str | Path | None = None,
        workers: int = 8,
        progress: bool = True,
        temperature: float | None = 0.0,
        max_tokens: int | None = 1024,
        **options: Any,
    ):
        self.model = model or os.environ.get("CHATVEC_JUDGE_MODEL") or ""
        if not self.model:
            raise ValueError("no judge: give a model, or set the environment variable CHATVEC_JUDGE_MODEL")
        if not isinstance(base_url, Endpoint):
            address = base_url or os.environ.get("CHATVEC_JUDGE_URL") or OPENAI
            base_url = Endpoint(address, key_env=key_env)
        self.endpoint, self.cache = base_url, JsonlCache(cache)
        self.workers, self.progress = workers, progress
        self.options = {"temperature": temperature, "max_tokens": max_tokens, **options}

    def __repr__(self) -> str:
        return f"Judge({self.model!r}, {self.endpoint!r})"

    def ask(
        self, questions: Sequence[list[dict] | None], *, repeats: Sequence[int] | None = None
    ) -> list[dict]:
        """A record for each question (chat messages): what the judge said, or why it said nothing.

        Keys: text, finish_reason, served_model, date (UTC), prompt_tokens, completion_tokens, error, asked (1
        for a request made now, 0 for one answered before), unanswered (requests for it, also of earlier runs, that
        were sent and brought no answer since the run was killed, the time ran out or the connection was lost, each retry
        counted: the server may have charged them). Equal questions are asked once; `repeats` numbers
        those that are to be asked again. A question that is None has an empty record. Interrupted, the same
        call goes on where it stopped.
        """
        repeats = repeats or [0] * len(questions)
        keys = [q and self._key(q, r) for q, r in zip(questions, repeats, strict=True)]
        asked, failed = self.cache.ask_all(
            {key: q for key, q in zip(keys, questions, strict=True) if key}, self._answer, workers=self.workers,
            description=f"{self.model} judges" if self.progress else None,
        )  # fmt: skip
        records = []
        for key in keys:
            record = (key and self.cache.get(key)) or dict.fromkeys(RECORD)
            lost, error = (self.cache.unanswered(key), failed.get(key)) if key else (0, None)
            counts = {"asked": int(key in asked), "unanswered": lost}
            records.append({**record, "error": error and str(error), **counts})
            asked.discard(key)  # of equal questions the first was asked
        return records

    def _key(self, messages: list[dict], repeat: int) -> str:
        return digest({"model": self.model, "messages": messages, "options": self.options, "repeat": repeat})

    def _answer(self, key: str, messages: list[dict]) -> dict:
        given = {name: value for name, value in self.options.items() if value is not None}
        asked, lost = (
            {"model": self.model, "messages": messages, **given},
            functools.partial(self.cache.lost, key),
        )
        answer = self.endpoint.post("/chat/completions", asked, read=read_completion, lost=lost)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        told = (answer.text, answer.finish_reason, answer.model, date)
        return dict(zip(RECORD, (*told, answer.prompt_tokens, answer.completion_tokens), strict=True))


# of an answer
RECORD = ("text", "finish_reason", "served_model", "date", "prompt_tokens", "completion_tokens")
COUNTS = ("prompt_tokens", "completion_tokens", "asked", "unanswered")  # of requests, beside each judgement


def rate(
    responses: pd.DataFrame,
    judge: Judge,
    *,
    protocol: Literal["paper", "mt-bench"] = "paper",
    references: Mapping[str, str] | pd.DataFrame | None = None,
    prompt_language: str | None = None,
    template: Mapping[str, str] | None = None,
    repeats: int = 1,
    last_only: bool = False,
) -> pd.DataFrame:
    """A score from the judge for every reply, one row a reply (and repeat).

    "paper" rates a single reply against its standard answer, 1 to 10 (a literal 0 is kept: the paper's text
    says 0 to 10), asked in the language of the prompt, or in `prompt_language`; languages without a template
    are asked about in English. "mt-bench" rates 1 to 10, in English, with the reference where there is one;
    from turn 2 on the judge sees the whole conversation and rates its last answer.
    `references` maps prompt_id to text, or is a frame with prompt_id, reference (or response, so the replies
    of a strong model will do) and where needed set, language, turn; a prompts table with references, too.
    `template` replaces ours: system and user, with the fields question, answer, reference, conversation, language.
    `last_only` rates the last reply of each conversation alone.

    Columns: those that identify the reply, repeat, protocol, score, judge, prompt_language, prompt_hash,
    judge_finish_reason, status ("ok", "unparsable", "cut off" by its length, which is no verdict, "failed", "no
    response"), judgement (raw), served_model, date, error, prompt_tokens, completion_tokens, asked (requests made by this
    call), unanswered (requests that a kill, a time-out or a lost connection left without an answer, and that may be charged all
    the same).
    Average with `statistics.summarise(table, value="score", share=False)`.
    """
    if protocol not in ("paper", "mt-bench"):
        raise ValueError(f"protocol={protocol!r}: choose 'paper' or 'mt-bench'")
    talks = asking.dialogues(responses)
    known = asking.reference_answers(responses, references)
    if protocol == "paper":
        _check_paper(responses, talks, known)
    languages = list(responses["language"]) if "language" in responses else [None] * len(responses)
    places = [i for i in (np.flatnonzero(is_last(responses)) if last_only else range(len(responses)))
              for _ in range(repeats)]  # fmt: skip
    numbers = list(range(repeats)) * (len(places) // max(repeats, 1))
    questions, spoken, hashes = [], [], []
    for i in places:
        if protocol == "paper":
            asked_in, chosen = asking.paper_template(prompt_language or languages[i])
        else:
            asked_in, chosen = "en", _template("mt-bench", talks[i], known[i])
        fields = asking.fields_of(talks[i], known[i], languages[i])
        questions.append(asking.fill(template or chosen, **fields) if fields else None)
        spoken.append(asked_in)
        hashes.append(_hash(template or chosen))
    records = judge.ask(questions, repeats=numbers)
    read = read_score if protocol == "paper" else read_rating
    scores = [read(said_by(r)) for r in records]
    return (
        identity(responses)
        .iloc[places]
        .reset_index(drop=True)
        .assign(
            repeat=pd.Series(numbers, dtype="int64"),
            protocol=protocol,
            score=pd.Series(scores, dtype="float64"),
            judge=judge.model,
            prompt_language=text_column(spoken),
            prompt_hash=text_column(hashes),
            judge_finish_reason=text_column(r["finish_reason"] for r in records),
            **judgement_columns(records, scores),
        )
    )


def compare_replies(
    a: pd.DataFrame,
    b: pd.DataFrame,
    judge: Judge,
    *,
    names: tuple[str, str] = ("a", "b"),
    references: Mapping[str, str] | pd.DataFrame | None = None,
    template: Mapping[str, str] | None = None,
    last_only: bool = False,
) -> pd.DataFrame:
    """Which of two models' replies the judge prefers, one row a pair of replies to the same prompt.

    Each pair is judged in both orders and a win counts only if both agree: else it is a tie. `a` and `b` hold
    one reply each to the same prompts (set, language, prompt_id, turn, sample); from turn 2 on whole
    conversations are compared, with `last_only` these alone. `references` as in `rate`; `template` has the fields
    question, answer_a, answer_b, reference.

    Columns: those of the prompt, a, b (the `names`), score (points of a: 1, 0, or 0.5 for a tie; missing
    without two verdicts), verdict_ab and verdict_ba ("a", "b", "tie": first with a shown first, then with b),
    is_consistent, status, judgement_ab, judgement_ba, judge, served_model, date, prompt_hash, prompt_tokens,
    completion_tokens (of both), asked, unanswered, error. `statistics.bradley_terry` reads several such tables as one.
    """
    keys = [k for k in asking.KEYS if k in a and k in b]
    a, b = _paired(a, b, keys)
    known = asking.reference_answers(a, references)
    is_asked = list(is_last(a)) if last_only else [True] * len(a)
    questions, hashes = [], []
    pairs = zip(asking.dialogues(a), asking.dialogues(b), known, strict=True)
    for turns_a, turns_b, reference in itertools.compress(pairs, is_asked):
        chosen = template or _template("pair", turns_a, reference)
        hashes.append(_hash(chosen))
        shown = "answer" if len(turns_a) == 1 else "conversation"
        one, two = (asking.fields_of(turns, reference, None) for turns in (turns_a, turns_b))
        for first, second in ((one, two), (two, one)):
            both = first and second and first | {"answer_a": first[shown], "answer_b": second[shown]}
            questions.append(asking.fill(chosen, **both) if both else None)
    records = judge.ask(questions)
    ab, ba = records[::2], records[1::2]
    found = pd.DataFrame({
        "verdict_ab": text_column({"A": "a", "B": "b", "C": "tie"}.get(read_verdict(said_by(r))) for r in ab),
        "verdict_ba": text_column({"A": "b", "B": "a", "C": "tie"}.get(read_verdict(said_by(r))) for r in ba),
    })  # fmt: skip
    is_known, alike = found.notna().all(axis=1), found.verdict_ab.eq(found.verdict_ba)
    points = (
        found.verdict_ab.map({"a": 1.0, "b": 0.0, "tie": 0.5}).astype(float).where(alike, 0.5).where(is_known)
    )
    ends = [[record_status(r, v if pd.notna(v) else None) for r, v in zip(rs, found[name], strict=True)]
            for rs, name in ((ab, "verdict_ab"), (ba, "verdict_ba"))]  # fmt: skip
    worse = [max(pair, key=STATUSES.index) for pair in zip(*ends, strict=True)]
    counts = pd.DataFrame(_counts(records))
    return (
        a.loc[is_asked, keys]
        .reset_index(drop=True)
        .assign(
            a=names[0],
            b=names[1],
            score=points,
            **found,
            is_consistent=alike.astype("boolean").where(is_known),
            status=text_column(worse),
            judgement_ab=text_column(r["text"] for r in ab),
            judgement_ba=text_column(r["text"] for r in ba),
            judge=judge.model,
            served_model=text_column(r["served_model"] for r in ab),
            date=text_column(r["date"] for r in ba),
            prompt_hash=text_column(hashes),
            **counts.groupby(np.arange(len(counts)) // 2).sum(min_count=1),
            error=text_column(one["error"] or two["error"] for one, two in zip(ab, ba, strict=True)),
        )
    )


STATUSES = ("ok", "unparsable", "cut off", "failed", "no response")  # the worse behind the better


def record_status(record: dict, read: object) -> str:
    """Why there is no verdict, or "ok"; `read` is None if the judgement could not be read."""
    if record["text"] is None:
        return "failed" if record["error"] else "no response"
    if read is None and record.get("finish_reason") in CUT_OFF:
        return "cut off"
    return "unparsable" if read is None else "ok"


def judgement_columns(records: list[dict], read: Sequence) -> dict[str, Any]:
    """What `Judge.ask` told of each question, as columns; `read` is what was read of it, None for nothing."""
    texts = {"judgement": "text", "served_model": "served_model", "date": "date", "error": "error"}
    return {
        "status": text_column(map(record_status, records, read)),
        **{column: text_column(r[name] for r in records) for column, name in texts.items()},
        **_counts(records),
    }


def _counts(records: list[dict]) -> dict[str, Any]:
    return {name: pd.array([r[name] for r in records], dtype="Int64") for name in COUNTS}


def _template(protocol: str, turns: list, reference: list[str] | None) -> Mapping[str, str]:
    kind = "single" if len(turns) == 1 else "dialogue"
    return asking.templates()[protocol][kind + ("_reference" if reference else "")]


def _check_paper(responses: pd.DataFrame, talks: list, known: list) -> None:
    later = [str(i) for i, turns in zip(responses["prompt_id"], talks, strict=True) if len(turns) > 1]
    if later:
        raise ValueError(
            f"the paper rates single replies; {len(later)} have earlier turns: {some(later, 5)}."
            " Use protocol='mt-bench'."
        )
    lacking = [str(i) for i, r in zip(responses["prompt_id"], known, strict=True) if r is None]
    if lacking:
        raise ValueError(
            f"protocol='paper' needs a standard answer to each prompt; {len(lacking)} of {len(known)} have none:"
            f" {some(lacking, 5)}. Pass references=, or protocol='mt-bench', which can do without."
        )


def _paired(a: pd.DataFrame, b: pd.DataFrame, keys: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames in the order of a, after checking that they answer the same prompts once each."""
    if "prompt_id" not in keys:
        raise KeyError("both tables need the column prompt_id")
    order, other = asking.row_keys(a, keys), asking.row_keys(b, keys)
    for name, found in (("a", order), ("b", other)):
        if len(set(found)) < len(found):
            raise ValueError(
                f"{name} has several replies with the same {', '.join(keys)}; select one model's"
            )
    if set(order) != set(other):
        only = [("a", key) for key in order if key not in set(other)]
        only += [("b", key) for key in other if key not in set(order)]
        raise ValueError(f"{len(only)} replies have no partner ({', '.join(keys)}): {some(only, 5)}")
    place = {key: i for i, key in enumerate(other)}
    return a.reset_index(drop=True), b.iloc[[place[key] for key in order]].reset_index(drop=True)


def _hash(template: Mapping[str, str]) -> str:
    return digest(dict(template))[:12]
