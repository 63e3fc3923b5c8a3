"""What is held out: items, not prompts, so that no draw shares an item with a training text or another draw.

An item's unit is what its right reply stands on: the set of words of a list, whatever is done with it and in whatever
order; what kind of thing a noun is, for all questions that ask it; the fact or request of any other kind. A unit that is
held out is asked in no text, language or frame (where it is a fact, prose does tell it), and belongs to one draw alone.
"""

import zlib
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import combinations, product
from random import Random
from typing import Literal, NamedTuple

from chatvec_lab.nano.lexicon import ADJECTIVES, COUNTRIES, NAMES, NOUNS, NUMBERS, category_of
from chatvec_lab.nano.world import LISTS, SETS, Exchange, Item, Words, draw, numbers, pool, render, sums

Part = Literal["training", "validation", "test", "unused"]


def unit(item: Item) -> tuple[str, tuple[int, ...]]:
    """What the right reply stands on: items of one unit are held out, and resampled, together.

    >>> unit(Item("first", (7, 3))) == unit(Item("repeat", (3, 7)))
    True
    """
    kind, content = item.kind.removeprefix("role_play ").removesuffix("_again"), item.content
    if item.kind in LISTS:
        return "list", tuple(sorted(content))
    match kind:
        case "category" | "what_is_it" | "yesno":
            return "category", content[:1]
        case "choose":
            return "category", tuple(n for n in content[1:] if category_of(n) == content[0])
        case "sum" | "opposite" | "capital":  # three and two are two and three
            return kind, tuple(sorted(content))
    return kind, content


def name_of(item: Item) -> str:
    """The unit in words, for tables: "list 3 7"."""
    kind, content = unit(item)
    return f"{kind} {' '.join(map(str, content))}"


@lru_cache(1 << 16)  # few are drawn for the first time
def part(item: Item) -> Part:
    """Where an item may be asked: in training text, in one of the two draws, or nowhere ("unused").

    A third of the units is held out, of sums, secrets and rules (few) a half; a third of these is for validation. Single
    opposites and capitals are for training: what is held out of them is pairs. A choice is held out by its list too.
    """
    found = _part(unit(item))
    if item.kind == "choose":
        listed = _part(("list", tuple(sorted(item.content[1:]))))
        return found if listed == found else "unused"
    return found


def _part(of: tuple[str, tuple[int, ...]]) -> Part:
    if not _is_kept_out(of):
        return "training"
    few = _few(of[0])
    number = few.index(of) if of in few else zlib.crc32(f"draw {of!r}".encode())
    return "test" if number % 3 else "validation"


def _is_kept_out(of: tuple[str, tuple[int, ...]]) -> bool:
    kind, content = of
    if kind in ("opposite", "capital") and len(content) == 1:
        return False
    if kind == "category":  # as many of each category, and of known words and of those that only CP teaches
        return content[0] % 3 == 1
    if kind == "sum":
        return _sums().index(content) % 2 == 1
    return zlib.crc32(f"unit {of!r}".encode()) % (2 if kind in ("secret", "rule") else 3) == 0


@cache
def _sums() -> list[tuple[int, ...]]:
    """All pairs of addends, those first whose sum is a known word."""
    every = [(a, b) for a in range(1, 6) for b in range(a, 11 - a)]
    return sorted(every, key=lambda ab: NUMBERS[sum(ab) - 1].cp_only)


@cache
def _few(kind: str) -> list[tuple[str, tuple[int, ...]]]:
    """The units that are held out of a kind that has few of them; in this order every third is for validation."""
    match kind:
        case "category":
            every = [(noun,) for noun in range(len(NOUNS))]
        case "sum":
            every = _sums()
        case "opposite" | "capital":
            table = ADJECTIVES if kind == "opposite" else COUNTRIES
            pairs = combinations(range(len(table)), 2)
            every = sorted(pairs, key=lambda ab: sum(table[i].cp_only for i in ab))
        case "secret" | "rule":
            others = range(len(NUMBERS)) if kind == "secret" else pool("place", "any")
            every = sorted(product(range(len(NAMES)), others), key=lambda po: NAMES[po[0]].cp_only)
        case _:
            every = []
    return [(kind, content) for content in every if _is_kept_out((kind, content))]


def is_kept_out(item: Item) -> bool:
    """Whether no training text may ask this item."""
    return part(item) != "training"


def draw_for(draw_name: Part, kind: str, rng: Random, words: Words = "any") -> Item:
    """A random item of this kind that belongs to this draw."""
    while part(item := draw(kind, rng, words)) != draw_name:
        pass
    return item


# ---------------------------------------------------------------- held-out prompts


class Prompt(NamedTuple):
    """A held-out prompt with its right replies in plain words; `set` is one_turn, two_turn or hostile.

    `item` names what its right reply stands on, which several prompts may share: they are no independent answers.
    """

    prompt_id: str
    set: str
    kind: str
    words: str
    exchange: Exchange
    item: str


def held_out_prompts(
    language: str,
    n: int,
    *,
    seed: int = 0,
    draw: Literal["test", "validation"] = "test",
    sets: Iterable[str] = tuple(SETS),
) -> list[Prompt]:
    """`n` distinct prompts of each of these sets, balanced over kinds and words; the two draws share no item.

    Raises ValueError when the world holds out fewer than `n` such prompts.
    """
    prompts = []
    for name in sets:
        cells = [(kind, words) for kind in SETS[name] for words in ("known", "cp_only")]
        for index, (kind, words) in enumerate(cells):
            quota = n // len(cells) + (index < n % len(cells))
            found = _of_items(kind, words, language, quota, seed, draw)
            if len(found) < quota:
                raise ValueError(
                    f"n={n} asks for {quota} {draw} prompts about {words} words of kind {kind!r} in {language!r}, "
                    f"but only {len(found)} are held out; ask for at most {len(cells) * len(found)}"
                )
            for exchange, item in found:
                said = zlib.crc32(repr(exchange.user).encode())
                prompt_id = f"{language}/{draw}/{kind}/{words}/{said:08x}"
                prompts.append(Prompt(prompt_id, name, kind, words, exchange, item))
    return prompts


@cache
def _count(kind: str, words: Words, draw_name: Part) -> int:
    """How many units a draw has of a kind that has few; 0 for the other kinds."""
    match kind:
        case "category" | "what_is_it" | "yesno" | "choose":
            units = {("category", (noun,)) for noun in pool("noun", words)}
        case "sum":
            units = {("sum", tuple(sorted(pair))) for pair in sums(words)}
        case "opposite" | "capital":
            table = pool("adjective" if kind == "opposite" else "country", words)
            units = {(kind, pair) for pair in combinations(table, 2)}
        case "rule":
            units = {(kind, pair) for pair in product(pool("name", words), pool("place", words))}
        case "secret":
            units = {(kind, pair) for pair in product(pool("name", words), numbers(words))}
        case _:
            return 0
    return sum(_part(of) == draw_name for of in units)


@cache
def _of_items(kind, words, language, quota, seed, draw_name) -> list[tuple[Exchange, str]]:
    """Distinct prompts and their items, as many items as there are: no item gets a third prompt before all have two."""
    rng = Random(f"{seed} {kind} {words} by item")
    found: dict[str, dict[tuple, Exchange]] = {}
    there_are = _count(kind, words, draw_name)
    for _ in range(20 * quota + 400):
        rounds = min(map(len, found.values()), default=0)  # prompts that each item has
        if len(found) == quota or (len(found) == there_are and rounds * there_are >= quota):
            break
        item = draw_for(draw_name, kind, rng, words)
        exchange = render(item, language, wording=rng.randrange(2), opener=rng.randrange(4))
        found.setdefault(name_of(item), {}).setdefault(exchange.user, exchange)
    ranks = [(rank, item, e) for item, prompts in found.items() for rank, e in enumerate(prompts.values())]
    return [(exchange, item) for _, item, exchange in sorted(ranks, key=lambda r: r[0])[:quota]]
