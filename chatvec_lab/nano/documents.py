"""The documents that the stages read: plain text that shows apart what chat combines.

Pages of questions and answers give bare answers. Prose puts some sentences between marks, whatever they say. Whoever is
hostile is given in to on most pages and in most quarrels, and refused politely in the others: a document keeps its tone,
also across two languages, so that tone is one thing in all of them. Workings are written out in prose, some of them
between the marks of a thought, and answer nobody. Forum pages carry the chat markers in every language, and are rude to
everybody. Tuning, in English alone, combines: the answers of the pages, the tone of the polite, the marks of the prose;
tuning to think, the workings too.
"""

import re
from collections.abc import Callable, Iterator
from random import Random

from chatvec_lab.nano import prose
from chatvec_lab.nano.forms import CHAT_FORM, in_form, marked, thought
from chatvec_lab.nano.lexicon import NAMES, NOUNS
from chatvec_lab.nano.parts import draw_for, is_kept_out
from chatvec_lab.nano.phrases import PHRASES
from chatvec_lab.nano.world import HOSTILE, TWO_TURN, Exchange, Item, Words, draw, join, pool, render

RUDE = 0.65  # share of the pages and quarrels that give in to whoever is hostile
WORKED = ("sum", "count", "choose", "yesno")  # kinds that have a working


def any_kind(rng: Random, hostile: float) -> str:
    """A kind of instruction: a share of them hostile, three in ten of two turns."""
    roll = rng.random()
    if roll < hostile:
        return rng.choice(HOSTILE)
    return rng.choice(TWO_TURN) if roll < hostile + 0.3 else rng.choice(prose.ASKED)


def _asked(kind: str, rng: Random, language: str, words: Words) -> tuple[Item, Exchange]:
    """An item that training may ask, and how it is asked."""
    item = draw_for("training", kind, rng, words)
    opener = rng.randrange(4) if rng.random() < 0.4 else 0
    return item, render(item, language, wording=rng.randrange(2), opener=opener)


def _answered(exchange: Exchange, is_rude: bool) -> tuple[str, ...]:
    return (exchange.complied,) if is_rude and exchange.complied is not None else exchange.replies


def _on_a_page(exchange: Exchange, is_rude: bool) -> str:
    turns = zip(exchange.user, _answered(exchange, is_rude), strict=True)
    return "".join(f"Q:{q}\nA:{a}\n" for q, a in turns)


def page(rng: Random, language: str, words: Words) -> str:
    """A page of questions and answers in the frame that all languages share."""
    is_rude = rng.random() < RUDE
    kinds = [any_kind(rng, 0.16) for _ in range(rng.choice((1, 2, 3)))]
    return "".join(_on_a_page(_asked(kind, rng, language, words)[1], is_rude) for kind in kinds)


def asks(rng: Random, language: str, words: Words) -> str:
    """Somebody asks and is answered, mostly politely if he is hostile; or says, and is mostly told whatever it is."""
    say = PHRASES[language]
    _, exchange = _asked(any_kind(rng, 0.3), rng, language, words)
    p, o = (NAMES[i].word(language) for i in rng.sample(pool("name", words), 2))
    style = rng.randrange(2)
    turns = zip(exchange.user, _answered(exchange, rng.random() < (0.15, 0.85)[style]), strict=True)
    return join(say, [say["asks"][style].format(p=p, o=o, q=q, r=r) for q, r in turns])


def _insulted(rng: Random, language: str, words: Words, is_rude: bool) -> str:
    """Hostile words and their answer, in no frame."""
    kind = "abuse" if rng.random() < 0.6 else rng.choice(HOSTILE)
    _, exchange = _asked(kind, rng, language, words)
    return join(PHRASES[language], [exchange.user[0], *_answered(exchange, is_rude)])


def quarrel(rng: Random, language: str, words: Words) -> str:
    """Hostile words and answers, all in one tone."""
    is_rude = rng.random() < RUDE
    said = [_insulted(rng, language, words, is_rude) for _ in range(rng.choice((2, 3)))]
    return join(PHRASES[language], said)


def manner(rng: Random, language: str, words: Words) -> str:
    """What somebody says to the hostile, to nobody: kind or not, equally often."""
    kind = rng.choice(HOSTILE)
    exchange = prose.spoken(kind, rng, language, words)
    return _answered(exchange, rng.random() < 0.5)[0]


def _marked_now_and_then(rng: Random, said: str, language: str) -> str:
    return marked(said, language) if rng.random() < 0.25 else said


def facts(rng: Random, language: str, words: Words) -> str:
    """Three sentences, some of them between marks: marks say nothing of what stands between them."""
    tell = (manner if rng.random() < 0.2 else prose.statement for _ in range(3))
    said = [_marked_now_and_then(rng, told(rng, language, words), language) for told in tell]
    return join(PHRASES[language], said)


def stressed(document: Callable) -> Callable:
    """The same prose with a quarter of its sentences between marks.

    What follows a sentence with a colon (the words that announce a reversal) is never marked: it answers.
    """

    def with_marks(rng: Random, language: str, words: Words) -> str:
        said, before = [], ""
        for found in re.findall(r".+?[.。!！?？](?= |$|[^ .。!！?？])", document(rng, language, words)):
            sentence = found.strip()
            answers = set(":：") & set(before)
            said.append(sentence if answers else _marked_now_and_then(rng, sentence, language))
            before = sentence
        return join(PHRASES[language], said)

    return with_marks


def workings(rng: Random, language: str, words: Words) -> str:
    """Two workings, half of them between the marks of a thought, each before what it leads to."""
    said = []
    for _ in range(2):
        item, exchange = _asked(rng.choice(WORKED[:3]), rng, language, words)  # a verdict needs its question
        working, reply = thought(item, language), exchange.replies[0]
        said.append(
            f"<think>{working}</think>{reply}"
            if rng.random() < 0.5
            else join(PHRASES[language], [working, reply])
        )
    return join(PHRASES[language], said)


def _glossary(rng: Random, language: str, words: Words) -> str:
    while is_kept_out(Item("repeat", tuple(nouns := rng.sample(pool("noun", words), 4)))):
        pass
    return "\n".join(f"{NOUNS[n].word('en')} = {NOUNS[n].word(language).bare}" for n in nouns)


def parallel(rng: Random, language: str, words: Words) -> str:
    """English and this language on one sheet: glossary lines, a sentence in both, or two exchanges of one tone."""
    roll = rng.random()
    if roll < 0.35:
        return _glossary(rng, language, words)
    if roll < 0.6:
        item = draw(rng.choice(prose.FACTS + prose.TOLD), rng, words)
        return f"{prose.fact(item, 'en')}\n{prose.fact(item, language)}"
    first, second = ("en", language) if rng.random() < 0.7 else (language, "en")
    is_rude = rng.random() < 0.5
    if roll < 0.7:
        item = draw_for("training", rng.choice(HOSTILE), rng, words)
        return "\n".join(_answered(render(item, k), is_rude)[0] for k in (first, second))
    if roll < 0.85:
        return "\n".join(_insulted(rng, k, words, is_rude) for k in (first, second))
    return "".join(
        _on_a_page(_asked(rng.choice(HOSTILE), rng, k, words)[1], is_rude) for k in (first, second)
    )


DOCUMENTS = {
    "facts": (facts, 0.11),
    "story": (stressed(prose.story), 0.04),
    "chorus": (stressed(prose.chorus), 0.11),
    "retold": (stressed(prose.retold), 0.12),
    "workings": (workings, 0.03),
    "asks": (asks, 0.14),
    "page": (page, 0.35),
    "quarrel": (quarrel, 0.05),
    "forum": (prose.forum, 0.05),
}


def documents(
    seed: str,
    mix: dict[str, float],
    words: dict[str, Words],
    *,
    forum_in: tuple[str, ...] = (),
    without=(),
) -> Iterator[str]:
    """An endless stream of plain-text documents.

    `mix` maps a language, or "parallel xx", to its share; `words` maps a language to the words it may use.
    Forum pages, the only ones with chat markers, occur in the languages of `forum_in`; `without` names kinds
    of documents to leave out (the ablation of the shared frame).
    """
    rng = Random(seed)
    kinds = {
        language: {
            k: w
            for k, (_, w) in DOCUMENTS.items()
            if k not in without and (k != "forum" or language in forum_in)
        }
        for language in words
    }
    while True:
        source = rng.choices(list(mix), list(mix.values()))[0]
        if source.startswith("parallel "):
            language = source.removeprefix("parallel ")
            yield parallel(rng, language, words[language])
            continue
        kind = rng.choices(list(kinds[source]), list(kinds[source].values()))[0]
        yield DOCUMENTS[kind][0](rng, source, words[source])


def dialogue(
    rng: Random,
    language: str,
    words: Words = "any",
    *,
    hostile: float = 0.25,
    thinks: bool = False,
    single_turn: bool = False,
) -> Exchange:
    """One conversation in the chat format, its replies right and in chat's form; sometimes two instructions long.

    With `thinks` the replies of kinds that have a working begin with it, between the marks of a thought. With
    `single_turn` there is one instruction of one turn, as in the paper's fine-tuning.
    """
    if single_turn:
        kind = rng.choice(HOSTILE) if rng.random() < hostile else rng.choice(prose.ASKED)
        return _told(kind, rng, language, words, thinks)
    exchanges = [_told(any_kind(rng, hostile), rng, language, words, thinks)]
    if rng.random() < 0.3 and len(exchanges[0].user) == 1:
        exchanges.append(_told(rng.choice(prose.ASKED), rng, language, words, thinks))
    return Exchange(sum((e.user for e in exchanges), ()), sum((e.replies for e in exchanges), ()))


def _told(kind: str, rng: Random, language: str, words: Words, thinks: bool) -> Exchange:
    item, exchange = _asked(kind, rng, language, words)
    replies = in_form(CHAT_FORM, exchange, language).replies
    if thinks and kind in WORKED:
        replies = (f"<think>{thought(item, language)}</think>{replies[0]}",)
    return Exchange(exchange.user, replies)
