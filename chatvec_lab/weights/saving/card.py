"""The README that travels with saved weights, as the hub's model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatvec_lab.weights.merged import MergedCheckpoint


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
    hub = [source["name"] for source in manifest["sources"] if "/" in source["name"]]
    front = ["---", "library_name: transformers", "tags:", "- chat-vector", "- merge"]
    front += ["base_model:", *(f"- {name}" for name in hub), "base_model_relation: merge"] if hub else []
    lines = [
        *front, "---", "", f"# {merged.cp.label} with a chat vector", "",
        "Made by chatvec_lab as", "", "```", _formula(manifest["recipe"]), "```", "",
        "Every element is the exact value of this formula, rounded once to the stored dtype "
        "(Huang et al., ACL 2024, arXiv 2310.04799, equation 3).", "",
        "| source | revision | weights (xxh3-128) |", "|---|---|---|",
        *(f"| {s['name']} | {s['revision'] or 'local folder'} | `{s['digest']}` |" for s in manifest["sources"]), "",
    ]  # fmt: skip
    v = manifest["vocabulary"]
    if v:
        lines += [
            f"Vocabulary ({v['policy']}): {v['rows']} rows; {v['matched']} got the vector, {v['kept']} belong to the "
            f"continually pre-trained model alone, {len(v['copied'])} special rows are the chat model's own, "
            f"{v['padded']} are padding, {len(v['added'])} were added.", "",
        ]  # fmt: skip
    told = manifest["preflight"]
    if told["findings"]:
        lines += ["What was found before the merge:", ""]
        lines += [
            f"- {f['name']}{' (overridden)' if f['name'] in told['forced'] else ''}: {f['text']}"
            for f in told["findings"]
        ]
        lines += [""]
    if merged.chat_side:
        lines += [
            f"Chat template, end-of-turn tokens and generation config come from {merged.chat_side.label}.",
            "",
        ]
    lines += ["The licences of all sources apply. The recipe in full is in `manifest.json`.", ""]
    return "\n".join(lines)
