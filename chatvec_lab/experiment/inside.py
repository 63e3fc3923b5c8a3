"""A look inside CP + τ: the texts that are read, the controls beside τ, and the tables of the notebooks 11 and 12.

    exam = experiment.Exam(family, "zh")
    look = inside.Look(exam, 1.0, n=12, dtype="float32")
    look.divergence("reference", [0.0, 0.5, 1.0])          # CP + τ, a random vector, and without the chat template
    found = look.attribution("CP + τ")

The same tokens are held against every model. `lens` computes; here is what it is asked, and what its tables say in sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from chatvec_lab import anatomy, lens
from chatvec_lab.evaluation.asking.context import context_ids
from chatvec_lab.evaluation.asking.generation import respond
from chatvec_lab.evaluation.asking.rendering import ChatTemplate
from chatvec_lab.evaluation.statistics import statistic_interval, summarise
from chatvec_lab.experiment.models import At, control, loaded
from chatvec_lab.lens import Pair
from chatvec_lab.lens.path import half as half_of

if TYPE_CHECKING:
    from chatvec_lab.experiment.exam import Exam
    from chatvec_lab.lens import Attribution, Divergence
    from chatvec_lab.live import LiveModel
    from chatvec_lab.weights.vector import WeightVector

WHOLE, RANDOM, PLAIN = "CP + τ", "CP + random vector", "CP + τ, no chat template"
CONDITIONS = (WHOLE, RANDOM, PLAIN)
RANGES = {"divergence": (0, None), "depth": (0, 1), "value": (None, 0)}  # what the values can be
CP_REPLY, REPLY, REFERENCE = "the CP's reply", "CP + τ's reply", "the reference"


class Look:
    """`n` test prompts of one turn with three replies to each, and the live models that read them.

    scale: of the vector, at which CP + τ replies. dtype: of the live models; "float32" for attribution. Where a family's
    prompts have no reference, CP + τ's own reply stands in its place, and `reference` says so.
    Raises ValueError where there are no prompts.
    """

    def __init__(self, exam: Exam, scale: float, *, n: int, dtype: str = "auto"):
        self.exam, self.scale, self.dtype = exam, scale, dtype
        self.tau, self.cp = exam.family.chat - exam.family.base, exam.family.cp[exam.language]
        self._rows = {frame: self._drawn(frame, n) for frame in ("chat", "raw")}

    def _drawn(self, frame: str, n: int) -> list[dict]:
        table = self.exam.questions.draw(self.exam.language, "one_turn", n=n, draw="test", frame=frame)
        if table.empty:
            raise ValueError(f"there are no prompts of one turn in {self.exam.language}; name a set that has some: "
                             "prompts={'one_turn': ...}")  # fmt: skip
        return table.to_dict("records")

    @cached_property
    def live(self) -> LiveModel:
        """CP + τ."""
        from chatvec_lab.live import LiveModel

        return LiveModel(self.cp, self.tau, dtype=self.dtype)

    @cached_property
    def noise(self) -> LiveModel:
        """The CP and a random vector of τ's size in every tensor, and in every row of a table."""
        from chatvec_lab.live import LiveModel

        return LiveModel(self.cp, control(self.tau), dtype=self.dtype)

    def live_of(self, condition: str) -> LiveModel:
        return self.noise if condition == RANDOM else self.live

    @property
    def prompts(self) -> dict[str, str]:
        """What the user says, by the name of the pair."""
        return {row["prompt_id"]: row["said"][-1] for row in self._rows["chat"]}

    @property
    def _has_reference(self) -> bool:
        return all(isinstance(row.get("reference"), str) and row["reference"] for row in self._rows["chat"])

    @property
    def reference(self) -> str:
        """What the reference is, in words."""
        own = "CP + τ's own reply (these prompts have no reference)"
        return "the reference reply" if self._has_reference else own

    @property
    def texts(self) -> list[str]:
        """What is read: the replies of both models and the reference, each text once."""
        return [CP_REPLY, REPLY, REFERENCE] if self._has_reference else [CP_REPLY, REFERENCE]

    def pairs(self, text: str = REFERENCE, condition: str = WHOLE) -> list[Pair]:
        """The prompts in a condition's frame, each with the tokens of one of three texts, the mark that ends it behind."""
        said = self._said(text)
        frame = "raw" if condition == PLAIN else "chat"
        return [
            Pair(self._context(row, frame), said[row["prompt_id"]], row["prompt_id"])
            for row in self._rows[frame]
        ]

    def _context(self, row: dict, frame: str) -> list[int]:
        settings = self.exam.questions.decoding(frame)
        arguments = settings.get("template_arguments")
        return context_ids(self.live.tokenizer, row["turns"], [], settings["template"], arguments=arguments)

    def _said(self, text: str) -> dict[str, list[int]]:
        """The tokens of a text by the pair's name; an empty reply is the mark that ends it."""
        if text != REFERENCE:
            return self._cp_replies if text == CP_REPLY else self._own_replies
        if not self._has_reference:
            return self._own_replies
        written = {row["prompt_id"]: row["reference"] for row in self._rows["chat"]}
        tokenizer = self.live.tokenizer
        return {
            name: [*tokenizer(text, add_special_tokens=False)["input_ids"], *self._end]
            for name, text in written.items()
        }

    @cached_property
    def _cp_replies(self) -> dict[str, list[int]]:
        return self._replies(0.0)

    @cached_property
    def _own_replies(self) -> dict[str, list[int]]:
        return self._replies(self.scale)

    def _replies(self, scale: float) -> dict[str, list[int]]:
        asked = [{"prompt_id": row["prompt_id"], "turns": list(row["turns"])} for row in self._rows["chat"]]
        settings = self.exam.questions.decoding("chat") | {"progress": False, "token_ids": True}
        with loaded(At(self.live, scale)) as (model, tokenizer):
            table = respond(model, tokenizer, asked, **settings)
        ends = {name: self._end if reason == "stop" else []
                for name, reason in zip(table.prompt_id, table.finish_reason, strict=True)}  # fmt: skip
        return {
            name: [*ids, *ends[name]] or self._end
            for name, ids in zip(table.prompt_id, table.token_ids, strict=True)
        }

    @cached_property
    def _end(self) -> list[int]:
        """The first token that the chat template puts behind a reply."""
        after = ChatTemplate(self.live.tokenizer).after_reply()
        ids = self.live.tokenizer(after, add_special_tokens=False)["input_ids"][:1]
        return ids or [self.live.tokenizer.eos_token_id]

    # ------------------------------------------------------------ token by token

    def divergence(
        self, text: str, scales: Sequence[float], conditions: Sequence[str] = CONDITIONS
    ) -> Divergence:
        """`lens.divergence` of one text in each condition: its tables with the columns model (the condition) and text."""
        found = {c: lens.divergence(self.live_of(c), self.pairs(text, c), scales) for c in conditions}
        return lens.Divergence(*(
            _joined({c: getattr(one, name).assign(text=text) for c, one in found.items()}) for name in ("tokens", "changes")
        ))  # fmt: skip

    def readings(
        self, text: str, scales: Sequence[float], conditions: Sequence[str] = CONDITIONS
    ) -> pd.DataFrame:
        """`lens.readings` of one text in each condition, with the column model."""
        return _joined({c: lens.readings(self.live_of(c), self.pairs(text, c), scales) for c in conditions})

    # ------------------------------------------------------------ which part

    def effects(self, scales: Sequence[float], measure: str) -> pd.DataFrame:
        """f of the reference over the scale in each condition: model, scale, pair, value (`lens.effects`)."""
        return _joined({c: lens.effects(self.live_of(c), self.pairs(REFERENCE, c), scales, measure=measure)
                        for c in CONDITIONS})  # fmt: skip

    def attribution(self, condition: str, **options) -> Attribution:
        """`lens.attribution` of the reference in one condition, at this scale."""
        return lens.attribution(
            self.live_of(condition), self.pairs(REFERENCE, condition), self.scale, **options
        )

    def ablation(self, **options) -> pd.DataFrame:
        """`lens.ablation` of the reference with CP + τ, at this scale."""
        return lens.ablation(self.live, self.pairs(), self.scale, **options)


def _joined(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table.assign(model=label) for label, table in tables.items()], ignore_index=True)


def means(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean over the prompts (first over the tokens of each) with its 95 % interval: `by`, estimate, low, high, n.

    An interval ends where the values can (`RANGES`).
    """
    by = list(by)
    found = summarise(table.rename(columns={"pair": "prompt_id"}), by=by, value=value, share=False)
    least, most = RANGES.get(value, (None, None))
    found = found.assign(low=found.low.clip(least, most), high=found.high.clip(least, most))
    return found[[*by, "estimate", "low", "high", "n"]]


def places(tokens: pd.DataFrame) -> pd.DataFrame:
    """Where in a text a token is: "first", "last" (what ends it) or "between"; the table with the column place."""
    last = tokens.groupby(["model", "scale", "pair"]).position.transform("max")
    place = np.where(
        tokens.position == 0, "first token", np.where(tokens.position == last, "last token", "between")
    )
    return tokens.assign(place=place)


def typical(tokens: pd.DataFrame, count: int = 1) -> list[str]:
    """The pairs to show: by their mean divergence the middle one of all, or `count` that are spread over the order."""
    order = tokens.groupby("pair", sort=False).divergence.mean().sort_values(kind="stable").index
    places = [(2 * i + 1) * len(order) // (2 * count) for i in range(count)]
    return [str(order[place]) for place in dict.fromkeys(places)]


def beside_prompts(tokens: pd.DataFrame, prompts: dict[str, str], names: Sequence[str]) -> pd.DataFrame:
    """The texts of these pairs, pair by pair; the column text says to which prompt, by number, and which one it is."""
    tables = []
    for number, name in enumerate(names, start=1):
        prompt = prompts[name].replace("\n", " ")
        asked = f"{number}. “{prompt if len(prompt) <= 60 else prompt[:59] + '…'}” "
        tables.append(tokens[tokens["pair"] == name].assign(text=lambda t, asked=asked: asked + t.text))
    return pd.concat(tables, ignore_index=True)


def decided(layers: pd.DataFrame) -> pd.DataFrame:
    """`lens.decisions` of each model's readings, with the column model."""
    return _joined({model: lens.decisions(rows) for model, rows in layers.groupby("model", sort=False)})


def part_names(table: pd.DataFrame) -> pd.Series:
    """Each row's part in words: "layer 2 · mlp · down", "embedding"."""
    columns = ["layer", "module", "projection"]
    if table.component.nunique() > 1:
        columns = ["component", *columns]
    names = []
    for row in table[columns].to_dict("records"):
        words = [f"layer {v}" if c == "layer" else str(v) for c, v in row.items() if _is_told(v)]
        names.append(" · ".join(dict.fromkeys(words)) or "all")
    return pd.Series(names, index=table.index, dtype=object)


def _is_told(value: object) -> bool:
    return not pd.isna(value)


def by_part(parts: pd.DataFrame, values: Sequence[str] = ("attribution",)) -> pd.DataFrame:
    """Each part's mean over the prompts with its interval, the largest first: part, measure, estimate, low, high, n."""
    parts = parts.assign(part=part_names(parts))
    tables = [means(parts, value, ["part"]).assign(measure=value) for value in values]
    order = tables[0].set_index("part").estimate.abs().sort_values(ascending=False).index
    found = pd.concat(tables, ignore_index=True)
    found["part"] = pd.Categorical(found.part, list(order))
    return (
        found.sort_values("part", kind="stable")
        .astype({"part": str})[["part", "measure", "estimate", "low", "high", "n"]]
        .reset_index(drop=True)
    )


def cells(found: Attribution) -> pd.DataFrame | None:
    """The attribution by layer and projection (or kind of module): layer, that, attribution. None: not told apart so."""
    table = found.means
    y = next((c for c in ("projection", "module") if table[c].notna().any()), None)
    if y is None or table.layer.isna().all():
        return None
    # text alone: layers of other components share its numbers
    text = table[table.component == "text"] if "text" in set(table.component) else table
    return text.groupby(["layer", y], dropna=False, sort=False).attribution.sum().reset_index()


def limit(cells: pd.DataFrame) -> float:
    """The end of the colours: the largest value within the layers, which what lies outside them would outshine."""
    return float(cells.attribution[cells.layer.notna()].abs().max()) or 1.0


def ranks(parts: pd.DataFrame, ablated: pd.DataFrame) -> pd.DataFrame:
    """Each part's rank by attribution and by ablation (1: the least), a row a part and kind of ablation.

    Both tables: of `by_part`. Columns: part, of, ablation, attribution.
    """
    words = {"alone": "the part alone", "lost": "lost without it"}
    attribution = parts.set_index("part").estimate.rank().rename("attribution")
    found = ablated.assign(of=ablated.measure.map(words), ablation=ablated.groupby("measure").estimate.rank())
    return found.join(attribution, on="part")[["part", "of", "ablation", "attribution"]]


def along(found: Attribution) -> pd.DataFrame:
    """The rate d f / d scale at each node, summed over the parts of a kind, with its interval over the prompts: kind,
    scale, estimate, low, high, n.
    """
    path = found.path
    column = next((c for c in ("module", "projection", "layer") if path[c].notna().any()), "component")
    form = "layer {}" if column == "layer" else "{}"
    path = path.assign(kind=[form.format(v) if _is_told(v) else "outside" for v in path[column]])
    return _rates(path, ["kind", "scale"])


def rates(found: Mapping[str, Attribution]) -> pd.DataFrame:
    """The rate of all parts together, of each model whose parts add up: model, scale, estimate, low, high, n."""
    return _rates(_joined({m: one.path for m, one in found.items() if one.is_complete}), ["model", "scale"])


def _rates(path: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    return means(path.groupby(["pair", *by], sort=False).rate.sum().reset_index(), "rate", by)


def half(found: Attribution, *, seed: int = 0) -> pd.DataFrame:
    """The first scale at which half of the change is reached, with its bootstrap interval over the prompts, in one row:
    estimate, low, high, n.
    """
    wide = found.path.groupby(["pair", "scale"]).rate.sum().unstack("scale")
    rates = wide[sorted(wide, key=abs)].to_numpy()  # (pairs, nodes), as the path is walked

    def reached(chosen, axis=-1):
        return half_of(rates[np.asarray(chosen, dtype=int)].mean(-2), found.scale)

    return pd.DataFrame(
        [statistic_interval(np.arange(len(rates)), statistic=reached, resamples=1999, seed=seed).ends]
    )


def changes(found: Mapping[str, Attribution]) -> pd.DataFrame:
    """How far τ (or what stands beside it) moves f from the start to the scale: model, estimate, low, high, n."""
    moved = {m: one.values.assign(change=one.values.end - one.values.start) for m, one in found.items()}
    return means(_joined(moved), "change", ["model"])


def lengths(tau: WeightVector, parts: pd.DataFrame) -> pd.Series:
    """The length (L2) that τ has in each part of an attribution's table, by the part's name."""
    table = anatomy.norms({"τ": tau}, progress=False)
    table = table.assign(projection=table.projection.fillna(table.module))
    told = [c for c in ("component", "layer", "module", "projection") if parts[c].notna().any()]
    squares = (
        (table.l2**2).groupby([table[c] for c in told], dropna=False).sum().rename("squares").reset_index()
    )
    places = parts.drop_duplicates("part")[["part", *told]]
    return places.merge(squares, on=told, validate="one_to_one").set_index("part").squares ** 0.5


def agreement(
    attributed: pd.DataFrame, ablated: pd.DataFrame, tau: WeightVector, *, seed: int = 0
) -> pd.DataFrame:
    """Spearman's correlation, over the parts, of attribution with each part alone, with what is lost without it, and of
    its absolute value with τ's length there.

    Both tables are `lens`'s own, a row a pair and part. The interval is a bootstrap over the prompts: the parts are all
    that there are. Columns: against ("alone", "lost", "length"), estimate, low, high, n (prompts), parts.
    """
    keys = ["component", "layer", "module", "projection"]
    both = attributed.merge(ablated, on=["pair", *keys], validate="one_to_one")
    both = both.assign(part=part_names(both))
    wide = {c: both.pivot(index="pair", columns="part", values=c) for c in ("attribution", "alone", "lost")}
    length = lengths(tau, both).reindex(wide["attribution"].columns).to_numpy()
    values = {c: table.to_numpy() for c, table in wide.items()}

    def mean(column: str, chosen) -> np.ndarray:
        return values[column][np.asarray(chosen, dtype=int)].mean(-2)

    def against(other: str, chosen) -> np.ndarray:
        if other == "length":
            return _correlation(np.abs(mean("attribution", chosen)), length)
        return _correlation(mean("attribution", chosen), mean(other, chosen))

    rows = []
    for other in ("alone", "lost", "length"):
        found = statistic_interval(
            np.arange(len(values["attribution"])), resamples=1999, seed=seed,
            statistic=lambda chosen, axis=-1, other=other: against(other, chosen),
        )  # fmt: skip
        rows.append({"against": other, **found.ends, "parts": len(length)})
    return pd.DataFrame(rows)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's along the last axis; NaN where all values of one are equal."""
    from scipy.stats import rankdata

    a, b = (r - r.mean(-1, keepdims=True) for r in (rankdata(matrix, axis=-1) for matrix in (one, other)))
    spread = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), spread, out=np.full(np.shape(spread), np.nan), where=spread > 0)


def checks(found: Mapping[str, Attribution]) -> pd.DataFrame:
    """Whether each attribution adds up: model, start, end, jump, difference (with its interval over the prompts: low, high,
    n), total, size, error, change, nodes, is_complete.
    """
    rows = [
        {"model": label, "start": float(a.values.start.mean()), "end": float(a.values.end.mean()), "jump": a.jump,
         "difference": a.difference, "total": a.total, "size": a.size, "error": a.error, "change": a.change,
         "nodes": a.nodes, "is_complete": a.is_complete}
        for label, a in found.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).merge(changes(found)[["model", "low", "high", "n"]], on="model")
