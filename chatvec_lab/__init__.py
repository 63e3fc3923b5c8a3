"""A workbook for chat vectors: `cp + scale * (chat - base)`, analysed and evaluated."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatvec_lab.evaluation.asking.generation import respond
    from chatvec_lab.experiment import Exam
    from chatvec_lab.families import Family, load_family
    from chatvec_lab.live import LiveModel
    from chatvec_lab.weights.checkpoint import Checkpoint
    from chatvec_lab.weights.merged import MergedCheckpoint
    from chatvec_lab.weights.transforms import ties
    from chatvec_lab.weights.vector import WeightVector

# name -> module; imported at first use, so that the command line answers at once
_PUBLIC = {
    "Checkpoint": "chatvec_lab.weights.checkpoint",
    "Exam": "chatvec_lab.experiment",
    "Family": "chatvec_lab.families",
    "LiveModel": "chatvec_lab.live",
    "MergedCheckpoint": "chatvec_lab.weights.merged",
    "WeightVector": "chatvec_lab.weights.vector",
    "load_family": "chatvec_lab.families",
    "preflight": "chatvec_lab.weights.preflight",
    "push": "chatvec_lab.interop.hub",
    "respond": "chatvec_lab.evaluation.asking.generation",
    "ties": "chatvec_lab.weights.transforms",
}
__all__ = [
    "Checkpoint",
    "Exam",
    "Family",
    "LiveModel",
    "MergedCheckpoint",
    "WeightVector",
    "load_family",
    "preflight",
    "push",
    "respond",
    "ties",
]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *_PUBLIC]
