"""A short working before the answer: what `chat_think` is tuned to write before it answers some kinds of questions.

    = dog, bird, bee. A: bee, bird, dog.
    = the dog is an animal. the car is an object. A: the car is an object.

A list is repeated, a sum is turned round, and of words that are to be chosen or judged it is told what they are. All of
these are sentences that plain text has in every language, so that a model continued on another language's text has them
in that language; what tuning brings, in English alone, is to write them first. Other questions are answered at once, so
that whether to think is for the model to tell. The marks are tokens that all languages share: the format "working" of
`evaluation.asking.thinking`.
"""

from random import Random

from chatvec_lab.nano import documents
from chatvec_lab.nano.phrases import PHRASES
from chatvec_lab.nano.world import Exchange, Item, draw_item, join, render

OPENING, CLOSING = "=", "A:"
WORKED = ("reverse", "first", "last", "count", "choose", "yesno", "sum")  # the kinds that are thought about


def working(item: Item, language: str) -> str | None:
    """The thought about an item, in this language; None where there is none.

    >>> working(Item("count", (0, 1)), "en"), working(Item("sum", (2, 5)), "zh"), working(Item("category", (0,)), "en")
    ('dog, bird.', '五加二是七。', None)
    >>> working(Item("choose", (0, 0, 24)), "en")
    'the dog is an animal. the knife is an object.'
    """
    kind, content = item
    match kind:
        case "reverse" | "first" | "last" | "count":
            steps = [Item("repeat", content)]
        case "sum":
            steps = [Item("sum", content[::-1])]
        case "choose":
            steps = [Item("category", (noun,)) for noun in content[1:]]
        case "yesno":
            steps = [Item("category", content[:1])]
        case _:
            return None
    return join(PHRASES[language], [render(step, language).replies[0] for step in steps])


def thought(item: Item, exchange: Exchange, language: str) -> Exchange:
    """The exchange with the working before its reply, where its kind has one."""
    found = working(item, language)
    if found is None:
        return exchange
    reply = join(PHRASES[language], [OPENING, found, CLOSING, exchange.replies[0]])
    return exchange._replace(replies=(reply,))


def dialogue(rng: Random, language: str) -> Exchange:
    """One conversation in the chat format, its replies right, and thought about where the kind is of WORKED."""
    kind = rng.choice(WORKED) if rng.random() < 0.4 else documents.any_kind(rng)
    opener = rng.randrange(4) if rng.random() < 0.4 else 0
    item = draw_item(kind, rng)
    return thought(item, render(item, language, wording=rng.randrange(2), opener=opener), language)
