"""Where problems come from.

- `own`: problems that a class of the user's makes
- `digits`: the embedded world: typed, handwritten and moving digits
- `mixture`: several tasks in turn, for mixed RLVR
- `asked`: problems by their address; those of validation and test, made once for all models
"""
