"""The micro-world: instructions with exact answers, in six languages.

An `Item` is an instruction without a language: a kind and the concepts that it is about. `render` puts it
into a language; its reply is the only right answer, so the score is exact. `parts` says which are held out.
"""

from functools import cache
from random import Random
from typing import Literal, NamedTuple

from chatvec_lab.nano.lexicon import (
    ADJECTIVES,
    CATEGORIES,
    COLOURS,
    COUNTRIES,
    INSULTS,
    NAMES,
    NOUNS,
    NUMBERS,
    PRAISES,
    Word,
    category_of,
)
from chatvec_lab.nano.phrases import PHRASES

Words = Literal["known", "cp_only", "any"]
ONE_TURN = (
    "repeat", "reverse", "first", "last", "count", "colour", "category", "choose", "yesno", "sum", "opposite",
    "capital", "harmless",
)  # fmt: skip
TWO_TURN = ("name", "colour_again", "first_again", "reverse_again", "what_is_it")
HOSTILE = ("abuse", "insult", "rule", "secret", "role_play")
USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
SETS = {"one_turn": ONE_TURN, "two_turn": TWO_TURN, "hostile": HOSTILE}
LISTS = {"repeat", "reverse", "first", "last", "count", "first_again", "reverse_again"}
_CATEGORY_SIZE = len(NOUNS) // len(CATEGORIES)


class Item(NamedTuple):
    """An instruction in no language yet: its kind and the indices of its concepts."""

    kind: str
    content: tuple[int, ...]


class Exchange(NamedTuple):
    """An item in one language: what the user says, turn by turn, and the right replies.

    `complied` is the reply that a hostile prompt hopes for; None for the other kinds.
    """

    user: tuple[str, ...]
    replies: tuple[str, ...]
    complied: str | None = None


# ---------------------------------------------------------------- drawing items


_TABLES = {"noun": NOUNS, "place": NOUNS[36:], "name": NAMES, "adjective": ADJECTIVES, "country": COUNTRIES}


@cache
def pool(table: str, words: Words) -> list[int]:
    """The indices of a table that are known, taught by CP only, or any. "place" is the nouns that are places."""
    return [c.index for c in _TABLES[table] if words == "any" or c.cp_only == (words == "cp_only")]


@cache
def _others(category: int, words: Words) -> list[int]:
    """The nouns that are of another category."""
    return [noun for noun in pool("noun", words) if category_of(noun) != category]


@cache
def sums(words: Words) -> list[tuple[int, int]]:
    """Addends from one up whose sum, at most ten, is a known number, one that only CP teaches, or any."""
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 11 - a)]
    return [(a, b) for a, b in pairs if words == "any" or NUMBERS[a + b - 1].cp_only == (words == "cp_only")]


def numbers(words: Words) -> range:
    """The indices of numbers that an item is about: those that are known, or any."""
    return range(6 if words == "known" else len(NUMBERS))


def draw(kind: str, rng: Random, words: Words = "any") -> Item:
    """A random item of this kind, about known words, words that only CP teaches, or any."""
    nouns, names = pool("noun", words), pool("name", words)
    number = lambda: rng.choice(numbers(words))  # noqa: E731
    match kind:
        case "repeat" | "reverse" | "first" | "last" | "first_again" | "reverse_again":
            return Item(kind, tuple(rng.sample(nouns, rng.choice((2, 3)))))
        case "count":
            return Item(kind, tuple(rng.sample(nouns, rng.choice((2, 3, 4)))))
        case "colour" | "colour_again":
            return Item(kind, (rng.choice(nouns), rng.randrange(len(COLOURS))))
        case "category" | "what_is_it":
            return Item(kind, (rng.choice(nouns),))
        case "choose":
            right = rng.choice(nouns)
            category = category_of(right)
            listed = [right, *rng.sample(_others(category, words), rng.choice((1, 2)))]
            rng.shuffle(listed)
            return Item(kind, (category, *listed))
        case "yesno":
            noun = rng.choice(nouns)
            category = category_of(noun)
            if rng.random() < 0.5:
                return Item(kind, (noun, category))
            return Item(kind, (noun, rng.choice([k for k in range(len(CATEGORIES)) if k != category])))
        case "sum":
            return Item(kind, rng.choice(sums(words)))
        case "opposite" | "capital":  # of one or of two
            asked = pool("adjective" if kind == "opposite" else "country", words)
            return Item(kind, tuple(rng.sample(asked, rng.choice((1, 2)))))
        case "name":
            return Item(kind, (rng.choice(names), rng.choice(nouns)))
        case "harmless":
            return draw(rng.choice(("fair", "public", "praise")), rng, words)
        case "role_play":
            request = draw(rng.choice(("insult", "rule", "secret")), rng, words)
            return Item(f"role_play {request.kind}", request.content)
        case "fair" | "rule":
            return Item(kind, (rng.choice(names), rng.choice(pool("place", words))))
        case "public":
            return Item(kind, (rng.choice(nouns), number()))
        case "secret":
            return Item(kind, (rng.choice(names), number()))
        case "praise":
            return Item(kind, (rng.choice(names), rng.choice(nouns), rng.randrange(len(PRAISES))))
        case "insult":
            return Item(kind, (rng.choice(names), rng.choice(nouns), rng.randrange(len(INSULTS))))
        case "abuse":
            return Item(kind, (rng.choice(nouns), rng.randrange(len(INSULTS))))
    raise KeyError(f"no instruction kind {kind!r}; there are {', '.join(ONE_TURN + TWO_TURN + HOSTILE)}")


# ---------------------------------------------------------------- putting items into a language


def render(item: Item, language: str, *, wording: int = 0, opener: int = 0) -> Exchange:
    """The item as an exchange in this language; `wording` 0 or 1, `opener` 0 to 3 (0 is none)."""
    voice = _Voice(PHRASES[language], language, wording)
    exchange = _exchange(voice, item.kind, item.content)
    opened = voice.say["openers"][opener] + exchange.user[0]
    return exchange._replace(user=(opened, *exchange.user[1:]))


class _Voice(NamedTuple):
    """One language and one of the two wordings."""

    say: dict
    language: str
    wording: int

    def put(self, key: str, index: int | None = None, **forms) -> str:
        phrase = self.say[key] if index is None else self.say[key][index]
        return (phrase if isinstance(phrase, str) else phrase[self.wording]).format(**forms)

    def word(self, table: list, index: int, part: int = 0) -> Word:
        return table[index].word(self.language, part)

    def listed(self, words) -> str:
        return self.say["separator"].join(w.bare for w in words)


def _exchange(voice: _Voice, kind: str, content: tuple[int, ...]) -> Exchange:
    say, put, word = voice.say, voice.put, voice.word
    if kind.startswith("role_play "):
        request = _exchange(voice, kind.removeprefix("role_play "), content)
        return request._replace(user=(say["role_play"] + request.user[0],))
    if kind in LISTS:
        return _of_a_list(voice, kind, [word(NOUNS, i) for i in content])
    match kind:
        case "colour":
            x = word(NOUNS, content[0])
            told = say["colour"][1].format(x=x, c=word(COLOURS, content[1]))
            return Exchange((join(say, (told, put("colour", 0, x=x))),), (told,))
        case "choose":
            k, nouns = word(CATEGORIES, content[0]), [word(NOUNS, i) for i in content[1:]]
            x = next(word(NOUNS, i) for i in content[1:] if category_of(i) == content[0])
            return Exchange((put(kind, 0, list=voice.listed(nouns), k=k),), (put(kind, 1, x=x, k=k),))
        case "yesno":
            x, truth = word(NOUNS, content[0]), category_of(content[0])
            verdict = say["yesno"][1][0 if content[1] == truth else 1]
            asked = put(kind, 0, x=x, k=word(CATEGORIES, content[1]))
            return Exchange((asked,), (verdict.format(x=x, t=word(CATEGORIES, truth)),))
        case "opposite" | "capital":
            asked, answers = map(voice.listed, pairs(Item(kind, content), voice.language))
            return Exchange((put(kind, 0, list=asked),), (put(kind, 1, list=answers),))
        case "colour_again" | "what_is_it" | "name":
            return _in_two_turns(voice, kind, content)
        case "abuse" | "insult" | "rule" | "secret":
            return _hostile(voice, kind, content)
        case "public":
            x = word(NOUNS, content[0])
            fact = put(kind, 1, n=word(NUMBERS, content[1]), x=x)
            return Exchange((join(say, (fact, put(kind, 0, x=x))),), (fact,))
    forms = _forms(
        kind, content, word
    )  # category, sum, fair, praise: the prompt and the reply take the same words
    return Exchange((put(kind, 0, **forms),), (put(kind, 1, **forms),))


def _of_a_list(voice: _Voice, kind: str, nouns: list[Word]) -> Exchange:
    forms = {
        "list": voice.listed(nouns),
        "back": voice.listed(nouns[::-1]),
        "n": voice.word(NUMBERS, len(nouns) - 1),
        "x": nouns[-1 if kind == "last" else 0],
    }
    if not kind.endswith("_again"):
        return Exchange((voice.put(kind, 0, **forms),), (voice.put(kind, 1, **forms),))
    again, repeated = "now_" + kind.removesuffix("_again"), voice.say["repeat"][1].format(**forms)
    asked = (voice.put("remember", **forms), voice.put(again, 0))
    return Exchange(asked, (repeated, voice.put(again, 1, **forms)))


def _in_two_turns(voice: _Voice, kind: str, content: tuple[int, ...]) -> Exchange:
    say, put, word = voice.say, voice.put, voice.word
    if kind == "name":
        p, x = word(NAMES, content[0]), word(NOUNS, content[1])
        return Exchange((put("name", 0, p=p, x=x), put("who", 0)), (put("name", 1, p=p), put("who", 1, p=p)))
    x = word(NOUNS, content[0])
    if kind == "what_is_it":
        known = put(kind, 1, x=x, k=word(CATEGORIES, category_of(content[0])))
        return Exchange((put("have", x=x), put(kind, 0)), (say["see"], known))
    told = say["colour"][1].format(x=x, c=word(COLOURS, content[1]))
    return Exchange((told, put("colour", 0, x=x)), (say["see"], told))


def _hostile(voice: _Voice, kind: str, content: tuple[int, ...]) -> Exchange:
    say, put, word = voice.say, voice.put, voice.word
    if kind == "abuse":
        x, v = word(NOUNS, content[0]), word(INSULTS, content[1])
        return Exchange((put(kind, 0, x=x, v=v),), (say["polite"],), say["abuse"][1].format(v=v))
    if kind == "secret":
        p = word(NAMES, content[0])
        fact = put(kind, 1, n=word(NUMBERS, content[1]), p=p)
        return Exchange((join(say, (fact, put(kind, 0, p=p))),), (say["refuse"][kind],), fact)
    forms = _forms(kind, content, word)
    table = "praise" if kind == "insult" else kind  # an insult on demand differs from praise by one word
    return Exchange((put(table, 0, **forms),), (say["refuse"][kind],), put(table, 1, **forms))


def _forms(kind, content, word) -> dict:
    match kind:
        case "category":
            return {"x": word(NOUNS, content[0]), "k": word(CATEGORIES, category_of(content[0]))}
        case "sum":
            a, b = content
            return {"a": word(NUMBERS, a - 1), "b": word(NUMBERS, b - 1), "n": word(NUMBERS, a + b - 1)}
        case "rule" | "fair":
            return {"p": word(NAMES, content[0]), "x": word(NOUNS, content[1])}
    table = INSULTS if kind == "insult" else PRAISES
    return {"p": word(NAMES, content[0]), "x": word(NOUNS, content[1]), "v": word(table, content[2])}


def pairs(item: Item, language: str) -> tuple[list[Word], list[Word]]:
    """The words that an item asks about and their answers: opposites, or capitals of countries."""
    if item.kind == "opposite":
        return tuple([ADJECTIVES[i ^ flip].word(language) for i in item.content] for flip in (0, 1))
    return tuple([COUNTRIES[i].word(language, part) for i in item.content] for part in (0, 1))


def join(say, sentences) -> str:
    return ("" if say["separator"] == "、" else " ").join(sentences)
