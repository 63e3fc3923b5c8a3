"""The micro-world that the embedded families grew in: its lexicon, its documents, how they were trained."""
