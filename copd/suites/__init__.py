"""Public benchmarks: what a suite asks of a model, who asks it, and the table beside published numbers.

- `suite`: the file of a suite
- `own`: copd asks the rows of a file
- `harness`: a harness asks, in a process and an environment of its own
- `local_tasks`: the task of a harness on rows of copd
- `samples`: what harnesses log
- `results`: what a model reached, in a file that a later call finds again
- `table`: the tables, in Markdown and on a terminal
"""
