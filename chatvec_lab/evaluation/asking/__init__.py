"""How replies are had: generation, decoding, served models, caches."""
