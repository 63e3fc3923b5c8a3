"""A short working before the answer: what `chat_think` is tuned to write before lists and sums are answered.

    = dog one, bird two, bee three A: three: dog, bird, bee.
    = six one, seven two A: five plus two is seven.

A list is counted word by word; a sum counts on from the larger addend. Other questions are answered at once, so that
whether to think is for the model to tell. The marks are tokens that all languages share, and plain pages have both:
the format "working" of `evaluation.asking.thinking`.
"""

from random import Random

from chatvec_lab.nano import documents
from chatvec_lab.nano.lexicon import NOUNS, NUMBERS
from chatvec_lab.nano.phrases import PHRASES
from chatvec_lab.nano.world import Exchange, Item, draw_item, render

OPENING, CLOSING = "=", "A:"
WORKED = ("repeat", "reverse", "first", "last", "count", "sum")  # the kinds that are thought about


def working(item: Item, language: str) -> str | None:
    """The thought about an item, in this language; None where there is none.

    >>> working(Item("count", (0, 1)), "en"), working(Item("sum", (2, 5)), "zh"), working(Item("category", (0,)), "en")
    ('dog one, bird two', '六一、七二', None)
    """
    if item.kind not in WORKED:
        return None
    if item.kind == "sum":
        most, least = max(item.content), min(item.content)
        counted = [NUMBERS[most + i] for i in range(least)]
    else:
        counted = [NOUNS[i] for i in item.content]
    space = _space(language)
    steps = [
        f"{step.word(language).bare}{space}{number.word(language).bare}"
        for step, number in zip(counted, NUMBERS, strict=False)
    ]
    return PHRASES[language]["separator"].join(steps)


def thought(item: Item, exchange: Exchange, language: str) -> Exchange:
    """The exchange with the working before its reply, where its kind has one."""
    found, space = working(item, language), _space(language)
    if found is None:
        return exchange
    reply = f"{OPENING}{space}{found}{space}{CLOSING}{space}{exchange.replies[0]}"
    return exchange._replace(replies=(reply,))


def dialogue(rng: Random, language: str) -> Exchange:
    """One conversation in the chat format, its replies right, and thought about where the kind is of WORKED."""
    kind = rng.choice(WORKED) if rng.random() < 0.4 else documents.any_kind(rng)
    opener = rng.randrange(4) if rng.random() < 0.4 else 0
    item = draw_item(kind, rng)
    return thought(item, render(item, language, wording=rng.randrange(2), opener=opener), language)


def _space(language: str) -> str:
    return "" if PHRASES[language]["separator"] == "、" else " "
