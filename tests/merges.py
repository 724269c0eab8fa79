"""Merges of models in memory, computed at once."""

from copd.maths.merge import Merged


def merge(branches, *, method, base=None, **settings):
    """{name: tensor}, tied weights once, under one name."""
    named = [(f"branch {k}", branch) for k, branch in enumerate(branches)]
    return dict(Merged(named, None if base is None else ("base", base), method, settings))


def mean(branches):
    """The plain mean of the branches."""
    return merge(branches, method="mean")
