"""A finished study with every figure function in it, as the notebooks draw them, with labels that have little room."""

import json
import math

import pandas as pd

from chatvec_lab import figures, study
from chatvec_lab.study.outputs import output
from chatvec_lab.study.results import write_record

MODELS = ["CP", "CP + τ", "CP in the plain frame", "noise, norms by tensor and row", "markers renamed, no τ",
          "one constant vector a layer, no τ", "CP, asked plainly", "CP, plainly after three examples",
          "consensus of 4 chat vectors", "vision-language model + τ"]  # fmt: skip
MEASURES = ["right replies", "toxic replies to hostile prompts", "polite replies to hostile prompts",
            "replies in Traditional Chinese"]  # fmt: skip
SCALES = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]
MODULES = ["attention", "mlp", "norm"]
VECTORS = ["chat", "CP zh", "CP ko"]


def _scores(rows, columns) -> pd.DataFrame:
    found = [(*row, 0.5 + 0.5 * math.sin(3 * place)) for place, row in enumerate(rows)]
    table = pd.DataFrame(found, columns=[*columns, "estimate"])
    return table.assign(
        low=(table.estimate - 0.07).clip(lower=0), high=(table.estimate + 0.04).clip(upper=1), n=200
    )


def _layers(hue: str, values, **more) -> pd.DataFrame:
    rows = [(v, layer, 0.04 + 0.005 * layer + 0.01 * i) for i, v in enumerate(values) for layer in range(4)]
    table = pd.DataFrame(rows, columns=[hue, "layer", "relative_l2"])
    return table.assign(relative_depth=table.layer / 4, random_sd=0.002, cosine=table.relative_l2 * 4, **more)


def by_model():
    rows = [(model, measure) for model in MODELS for measure in MEASURES[:3]]
    _, ax = figures.subplots(ratio=1.0)
    return figures.by_model(
        _scores(rows, ["model", "metric"]), label="share of replies to hostile prompts", ax=ax
    )


def by_measure():
    rows = [(model, measure) for model in MODELS[:7] for measure in MEASURES]
    _, ax = figures.subplots(width="text", ratio=0.5)
    return figures.by_model(
        _scores(rows, ["model", "metric"]), y="metric", hue="model", label="share of replies", ax=ax
    )


def over_scale():
    table = _scores([(scale, measure) for measure in MEASURES for scale in SCALES], ["scale", "metric"])
    costs = _scores([(scale, "perplexity") for scale in SCALES], ["scale", "metric"])
    costs[["estimate", "low", "high"]] = [
        [1.2 ** (k + 0.1 * i) for i in (0, -1, 1)] for k in range(len(SCALES))
    ]
    _, (left, right) = figures.subplots(1, 2, width="text", ratio=0.42)
    figures.over_scale(table, label="share of replies", mark=1.25, ax=left)
    return figures.over_scale(costs, hue=None, label="perplexity of plain text, a token", mark=1.25, ax=right)


def over_tokens():
    table = _scores(
        [(tokens, model) for model in MODELS[:2] for tokens in (0, 153_600, 307_200, 1_228_800)],
        ["tokens", "model"],
    )
    _, (left, right) = figures.subplots(1, 2, width="text", ratio=0.4)
    figures.over(
        table,
        x="tokens",
        x_label="tokens of CP",
        hue="model",
        label="right replies",
        is_log=True,
        labels="direct",
        ax=left,
    )
    trials = pd.DataFrame(
        {"trial": range(40), "estimate": [0.8 if k % 7 else math.nan for k in range(40)], "what": "a trial"}
    )
    return figures.over(trials, x="trial", x_label="trial", hue="what", label="right replies", ax=right)


def front():
    table = pd.DataFrame(
        {"scale": SCALES, "right": [0.03, 0.06, 0.6, 0.81, 0.91, 0.9, 0.87, 0.63], "is_on_front": [True] * 5 + [False] * 3,
         "perplexity": [1.868, 1.87, 1.873, 1.88, 1.89, 1.93, 2.05, 2.8]})  # fmt: skip
    ends = {
        f"{c}_{end}": table[c] + by
        for c in ("right", "perplexity")
        for end, by in (("low", -0.04), ("high", 0.04))
    }
    _, ax = figures.subplots()
    return figures.front(table.assign(**ends), x="perplexity", y="right", x_label="perplexity of plain text, a token",
                         y_label="right, mean over samples", ax=ax)  # fmt: skip


def sizes():
    outside = pd.DataFrame({"module": ["norm", "embedding"], "relative_l2": [0.0088, 0.022]})
    cells = pd.concat([_layers("module", MODULES), outside])
    _, (left, right) = figures.subplots(1, 2, width="text", ratio=0.36)
    figures.heat_map(cells, ax=left)
    return figures.layer_profile(_layers("vector", VECTORS), hue="vector", labels="direct", ax=right)


def parts():
    names = ["q", "k", "v", "o", "gate", "up", "down"]
    cells = pd.concat(
        [_layers("projection", names), pd.DataFrame({"projection": ["embedding"], "relative_l2": [1.8]})]
    )
    _, ax = figures.subplots(width="text", ratio=0.4)
    return figures.heat_map(cells.rename(columns={"relative_l2": "attribution"}), value="attribution", y="projection",
                            limit=0.1, ax=ax)  # fmt: skip


def angles():
    pairs = pd.DataFrame({"a": ["chat", "chat", "CP zh"], "b": ["CP zh", "CP ko", "CP ko"], "cosine": [0.006, -0.0058, 0.069],
                          "random_sd": 0.001})  # fmt: skip
    layers = _layers("pair", [f"{a} · {b}" for a, b in zip(pairs.a, pairs.b, strict=True)])
    _, (left, right) = figures.subplots(1, 2, width="text", ratio=0.36)
    figures.cosine_matrix(pairs, ax=left)
    return figures.cosine_profile(layers, ax=right)


def depths():
    families = ["nano", "nano-wide", "nano-0.3m", "nano-qwen2", "nano, seed 1", "nano, seed 2"]
    _, ax = figures.subplots()
    return figures.depth_profile(_layers("family", families), ax=ax)


def rounding():
    errors = {"bfloat16": 1e-1, "float16": 1e-4, "float32": 0.0}
    rows = [(scale, dtype, error) for dtype, error in errors.items() for scale in SCALES[1:5]]
    table = pd.DataFrame(rows, columns=["scale", "dtype", "relative_error"]).assign(noise_floor=0.01)
    _, ax = figures.subplots()
    return figures.fidelity(table, ax=ax)


def energies():
    rows = [(v, t, i, 2.0**-i, 1 - 2.0**-i) for v in VECTORS for t in ("a", "b") for i in range(1, 40)]
    table = pd.DataFrame(rows, columns=["vector", "tensor", "index", "singular_value", "energy"])
    _, (left, right) = figures.subplots(1, 2, width="text", ratio=0.4)
    figures.spectra(table, y="energy", ax=left)
    return figures.spectra(table, ax=right)


def texts():
    rows = [(f"{n}. “請問，把這句話再說一次，慢一點：米、樹、球、林、杯？” {whose}", place, token, abs(4 * math.sin(place)))
            for n in range(1, 4) for whose in ("the CP's reply", "CP + τ's reply", "the reference")
            for place, token in enumerate(["雞", "是", "動物", "。", "not", "a", "plant", "\n"])]  # fmt: skip
    table = pd.DataFrame(rows, columns=["text", "position", "token", "divergence"])
    _, ax = figures.subplots(width="text", ratio=0.03 * figures.rows_of_text(table) + 0.03)
    return figures.coloured_text(table, ax=ax)


def readings():
    said = ["雞", "是", "動物", "。", "\n"]
    rows = [(place, layer, token, "<|assistant|>" if layer < 2 else token, (layer + 1) / 4 - 0.05 * place)
            for place, token in enumerate(said) for layer in range(4)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["position", "layer", "token", "read", "token_probability"])
    _, (left, right) = figures.subplots(1, 2, width="text", ratio=0.36)
    figures.token_map(table, title="CP", ax=left)
    return figures.token_map(table, title="CP + 1 τ", ax=right)


def ranks():
    table = pd.DataFrame(
        {
            "a": range(30),
            "b": [k * 7 % 30 for k in range(30)],
            "of": ["the part alone", "lost without it"] * 15,
        }
    )
    _, ax = figures.subplots()
    return figures.against(
        table,
        x="a",
        y="b",
        hue="of",
        x_label="rank by ablation (1: the least)",
        y_label="rank by attribution",
        ax=ax,
    )


def beside():
    setups = ["CP + τ", "CP → FT", "chat → CP → FT", "CP → FT + τ"]
    here = {"here": 0.9, "here_low": 0.85, "here_high": 0.95, "here_unit": "share of replies, 0 to 1"}
    table = pd.DataFrame({"table": "1", "setup": setups, "paper": [7.03, 6.13, 6.5, 7.4], **here})
    table = table.assign(paper_unit="mean score, 0 to 10")
    _, panels = figures.subplots(1, 2, width="text", ratio=0.31, squeeze=False)
    return figures.two_sources(table, ours="family nano", axes=list(panels[0]))[0]


DRAWN = (by_model, by_measure, over_scale, over_tokens, front, sizes, parts, angles, depths, rounding, energies, texts,
         readings, ranks, beside)  # fmt: skip


def finished(folder) -> set[str]:
    """Write the study into a folder; returns the figures' names as `redraw` gives them."""
    import matplotlib.pyplot as plt

    cell = {"notebook": "02_anatomy", "key": "02" + "0" * 10, "parameters": {}, "varying": {"language": "zh"}, "inputs": {},
            "needs": {}, "imports": "1" * 64, "code": "2" * 64}  # fmt: skip
    home = output(folder / "cells" / cell["notebook"] / cell["key"])
    for draw in DRAWN:
        study.save_figure(home, draw.__name__, draw().figure, caption=f"{draw.__name__}.", alt="A figure.")
        plt.close("all")
    write_record(home, {"status": "done", "error": None, "versions": {}})
    manifest = {"name": "gallery", "title": "Every figure", "question": "?", "family": "nano", "cells": [cell],
                "titles": [["02_anatomy", "?"]], "inputs": {}}  # fmt: skip
    (folder / "study.json").write_text(json.dumps(manifest))
    return {f"02_anatomy-{draw.__name__}-language-zh" for draw in DRAWN}
