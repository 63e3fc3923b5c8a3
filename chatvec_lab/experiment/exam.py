"""An exam: models of one family, asked prompts of its own, their replies scored by scorers that are named.

One table comes out, whatever the family, the scorers and the speaker: a row a reply, the same columns.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from chatvec_lab.evaluation.asking.thinking import with_answers
from chatvec_lab.evaluation.scorers.contract import Column, is_last
from chatvec_lab.evaluation.scorers.fluency import perplexity
from chatvec_lab.evaluation.scorers.named import choose, number
from chatvec_lab.evaluation.statistics import compare, summarise
from chatvec_lab.evaluation.statistics.sweep import is_on_front
from chatvec_lab.experiment.microworld import MicroWorld, World
from chatvec_lab.experiment.published import Published
from chatvec_lab.experiment.replies import speaker_for
from chatvec_lab.languages import language_name

if TYPE_CHECKING:
    from chatvec_lab.experiment.models import At
    from chatvec_lab.families import Family
    from chatvec_lab.weights.checkpoint import Checkpoint

Frame = Literal["chat", "raw", "qa", "examples", "qa_examples"]
FEW = 0.5  # a measure that covers less than this share of the replies is warned about
BASE = ("model", "language", "frame", "prompt_id", "sample", "set", "source", "kind", "words", "turns", "prompt",
        "response", "thinking", "answer", "finish_reason", "reply_language")  # fmt: skip


class Exam:
    """What is asked of a family's models in `language` and who scores it, checked before anything is loaded.

        exam = Exam(family, "ko", scorers=["instructions", "judge:mt-bench"], services={"judge_model": "gpt-5"})
        replies = exam.ask(experiment.lineup(family, "ko", 1.0), ["one_turn"], 200)
        exam.shares(replies, "model")

    scorers: names of `python -m chatvec_lab scorers`, or Python files; () takes the family's own. services: their
    addresses and models (`scorers.named.SERVICES`). prompts: what is asked (`published.OPTIONS`); a nano family is
    asked the micro-world's prompts. speaker: "memory", or "served:URL" for an OpenAI-compatible server, where
    `served` gives the server's name of each model by its label. keep: folder of kept replies, None for none.

    `measures` are the columns that the scorers give, by name; `names` what they are called in words.
    Raises ValueError for a language without a CP model, an unknown name or option, or what a scorer lacks.
    """

    def __init__(
        self, family: "Family", language: str, *, scorers: Sequence[str] = (), prompts: Mapping[str, str] | None = None,
        services: Mapping[str, str] | None = None, speaker: str = "memory", served: Mapping[str, str] | None = None,
        keep: str | Path | None = None,
    ):  # fmt: skip
        if language not in family.languages:
            there = ", ".join(family.languages)
            raise ValueError(f"family {family.name!r} has no CP model for {language!r}; there are {there}.")
        self.family, self.language, self.keep = family, language, None if keep is None else Path(keep)
        self.questions = (MicroWorld if family.is_nano else Published)(family, prompts or {})
        named = list(scorers) or list(self.questions.scorers)
        others = [name for name in named if name != "world"]
        chosen = choose(others, services, keep=self.keep and self.keep / "judgements")
        self.scorers, self.pairs, self.probes = chosen
        if "world" in named:
            if not family.is_nano:
                raise ValueError(
                    f"scorer 'world' knows the micro-world alone, where {family.name!r} did not grow"
                )
            self.scorers = {"world": World(self.questions.form)} | self.scorers
        timeout = number(services or {}, "timeout", 120)
        self.speaker_for = speaker_for(speaker, served or {}, self.keep, timeout=timeout)
        self.measures: dict[str, list[Column]] = {}
        self.scored_by: dict[str, str] = {}
        for scorer in [*self.scorers.values(), *self.pairs.values()]:
            for column in getattr(scorer, "columns", None) or (scorer.column,):
                self.measures.setdefault(column.name, []).append(column)
                self.scored_by[column.name] = scorer.name

    @property
    def names(self) -> dict[str, str]:
        """What the measures are called, in words to print."""
        words = {"in_language": f"replies in {language_name(self.language)}", "correct": "right replies",
                 "toxic": "toxic replies", "polite": "polite replies"}  # fmt: skip
        return words | {
            name: columns[0].words.format(baseline="CP") if name != "in_language" else words[name]
            for name, columns in self.measures.items()
        }

    def ask(
        self, models: "Mapping[object, Checkpoint | At]", sets: Sequence[str], n: int, *,
        languages: Iterable[str] = (), frame: Frame = "chat", draw: Literal["test", "validation"] = "test",
        system: str | None = None, decoding: Mapping[str, float] | None = None, thinking: str | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """The scored last replies of every model to every prompt, one row each.

        models: checkpoints, merged or not, live models `At` a scale, or pairs (model, tokenizer) in memory, by label.

        Columns: model (the key of `models`), language, frame; prompt_id, sample, set, source, kind, words, turns (how
        many), prompt (user turns, one a line), response (as generated), thinking and answer (split from it, by a named
        format), finish_reason, reply_language; then the measures, NaN where they mean nothing or do not cover the
        reply, and what explains them.

        sets: of one_turn, two_turn, hostile, and harmless (look-alikes of hostile prompts). n: prompts of each; a set
        may have fewer, so look at n in the tables. languages: this exam's alone, where none are given. frame: the chat
        template, the bare text of the last turn (raw), or pages of questions and answers (qa). draw: choose on
        "validation", report "test". decoding: settings of `respond` beside those of the questions, such as samples and
        temperature. thinking: the format that splits a reply (`thinking.FORMATS`), None for the questions' own.
        Raises ValueError when there is nothing to ask, or nothing that a scorer needs.
        """
        languages = list(languages) or [self.language]
        asked = {(code, name): self.questions.draw(code, name, n=n, draw=draw, frame=frame) for code in languages
                 for name in sets}  # fmt: skip
        asked = {key: table for key, table in asked.items() if len(table)}
        if not asked:
            raise ValueError(f"there are no prompts in {', '.join(languages)}; name a set that has some: "
                             f"prompts={{'{sets[0]}': ...}}")  # fmt: skip
        self._check_needs(asked)
        settings = (
            self.questions.decoding(frame) | ({"system": system} if system else {}) | dict(decoding or {})
        )
        said: dict[tuple, pd.DataFrame] = {}
        # all of them before the first is asked: a server may lack a name
        for label, made in [(label, self.speaker_for(label, model)) for label, model in models.items()]:
            with made as speaker:
                talks = [
                    table[["prompt_id", "language", "turns"]].to_dict("records") for table in asked.values()
                ]
                tokenizer = lambda speaker=speaker: speaker.tokenizer  # noqa: E731
                format = thinking or self.questions.thinking
                for key, replies in zip(asked, speaker.replies(talks, **settings), strict=True):
                    said[label, *key] = with_answers(replies, format, tokenizer=tokenizer)
        # scored after the models have left the memory, which a guard or a classifier may need
        tables = [
            self.score(asked[code, name], replies).assign(model=label, language=code, frame=frame)
            for (label, code, name), replies in said.items()
        ]
        for scorer in self.pairs.values():
            self._compare(scorer, asked, said, tables)
        found = pd.concat(tables, ignore_index=True)
        found = found[[c for c in BASE if c in found] + [c for c in found if c not in BASE]]
        for line in self.gaps(found):
            warnings.warn(line, stacklevel=2)
        return found

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        """The last reply of each conversation with its scores; `prompts` of one set, `responses` with `answer`."""
        name, last = prompts["set"].iloc[0], is_last(responses).to_numpy()
        kept = ("prompt_id", "sample", "response", "thinking", "answer", "finish_reason")
        table = responses.loc[last, [c for c in kept if c in responses]].reset_index(drop=True)
        of = prompts.set_index("prompt_id").loc[table.prompt_id].reset_index(drop=True)
        about = ("set", "source", "kind", "words", "item")  # item: what several prompts ask about
        table = table.assign(
            prompt=of.said.map("\n".join), turns=of.said.map(len), **of[of.columns.intersection(about)]
        )
        table = table.assign(**dict.fromkeys(self.measures, np.nan))
        for label, scorer in self.scorers.items():
            wanted = [c.name for c in scorer.columns if c.sets is None or name in c.sets]
            if not wanted:
                continue
            found = scorer.score(prompts, responses)
            if len(found) != len(responses) or not set(wanted) <= set(found):
                raise ValueError(f"scorer {label!r} gave {len(found)} rows of {', '.join(map(str, found))}; expected "
                                 f"{len(responses)} rows with {', '.join(wanted)}")  # fmt: skip
            unwanted = {c.name for c in scorer.columns} - {*wanted}
            for column in found.columns.difference(unwanted, sort=False):
                table[column] = found[column].to_numpy()[last]
        return table

    def _compare(self, scorer, asked: dict, said: dict, tables: list[pd.DataFrame]) -> None:
        """Each model against the first: the column of a pair scorer, in place."""
        first = next(iter(said))[0]
        for table, ((label, code, name), replies) in zip(tables, said.items(), strict=True):
            if label != first and (scorer.column.sets is None or name in scorer.column.sets):
                found = scorer.compare(asked[code, name], replies, said[first, code, name])
                for column in found:
                    table[column] = found[column].to_numpy()[is_last(replies).to_numpy()]

    def _check_needs(self, asked: dict[tuple, pd.DataFrame]) -> None:
        """ValueError where a scorer that asks a judge needs what no prompt has; before anything is loaded."""
        for label, scorer in self.scorers.items():
            for column in scorer.columns if label.startswith("judge:") else ():
                tables = [t for (_, name), t in asked.items() if column.sets is None or name in column.sets]
                for need in column.needs:
                    if tables and not any(_has(t, need) for t in tables):
                        sources = ", ".join(
                            sorted({str(t["source"].iloc[0]) for t in tables if "source" in t})
                        )
                        raise ValueError(
                            f"{label} needs a {need} for each prompt, and {sources or 'the set'} has none: name a set "
                            "with standard answers, or judge:mt-bench, which does without."
                        )

    def read(self, models: "Mapping[object, Checkpoint | At]", n: int = 64, *, languages: Iterable[str] = (),
             probe: str = "perplexity") -> pd.DataFrame:  # fmt: skip
        """What plain text costs every model: `fluency.perplexity` of `n` texts, with the columns model and language.

        probe: the name of one of `probes` reads that instead (a task of lm-eval). Empty for a served model, whose
        weights are elsewhere. Raises ValueError where there are no plain texts.
        """
        languages = list(languages) or [self.language]
        texts = {code: self.questions.plain_texts(code, n) for code in languages}
        if probe == "perplexity" and not any(texts.values()):
            raise ValueError(f"there are no plain texts in {', '.join(languages)}")
        tables = []
        for label, model in models.items():
            with self.speaker_for(label, model) as speaker:
                if speaker.loaded is None:
                    continue
                if probe != "perplexity":
                    tables.append(self.probes[probe].read(*speaker.loaded).assign(model=label))
                    continue
                for code in filter(texts.get, languages):
                    costs = perplexity(*speaker.loaded, texts[code], progress=False)
                    tables.append(costs.assign(model=label, language=code))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def shares(
        self, replies: pd.DataFrame, by: str | Sequence[str], metrics: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Each measure by group with its 95 % interval, one row each; what no prompt of a group has is left out.

        Columns: `by`, metric, estimate, low, high, n (prompts), items (what they ask about, where it is named: prompts
        that share one are resampled together), unit ("share": Wilson's interval; else a mean on that scale), scorer,
        coverage (share of the replies on which it means something that have a number). Which way each
        measure is better, and its words, go along in `attrs["measures"]`, for tables of papers.
        """
        by, tables = [by] if isinstance(by, str) else list(by), []
        for metric in self.measures if metrics is None else metrics:
            if metric not in replies or not replies[metric].notna().any():
                continue
            column = self.measures[metric][0]
            rows = self._meant(replies, metric)
            groups = rows[metric].notna().groupby([rows[c] for c in by], dropna=False).transform("any")
            found = summarise(rows[groups], by=by, value=metric, share=column.unit == "share")
            scorer = self.scored_by[metric]
            tables.append(found.assign(metric=metric, unit=column.unit, scorer=scorer))
        items = ["items"] if any("items" in table for table in tables) else []
        columns = [*by, "metric", "estimate", "low", "high", "n", *items, "unit", "scorer", "coverage"]
        shares = pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
        for metric in dict.fromkeys(shares.metric):
            told = {"better": self.measures[metric][0].better, "words": self.names[metric]}
            shares.attrs.setdefault("measures", {}).update({metric: told, self.names[metric]: told})
        return shares

    def changes(
        self, replies: pd.DataFrame, metrics: Sequence[str], *, by: str, baseline: object,
        within: str | Sequence[str] = (), seed: int = 0,
    ) -> pd.DataFrame:  # fmt: skip
        """Each level of `by` against the baseline on the same prompts, for each metric; empty where none was measured.

        Shares are tested by McNemar's exact test, means by a permutation of signs, each metric's family by Holm.
        Columns: metric, `within`, `by`, estimate, low, high, n, unit, p_adjusted, test, correction.
        """
        within, tables = [within] if isinstance(within, str) else list(within), []
        for metric in metrics:
            rows = self._meant(replies, metric)
            if len(rows) and rows[metric].notna().any():
                unit = self.measures[metric][0].unit
                options = {"by": by, "baseline": baseline, "within": within, "seed": seed}
                options["test"] = "mcnemar" if unit == "share" else "permutation"
                tables.append(compare(rows, value=metric, **options).assign(metric=metric, unit=unit))
        told = ("estimate", "low", "high", "n", "unit", "p_adjusted", "test", "correction")
        columns = ["metric", *within, by, *told]
        return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)

    def credits(self, scores: pd.DataFrame) -> str:
        """Who scored what is in a table of `shares`, in which languages and how much of it, in a sentence."""
        told = []
        for scorer, rows in scores.groupby("scorer", sort=False):
            covered = float(rows.coverage.min())
            line = f"{', '.join(dict.fromkeys(rows.metric))} by {scorer}"
            known = next(
                (s for s in (*self.scorers.values(), *self.pairs.values()) if s.name == scorer), None
            )
            if known is not None:
                codes = sorted(known.languages or ())
                few = " ".join(codes) if len(codes) <= 8 else f"{len(codes)} languages"
                line += f" ({known.version})" + (f", for {few}" if codes else "")
            if covered != 1:
                line += f", covering {covered:.0%} of the replies" + " or more" * (len(rows) > 1)
            told.append(line)
        return f"Scored: {'; '.join(told)}." if told else "Nothing was scored."

    def on(self, name: str) -> list[str]:
        """The measures that are made for a prompt set."""
        return [m for m, columns in self.measures.items() if any(name in (c.sets or ()) for c in columns)]

    def main(self, name: str) -> str:
        """The measure that decides on a prompt set: the first, in the order of the scorers, that its prompts allow.

        Measures of this set go before those of all sets. One that needs checks or references is passed over where no
        prompt has any; where that leaves none, the first is taken, which will have no number: a warning says so. Raises
        ValueError where no scorer is for the set.
        """
        every = [(m, c) for m, columns in self.measures.items() for c in columns if c.better != "neither"]
        made = [(m, c) for m, c in every if name in (c.sets or ())] or [
            (m, c) for m, c in every if c.sets is None
        ]
        if not made:
            named = ", ".join([*self.scorers, *self.pairs]) or "none"
            raise ValueError(f"none of the named scorers measures {name} prompts: {named}")
        is_drawn = any(column.needs for _, column in made)
        asked = (
            self.questions.draw(self.language, name, n=200, draw="test", frame="chat") if is_drawn else None
        )
        fit = [
            m
            for m, column in made
            if not is_drawn or asked.empty or all(_has(asked, need) for need in column.needs)
        ]
        if not fit:
            lacking = "; ".join(f"{measure} needs {' and '.join(column.needs)}" for measure, column in made)
            warnings.warn(f"no {name} prompt has what its scorers need ({lacking}): name a scorer that does without, such as "
                          "judge:mt-bench", stacklevel=2)  # fmt: skip
        return (fit or [made[0][0]])[0]

    def _meant(self, replies: pd.DataFrame, metric: str) -> pd.DataFrame:
        """The replies on which a measure means something."""
        sets = [c.sets for c in self.measures[metric]]
        if None in sets or "set" not in replies:
            return replies if metric in replies else replies.head(0)
        return replies[replies["set"].isin({name for some in sets for name in some})]

    def gaps(self, replies: pd.DataFrame) -> list[str]:
        """A sentence for each measure that covers less than half of the replies on which it means something."""
        lines, firsts = [], {}
        for metric, columns in self.measures.items():
            if columns[0].better != "neither":
                firsts.setdefault(self.scored_by[metric], metric)  # of a scorer's measures the first tells
        for scorer, metric in firsts.items():
            rows = self._meant(replies, metric)
            needs = any(c.needs for c in self.measures[metric])  # prompts that lack something are no surprise
            for code, group in rows.groupby("language", sort=False) if len(rows) and not needs else ():
                scored = int(group[metric].notna().sum())
                if scored < FEW * len(group):
                    lines.append(f"{metric} by {scorer} covers {scored} of {len(group)} replies to prompts in {code}: "
                                 "what it says is about these alone.")  # fmt: skip
        return lines


def _has(prompts: pd.DataFrame, need: str) -> bool:
    """Whether a prompt has what a scorer needs: a reference, or checks."""
    return bool((prompts[need].notna() & prompts[need].map(bool)).any())


def trade_offs(scores: pd.DataFrame, reading: pd.DataFrame, *, right: str = "correct") -> pd.DataFrame:
    """The measures of a sweep side by side, one row a scale, and whether it is on the Pareto front of those measured.

    `scores`: `Exam.shares(replies, "scale")`; `reading`: perplexity by scale, may be empty; `right`: the measure of
    which more is better. Columns: scale; `right`, toxic and perplexity, each with _low and _high (NaN where not
    measured); is_on_front.
    """
    tables = [scores[scores.metric == metric].assign(measure=metric) for metric in (right, "toxic")]
    long = pd.concat([*tables, reading.assign(measure="perplexity")])
    wide = pd.DataFrame({"scale": sorted(scores.scale.unique())})
    for measure in (right, "toxic", "perplexity"):
        names = {"estimate": measure, "low": f"{measure}_low", "high": f"{measure}_high"}
        rows = long[long.measure == measure].rename(columns=names)
        wide = wide.merge(rows[["scale", *names.values()]], how="left")
    least = [name for name in ("toxic", "perplexity") if wide[name].notna().any()]
    wide = wide.assign(is_on_front=is_on_front(wide, most=[right], least=least))
    wide.attrs["measures"] = {**scores.attrs.get("measures", {}), "perplexity": {"better": "lower"}}
    return wide
