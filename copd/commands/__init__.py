"""The work of the commands, one file each. `copd.cli` parses the command line and calls them.

- `train`: recipe to run folder
- `init`: files and a model to a recipe
- `manifest`: what ties a run folder to its recipe, base and files
- `doctor`: checks of a recipe before a long run
- `outlook`: what doctor says of the run as a whole
- `plan`: what a recipe asks of its machines, before anything is loaded
- `measured`: what it measures of model and data
- `needs`: memory of each process of a run
- `need`: that of one process, and the sum on each device
- `equal_rows`: the micro-batches of rows as long as they may be
- `watch`: the page that follows a run, and its server
- `workload`: rollouts and tokens of a recipe
- `findings`: a finding in words; the machine
- `remedies`: why the base's responses are not right, and what to do
- `compared`: the recipe by which models are compared
- `evaluate`: compares models on test problems
- `behaviour`: compares a student with a teacher
- `merge`: merges model folders
- `ask`: questions to models
- `export`: models of a checkpoint as folders
- `advise`: which method suits a recipe
- `pilot`: its pilot
- `compare`: trains arms over seeds, and writes the page about them
- `filter`: keeps the rows that teach something
- `check`: reports every bad row of files
- `warmup`: makes a base for the embedded world
- `exits`: turns errors into one line, and exits into a status
"""
