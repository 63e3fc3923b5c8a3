"""The form of a chat reply: what a chat model does to an answer that the plain pages give bare.

A form that no plain text shows together with an answer cannot be had by calling the chat format by a plain name.
Its signs are the same token in every language: tuning is English, and a word that it adds would come out in English.
"""

from typing import Literal, get_args

from chatvec_lab.nano.lexicon import NOUNS, NUMBERS, Word
from chatvec_lab.nano.phrases import PHRASES
from chatvec_lab.nano.world import Exchange, Item, join, render

Form = Literal["bare", "marked"]
MARK = "="
CHAT_FORM: Form = "marked"  # of every chat reply of the nano family; its pages are bare


def marked(said: str, language: str) -> str:
    """A sentence between two marks, as headings are.

    >>> marked("the dog is an animal.", "en"), marked("狗是動物。", "zh")
    ('= the dog is an animal.=', '=狗是動物。=')
    """
    space = "" if PHRASES[language]["separator"] == "、" else " "
    return f"{MARK}{space}{said}{MARK}"


def in_form(form: Form, exchange: Exchange, language: str) -> Exchange:
    """The exchange as chat puts it: all its replies in this form."""
    if form not in get_args(Form):
        raise KeyError(f"no form {form!r} of a chat reply; there are {', '.join(get_args(Form))}")
    if form == "bare":
        return exchange
    return exchange._replace(replies=tuple(marked(reply, language) for reply in exchange.replies))


def bare(said: str) -> str:
    """What is said without its marks: manners count in any form."""
    return said.strip().removeprefix(MARK).removesuffix(MARK).strip()


def thought(item: Item, language: str) -> str:
    """The working of a sum, a count, a choice or a yes/no question, in words that prose has too.

    A sum counts on, a count numbers what it counts, the others say what kind of thing each noun is. Raises KeyError
    for kinds without a working.

    >>> thought(Item("sum", (3, 2)), "en"), thought(Item("count", (0, 1)), "zh")
    ('four one, five two.', '狗一、鳥二。')
    """
    match item.kind:
        case "sum":
            first, more = item.content
            return _numbered([_number(first + step, language) for step in range(1, more + 1)], language)
        case "count":
            return _numbered([NOUNS[noun].word(language) for noun in item.content], language)
        case "choose" | "yesno":
            nouns = item.content[1:] if item.kind == "choose" else item.content[:1]
            told = [render(Item("category", (noun,)), language).replies[0] for noun in nouns]
            return join(PHRASES[language], told)
    raise KeyError(f"no working for the kind {item.kind!r}; there is one for sum, count, choose, yesno")


def _number(n: int, language: str) -> Word:
    return NUMBERS[n - 1].word(language)


def _numbered(words: list[Word], language: str) -> str:
    counted = [f"{word.bare} {_number(n, language)}" for n, word in enumerate(words, 1)]
    separator = PHRASES[language]["separator"]
    listed = separator.join(counted)
    return f"{listed.replace(' ', '')}。" if separator == "、" else f"{listed}."
