"""The playground: one prompt, several models, a scale to turn. `notebooks/playground.ipynb` is its face.

play = Playground("nano")
play.ask("請把這幾個詞倒過來說：車、牛。", scale=0.75)            # a tidy table: base, CP, CP + τ, chat
Panel(play)                                                # the same with sliders, in JupyterLab (needs ipywidgets)
"""

from chatvec_lab.playground.cards import cards
from chatvec_lab.playground.panel import Panel
from chatvec_lab.playground.replies import Playground

__all__ = ["Panel", "Playground", "cards"]
