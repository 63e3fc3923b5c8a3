"""Checkpoints as lazy arithmetic: read, add, subtract, transform, write."""


def push(what, repo_id: str, **options):
    """What `push_to_hub` of vectors and merged checkpoints calls; the package puts `interop.hub.push` in its place."""
    raise ImportError("chatvec_lab was not imported as a whole; use chatvec_lab.interop.hub.push.")
