"""The models of a run that are no branch of the recipe's, by name; no branch of a recipe may be called so."""

BASE = "base"
MERGED = "merged"
MIXED = "mixed"
"""The one branch of the method of that name, trained on all fields."""
STUDENT = "student"
"""The branch of `mopd` that only learns from the experts."""
