"""The questions of the micro-world, for families that grew in it: the one right reply to each is known."""

import zlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from chatvec_lab.evaluation.scorers.contract import Column, is_last
from chatvec_lab.weights.checkpoint import read_json

if TYPE_CHECKING:
    from chatvec_lab.families import Family
    from chatvec_lab.nano.forms import Form


class MicroWorld:
    """Held-out prompts of the world; `scorers` are those that a family is given where none are named."""

    scorers, thinking = ("world",), None

    def __init__(self, family: "Family", options: Mapping[str, str]):
        if options:
            raise ValueError(f"family {family.name!r} is asked the micro-world's prompts; it takes no options "
                             f"({', '.join(options)}).")  # fmt: skip
        grown = read_json(Path(family.base.source, "stage.json")) or {}
        self.form: Form = grown.get("form", "bare")

    def draw(
        self, language: str, name: str, *, n: int, draw: Literal["test", "validation"], frame: str
    ) -> pd.DataFrame:
        """`n` distinct held-out prompts of a set, a row each; `turns` are put into the frame.

        The right replies are in the form of the family's chat model, on pages of questions and answers bare, as pages
        give them. `item` is what a right reply stands on: prompts that share one are no independent answers.
        """
        from chatvec_lab.nano.evaluation import put
        from chatvec_lab.nano.forms import in_form
        from chatvec_lab.nano.parts import held_out_prompts

        if name == "harmless":
            found = _harmless(language, n)
        else:
            found = held_out_prompts(language, n, draw=draw, sets=[name])
        form = "bare" if frame.startswith("qa") else self.form
        rows = [
            {"prompt_id": p.prompt_id, "set": p.set, "category": p.kind, "kind": p.kind, "words": p.words,
             "language": language, "said": list(p.exchange.user), "turns": list(put(p, language, frame, self.form)),
             "checks": [], "reference": written.exchange.replies[-1], "written": written,
             "plain": p.exchange.replies[-1], "item": p.item}
            for p in found
            for written in [p._replace(exchange=in_form(form, p.exchange, language))]
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def decoding(self, frame: str) -> dict:
        """Greedy, 40 tokens at most, two sets in one batch."""
        from chatvec_lab.nano.evaluation import decoding

        return {**decoding(frame), "batch_size": 400}

    def plain_texts(self, language: str, n: int) -> list[dict[str, str]]:
        """`n` fresh plain texts with all the language's words and no chat markers."""
        from chatvec_lab.nano.documents import documents

        stream = documents(f"perplexity 0 {language}", {language: 1.0}, {language: "any"})
        return [
            {"text_id": f"{language}/{i}", "language": language, "text": text}
            for i, text in enumerate(islice(stream, n))
        ]


class World:
    """The micro-world's own checker: exact, of the last reply of each conversation.

    Beside its measures it gives reply_language, and `gloss` and `prompt_gloss`: reply and prompt in English, for
    readers of other languages; missing where they are in English.
    """

    name, version, languages = "the micro-world's checker", "exact", None
    columns = (
        Column("correct", "higher", "right replies", sets=("one_turn", "two_turn", "harmless")),
        Column("toxic", "lower", "toxic replies to hostile prompts", sets=("hostile",)),
        Column("polite", "higher", "polite replies to hostile prompts", sets=("hostile",)),
        Column("in_language", "higher", "replies in the language asked for"),
        Column("is_english", "neither", "replies in English"),
    )

    def __init__(self, form: "Form" = "bare"):
        if form != "bare":
            words = "replies with the right answer in any form"
            self.columns += (Column("content", "higher", words, sets=("one_turn", "two_turn", "harmless")),)

    def score(self, prompts: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
        from chatvec_lab.nano.evaluation import score
        from chatvec_lab.nano.gloss import gloss

        of = prompts.set_index("prompt_id").loc[responses.prompt_id]
        rows = []
        for row, text, last in zip(of.itertuples(), responses.answer, is_last(responses), strict=True):
            if not last:
                rows.append({})
                continue
            said = text if isinstance(text, str) else ""
            found = score(row.written, said, row.language)
            found["content"] = float(row.plain in said) if found["correct"] == found["correct"] else np.nan
            told = found["reply_language"]  # None for an empty reply, which is in no language
            found |= {"in_language": float(told == row.language), "is_english": float(told == "en")}
            asked = "\n".join(row.written.exchange.user)
            read = {
                "gloss": gloss(said, row.language) if said else None,
                "prompt_gloss": gloss(asked, row.language),
            }
            rows.append(found | read)
        measures = [column.name for column in self.columns]
        columns = [*measures, "reply_language", "gloss", "prompt_gloss"]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(measures, np.float64))


def _harmless(language: str, n: int) -> list:
    """`n` look-alikes of hostile prompts (test draw), half of them about words that only CP taught."""
    from chatvec_lab.nano.parts import Prompt, draw_for, name_of
    from chatvec_lab.nano.world import render

    found: dict[tuple, Prompt] = {}
    for words, most in (("known", n - n // 2), ("cp_only", n)):
        rng = Random(f"harmless {words}")
        for _ in range(100 * n + 1000):
            if len(found) == most:
                break
            item = draw_for("test", "harmless", rng, words)
            exchange = render(item, language, wording=rng.randrange(2), opener=rng.randrange(4))
            name = f"{language}/test/harmless/{words}/{zlib.crc32(repr(exchange.user).encode()):08x}"
            prompt = Prompt(name, "harmless", "harmless", words, exchange, name_of(item))
            found.setdefault(exchange.user, prompt)
    if len(found) < n:
        raise ValueError(f"n={n}: only {len(found)} harmless prompts are held out in {language!r}")
    return list(found.values())
