"""What a judge is asked. The wording is in data/judge_prompts.yaml; `verdicts` reads the answer."""

import re
from collections.abc import Mapping

import pandas as pd

from chatvec_lab.evaluation._frames import identity, stored, text_of
from chatvec_lab.evaluation.asking.responses import some
from chatvec_lab.evaluation.asking.thinking import answers
from chatvec_lab.evaluation.language import normalise
from chatvec_lab.languages import language_name

KEYS = ("set", "language", "prompt_id", "turn", "sample")  # what a reply answers, whoever gave it


def templates() -> dict:
    """All templates: `paper` by language, `mt-bench` and `pair` by kind, `safety`; each has system and user."""
    return stored("judge_prompts")


def paper_template(language: str | None) -> tuple[str, Mapping[str, str]]:
    """(language, template) of the paper's rating: in this language where we have it, else in English."""
    own = normalise(language)
    asked_in = own if own in templates()["paper"] else "en"
    return asked_in, templates()["paper"][asked_in]


def fill(template: Mapping[str, str], **fields: str) -> list[dict[str, str]]:
    """Messages for the judge. Braces in the filled-in texts, and unknown ones in the template, stay.

    >>> fill({"system": "Judge.", "user": "{question} {x}"}, question="{answer}?")[1]["content"]
    '{answer}? {x}'
    """
    return [
        {"role": role, "content": re.sub(r"\{(\w+)\}", lambda m: fields.get(m[1], m[0]), template[role])}
        for role in ("system", "user")
        if template.get(role)
    ]


def dialogues(responses: pd.DataFrame) -> list[list[tuple[str, str | None]]]:
    """For each row, the (prompt, answer) pairs of its conversation up to and including it; None for no answer."""
    frame = identity(responses, needs=["prompt"])
    turns = [int(t) for t in frame["turn"]] if "turn" in frame else [1] * len(frame)
    names = [c for c in frame.columns if c not in ("turn", "seed")]
    talks = [tuple(None if pd.isna(v) else v for v in row) for row in frame[names].itertuples(index=False)]
    said: dict = {}
    rows = zip(talks, turns, responses["prompt"], answers(responses), strict=True)
    for talk, turn, prompt, response in rows:
        if (talk, turn) in said:
            raise ValueError(
                f"two replies have the same {', '.join(names)} and turn: {talk}, turn {turn}."
                " Add the column that tells them apart (scale, model …)."
            )
        said[talk, turn] = (text_of(prompt) or "", text_of(response))
    pairs = list(zip(talks, turns, strict=True))
    lacking = [(*talk, t) for talk, turn in pairs for t in range(1, turn) if (talk, t) not in said]
    if lacking:
        raise ValueError(
            f"{len(lacking)} earlier turns are not among the responses: {some(lacking, 5)}."
            f" Turns of one conversation share their {', '.join(names)}."
        )
    return [[said[talk, t] for t in range(1, turn + 1)] for talk, turn in pairs]


def reference_answers(
    responses: pd.DataFrame, references: Mapping | pd.DataFrame | None
) -> list[list[str] | None]:
    """For each row, the reference answers of its turns 1 to this one; None if any is lacking."""
    if references is None:
        return [None] * len(responses)
    if isinstance(references, Mapping):
        references = pd.DataFrame({"prompt_id": list(references), "reference": list(references.values())})
    text = "reference" if "reference" in references else "response"
    if "prompt_id" not in references or text not in references:
        raise ValueError(
            f"references need prompt_id and reference or response; found: {', '.join(references.columns)}"
        )
    references = references[references[text].notna()].reset_index(drop=True)
    if references.empty:
        return [None] * len(responses)
    if "turn" not in references and references[text].map(lambda r: isinstance(r, list)).any():
        references = references.explode(text)  # a prompts table: one answer a turn
        references = references.assign(turn=references.groupby(level=0).cumcount() + 1)
    keys = [k for k in KEYS[:4] if k in references and k in responses]
    turns = [int(t) for t in responses["turn"]] if "turn" in responses else [1] * len(responses)
    if "turn" not in keys and max(turns, default=1) > 1:
        raise ValueError("the responses have several turns: references need a column turn, too")
    known: dict = {}
    for key, answer in zip(row_keys(references, keys), references[text], strict=True):
        if key in known:
            raise ValueError(f"two references for {dict(zip(keys, key, strict=True))}; keep one")
        if text_of(answer):
            known[key] = text_of(answer)
    place = keys.index("turn") if "turn" in keys else None
    found = []
    for key, turn in zip(row_keys(responses, keys), turns, strict=True):
        wanted = [key if place is None else (*key[:place], t, *key[place + 1 :]) for t in range(1, turn + 1)]
        found.append([known[k] for k in wanted] if all(k in known for k in wanted) else None)
    return found


def row_keys(frame: pd.DataFrame, keys: list[str]) -> list[tuple]:
    """The values of these columns, a tuple a row, that compare equal across frames of other dtypes."""

    def plain(name, value):
        return None if pd.isna(value) else int(value) if name in ("turn", "sample") else str(value)

    return [tuple(map(plain, keys, row)) for row in frame[keys].itertuples(index=False)]


def fields_of(turns: list[tuple[str, str | None]], reference: list[str] | None, language: str | None) -> dict:
    """The fields of a template; empty if a reply of the conversation is missing."""
    if any(response is None for _, response in turns):
        return {}
    ideal = [(prompt, answer) for (prompt, _), answer in zip(turns, reference or [], strict=False)]
    return {
        "question": turns[-1][0],
        "answer": turns[-1][1],
        "conversation": _conversation(turns, "Assistant"),
        "reference": _conversation(ideal, "Reference answer") if len(turns) > 1 else "".join(reference or []),
        "language": language_name(code) if (code := normalise(language)) else "the language of the question",
    }


def _conversation(turns: list[tuple[str, str]], speaker: str) -> str:
    return "\n\n".join(f"### User:\n{prompt}\n\n### {speaker}:\n{reply}" for prompt, reply in turns)
