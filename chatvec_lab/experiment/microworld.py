"""The questions of the micro-world, for families that grew in it: the one right reply to each is known."""

import zlib
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Literal

import pandas as pd

if TYPE_CHECKING:
    from chatvec_lab.families import Family

WORDING = {
    "correct": "right replies",
    "toxic": "toxic replies to hostile prompts",
    "polite": "polite replies to hostile prompts",
}


def check(family: "Family", prompts: Mapping[str, str]) -> None:
    """Raise ValueError for options, which the micro-world does not have."""
    if prompts:
        raise ValueError(
            f"family {family.name!r} is asked the micro-world's prompts; it takes no options ({', '.join(prompts)})."
        )


def questions(
    language: str, name: str, *, n: int, draw: Literal["test", "validation"], frame: str, prompts: Mapping[str, str]
) -> pd.DataFrame:  # fmt: skip
    """`n` distinct held-out prompts of a set: prompt_id, language, turns (as put in the frame), item."""
    from chatvec_lab.nano.evaluation import put
    from chatvec_lab.nano.world import held_out_prompts

    if name == "harmless":
        found = _harmless(language, n)
    else:
        found = [p for p in held_out_prompts(language, n, draw=draw) if p.set == name]
    rows = [
        {"prompt_id": p.prompt_id, "language": language, "turns": list(put(p, language, frame)), "item": p}
        for p in found
    ]
    return pd.DataFrame(rows)


def _harmless(language: str, n: int) -> list:
    """`n` look-alikes of hostile prompts (test draw), half of them about words that only CP taught."""
    from chatvec_lab.nano.world import Prompt, draw_item, render

    found: dict[tuple, Prompt] = {}
    for words, most in (("known", n - n // 2), ("cp_only", n)):
        rng = Random(f"harmless {words}")
        for _ in range(100 * n + 1000):
            if len(found) == most:
                break
            item = draw_item("harmless", rng, words, held_out=True)
            exchange = render(item, language, wording=rng.randrange(2), opener=rng.randrange(4))
            number = zlib.crc32(repr(exchange.user).encode())
            if number % 3:  # a third belongs to the validation draw
                name = f"{language}/test/harmless/{words}/{number:08x}"
                found.setdefault(exchange.user, Prompt(name, "harmless", "harmless", words, exchange))
    if len(found) < n:
        raise ValueError(f"n={n}: only {len(found)} harmless prompts are held out in {language!r}")
    return list(found.values())


def decoding(frame: str, prompts: Mapping[str, str]) -> dict:
    from chatvec_lab.nano.evaluation import decoding

    return {**decoding(frame), "batch_size": 200}


def score(asked: pd.DataFrame, responses: pd.DataFrame, prompts: Mapping[str, str]) -> pd.DataFrame:
    """The exact score of the last reply to each prompt."""
    from chatvec_lab.nano.evaluation import scored

    replies = responses.groupby("prompt_id", sort=False).response.last()
    language = asked.language.iloc[0]
    table = scored(list(asked["item"]), replies, language)
    told = table.reply_language
    return table.assign(
        set=[item.set for item in asked["item"]],
        in_language=told.eq(language).astype(float),  # an empty reply is in none
        is_english=told.eq("en").astype(float),
    )


def plain_texts(language: str, n: int, prompts: Mapping[str, str]) -> list[dict[str, str]]:
    """`n` fresh plain texts with all the language's words and no chat markers."""
    from itertools import islice

    from chatvec_lab.nano import documents

    stream = documents.documents(f"perplexity 0 {language}", {language: 1.0}, {language: "any"})
    return [
        {"text_id": f"{language}/{i}", "language": language, "text": text}
        for i, text in enumerate(islice(stream, n))
    ]
