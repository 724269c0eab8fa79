"""A run folder and its files.

- `folder`: the manifest, which ties a folder to one recipe; checks of a new or resumed run
- `changes`: what differs between two manifests
- `given`: rows that a program hands over, as files of the run
- `lifecycle`: one process per folder; signals
- `observer`: writes records and checkpoints while branches train
- `validations`: when models are validated, and which step was the best
- `checkpoint`: checkpoints of all branches at one step, and the time they take
- `saved`: a model of a run by its name, also that of a checkpoint
- `runlog`: the record: JSON lines that can be cut back to a checkpoint
- `experts`: experts of another run, taken over
- `trackers`: TensorBoard, W&B, MLflow and trackio
- `tracked`: what trackers get of the records
- `pictures`: pictures of the recorded samples
- `screen`: the run on the terminal, or line by line in a file
- `stages`: what the run does now, and the time that it takes
- `remaining`: the time that the run still needs
- `numbers`: numbers as people write them
- `tables`: tables of results
- `cards`: model cards
"""
