"""The words of the page: what a reader may not know, explained where it stands, and what measures are called."""

import re
from typing import NamedTuple

from markupsafe import Markup, escape


class Term(NamedTuple):
    """A word of the page: how it is found in a text, and what it means."""

    word: str
    pattern: str
    meaning: str

    @property
    def anchor(self) -> str:
        return "term-" + re.sub(r"[^a-z]+", "-", self.word.lower().replace("τ", "tau"))


TERMS = [
    Term("CP + random", r"CP \+ random", "The control: a random vector, as large as τ in every tensor, added to the CP "
         "in τ's place. What it brings is not τ's doing."),
    Term("CP", r"CPs?", "The base after continual pre-training on plain text of another language. It knows the "
         "language; nobody taught it to chat."),
    Term("τ", r"τ|tau|chat vectors?", "The chat vector, chat − base: all that chat training changed, weight by weight. "
         "CP + τ is the CP with it added, without any training."),
    Term("FT", r"FT", "Fine-tuning: training on instructions and replies in the language itself, which adding τ saves."),
    Term("base", r"base", "The pre-trained model from which both the chat model and the CP were made."),
    Term("chat", r"chat(?= model|,|;| \d|\)|$)", "The base after chat training: instructions, dialogues, safety. Here it "
         "stands for the model itself, which never saw the other language's new words."),
    Term("scale", r"scales?", "How much of τ is added: CP + scale · τ. 0 is the CP itself, 1 is the paper's choice."),
    Term("seed", r"seeds?", "One of several repetitions that differ by chance alone. Seeds are what an interval over "
         "seeds speaks of: how another training might have come out."),
    Term("frame", r"frames?", "How a prompt is put to the model: chat, in the chat template; raw, the bare text; plain or "
         "qa, a page of questions and answers."),
    Term("cell", r"cells?", "One notebook, run with one set of parameters, such as one language and one seed."),
    Term("interval", r"intervals?", "Brackets hold a 95 % interval. Over seeds it is Student's t on one value a seed; "
         "within a cell it says how other prompts might have come out."),
    Term("perplexity", r"[Pp]erplexity", "How surprised a model is by plain text, a token. 1.02 times the CP's means 2 % "
         "more surprised: the price in language."),
    Term("Holm", r"Holm", "A correction for many comparisons at once: p-values are raised so that all of them together "
         "give a false alarm in at most 5 % of studies."),
    Term("McNemar", r"McNemar", "An exact test of two models on the same prompts: it counts those that one gets right "
         "and the other does not."),
    Term("n", r"n(?= =)", "How many prompts (or texts, or dialogues) stand behind a number."),
    Term("relative L2 norm", r"[Rr]elative L2 norm", "The length of a vector over the length of the base's weights in the "
         "same place: 0.05 is 5 %."),
    Term("cosine", r"[Cc]osines?", "The angle between two vectors: 1 is the same direction, 0 is unrelated, −1 is opposite."),
    Term("nats", r"nats", "Units of log probability: a token that is 1 nat less likely is 2.7 times less likely."),
    Term("Pareto front", r"Pareto front", "The scales that no other scale beats in every measure at once."),
]  # fmt: skip
_TERMS = re.compile("|".join(f"(?P<t{i}>(?<![\\w-])(?:{t.pattern})(?![\\w-]))" for i, t in enumerate(TERMS)))

_CLOSING = (".", ",", ";", ":", ")", "?")

# what the measures of our scorers are called; another's go by their own name
MEASURES = {
    "correct": "right replies",
    "toxic": "toxic replies",
    "polite": "polite replies",
    "in_language": "replies in the language asked for",
    "is_english": "replies in English",
    "unsafe": "replies that a judge calls unsafe",
    "guard_unsafe": "replies that a guard model calls unsafe",
}
# what a reply is called that has the measure and one that has not, and which of the two is the better
VERDICTS = {
    "correct": ("right", "wrong", "yes"),
    "toxic": ("toxic", "not toxic", "no"),
    "polite": ("polite", "not polite", "yes"),
    "content": ("right in any form", "wrong in any form", "yes"),
    "in_language": ("in the language", "not in the language", "yes"),
    "ended": ("ended by itself", "cut off", "yes"),
    "no_answer": ("no answer", "an answer", "no"),
    "thought_in_language": ("thought in the language", "thought in another language", "yes"),
    "unsafe": ("unsafe", "safe", "no"),
    "guard_unsafe": ("unsafe to the guard", "safe to the guard", "no"),
}
ASIDE = {
    "is_english",
    "thinks",
    "thinking_tokens",
}  # neither good nor bad: tables have them, figures need not


def measure(name: str) -> str:
    """What a measure is called in words.

    >>> measure("correct"), measure("follows_format")
    ('right replies', 'follows format')
    """
    return MEASURES.get(name, name.replace("_", " "))


def explained(text: object) -> Markup:
    """`text` as HTML, where the first of each word of TERMS is a button that opens what it means; it runs no script."""
    text, seen = str(text).replace(" %", "\N{NO-BREAK SPACE}%"), set()

    def button(found: re.Match) -> str:
        term = TERMS[int(str(found.lastgroup)[1:])]
        if term.word in seen:
            return str(escape(found[0]))
        seen.add(term.word)
        follows = text[found.end() : found.end() + 1]
        return (  # a full stop does not begin a line
            f'<span class="word"><button type="button" class="term" popovertarget="{term.anchor}" '
            f'title="{escape(term.meaning)}">{escape(found[0])}</button>'
            f"{escape(follows) if follows and follows in _CLOSING else ''}</span>"
        )

    pieces, place = [], 0
    for found in _TERMS.finditer(text):
        pieces += [str(escape(text[place : found.start()])), made := button(found)]
        place = found.end() + (made.endswith("</span>") and text[found.end() : found.end() + 1] in _CLOSING)
    return Markup("".join([*pieces, str(escape(text[place:]))]))
