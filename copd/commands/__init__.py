"""The work of the commands, one file each. `copd.cli` parses the command line and calls them.

- `train`: recipe to run folder
- `init`: files and a model to a recipe
- `init_yaml`: the recipe that it writes
- `manifest`: what ties a run folder to its recipe, base and files
- `plan`: what a recipe asks of its machines, before anything is loaded
- `plan_arms`: what each job of a comparison asks for
- `watch`: the page that follows a run, and its server
- `compared`: the recipe by which models are compared
- `cards`: the model cards of a run
- `push`: a model of a run to the Hugging Face Hub
- `example`: copies an example that ships
- `evaluate`: compares models on test problems
- `benchmark`: models on a suite of public benchmarks
- `benchmark_call`: what a call of it asks for
- `by_harness`: the benchmarks that a harness asks
- `behaviour`: compares a student with a teacher
- `merge`: merges model folders
- `ask`: questions to models
- `export`: models of a checkpoint as folders
- `advise`: which method suits a recipe
- `pilot`: its pilot
- `compare`: trains arms over seeds, and writes the page about them
- `warmup`: makes a base for the embedded world
- `python`: the same from Python, with a program's rows and functions
- `exits`: turns errors into one line, and exits into a status
"""
