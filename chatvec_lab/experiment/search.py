"""A search over mixtures: a scale for each kind of module of τ and one for every further vector, by optuna's TPE.

    vectors = limits.vectors(family)
    trials = search.search(exam, vectors, start=1.0, trials=40, n=78, texts=16, seed=0, keep="out/trials")

The first trial is plain τ at the scale `start`, so that the search cannot end below it on the validation prompts. What a
trial found is kept by content (weights, prompts, texts, scorers, code), one file each, and the sampler is asked from the
first trial on with the same seed: a search that was killed anywhere goes on with the same trials, and pays for none twice.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from chatvec_lab.evaluation.asking.responses import write_whole
from chatvec_lab.experiment.exam import Exam
from chatvec_lab.experiment.models import Dial, Mix
from chatvec_lab.experiment.replies import recipe
from chatvec_lab.study import fingerprint, modules
from chatvec_lab.weights.combinations import weighted

if TYPE_CHECKING:
    from chatvec_lab.weights.vector import WeightVector

HIGHEST = 1.5  # scale of a kind of module of τ, where plain τ's best is not higher
FURTHER = (-0.5, 1.0)  # scales of the further vectors, which may be subtracted too
RANDOM = 10  # trials before TPE has something to go by
_GROUPS = {"attention": "attention", "mlp": "MLP", "router": "MLP", "norm": "norms", "embedding": "embeddings",
           "head": "embeddings"}  # fmt: skip
OTHERS = "other modules"


def parameters(
    vectors: "Mapping[str, WeightVector]", highest: float = HIGHEST
) -> dict[str, tuple[float, float]]:
    """What is searched, by name, each with its range: "τ, attention" …, then the labels of the further vectors."""
    label, first = next(iter(vectors.items()))
    groups = dict.fromkeys(_GROUPS.get(part.module, OTHERS) for part in first.parts_by_name.values())
    own = {f"{label}, {group}": (0.0, highest) for group in groups}
    return own | dict.fromkeys(list(vectors)[1:], FURTHER)


def mixture(vectors: "Mapping[str, WeightVector]", values: Mapping[str, float]) -> "WeightVector":
    """The vectors weighed by values of `parameters`."""
    label = next(iter(vectors))

    def of_the_first(layer: int | None, module: str) -> float:
        return values[f"{label}, {_GROUPS.get(module, OTHERS)}"]

    return weighted(list(vectors.values()), [of_the_first, *(values[name] for name in list(vectors)[1:])])


def search(
    exam: Exam, vectors: "Mapping[str, WeightVector]", *, start: float, trials: int, n: int, texts: int,
    guard: float = 1.1, seed: int = 0, keep: str | Path | None = None,
) -> "pd.DataFrame":  # fmt: skip
    """Every trial, in order: trial, the parameters' values, value, estimate, perplexity, is_within, is_kept.

    value: what is made as large as possible: the mean of the exam's main measure on `n` validation prompts, or minus
    the perplexity of `texts` plain texts over the CP's where that is beyond `guard`, or beyond plain τ's own where that is
    more; such a model is not asked at all (estimate NaN). is_kept: whether all of the trial was read back from `keep`.
    Raises ImportError where optuna is not installed, ValueError for a guard below 1 or a start that is negative.
    """
    optuna = _optuna()
    if not guard >= 1:
        raise ValueError(f"guard={guard!r}: perplexity over the CP's that is still allowed, 1 or more.")
    if not 0 <= start < float("inf"):
        raise ValueError(f"start={start!r}: plain τ is the first trial, at a finite scale from 0 up.")
    space = parameters(vectors, max(HIGHEST, start))
    trier = _Trier(exam, n, texts, None if keep is None else Path(keep))
    plain = dict.fromkeys(space, 0.0)
    cp = model(exam, vectors, plain)
    dial, cp = cp.live, trier.perplexity(cp)
    plain |= {name: start for name in space if name not in vectors}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(plain)
    ranges = {name: optuna.distributions.FloatDistribution(*ends) for name, ends in space.items()}
    rows = []
    for number in range(trials):
        trial = study.ask(ranges)
        mixed = Mix(dial, mixture(vectors, trial.params))
        trier.is_kept = True
        read = trier.perplexity(mixed)
        ratio = float(np.exp((read["nats"] - cp["nats"]) / cp["tokens"]))
        guard = guard if number else max(guard, ratio)
        is_within = ratio <= guard
        estimate = trier.score(mixed)["estimate"] if is_within else float("nan")
        value = estimate if is_within else -ratio
        study.tell(trial, value)
        told = {"value": value, "estimate": estimate, "perplexity": ratio, "is_within": is_within}
        rows.append({"trial": number, **trial.params, **told, "is_kept": trier.is_kept})
    return pd.DataFrame(rows)


def best(trials: "pd.DataFrame", vectors: "Mapping[str, WeightVector]") -> dict[str, float]:
    """The values of the best trial within the guard (of equals the first), by parameter; ValueError where none is."""
    within = trials[trials.is_within]
    if within.empty:
        raise ValueError(f"none of {len(trials)} trials is within the perplexity's guard; allow more")
    return within.loc[within.estimate.idxmax(), list(parameters(vectors))].astype(float).to_dict()


def model(exam: Exam, vectors: "Mapping[str, WeightVector]", values: Mapping[str, float]) -> Mix:
    """The CP with a mixture, to be asked; loaded at the first reply."""
    dial = Dial(exam.family.cp[exam.language], weighted(list(vectors.values()), [1.0] * len(vectors)))
    return Mix(dial, mixture(vectors, values))


def course(trials: "pd.DataFrame") -> "pd.DataFrame":
    """The estimate of each trial, and the best so far, in rows to draw: trial, what, estimate; NaN beyond the guard."""
    lines = {"a trial": trials.estimate, "the best so far": trials.estimate.cummax().ffill()}
    tables = [
        pd.DataFrame({"trial": trials.trial, "what": what, "estimate": line}) for what, line in lines.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise ImportError(f"the search needs optuna ({error}): pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class _Trier:
    """What is measured of a mixture, read back from what is kept where it was measured before."""

    def __init__(self, exam: Exam, n: int, texts: int, keep: Path | None):
        self.exam, self.n, self.texts, self.keep = exam, n, texts, keep
        self.is_kept = True  # of a trial, so far

    def perplexity(self, model: Mix) -> dict[str, float]:
        """nats and tokens of the plain texts in all."""
        texts = self.exam.questions.plain_texts(self.exam.language, self.texts)

        def read() -> dict[str, float]:
            costs = self.exam.read({"mixture": model}, self.texts)
            return {"nats": float(costs.nats.sum()), "tokens": int(costs.tokens.sum())}

        return self._kept(model, ["perplexity", texts], read)

    def score(self, model: Mix) -> dict[str, float]:
        """Mean of the main measure over the validation prompts, and how many have one."""
        exam, main = self.exam, self.exam.main("one_turn")
        asked = exam.questions.draw(exam.language, "one_turn", n=self.n, draw="validation", frame="chat")
        prompts = [asked.prompt_id.tolist(), asked.turns.map(list).tolist(), exam.questions.decoding("chat")]
        scorers = [[name, scorer.version] for name, scorer in exam.scorers.items()]

        def ask() -> dict[str, float]:
            replies = exam.ask({"mixture": model}, ["one_turn"], self.n, draw="validation")
            scored = replies[main].dropna()
            if scored.empty:
                raise ValueError(
                    f"{main} by {exam.scored_by[main]} covers none of {len(replies)} validation replies"
                )
            return {"estimate": float(scored.mean()), "n": len(scored)}

        return self._kept(model, ["score", main, prompts, scorers], ask)

    def _kept(self, model: Mix, what: list[Any], measure: Callable[[], dict]) -> dict[str, Any]:
        file = None
        if self.keep is not None:
            file = self.keep / f"{fingerprint.digest(recipe(model), what, _where(), _code())[:24]}.json"
            if file.is_file():
                return json.loads(file.read_text("utf-8"))
        found, self.is_kept = measure(), False
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda out: out.write(json.dumps(found).encode()))
        return found


def _where() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def _code() -> str:
    """One digest of the code that decides what a trial finds, and of the libraries' versions."""
    return modules.digest(["from chatvec_lab.experiment import search"])
