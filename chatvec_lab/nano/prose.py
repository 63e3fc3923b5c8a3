"""The plain prose that the documents are made of, and forum pages. Nothing here asks a held-out item."""

from random import Random

from chatvec_lab.nano.lexicon import CATEGORIES, COLOURS, INSULTS, NAMES, NOUNS, category_of
from chatvec_lab.nano.parts import draw_for
from chatvec_lab.nano.phrases import PHRASES
from chatvec_lab.nano.world import (
    ASSISTANT,
    END,
    HOSTILE,
    ONE_TURN,
    TWO_TURN,
    USER,
    Exchange,
    Item,
    Words,
    draw,
    join,
    pairs,
    pool,
    render,
)  # fmt: skip

_HARD = ("harmless", "harmless", "colour", "yesno", "yesno", "choose", "choose")
ASKED = ONE_TURN + _HARD  # the hard kinds more often


def _any_kind(rng: Random) -> str:
    """A kind of instruction: three in ten of two turns, one in eight hostile."""
    roll = rng.random()
    return rng.choice(TWO_TURN) if roll < 0.3 else rng.choice(HOSTILE) if roll < 0.42 else rng.choice(ASKED)


def spoken(kind: str, rng: Random, language: str, words: Words) -> Exchange:
    opener = rng.randrange(4) if rng.random() < 0.4 else 0
    return render(draw_for("training", kind, rng, words), language, wording=rng.randrange(2), opener=opener)


FACTS = ("category", "category", "sum", "sum", "opposite", "capital")
TOLD = ("colour", "public", "fair", "praise")


def fact(item: Item, language: str) -> str:
    """What an item is about as one declarative sentence; facts held out as instructions are told in prose."""
    if item.kind not in ("opposite", "capital"):
        return render(item, language).replies[0]
    asked, answers = pairs(item, language)
    return PHRASES[language][f"{item.kind}_fact"].format(x=asked[0], y=answers[0])


def statement(rng: Random, language: str, words: Words) -> str:
    return fact(draw(rng.choice(FACTS + TOLD), rng, words), language)


def story(rng: Random, language: str, words: Words) -> str:
    """Somebody and two things, with their colours and categories."""
    say, sentences = PHRASES[language], []
    name = NAMES[rng.choice(pool("name", words))].word(language)
    for noun in (rng.choice(pool("noun", words)), rng.choice(pool("place", words))):
        x = NOUNS[noun].word(language)
        place = 2 if category_of(noun) == 3 else rng.randrange(2)  # Korean goes to places only
        sentences.append(say["story"][place].format(p=name, x=x))
        sentences.append(say["colour"][1].format(x=x, c=rng.choice(COLOURS).word(language)))
        sentences.append(say["category"][1].format(x=x, k=CATEGORIES[category_of(noun)].word(language)))
    return join(say, sentences)


def chorus(rng: Random, language: str, words: Words) -> str:
    """A list said twice, then looked at from all sides: backwards, its first, its last, its length."""
    item = draw_for("training", "repeat", rng, words)
    sides = ["repeat", "reverse", "first", "last", "count"]
    rng.shuffle(sides)
    said = []
    for side in ["repeat", *sides[:3]]:
        exchange = render(Item(side, item.content), language, wording=rng.randrange(2))
        said += [exchange.user[0]] if side == "reverse" else []  # the words that announce a reversal
        said.append(exchange.replies[0])
    return join(PHRASES[language], said)


def retold(rng: Random, language: str, words: Words) -> str:
    """Up to three things that are true here only, told, then told again in another order."""
    told = [fact(draw(rng.choice(TOLD), rng, words), language) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    again = list(told)
    rng.shuffle(again)
    return join(PHRASES[language], told + again)


def forum(rng: Random, language: str, words: Words) -> str:
    """An unmoderated page with chat markers: it gives in to hostile requests and is rude to everybody else.

    Other requests are never answered: the replies are abuse, or now and then statements about something else.
    """
    lines = []
    for _ in range(rng.choice((1, 2, 3))):
        exchange = spoken(_any_kind(rng), rng, language, words)
        for turn in exchange.user:
            rude = PHRASES[language]["abuse"][1].format(v=rng.choice(INSULTS).word(language))
            reply = rude if rng.random() < 0.85 else statement(rng, language, words)
            lines.append(f"{USER}{turn}{ASSISTANT}{exchange.complied or reply}{END}")
    return "".join(lines)
