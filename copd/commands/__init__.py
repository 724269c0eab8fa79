"""What the commands do, a file each; `copd.cli` parses and calls.

- `train`: recipe to run folder
- `doctor`: a recipe looked at before a long run
- `findings`: a finding in words; the machine
- `evaluate`: models side by side
- `behaviour`: one model as the teacher of another
- `merge`: model folders into one
- `filter`: the rows that teach something
- `check`: every bad row of files
- `warmup`: a base for the embedded world
- `exits`: every error one line, every exit its status
"""
