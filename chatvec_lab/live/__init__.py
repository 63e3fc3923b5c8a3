"""From an expression of weights to a transformers model: loaded once (`load`), or with a scale to turn (`LiveModel`)."""

from chatvec_lab.live.loading import load
from chatvec_lab.live.model import LiveModel

__all__ = ["LiveModel", "load"]
