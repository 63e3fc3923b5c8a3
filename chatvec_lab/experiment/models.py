"""The models that stand side by side, by the paper's names for them, and how each becomes one that speaks."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from chatvec_lab.families import Family
    from chatvec_lab.live import LiveModel
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.tokens.vocabulary import Policy
    from chatvec_lab.weights.vector import WeightVector

# member of a family -> how the paper writes it
TRAINED = {
    "cp_ft": "CP → FT",
    "chat_cp": "chat → CP",
    "chat_cp_ft": "chat → CP → FT",
    "cp_tau_ft": "CP + τ → FT",
}


class At(NamedTuple):
    """A live model at a scale: asked, it is turned to it, and then back."""

    live: "LiveModel | Dial"
    scale: float

    @property
    def checkpoint(self) -> "Checkpoint":
        """The same weights as an expression."""
        return at_scale(self.live.cp, self.live.tau, self.scale)


class Mix(NamedTuple):
    """A live model with its vectors mixed: asked, it is turned to the mixture, and then back."""

    live: "LiveModel | Dial"
    vector: "WeightVector"  # the terms of live.tau, weighed (`weights.combinations.weighted`)

    @property
    def checkpoint(self) -> "Checkpoint":
        """The same weights as an expression."""
        return self.live.cp + self.vector


class Change(Protocol):
    """What is done to a model in memory before it is asked, where no vector of weights says it."""

    def made(self, model, tokenizer) -> AbstractContextManager: ...  # in place, and taken back on leaving

    def describe(self) -> dict: ...  # plain data, from which kept replies are told apart


class Changed(NamedTuple):
    """A checkpoint that is asked with a change in memory: see `experiment.controls`."""

    checkpoint: "Checkpoint"
    change: Change


def at_scale(
    cp: "Checkpoint", tau: "WeightVector", scale: float, *, vocabulary: "Policy" = "match"
) -> "Checkpoint":
    """cp + scale * tau, with the chat model's template also at scale 0, where a plain sum has the CP's."""
    return cp.add(scale * tau if scale else tau.chat_side_only(), vocabulary=vocabulary)


def control(tau: "WeightVector") -> "WeightVector":
    """A random vector of τ's size in every tensor, which brings τ's chat template and not a weight of τ."""
    return tau.random_like(1) + tau.chat_side_only()


class Dial:
    """A LiveModel that is loaded when it is first asked, with what `At` and `Mix` need of it."""

    def __init__(self, cp: "Checkpoint", tau: "WeightVector"):
        self.cp, self.tau = cp, tau

    @cached_property
    def _live(self) -> "LiveModel":
        from chatvec_lab.live import LiveModel

        return LiveModel(self.cp, self.tau)

    model = property(lambda self: self._live.model)
    tokenizer = property(lambda self: self._live.tokenizer)

    def computing(self, what: "float | WeightVector"):
        return self._live.computing(what)


def over_scales(family: "Family", language: str, scales: "Sequence[float]") -> "dict[float, At]":
    """CP + scale · τ by scale: one model in memory that is turned, loaded when the first reply is asked for."""
    dial = Dial(family.cp[language], family.chat - family.base)
    return {scale: At(dial, scale) for scale in scales}


def lineup(family: "Family", language: str, scale: float) -> "dict[str, Checkpoint]":
    """The models that the paper compares, by its names for them, as far as this family has them.

    CP, CP + τ (at `scale`), CP + a random vector of τ's size and chat are always there; FT is the tuning on
    instructions in `language`. A model without a chat template is asked with the chat model's.
    """
    cp, tau = family.cp[language], family.chat - family.base
    models = {"CP": at_scale(cp, tau, 0), "CP + τ": at_scale(cp, tau, scale)}
    models["CP + random"] = at_scale(cp, control(tau), scale)
    for member, label in TRAINED.items():
        if f"{member}_{language}" in family.others:
            tuned = family[f"{member}_{language}"]
            models[label] = tuned if tuned.chat_template else at_scale(tuned, tau, 0)
    if "CP → FT" in models:
        models["CP → FT + τ"] = at_scale(family[f"cp_ft_{language}"], tau, scale)
    return models | {"chat": family.chat}


@contextmanager
def loaded(model: "Checkpoint | At | Mix | Changed", *, device: str = "auto") -> Iterator[tuple]:
    """(model, tokenizer) of transformers, with exactly the weights that would be stored.

    They are computed with in their stored dtype on a GPU and in float32 on a CPU, which has no speed to gain
    from 16 bits. device: "auto" is the GPU if there is one; a live model stays where it is.
    """
    if isinstance(model, At | Mix):
        with model.live.computing(model.scale if isinstance(model, At) else model.vector) as turned:
            yield turned, model.live.tokenizer
    elif isinstance(model, Changed):
        with (
            loaded(model.checkpoint, device=device) as (changed, tokenizer),
            model.change.made(changed, tokenizer),
        ):
            yield changed, tokenizer
    else:
        from chatvec_lab.live import load

        yield load(model, device), model.tokenizer


def no_system_prompt(checkpoint: "Checkpoint") -> str:
    """Why this model cannot be given a system prompt; empty if it can."""
    from jinja2 import TemplateError

    from chatvec_lab import sandbox

    marker = "chatvec lab"
    talk = [{"role": "system", "content": marker}, {"role": "user", "content": "?"}]
    if not checkpoint.chat_template:
        return f"{checkpoint.label} has no chat template"
    try:
        text = sandbox.render(checkpoint.tokenizer, talk)
    except TemplateError as error:
        return f"the chat template refuses it: {error}"
    return "" if marker in text else "the chat template leaves it out"
