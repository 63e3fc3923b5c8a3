"""Quantised checkpoints as tensors: one small file a format, each dequantised by the format's own formula."""
