"""What is taken home from the playground: tables, figures and the cell that gives them again, in the results' folder."""

from __future__ import annotations

import base64
import io
import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from chatvec_lab import figures, study
from chatvec_lab.figures.style import text_width
from chatvec_lab.playground.cards import FAR, visible
from chatvec_lab.playground.replies import Playground
from chatvec_lab.playground.session import MODEL, Look, Session, State

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MANY_BARS = 6  # prompts whose tokens are drawn; the table has all


def save(session: Session, look: Look, out: Path, sweep: pd.DataFrame | None = None) -> list[Path]:
    """Write a look's replies and tokens as tables, its figure, the sweep's if there is one, and the cell; their paths.

    Names are numbered, playground-001 and so on, so that nothing is written over.
    """
    out = study.output(out)
    taken = {
        int(p.stem.split("-")[1]) for p in out.glob("tables/playground-*.json") if p.stem.count("-") == 1
    }
    name = f"playground-{max(taken, default=0) + 1:03d}"
    study.save_table(out, name, replies_table(look), caption=f"Replies of {look.state.sum}.", show=False)
    study.save_table(
        out, f"{name}-tokens", tokens_table(look), caption="Each reply, token by token.", show=False
    )
    figure = divergence_figure(look)
    study.save_figure(out, name, figure, caption=caption(look), alt=caption(look))
    if sweep is not None:
        study.save_table(
            out,
            f"{name}-scales",
            sweep.drop(columns="token_ids"),
            caption="Over scales and prompts.",
            show=False,
        )
        told = "Each prompt at each scale: how far from the CP, and whether the reply kept what was asked (× did not)."
        study.save_figure(
            out, f"{name}-scales", sweep_figure(sweep, look.state.prompts), caption=told, alt=told
        )
    cell = out / f"{name}.py"
    cell.write_text(session.cell(look.state) + "\n", "utf-8")
    return [cell, *sorted(path for kind in ("tables", "figures") for path in (out / kind).glob(f"{name}*"))]


def replies_table(look: Look) -> pd.DataFrame:
    """The replies as they are saved, one row a prompt, model and turn."""
    first = ["number", "label"]
    table = look.replies.drop(columns="token_ids")
    return table[[*first, *(c for c in table if c not in first)]]


def tokens_table(look: Look) -> pd.DataFrame:
    """One row a token: number, label, turn, place, token, probability, divergence, cp_probability, likeliest, cp_likeliest."""
    rows = [
        {
            **{"number": number, "label": label, "turn": turn, "place": place, "token": token.text},
            **{"probability": token.probability, "divergence": token.divergence},
            "cp_probability": token.cp_probability,
            "likeliest": token.top[0][0],
            "cp_likeliest": token.cp_top[0][0] if token.cp_top else None,
        }
        for (number, label, turn), read in look.readings.items()
        for place, token in enumerate(read)
    ]
    return pd.DataFrame(rows)


def caption(look: Look) -> str:
    return f"KL(CP ‖ CP + τ) at each token of the last reply of {look.state.sum}."


def divergence_figure(look: Look) -> Figure:
    """Bars of the divergence at each token of the last reply of CP + τ, a row a prompt, of the first six prompts."""
    prompts = look.state.prompts[:MANY_BARS]
    figure, axes = figures.subplots(len(prompts), 1, width="text", ratio=0.3 * len(prompts) + 0.05)
    for number, ax in enumerate([axes] if len(prompts) == 1 else list(axes)):
        rows = look.replies[look.replies.number.eq(number) & look.replies.model.eq(MODEL)].iloc[:1]
        reads = [
            r for (n, label, _), r in look.readings.items() if (n, label) == (number, rows.label.iloc[0])
        ]
        divergence_bars(reads[-1], ax=ax)
    return figure


def divergence_bars(read, *, ax: Axes) -> Axes:
    """One bar a token: KL from the CP in nats, with the token beneath."""
    with figures.style():
        heights = [0.0 if math.isnan(token.divergence) else token.divergence for token in read]
        ax.bar(range(len(read)), heights, color="#d55e00")
        names = [visible(token.text) for token in read]
        is_tight = sum(map(text_width, names)) > 60
        ax.set_xticks(
            range(len(read)), [n.replace("$", r"\$") for n in names], rotation=90 if is_tight else 0
        )
        ax.set_ylabel("nats from the CP")
        ax.set_ylim(0, max([*heights, 0.1]) * 1.05)
    return ax


def sweep_figure(sweep: pd.DataFrame, prompts) -> Figure:
    """Prompts down, scales across: colour is the divergence from the CP, the sign whether the reply kept what was asked."""
    figure, ax = figures.subplots(width="text", ratio=0.12 * len(prompts) + 0.16)
    sweep_tiles(sweep, prompts, ax=ax)
    return figure


def sweep_tiles(sweep: pd.DataFrame, prompts, *, ax: Axes) -> Axes:
    from matplotlib.colors import PowerNorm

    with figures.style():
        last = sweep.groupby(["number", "scale"], sort=True).last().reset_index()
        tiles = last.pivot(index="number", columns="scale", values="divergence")
        mesh = ax.pcolormesh(
            tiles.to_numpy(), norm=PowerNorm(0.5, 0, FAR), cmap="Oranges", edgecolors="white", linewidth=1
        )
        ax.set_xticks([i + 0.5 for i in range(tiles.shape[1])], [f"{scale:g}" for scale in tiles.columns])
        ax.set_yticks([i + 0.5 for i in range(len(tiles))], [_short(prompts[n]) for n in tiles.index])
        ax.invert_yaxis()
        ax.tick_params(length=0)
        ax.set_xlabel("scale of the chat vector")
        for row in last.itertuples():
            if row.followed == row.followed:
                place = (tiles.columns.get_loc(row.scale) + 0.5, tiles.index.get_loc(row.number) + 0.5)
                colour = "white" if row.divergence > 0.6 * FAR else "black"
                ax.text(
                    *place,
                    "kept" if row.followed else "×",
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=6,
                )
        ax.figure.colorbar(mesh, ax=ax, label="nats a token", extend="max")
    return ax


def profile_picture(play: Playground, state: State) -> str:
    """The norms of what is added over the layers, all of them on the axis, as an HTML image."""
    from matplotlib.figure import Figure

    table = play.profile(state.vector, dict(state.parts))
    if table.layer.isna().all():
        outside = ", ".join(table.module) or "nothing"
        return f"<p><em>Added in no layer, only to: {escape(outside)}.</em></p>"
    picture = io.BytesIO()
    with figures.style():
        figure = Figure(
            figsize=figures.size("column", 0.72)
        )  # not pyplot's, which cells would show once more
        ax = figures.layer_profile(table, ax=figure.subplots())
        ax.set_xlim(-0.2, play.layers - 0.8)
        figure.savefig(picture, format="png", dpi=200)
    code = base64.b64encode(picture.getvalue()).decode()
    alt = escape(
        f"norms of what is added: {state.vector}, a line a kind of module, over {play.layers} layers"
    )
    return f'<img class="chatvec-profile" width="320" alt="{alt}" src="data:image/png;base64,{code}">'


def _short(prompt: str, most: int = 24) -> str:
    line = prompt.replace("\n", " ").replace("$", r"\$")
    while text_width(line) > most:
        line = line[:-2] + "…"
    return line


def over_scales(look: Look, sweep: pd.DataFrame) -> pd.DataFrame:
    """Base, CP and chat of a look and CP + τ at each scale of a sweep in one table, one row a reply, by `label`."""
    others = look.replies[~look.replies.model.eq(MODEL)]
    merged = sweep.assign(label="scale " + sweep.scale.map("{:g}".format))
    table = pd.concat([others, merged], ignore_index=True).drop(columns=["token_ids", "is_cached"])
    return table.sort_values(["number", "scale", "turn"], na_position="first", kind="stable").reset_index(
        drop=True
    )


def answer(replies: pd.DataFrame) -> str:
    """In a sentence, which models did what was asked in their last reply; of several prompts, how many of them.

    >>> rows = {"number": 0, "turn": 1, "label": ["CP", "scale 1"], "followed": [0.0, 1.0]}
    >>> answer(pd.DataFrame(rows))
    'Does the reply do what was asked? CP no; scale 1 yes.'
    """
    last = replies[replies.turn.eq(replies.groupby("number").turn.transform("max"))]
    checked = last[last.followed.notna()]
    if checked.empty:
        return "Does the reply do what was asked? No check knows this prompt."
    told = []
    for label, rows in checked.groupby("label", sort=False):
        right = int(rows.followed.sum())
        word = ("yes" if right else "no") if last.number.nunique() == 1 else f"{right} of {len(rows)}"
        told.append(f"{label} {word}")
    return f"Does the reply do what was asked? {'; '.join(told)}."
