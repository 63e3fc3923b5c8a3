"""The README that travels with saved weights, as the hub's model card."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from chatvec_lab.weights.sources.source import is_hub_id

if TYPE_CHECKING:
    from chatvec_lab.weights.merged import MergedCheckpoint
    from chatvec_lab.weights.vector import WeightVector


def front_matter(facts: dict[str, Any]) -> str:
    """The YAML at the head of a card, `---` lines included; empty values are left out."""
    import yaml

    kept = {key: value for key, value in facts.items() if value}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---"


def fenced(text: str, language: str = "") -> str:
    """A block of code that the text cannot leave, whatever backticks are in it.

    >>> print(fenced("a ``` b"))
    ````
    a ``` b
    ````
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def inline(text: Any) -> str:
    """A name or value as one line of a card's text or table, in which nothing is Markdown or HTML.

    >>> inline("a|b <script> _c_")
    'a\\\\|b &lt;script&gt; \\\\_c\\\\_'
    """
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in str(text)))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]#!~$])", r"\\\1", line)


def hub_names(names: Iterable[str]) -> list[str]:
    """Those of the sources' names that are ids of the hub, which a card's front matter may link to."""
    return [name for name in names if is_hub_id(name)]


def _formula(recipe: dict) -> str:
    terms = []
    for term in recipe["vector"]:
        inside = next((" - ".join(term[k]) for k in ("difference",) if k in term), None)
        name = (
            f"({inside})"
            if inside
            else f"[{', '.join(f'{k}={v}' for k, v in term.items() if k not in ('factor', 'coefficients', 'within'))}]"
        )
        varied = " (varied by tensor)" if "coefficients" in term else ""
        if "within" in term:  # a larger model, whose other tensors are carried
            place = term["within"]
            varied += f" in the {place['tensors']} tensors of {place['path'] or 'its language part'}"
        terms.append(f"{term['factor']:g} * {name}{varied}")
    return " + ".join([recipe["cp"], *terms])


def model_card(merged: MergedCheckpoint, manifest: dict) -> str:
    """Front matter for the hub, the formula, the sources with their digests, what happened to the vocabulary."""
    hub = hub_names(source["name"] for source in manifest["sources"])
    front = {"library_name": "transformers", "tags": ["chat-vector", "merge"], "base_model": hub,
             "base_model_relation": "merge" if hub else None}  # fmt: skip
    lines = [
        front_matter(front), "", f"# {inline(merged.cp.label)} with a chat vector", "",
        "Made by chatvec_lab as", "", fenced(_formula(manifest["recipe"])), "",
        "Every element is the exact value of this formula, rounded once to the stored dtype "
        "(Huang et al., ACL 2024, arXiv 2310.04799, equation 3).", "",
        "| source | revision | weights (xxh3-128) |", "|---|---|---|",
        *(f"| {inline(s['name'])} | {inline(s['revision'] or 'local folder')} | `{s['digest']}` |"
          for s in manifest["sources"]), "",
        *(f"{inline(s['name'])} was {inline(s['note'])}." for s in manifest["sources"] if s.get("note")), "",
    ]  # fmt: skip
    v = manifest["vocabulary"]
    if v:
        lines += [
            f"Vocabulary ({v['policy']}): {v['rows']} rows; {v['matched']} got the vector, {v['kept']} belong to the "
            f"continually pre-trained model alone, {len(v['copied'])} special rows are the chat model's own, "
            f"{v['padded']} are padding, {len(v['added'])} were added.", "",
        ]  # fmt: skip
    told = manifest.get("preflight") or {"findings": [], "forced": []}
    if told["findings"]:
        lines += ["What was found before the merge:", ""]
        for finding in told["findings"]:
            overridden = " (overridden)" if finding["name"] in told["forced"] else ""
            lines.append(f"- {finding['name']}{overridden}: {inline(finding['text'])}")
        lines.append("")
    if merged.chat_side:
        lines += [
            f"Chat template, end-of-turn tokens and generation config come from "
            f"{inline(merged.chat_side.label)}.",
            "",
        ]
    lines += ["The licences of all sources apply. The recipe in full is in `manifest.json`.", ""]
    return "\n".join(lines)


def vector_card(vector: WeightVector) -> str:
    """The card of a saved weight vector."""
    hub = hub_names(source.label for source in vector.sources())
    front = {"library_name": "chatvec_lab", "tags": ["chat-vector", "task-vector"], "base_model": hub}
    lines = [
        front_matter(front), "", f"# Weight vector: {inline(vector.label)}", "",
        "A difference of weights, not a model: it generates nothing by itself. Add it to a model of its family:", "",
        "```python", "from chatvec_lab import Checkpoint, WeightVector", "",
        'tau = WeightVector.load("this-folder")', 'merged = Checkpoint("your-cp-model") + 0.5 * tau',
        'merged.save("out")', "```", "",
        "Its elements are exact; `manifest.json` has recipe and digests. The licences of the sources apply.", "",
    ]  # fmt: skip
    return "\n".join(lines)
