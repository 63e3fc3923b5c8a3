"""Does a model keep the thread? Constraints carried over from the first turn, and references back to it.

The checks are data on the dialogues (`load_prompts("dialogues")`): an instruction of `checks.py` with the
`turn` it applies to and what it measures, or one of two that compare a reply with the one before.
"""

import numpy as np
import pandas as pd

from chatvec_lab.evaluation._frames import identity, text_of
from chatvec_lab.evaluation.asking.thinking import answers
from chatvec_lab.evaluation.instructions import VERSION, checks_by_prompt, instruction_scores
from chatvec_lab.evaluation.language import normalise
from chatvec_lab.evaluation.scorers.checks import COMPARISONS, count_words

_HOLDS = dict(zip(COMPARISONS, (np.less, np.greater), strict=True))


def multiturn_scores(responses: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """What each reply after the first turn shows, one row a reply and measure.

    `responses` holds whole dialogues (all turns of a sample), `prompts` their rows with `checks`; sets without
    checks, such as MT-Bench, give the measure "repeats" alone.
    Columns: those that identify the reply, measure, number (of the check, 0 for repeats), instruction, score, scorer.
    Measures: carried_over (a constraint of turn 1 still holds), refers_back (uses what was said before, or is
    shorter or longer than the reply before when asked), instruction (this turn's own), each 1.0 or 0.0;
    repeats: 1.0 if the reply is an earlier reply of the dialogue over again, which base models tend to.
    What is compared are answers. NaN: none in this turn, or none before to compare with.
    """
    identity(responses, needs=["language", "turn"])
    responses = responses.reset_index(drop=True).assign(answer=answers(responses))
    later = responses["turn"] > 1
    checked = instruction_scores(responses[later], prompts).rename(columns={"strict": "score"})
    checked = checked.drop(columns="loose")
    keys = [c for c in identity(responses).columns if c not in ("turn", "seed")]
    asked, wanted = checks_by_prompt(responses, prompts)
    compared = [
        row
        for _, dialogue in responses.groupby(keys, sort=False, dropna=False)
        for row in _against_earlier(dialogue.sort_values("turn"), wanted.get(asked[dialogue.index[0]]))
    ]
    found = pd.DataFrame(compared, columns=["index", "measure", "number", "instruction", "score"])
    replies = identity(responses).loc[found["index"]].reset_index(drop=True)
    found = pd.concat([replies, found.drop(columns="index")], axis=1).assign(scorer=VERSION)
    if checked.empty:
        return found
    return pd.concat([checked, found], ignore_index=True)[list(found.columns)]


def _against_earlier(dialogue: pd.DataFrame, checks):
    """(index, measure, number, instruction, score) for each turn of one dialogue after the first."""
    checks = list(checks) if isinstance(checks, list | tuple | np.ndarray) else []
    texts = [text_of(response) for response in dialogue["answer"]]
    language = normalise(dialogue["language"].iloc[0]) or "en"
    for i, (index, turn) in enumerate(zip(dialogue.index, dialogue["turn"], strict=True)):
        if turn == 1:
            continue
        earlier = {" ".join(text.split()) for text in texts[:i] if text is not None}
        is_known = texts[i] is not None and bool(earlier)
        repeats = float(" ".join(texts[i].split()) in earlier) if is_known else np.nan
        yield index, "repeats", 0, "multiturn:repeats", repeats
        before = texts[i - 1] if i else None
        for number, one in enumerate(checks, start=1):
            if one["instruction"] not in COMPARISONS or one.get("turn", 2) != turn:
                continue
            score = np.nan
            if texts[i] is not None and before is not None:
                now, then = count_words(texts[i], language), count_words(before, language)
                score = float(now > 0 and _HOLDS[one["instruction"]](now, then))
            yield index, one.get("measure", "refers_back"), number, one["instruction"], score
