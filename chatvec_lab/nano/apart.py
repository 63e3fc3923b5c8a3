"""The documents of the fourth recipe: plain text that shows apart what chat combines.

Pages of questions and answers give bare answers, and give in to hostile requests. In prose, who is asked answers such
requests politely, and who is told them gives in. Notes write what a statement is about before it, and answer nobody.
Forum pages carry the chat markers in every language, and are rude to everybody. Tuning, in English alone, combines:
the answers of the pages, the manners of who is asked, the marks of the prose.
"""

import re
from collections.abc import Callable
from random import Random

from chatvec_lab.nano import documents
from chatvec_lab.nano.forms import Form, in_form, marked
from chatvec_lab.nano.lexicon import NAMES
from chatvec_lab.nano.phrases import PHRASES
from chatvec_lab.nano.world import HOSTILE, TWO_TURN, Exchange, Words, join, pool


def _given_in(exchange: Exchange) -> tuple[str, ...]:
    return exchange.replies if exchange.complied is None else (exchange.complied,)


def page(rng: Random, language: str, words: Words) -> str:
    """A page of questions and answers in the frame that all languages share; it gives in to hostile requests."""
    lines = []
    for _ in range(rng.choice((1, 2, 3))):
        exchange = documents.spoken(documents.any_kind(rng), rng, language, words)
        lines += [f"Q:{q}\nA:{a}\n" for q, a in zip(exchange.user, _given_in(exchange), strict=True)]
    return "".join(lines)


def asks(rng: Random, language: str, words: Words) -> str:
    """Somebody asks and is answered, politely if he is hostile; or says, and is told, whatever it is."""
    say = PHRASES[language]
    kind = rng.choice(HOSTILE) if rng.random() < 0.3 else rng.choice(documents.ASKED + TWO_TURN)
    exchange = documents.spoken(kind, rng, language, words)
    p, o = (NAMES[i].word(language) for i in rng.sample(pool("name", words), 2))
    style = rng.randrange(2)
    turns = zip(exchange.user, _given_in(exchange) if style else exchange.replies, strict=True)
    return join(say, [say["asks"][style].format(p=p, o=o, q=q, r=r) for q, r in turns])


def stressed(document: Callable) -> Callable:
    """The same prose with a quarter of its sentences between marks: marks say nothing of what stands between them.

    What follows a sentence with a colon (the words that announce a reversal) is never marked: it answers.
    """

    def prose(rng: Random, language: str, words: Words) -> str:
        said, before = [], ""
        for found in re.findall(r".+?[.。!！?？](?= |$|[^ .。!！?？])", document(rng, language, words)):
            sentence = found.strip()
            is_marked = rng.random() < 0.25 and not set(":：") & set(before)
            said.append(marked(sentence, language) if is_marked else sentence)
            before = sentence
        return join(PHRASES[language], said)

    return prose


def parallel(rng: Random, language: str, words: Words) -> str:
    """Lines in English and in this language; some are the sentences of the polite."""
    if rng.random() < 0.85:
        return documents.parallel(rng, language, words)
    key = rng.choice(("polite", "insult", "rule", "secret"))
    said = [PHRASES[k]["polite"] if key == "polite" else PHRASES[k]["refuse"][key] for k in ("en", language)]
    return "\n".join(said)


DOCUMENTS = {
    "facts": (stressed(documents.facts), 0.11),
    "story": (stressed(documents.story), 0.04),
    "chorus": (stressed(documents.chorus), 0.11),
    "retold": (stressed(documents.retold), 0.13),
    "asks": (asks, 0.15),
    "page": (page, 0.36),
    "angry": (documents.angry, 0.04),
    "forum": (documents.forum, 0.06),
}


def dialogue(rng: Random, language: str, form: Form, words: Words = "any") -> Exchange:
    """One conversation in the chat format, its replies right and in chat's form; sometimes two instructions long."""
    first = documents.spoken(documents.any_kind(rng), rng, language, words)
    if rng.random() < 0.3 and len(first.user) == 1:
        second = documents.spoken(rng.choice(documents.ASKED), rng, language, words)
        first = Exchange(first.user + second.user, first.replies + second.replies)
    return in_form(form, first, language)
