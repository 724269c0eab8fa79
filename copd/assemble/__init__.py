"""From a recipe to all that it asks for. Only this room, `recipe`, `commands` and the command line see a whole recipe.

- `assembled`: one object with tasks, base, grader and warnings
- `tasks`: a recipe's tasks
- `rows`: a branch's section on rows to a task
- `files`: looks for the files that a recipe names, before anything is loaded
- `revisions`: branches and tags of the hub to commits
- `preflight`: checks that the model can take the problems, and settles its path
- `sampling`: what samples, and what that changes in the objectives
- `branches`: policy, learner and objectives of a branch
- `places`: branches in this process, each in its own process, or each an actor of Ray
- `raters`: raters of rows, one or several
- `server`: what the processes of branches have imported when they begin
- `plan`: branches, edges, steps and rollouts of a method
"""

SERVER = "copd.assemble.server"
"""The module that the server of the branches' processes imports before they begin."""
