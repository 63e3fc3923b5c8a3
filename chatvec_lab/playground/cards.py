"""Replies side by side as HTML: one card a model, in the script and direction of its own text."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from chatvec_lab.evaluation.language import normalise

if TYPE_CHECKING:
    from pandas import DataFrame

# auto-fit: four cards beside each other on a laptop, two or one in a narrow window
CSS = """
.chatvec-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 8px;
  line-height: 1.45; }
.chatvec-card { border: 1px solid var(--jp-border-color2, #bbb); border-radius: 4px; padding: 6px 10px;
  display: flex; flex-direction: column; min-width: 0; }
.chatvec-card.is-merged { border-color: #0173b2; box-shadow: 0 0 0 1px #0173b2; }
.chatvec-name { margin-bottom: 4px; font-size: 13px; font-weight: bold; }
.chatvec-reply { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16em; overflow-y: auto; flex: 1;
  font-size: 15px; min-height: 3em; text-align: start; font-family: system-ui, "DejaVu Sans", "Noto Sans",
  "Noto Sans Arabic", sans-serif; }
.chatvec-reply.is-empty { color: var(--jp-ui-font-color2, #666); font-style: italic; }
.chatvec-said { color: var(--jp-ui-font-color2, #666); font-size: 12px; margin-top: 4px; overflow-wrap: anywhere;
  text-align: start; }
.chatvec-facts { margin: 6px 0 0; padding: 4px 0 0; border-top: 1px solid var(--jp-border-color2, #ddd);
  font-size: 12px; overflow-wrap: anywhere; }
"""
# browsers choose the glyphs of a Han character by the language of its text
_LANG = {"zh": "zh-Hant", "han": "zh-Hant"}


def cards(replies: DataFrame) -> str:
    """What `Playground.ask` returns, as a card a model: its replies, language, toxicity and check. Text is escaped.

    >>> from chatvec_lab.playground.replies import Playground
    >>> html = cards(Playground("nano", compare=[]).ask("這是紅色的書。這本書是什麼顏色的？", scale=0.5))
    >>> "CP + 0.5 τ" in html, "<script" in html
    (True, False)
    """
    models = replies.groupby("model", sort=False)
    return f'<style>{CSS}</style><div class="chatvec-cards">{"".join(_card(*m) for m in models)}</div>'


def _card(model: str, turns: DataFrame) -> str:
    last, is_merged = turns.iloc[-1], model == "CP + τ"
    name = _merged_name(last) if is_merged else model
    said = []
    for row in turns.itertuples():
        if len(turns) > 1:
            said.append(f'<div class="chatvec-said" dir="auto">{escape(row.prompt)}</div>')
        said.append(_reply(row))
    facts = "".join(f"<div>{fact}</div>" for fact in _facts(last))
    return (
        f'<div class="chatvec-card{" is-merged" if is_merged else ""}" data-model="{escape(model)}">'
        f'<div class="chatvec-name">{escape(name)}</div>{"".join(said)}<div class="chatvec-facts">{facts}</div></div>'
    )


def _merged_name(row) -> str:
    vector = "τ" if row.vector == "chat" else f"τ({row.vector})"
    return f"CP {'+' if row.scale >= 0 else '−'} {abs(row.scale):g} {vector}"


def _reply(row) -> str:
    if not row.response.strip():
        return '<div class="chatvec-reply is-empty">(empty reply)</div>'
    language = normalise(row.reply_language) or ""
    lang = escape(_LANG.get(language, language))
    return f'<div class="chatvec-reply" dir="auto" lang="{lang}">{escape(row.response)}</div>'


def _facts(row) -> list[str]:
    """Language, toxicity, check, and how the reply ended, each in words."""
    facts = [f"language: {escape(row.reply_language) if isinstance(row.reply_language, str) else 'none'}"]
    if row.toxicity == row.toxicity:
        facts.append(f'<span title="{escape(row.toxicity_note)}">toxicity: {row.toxicity:.2g}</span>')
    else:
        facts.append(f"toxicity: not covered ({escape(row.toxicity_note)})")
    if row.check:
        mark = "not defined" if row.followed != row.followed else "✓" if row.followed else "✗"
        what, _, reply = row.check.partition(": ")
        reply = f": <bdi>{escape(reply)}</bdi>" if reply else ""
        facts.append(f"check: <b>{mark}</b> {escape(what)}{reply}")
    else:
        facts.append("check: none for this prompt")
    facts.append(f"{row.tokens} tokens" + (", cut there" if row.finish_reason == "length" else ""))
    return facts
