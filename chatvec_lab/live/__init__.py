"""A loaded model whose weights follow a scale."""

from chatvec_lab.live.model import LiveModel

__all__ = ["LiveModel"]
