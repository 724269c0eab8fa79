"""The work of the commands, one file each. `copd.cli` parses the command line and calls them.

- `train`: recipe to run folder
- `doctor`: checks of a recipe before a long run
- `plan`: what a recipe asks of its machines, before anything is loaded
- `needs`: memory of each process of a run
- `need`: that of one process, and the sum on each device
- `equal_rows`: the micro-batches of rows as long as they may be
- `workload`: rollouts and tokens of a recipe
- `findings`: a finding in words; the machine
- `remedies`: why the base's responses are not right, and what to do
- `cards`: the model cards of a run
- `push`: a model of a run to the Hugging Face Hub
- `example`: copies an example that ships
- `evaluate`: compares models on test problems
- `behaviour`: compares a student with a teacher
- `merge`: merges model folders
- `advise`: which method suits a recipe
- `pilot`: its pilot
- `compare`: trains arms over seeds, and writes the page about them
- `filter`: keeps the rows that teach something
- `check`: reports every bad row of files
- `warmup`: makes a base for the embedded world
- `python`: the same from Python, with a program's rows and functions
- `exits`: turns errors into one line, and exits into a status
"""
