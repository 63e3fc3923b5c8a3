"""Checkpoints as lazy arithmetic: read, add, subtract, transform, write."""
