"""Replies side by side as HTML: one card a model, in the script and direction of its own text. Replies are escaped.

Each token tells on hover what was likely there; its colour says how far the model is from the CP there, a line under
a word that it is another than the CP's, a wave that the model does not know it. The page needs no script for this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from chatvec_lab.evaluation.language import normalise
from chatvec_lab.playground import marks
from chatvec_lab.playground.constraints import verdicts
from chatvec_lab.playground.session import mean_divergence, sum_of

if TYPE_CHECKING:
    import pandas as pd
    from pandas import DataFrame

    from chatvec_lab.playground.session import Look
    from chatvec_lab.playground.tokens import Token
    from chatvec_lab.playground.unknown import Dictionary, Unknown

CSS = Path(__file__).with_name("cards.css").read_text("utf-8")
FAR = 10.0  # nats a token at which the colour is full; it grows with the square root, so that little is seen too
# browsers choose the glyphs of a Han character by the language of its text
_LANG = {"zh": "zh-Hant", "han": "zh-Hant"}


def cards(replies: DataFrame) -> str:
    """What `Playground.ask` returns, as a card a model: its replies, language, toxicity and check. Text is escaped.

    >>> from chatvec_lab.playground.replies import Playground
    >>> html = cards(Playground("nano", compare=[]).ask("這是紅色的書。這本書是什麼顏色的？", scale=0.5))
    >>> "CP + 0.5 τ" in html, "<script" in html
    (True, False)
    """
    parts = [_row(replies.assign(label=list(map(_label, replies.itertuples()))), {}, "CP", {})]
    return f'<style>{CSS}</style><div class="chatvec-look">{"".join(parts)}</div>'


def view(look: Look, dictionary: Dictionary, *, against: str = "CP", with_css: bool = True) -> str:
    """All that was found for a state: a row of cards a prompt, with tokens, differences and unknown words marked.

    against: the label of the card with whose reply the others are compared; CP, where there is no such card.
    """
    rows = []
    for number, prompt in enumerate(look.state.prompts):
        found = look.replies[look.replies.number.eq(number)]
        readings = {(label, turn): read for (n, label, turn), read in look.readings.items() if n == number}
        texts = {text for text in (*found.prompt, *found.response)}
        unknown = {
            (label, text): dictionary.unknown(model, look.state.cp, text)
            for label, model in dict(zip(found.label, found.model, strict=True)).items()
            for text in texts
        }
        title = (
            f"prompt {number + 1} of {len(look.state.prompts)}" if len(look.state.prompts) > 1 else "prompt"
        )
        said = prompt.replace("\n---\n", "\n— then —\n")
        of_cp = dictionary.unknown("CP + τ", look.state.cp, said)
        head = f'<div class="chatvec-prompt" dir="auto">{_marked(said, [], [], of_cp)}</div>'
        head = head if len(look.state.prompts) > 1 or of_cp else ""  # else it stands in the box above
        rows.append(
            f'<section class="chatvec-asked" aria-label="answers to {title}">{head}'
            f"{_row(found, readings, against, unknown)}</section>"
        )
    style = f"<style>{CSS}</style>" if with_css else ""
    return f'{style}<div class="chatvec-look">{"".join(rows)}{LEGEND}</div>'


LEGEND = f"""<p class="chatvec-legend">
<span><i class="chatvec-ramp" aria-hidden="true"></i> how far from the CP: 0 to {FAR:g} nats a token (by the square root)</span>
<span><mark>underlined</mark>: another word than in the reply compared with</span>
<span><u class="chatvec-unknown">waved</u>: a word that the model does not know</span>
<span>hover over a token, or walk through a reply with the arrow keys, for what was likely there</span></p>"""


def _label(row) -> str:
    return f"CP {sum_of(row.scale, row.vector)}" if row.model == "CP + τ" else row.model


def _row(replies: DataFrame, readings: Mapping, against: str, unknown: Mapping) -> str:
    groups = dict(list(replies.groupby("label", sort=False)))
    other = groups.get(against, groups.get("CP"))
    return '<div class="chatvec-cards">' + "".join(
        _card(label, turns, None if other is None or turns is other else other, readings, unknown)
        for label, turns in groups.items()
    ) + "</div>"  # fmt: skip


def _card(label: str, turns: DataFrame, other: DataFrame | None, readings: Mapping, unknown: Mapping) -> str:
    last = turns.iloc[-1]
    kind = " is-pinned" if label.startswith("pinned") else " is-merged" if last.model == "CP + τ" else ""
    said, strange, words_apart = [], [], [0, 0]
    theirs = [] if other is None else other.response.tolist()
    for place, row in enumerate(turns.itertuples()):
        if len(turns) > 1:
            said.append(f'<div class="chatvec-said" dir="auto">{escape(row.prompt)}</div>')
        apart = marks.changed(row.response, theirs[place]) if place < len(theirs) else []
        spans = unknown.get((label, row.response), [])
        strange += [(row.response, spans), (row.prompt, unknown.get((label, row.prompt), []))]
        words_apart[0] += sum(
            any(s < w.stop and w.start < e for s, e in apart) for w in marks.words(row.response)
        )
        words_apart[1] += len(marks.words(row.response))
        said.append(_reply(row, readings.get((label, row.turn), ()), apart, spans))
    facts = _facts(last, turns)
    if other is not None and words_apart[1]:
        facts.append(_apart(words_apart, other.label.iloc[0]))
    facts += _far([token for (name, _), read in readings.items() if name == label for token in read])
    facts += _strange(strange)
    listed = "".join(f"<li>{fact}</li>" for fact in facts)
    return (
        f'<article class="chatvec-card{kind}" data-model="{escape(last.model)}" aria-label="{escape(label)}">'
        f'<h4 class="chatvec-name">{escape(label)}</h4>{"".join(said)}<ul class="chatvec-facts">{listed}</ul></article>'
    )


def _reply(row, read: Sequence[Token], apart: list, unknown: list[Unknown]) -> str:
    language = normalise(row.reply_language) or "" if isinstance(row.reply_language, str) else ""
    lang = escape(_LANG.get(language, language))
    text = _marked(row.response, read, apart, unknown)
    if not row.response.strip():
        text = f'<em class="chatvec-empty">(empty reply)</em>{text}'
    return f'<p class="chatvec-reply" dir="auto" lang="{lang}">{text}</p>'


def _marked(text: str, read: Sequence[Token], apart: list[tuple[int, int]], unknown: list[Unknown]) -> str:
    """The text with its tokens, other words and unknown words: each token one element, each mark inside of it."""
    pieces, reached = [], 0
    for token in read:
        if token.start > reached:
            pieces.append(_inside(text, reached, token.start, apart, unknown))
        inner = _inside(text, token.start, token.stop, apart, unknown)
        if not inner:
            inner = f'<b class="chatvec-bare">{escape(visible(token.text))}</b>'  # a special token: the end of the turn
        pieces.append(_token(token, inner))
        reached = max(reached, token.stop)
    return "".join(pieces) + _inside(text, reached, len(text), apart, unknown)


def _token(token: Token, inner: str) -> str:
    far, title = f"--far:{_shade(token.divergence):.3f}", escape(told(token))
    return f'<span class="chatvec-token" style="{far}" title="{title}">{inner}</span>'


def _shade(nats: float) -> float:
    """From 0 to 1; 0 where the two models could not be compared."""
    return 0.0 if math.isnan(nats) else min(nats / FAR, 1.0) ** 0.5


def told(token: Token) -> str:
    """What a token's hover says, line by line.

    >>> from chatvec_lab.playground.tokens import Token
    >>> print(told(Token(0, 1, "紅", 0.5, (("紅", 0.5), ("藍", 0.25)), 1.25, 0.1, (("藍", 0.75),))))
    紅: 50 % here, 10 % by the CP
    1.25 nats from the CP
    likely here: 紅 50 %, 藍 25 %
    by the CP: 藍 75 %
    """
    is_compared = bool(token.cp_top)
    lines = [f"{visible(token.text)}: {_percent(token.probability)} here"]
    if is_compared:
        lines[0] += f", {_percent(token.cp_probability)} by the CP"
        lines.append(f"{token.divergence:.2f} nats from the CP")
    lines.append(f"likely here: {_listed(token.top)}")
    return "\n".join([*lines, f"by the CP: {_listed(token.cp_top)}"] if is_compared else lines)


def _listed(top: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{visible(text)} {_percent(p)}" for text, p in top)


def visible(text: str) -> str:
    return text.replace("\n", "⏎").strip(" ") or "␣"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"


def _inside(text: str, start: int, stop: int, apart: list[tuple[int, int]], unknown: list[Unknown]) -> str:
    """A span of the text, escaped, with marks around what is other and what is unknown."""
    edges = {start, stop}
    for low, high in [*apart, *((u.start, u.stop) for u in unknown)]:
        edges |= {edge for edge in (low, high) if start < edge < stop}
    cuts, pieces = sorted(edges), []
    for low, high in pairwise(cuts):
        piece = escape(text[low:high])
        why = next((u.why for u in unknown if u.start <= low < u.stop), None)
        if why:
            piece = f'<u class="chatvec-unknown" data-why="{escape(why)}">{piece}</u>'
        pieces.append(f"<mark>{piece}</mark>" if any(a <= low < b for a, b in apart) else piece)
    return "".join(pieces)


def _apart(counted: list[int], other: str) -> str:
    apart, all_words = counted
    name = escape(other)
    if not apart:
        return f"the same words as {name}"
    return f"{apart} of {all_words} words other than {name}"


def _far(read: list[Token]) -> list[str]:
    if not read or math.isnan(mean_divergence(read)):
        return []
    most = max(read, key=lambda token: token.divergence)
    at = (
        f", most at <bdi>{escape(visible(most.text))}</bdi> ({most.divergence:.2g})"
        if most.divergence
        else ""
    )
    return [f"{mean_divergence(read):.2g} nats a token from the CP{at}"]


def _strange(found: Sequence[tuple[str, list[Unknown]]]) -> list[str]:
    by_why: dict[str, list[str]] = {}
    for text, spans in found:
        for span in spans:
            by_why.setdefault(span.why, []).append(text[span.start : span.stop])
    return [
        f"does not know <bdi>{escape(', '.join(dict.fromkeys(words)))}</bdi> ({escape(why)})"
        for why, words in by_why.items()
    ]


def _facts(row: pd.Series, turns: DataFrame) -> list[str]:
    """Language and toxicity of the last reply, the checks of all turns, and how it ended, each in words."""
    facts = [f"language: {escape(row.reply_language) if isinstance(row.reply_language, str) else 'none'}"]
    if row.toxicity == row.toxicity:
        facts.append(f'<span title="{escape(row.toxicity_note)}">toxicity: {row.toxicity:.2g}</span>')
    else:
        facts.append(f"toxicity: not covered ({escape(row.toxicity_note)})")
    facts += [fact for turn in turns.itertuples() for fact in _checks(turn)] or [
        "check: none for this prompt"
    ]
    return [*facts, f"{row.tokens} tokens" + (", cut there" if row.finish_reason == "length" else "")]


_SIGNS = {"kept": "✓ ", "broken": "✗ "}


def _checks(row) -> list[str]:
    """What was asked of one reply and whether it was kept, a line a constraint."""
    found = []
    for line in verdicts(row.check, row.followed):
        kept, _, what = line.partition(": ")
        what, _, reply = what.partition(": ")
        reply = f": <bdi>{escape(reply)}</bdi>" if reply else ""
        found.append(f"<b>{_SIGNS.get(kept, '')}{kept}</b>: {escape(what)}{reply}")
    return found


def sweep_table(sweep: DataFrame, prompts: Sequence[str]) -> str:
    """Prompts down, scales across: the last reply at each, whether it kept what was asked, and how far it is."""
    last = sweep.groupby(["number", "scale"], sort=False).last().reset_index()
    scales = sorted(last.scale.unique())
    head = "".join(f'<th scope="col">{scale:g}</th>' for scale in scales)
    rows = []
    for number, prompt in enumerate(prompts):
        cells = "".join(_cell(row) for row in last[last.number.eq(number)].sort_values("scale").itertuples())
        rows.append(f'<tr><th scope="row" dir="auto">{escape(prompt)}</th>{cells}</tr>')
    caption = "CP + scale · τ: the last reply to each prompt at each scale. ✓ kept what was asked, ✗ did not."
    return (
        f'<div class="chatvec-look"><table class="chatvec-sweep"><caption>{caption}</caption><thead><tr>'
        f'<th scope="col">prompt \\ scale</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _cell(row) -> str:
    mark, said = (
        ("", "") if row.followed != row.followed else ("✓ ", "kept: ") if row.followed else ("✗ ", "broken: ")
    )
    title = escape(f"{row.divergence:.2f} nats a token from the CP; {row.alike:.0%} of the words alike")
    text = escape(row.response.strip()) or "(empty)"
    mark = f'<span role="img" aria-label="{said}">{mark}</span>' if mark else ""
    return f'<td style="--far:{_shade(row.divergence):.3f}" title="{title}">{mark}<span dir="auto">{text}</span></td>'


__all__ = ["CSS", "cards", "sweep_table", "told", "view"]
