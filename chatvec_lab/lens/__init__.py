"""What changes inside a model, token by token and layer by layer, and which part of the vector does it.

    live = LiveModel(cp, tau, dtype="float32")
    pairs = [lens.Pair(asked_ids, said_ids, "first")]
    lens.divergence(live, pairs, [0.5, 1.0]).tokens        # KL(CP ‖ CP + scale · τ) at each token
    lens.readings(live, pairs, [0.0, 1.0])                 # what each layer would say
    lens.attribution(live, pairs, 1.0)                     # which part did it, integrated along the scale

All of it computes on the live model with its exact weights; docs/lens.md has the mathematics and its limits.
"""

from chatvec_lab.lens.ablation import ablation
from chatvec_lab.lens.attribution import Attribution, attribution
from chatvec_lab.lens.divergence import Divergence, divergence
from chatvec_lab.lens.measures import effects
from chatvec_lab.lens.pairs import Pair
from chatvec_lab.lens.readings import decisions, readings

__all__ = [
    "Attribution",
    "Divergence",
    "Pair",
    "ablation",
    "attribution",
    "decisions",
    "divergence",
    "effects",
    "readings",
]
