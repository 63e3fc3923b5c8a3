"""What else could the effect of a chat vector be? Less than τ, and no τ at all, beside CP + τ.

    exam = experiment.Exam(family, "zh")
    replies = controls.ask(exam, 1.0, ["one_turn", "hostile"], 200)
    print(controls.verdict(exam.shares(replies, "model"), "correct"))

If two rows of the embedding do as well as τ, or the CP's own words in the markers' place, or one constant a layer,
then that is what τ is worth. What a control could choose is chosen in its favour, on the validation draw.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product, repeat
from typing import TYPE_CHECKING

import pandas as pd

from chatvec_lab import sandbox
from chatvec_lab.experiment.exam import Exam
from chatvec_lab.experiment.microworld import MicroWorld
from chatvec_lab.experiment.models import Changed, at_scale, control, loaded

if TYPE_CHECKING:
    import torch

    from chatvec_lab.experiment.models import At
    from chatvec_lab.families import Family
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.vector import WeightVector

WHOLE, MARKERS, WITHOUT = "CP + τ", "marker rows alone", "all but marker rows"
RENAMED, CONSTANT = "markers renamed, no τ", "one constant vector a layer, no τ"
# the CP itself, in frames that it knows
PLAIN = {"CP, asked plainly": "qa", "CP, plainly after three examples": "qa_examples"}


def marker_tokens(chat: "Checkpoint") -> list[str]:
    """The tokens that the chat format adds to what is said, in the order of their ids."""
    tokenizer, found = chat.tokenizer, None
    for said in ("?", "!"):
        talk = [{"role": role, "content": said} for role in ("user", "assistant", "user")]
        text = sandbox.render(tokenizer, talk, add_generation_prompt=True)
        ids = set(tokenizer(text, add_special_tokens=False).input_ids)
        found = ids if found is None else found & ids
    return tokenizer.convert_ids_to_tokens(sorted(found - {tokenizer.unk_token_id}))


def vectors(family: "Family") -> "dict[str, WeightVector]":
    """Less than τ: the rows of the chat format's tokens, all but them, each layer alone, rank one, and noise.

    A chat format that has no tokens of its own, such as plain words, has no such rows.
    """
    tau, layers = family.chat - family.base, family.base.config["num_hidden_layers"]
    markers = marker_tokens(family.chat)
    rows = {MARKERS: tau.at_tokens(markers), WITHOUT: tau - tau.at_tokens(markers)} if markers else {}
    return {
        **rows,
        **{f"layer {layer} alone": tau.select(layers=layer) for layer in range(layers)},
        "rank 1 of each matrix": tau.low_rank(1),
        "noise, norms by tensor and row": control(tau),
    }


def models(exam: Exam, scale: float, *, n: int = 78) -> "dict[str, Checkpoint | At | Changed]":
    """CP, CP + τ and the controls in the chat format, by label; `n` validation prompts choose what is to be chosen.

    Renamings and constants are found with the micro-world's right replies: other families have none of them.
    """
    family, language = exam.family, exam.language
    tau, cp = family.chat - family.base, family.cp[language]
    bare = at_scale(cp, tau, 0)
    found = {"CP": bare, WHOLE: at_scale(cp, tau, scale)}
    found |= {label: at_scale(cp, vector, scale) for label, vector in vectors(family).items()}
    if family.is_nano:
        chosen = {RENAMED: renamings(family, language), CONSTANT: steerings(family, language, scale)}
        for label, changes in chosen.items():
            found[label] = best(exam, {str(change): Changed(bare, change) for change in changes}, n)
    return found


def ask(exam: Exam, scale: float, sets: Sequence[str], n: int) -> "pd.DataFrame":
    """The scored replies of all controls, and of the CP asked plainly where it knows a plain frame (`PLAIN`)."""
    found = [exam.ask(models(exam, scale), sets, n)]
    if exam.family.is_nano:
        cp = exam.family.cp[exam.language]
        found += [exam.ask({label: cp}, sets, n, frame=frame) for label, frame in PLAIN.items()]
    return pd.concat(found, ignore_index=True)


def gains(scores: "pd.DataFrame", measure: str) -> "pd.Series":
    """The share of CP + τ's gain over the CP that each control has, by label: NaN where there is no gain.

    `scores`: `Exam.shares(replies, "model")`.
    """
    values = scores[scores.metric.eq(measure)].set_index("model").estimate
    whole = values[WHOLE] - values["CP"]
    shares = (values - values["CP"]) / (whole if whole > 0 else float("nan"))
    return shares.drop(["CP", WHOLE, *(set(PLAIN) & set(shares.index))])


def verdict(scores: "pd.DataFrame", measure: str) -> str:
    """In a sentence: which controls have more than half of the gain, and so what the gain does not need."""
    # without the rest of τ: the more that has, the better
    shares = gains(scores, measure).drop(WITHOUT, errors="ignore")
    if shares.isna().all():
        return "CP + τ has no gain that a control could share."
    much = shares[shares > 0.5].sort_values(ascending=False)
    if much.empty:
        return (
            f"No control has more than half of the gain; the most has {shares.idxmax()} ({shares.max():.0%})."
        )
    told = ", ".join(f"{label} ({share:.0%})" for label, share in much.items())
    return f"More than half of the gain has {told}: so much of it needs no more than that."


def verdicts(scores: "pd.DataFrame", measure: str) -> str:
    """`verdict` of the measure, and of the right answer in any form where the exam knows of a form."""
    found = verdict(scores, measure)
    if "content" in set(scores.metric):
        found += f" Right in any form: {verdict(scores, 'content')}"
    return found


def best(exam: Exam, candidates: dict, n: int):
    """Of several models the one with the most right one-turn replies on the validation draw; the first of equals."""
    measure = exam.main("one_turn")
    replies = exam.ask(candidates, ["one_turn"], n, draw="validation")
    means = replies.groupby("model", sort=False)[measure].mean()
    return candidates[means.idxmax()]


# ---------------------------------------------------------------- other words' rows in the markers' place


@dataclass(frozen=True)
class Renaming:
    """Rows of the input embedding (and of a head tied to it) that get a copy of another token's row."""

    rows: tuple[tuple[str, str], ...]  # (token, the token whose row it gets)

    def __str__(self) -> str:
        return ", ".join(f"{token} as {other!r}" for token, other in self.rows)

    def describe(self) -> dict:
        return {"renamed": [list(pair) for pair in self.rows]}

    @contextmanager
    def made(self, model, tokenizer) -> Iterator[None]:
        """The rows changed in place, and put back."""
        import torch

        table = model.get_input_embeddings().weight
        tokens, others = (
            tokenizer.convert_tokens_to_ids(list(side)) for side in zip(*self.rows, strict=True)
        )
        kept = table.detach()[tokens].clone()
        with torch.no_grad():
            table[tokens] = table[others].clone()
        try:
            yield
        finally:
            with torch.no_grad():
                table[tokens] = kept


def renamings(
    family: "Family", language: str, *, most: int = 8, tokens: Sequence[str] | None = None
) -> list[Renaming]:
    """The likeliest of all renamings of the markers of a nano family: they give the right replies most probability.

    Tried are every token's row (or those of `tokens`) for either marker, every pair of tokens of the plain frame, and
    the best of one marker beside the best of the other. 13 validation prompts, one a kind, rank them; 78 rank the best
    thirty again.
    """
    from chatvec_lab.nano import world

    tau, cp = family.chat - family.base, family.cp[language]
    with loaded(at_scale(cp, tau, 0)) as (model, tokenizer):
        known = _prompts(tokenizer, family, language, 78)
        each = len(known) // len(world.ONE_TURN)
        few = [text for i, text in enumerate(known) if i % each == i // each % 2 * 3]
        special = set(tokenizer.all_special_tokens)
        every = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        tokens = [t for t in (tokens or every) if t not in special]
        frame = dict.fromkeys(tokenizer.tokenize("Q: A:\n", add_special_tokens=False))
        likely = _Likelihood(model, tokenizer, few)
        markers = (world.USER, world.ASSISTANT)
        users, answers = (
            likely.ranked(Renaming(((marker, token),)) for token in tokens) for marker in markers
        )
        pairs = [Renaming(((world.USER, u), (world.ASSISTANT, a))) for u, a in product(frame, repeat=2)]
        pairs += [Renaming((*u.rows, *a.rows)) for u, a in product(users[:10], answers[:10])]
        ranked = likely.ranked([*users[:10], *answers[:10], *pairs])
        return _Likelihood(model, tokenizer, known).ranked(ranked[:30])[:most]


class _Likelihood:
    """How probable a model finds the right replies to some prompts."""

    def __init__(self, model, tokenizer, texts: list[tuple[list[int], int]]):
        import torch

        self.model, self.tokenizer = model, tokenizer
        width = max(len(ids) for ids, _ in texts)
        self.ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in texts])
        self.labels = self.ids.clone()
        for row, (ids, start) in zip(self.labels, texts, strict=True):
            row[:start], row[len(ids) :] = -100, -100

    def ranked(self, changes: Iterable[Renaming]) -> list[Renaming]:
        """The likeliest first; of equals the first given."""
        changes = list(dict.fromkeys(changes))
        costs = [self.cost(change) for change in changes]
        return [changes[i] for i in sorted(range(len(changes)), key=costs.__getitem__)]

    def cost(self, change: Renaming) -> float:
        """Nats a prompt of the right reply."""
        import torch
        from torch.nn.functional import cross_entropy

        with torch.inference_mode(), change.made(self.model, self.tokenizer):
            logits = self.model(self.ids).logits[:, :-1].float().transpose(1, 2)
            nats = cross_entropy(logits, self.labels[:, 1:], ignore_index=-100, reduction="sum")
        return nats.item() / len(self.ids)


def _prompts(tokenizer, family: "Family", language: str, n: int) -> list[tuple[list[int], int]]:
    """Validation prompts of one turn in the chat format with their right replies: token ids, where the reply begins.

    The replies are in the form of the family's own chat.
    """
    found = []
    asked = MicroWorld(family, {}).draw(language, "one_turn", n=n, draw="validation", frame="chat")
    for prompt in asked.itertuples():
        talk = [{"role": "user", "content": prompt.said[0]}]
        text = sandbox.render(tokenizer, talk, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        reply = tokenizer(f"{prompt.reference}\n", add_special_tokens=False).input_ids
        found.append((ids + reply, len(ids)))
    return found


# ---------------------------------------------------------------- one constant vector a layer


@dataclass(frozen=True, eq=False)
class Steering:
    """A vector for each layer that is added to what the layer gives, at every position: (layers, hidden), float32."""

    vectors: "torch.Tensor"
    label: str

    def __str__(self) -> str:
        return self.label

    def describe(self) -> dict:
        return {"steered": hashlib.sha256(self.vectors.float().numpy().tobytes()).hexdigest()}

    @contextmanager
    def made(self, model, tokenizer) -> Iterator[None]:
        """The layers hooked, and unhooked."""
        with _hooked(model, map(_adding, self.vectors)):
            yield


def steerings(family: "Family", language: str, scale: float, *, n: int = 78) -> list[Steering]:
    """What τ does to the mean of the hidden states, as constants: in all layers, and in each layer alone.

    The means are over validation prompts with their right replies, over all positions or those of the replies. In all
    layers: each layer's constant brings the mean to CP + τ's, given those before it.
    """
    import torch

    cp, tau = family.cp[language], family.chat - family.base
    with loaded(at_scale(cp, tau, 0)) as (plain, tokenizer), loaded(at_scale(cp, tau, scale)) as (merged, _):
        texts = _prompts(tokenizer, family, language, n)
        found = []
        for where in ("all positions", "replies"):
            wanted = _means(merged, texts, where)
            matched = _matched(plain, tokenizer, texts, where, wanted)
            found.append(Steering(matched, f"all layers, mean of {where}"))
            change = wanted - _means(plain, texts, where)
            for layer in range(len(change)):
                alone = torch.zeros_like(change)
                alone[layer] = change[layer]
                found.append(Steering(alone, f"layer {layer}, mean of {where}"))
    return found


def _matched(model, tokenizer, texts, where: str, wanted: "torch.Tensor") -> "torch.Tensor":
    import torch

    vectors = torch.zeros_like(wanted)
    for layer in range(len(wanted)):
        with Steering(vectors, "").made(model, tokenizer):
            vectors[layer] = wanted[layer] - _means(model, texts, where)[layer]
    return vectors


def _means(model, texts, where: str) -> "torch.Tensor":
    """Mean of what each layer gives, over the positions of all texts or of the replies in them: (layers, hidden)."""
    import torch

    outputs: list = []
    sums, count = 0, 0
    with _hooked(model, repeat(lambda *call: outputs.append(_hidden(call[-1])))), torch.inference_mode():
        for ids, start in texts:
            outputs.clear()
            model(torch.tensor([ids]))
            first = 0 if where == "all positions" else start - 1  # from the position that says the first word
            sums = sums + torch.stack([h[0, first:].sum(0) for h in outputs])
            count += len(ids) - first
    return (sums / count).clone()


@contextmanager
def _hooked(model, hooks: Iterable) -> Iterator[None]:
    """Each layer with its hook on what it gives."""
    handles = [layer.register_forward_hook(hook) for layer, hook in zip(_layers(model), hooks, strict=False)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(model):
    """The decoder's layers, in order."""
    from torch.nn import ModuleList

    number = model.config.get_text_config().num_hidden_layers
    found = [m for m in model.modules() if isinstance(m, ModuleList) and len(m) == number]
    if not found:
        raise ValueError(f"{type(model).__name__} has no list of {number} layers to add a vector to.")
    return found[0]


def _hidden(output):
    return output[0] if isinstance(output, tuple) else output


def _adding(vector):
    def hook(module, args, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    return hook
