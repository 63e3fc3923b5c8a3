"""Where named tensors come from: files, the hub, GGUF and other tools' formats."""
