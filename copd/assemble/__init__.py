"""Recipe to parts. Only this room, `recipe`, `commands` and the command line see a whole recipe.

- `assembled`: one object: tasks, base, grader, warnings
- `tasks`: a recipe's tasks
- `rows`: what a recipe says of a branch's rows
- `preflight`: can the model take the problems, and on which path?
- `branches`: policy, learner and objectives of a branch
- `places`: where branches live: in this process, or each in its own
- `server`: what the processes of branches have imported when they begin
- `plan`: branches, edges, steps and rollouts of a method
"""
