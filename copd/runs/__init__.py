"""A run folder and its files.

- `folder`: the manifest, which ties a folder to one recipe; checks of a new or resumed run
- `lifecycle`: one process per folder; signals
- `observer`: writes records and checkpoints while branches train
- `checkpoint`: checkpoints of all branches at one step, and the time they take
- `runlog`: the record: JSON lines that can be cut back to a checkpoint
- `experts`: experts of another run, taken over
- `trackers`: TensorBoard, W&B, MLflow and trackio
- `pictures`: pictures of the recorded samples
- `screen`: the run on the terminal
- `tables`: tables of results
- `cards`: model cards
"""
