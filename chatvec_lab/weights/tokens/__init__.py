"""Tokens and their rows: vocabularies, which row stands for which token, the chat side, tokenizers compared."""
