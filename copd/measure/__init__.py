"""Measures of models and runs. Nothing here trains.

- `evaluate`: accuracy with intervals, pass@k
- `compare`: paired differences on the same problems
- `behaviour`: top-k overlap and symmetric KL between branches
- `disputes`: the tokens on which a teacher disagrees most
- `passrates`: how often each row is answered rightly
- `pilot`: what each branch gains alone, and what it costs the others
- `ledger`: what each branch spent in each phase
- `health`: guards against silent failures
"""
