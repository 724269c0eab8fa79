"""What a recipe asks of its machines, told before any weights are loaded.

- `shape`: the sizes that decide how much memory a model takes
- `memory`: how much memory it takes: the formula
- `measured`: what is measured of model and data
- `equal_rows`: the micro-batches of rows as long as they may be
- `refilled`: sampling as cards do it: rows at once, and their bytes
- `need`: memory of one process, and the sum on each device
- `needs`: that of each process of a run
- `workload`: rollouts and tokens of a recipe
"""
