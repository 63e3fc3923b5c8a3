"""Sharing with other tools: the hub, mergekit, PEFT, other formats of vectors, and GGUF sources."""
