"""`copd doctor`: checks of a recipe before a long run.

- `examine`: each check, and what it found
- `outlook`: what doctor says of the run as a whole
- `findings`: a finding in words; the machine
- `remedies`: why the base's responses are not right, and what to do
"""
