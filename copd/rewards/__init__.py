"""From responses to rewards.

- `grading`: the grader: responses to rewards
- `answers`: the final answer of a response
- `verifiers`: our verifiers by name
- `equality`: what is equal under `math`, by the kinds of both texts
- `kinds`: what kind of answer a text without members is
- `members`: the members of a text: lists, sets, points, equations
- `spelling`: one spelling of what was typed
- `units`: names of units, and words for numbers
- `mathematics`: equality of expressions, by math-verify
- `adapters`: a user's function in the signature of TRL, verl, EasyR1 or our own
- `pool`: calls in grading processes, which can be killed
- `worker`: the code inside grading processes
- `server`: the process that grading processes are forked from
"""
