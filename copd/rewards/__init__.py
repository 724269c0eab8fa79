"""From responses to rewards.

- `grading`: the grader: which call gives which reward
- `answers`: the final answer of a response
- `verifiers`: our verifiers by name
- `mathematics`: mathematical equality, by math-verify
- `adapters`: a user's function in the signature of TRL, verl, EasyR1 or our own
- `pool`: calls in processes that can be killed
- `worker`: what runs inside these processes
- `server`: what these processes are forked from
"""
