"""A run folder and what goes on in it.

- `folder`: the manifest: which recipe a folder belongs to, what a resumed run may find
- `lifecycle`: alone in the folder; signals
- `observer`: what is written while branches train
- `checkpoint`: all branches at one step, complete or absent, and what that costs
- `runlog`: the record: JSON lines that can be cut back
- `experts`: experts of another run, taken over
- `trackers`: TensorBoard and W&B
- `pictures`: pictures beside the samples
- `screen`: the run on the terminal
- `tables`: tables of results
- `cards`: model cards
"""
