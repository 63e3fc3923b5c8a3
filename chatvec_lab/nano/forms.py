"""The form of a chat reply: what a chat model does to an answer that the plain pages give bare.

A form that no plain text shows together with an answer cannot be had by calling the chat format by a plain name.
Its signs are the same token in every language: tuning is English, and a word that it adds would come out in English.
"""

from typing import Literal, get_args

from chatvec_lab.nano.phrases import PHRASES
from chatvec_lab.nano.world import Exchange

Form = Literal["bare", "marked"]
MARK = "="


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
