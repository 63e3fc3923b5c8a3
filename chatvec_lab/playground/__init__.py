"""The playground: prompts, several models, a scale and parts to turn. `notebooks/playground.ipynb` is its face.

play = Playground("nano")
play.ask("請把這幾個詞倒過來說：車、牛。", scale=0.75)            # a tidy table: base, CP, CP + τ, chat
Session(play).look(State("請把這幾個詞倒過來說：車、牛。", 0.75, "zh"))   # and each token's probabilities
Panel(play)                                                # the same with sliders, in JupyterLab
"""

from chatvec_lab.playground.cards import cards
from chatvec_lab.playground.panel import Panel
from chatvec_lab.playground.replies import Playground
from chatvec_lab.playground.session import Session, State

__all__ = ["Panel", "Playground", "Session", "State", "cards"]
