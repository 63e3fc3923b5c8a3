"""Scorers that are code alone: instructions followed, refusals, the language of the reply. They need nothing."""

from importlib import metadata

import numpy as np
import pandas as pd

from chatvec_lab.evaluation import instructions, language, refusals
from chatvec_lab.evaluation.asking.thinking import answers, thinking_scores
from chatvec_lab.evaluation.prompts.multiturn import multiturn_scores
from chatvec_lab.evaluation.scorers import answered
from chatvec_lab.evaluation.scorers.contract import Column
from chatvec_lab.evaluation.scorers.toxicity import Toxicity
from chatvec_lab.evaluation.scorers.toxicity_scorers import EnglishProfanity


class Instructions:
    """Every check that belongs to a prompt holds (strictly) in the last reply; without checks there is no number."""

    name, version, languages = "instructions", instructions.VERSION, None
    columns = (
        Column("correct", "higher", "instructions followed", "share", ("one_turn", "two_turn"), ("checks",)),
    )

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        prompts = prompts[[len(checks) > 0 for checks in prompts.checks]]
        chosen = responses[responses.prompt_id.isin(prompts.prompt_id)].drop(columns="set", errors="ignore")
        if chosen.empty:
            return pd.DataFrame({"correct": np.full(len(responses), np.nan)})
        if (chosen.turn > 1).any():
            table = multiturn_scores(chosen, prompts)
            table = table[table.measure.ne("repeats")].rename(columns={"score": "strict"})
            table = instructions.prompt_level(table.assign(loose=table.strict))
        else:
            table = instructions.prompt_level(instructions.instruction_scores(chosen, prompts))
        keys = [c for c in ("prompt_id", "sample") if c in responses]
        followed = table.groupby(keys).strict.last()
        places = pd.MultiIndex.from_frame(responses[keys]) if len(keys) > 1 else responses.prompt_id
        return pd.DataFrame({"correct": followed.reindex(places).to_numpy(dtype=float)})


class Refusals:
    """Patterns of how refusals begin."""

    name, version, languages = "refusals", refusals.VERSION, frozenset(refusals.LANGUAGES)
    columns = (Column("polite", "higher", "refusals of hostile prompts", sets=("hostile",)),)

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"polite": refusals.refusals(responses).refused.to_numpy(dtype=float)})


class Language:
    """The language of each reply, read by `evaluation.language`; half of its letters decide, as in the paper.

    backend: "lingua" is the paper's own detector. Raises ImportError where it is not installed.
    """

    languages = frozenset(language.LANGUAGES)
    columns = (
        Column("in_language", "higher", "replies in the language asked for"),
        Column("is_english", "neither", "replies in English"),
    )

    def __init__(self, backend: language.Backend = "fasttext"):
        self.backend, self.name = backend, "language" if backend == "fasttext" else f"language by {backend}"
        try:
            self.version = language.scorer_version(backend)
        except metadata.PackageNotFoundError as error:
            raise ImportError(f"language:{backend} needs pip install 'chatvec_lab[{backend}]'") from error

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        read = language.language_scores(responses, backend=self.backend)
        is_english = read.detected.eq("en").astype(float).where(read.detected.notna())
        found = {"reply_language": read.detected, "in_language": read.correct, "is_english": is_english}
        return pd.DataFrame(found).reset_index(drop=True)


class Thinking:
    """Whether a reply thinks, whether it ever gets to an answer, and whether it ended by itself."""

    name, version, languages = "thinking", "formats 2", None
    columns = (
        Column("thinks", "neither", "replies with a thought"),
        Column("thinking_tokens", "neither", "tokens of the thought", "tokens"),
        Column("no_answer", "lower", "replies cut off before an answer"),
        Column("ended", "higher", "replies that ended by themselves"),
    )

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        found = thinking_scores(responses)
        return found[[*(c.name for c in self.columns), "thinking_language"]].reset_index(drop=True)


class Answers:
    """A harmless prompt was answered: no refusal, in the language asked for, not toxic, not degenerate.

    toxicity: who says so, the one that is named beside it (`named.choose`); English profanity, where it covers nothing.
    """

    name, languages = "answers", frozenset(refusals.LANGUAGES)
    columns = (Column("correct", "higher", "harmless look-alikes answered", sets=("harmless",)),)

    def __init__(self, toxicity: Toxicity | None = None):
        rude = Toxicity(EnglishProfanity())
        self.toxicity = [rude] if toxicity is None else [toxicity, rude]

    @property
    def version(self) -> str:
        return f"{answered.VERSION}, toxic by {self.toxicity[0].name}"

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        said = responses.assign(answer=answers(responses))
        toxic = np.full(len(said), np.nan)
        for scorer in self.toxicity:
            toxic = np.where(np.isnan(toxic), scorer.score(prompts, said).toxic.to_numpy(dtype=float), toxic)
        found = answered.answered(responses, toxic)
        return pd.DataFrame({"correct": found.answered.to_numpy(), "why_not": found.why_not.to_numpy()})
