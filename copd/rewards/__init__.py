"""From responses to rewards.

- `grading`: the grader: responses to rewards
- `answers`: the final answer of a response
- `verifiers`: our verifiers by name
- `kinds`: what kind of answer a text is, which decides what is equal under `math`
- `units`: names of units
- `mathematics`: mathematical equality, by math-verify
- `adapters`: a user's function in the signature of TRL, verl, EasyR1 or our own
- `pool`: calls in grading processes, which can be killed
- `worker`: the code inside grading processes
- `server`: the process that grading processes are forked from
"""
