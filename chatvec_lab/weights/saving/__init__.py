"""How weights are written: streamed, atomic, resumable, with their provenance."""
