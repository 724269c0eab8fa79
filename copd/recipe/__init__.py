"""The recipe: every field, how it is read, and what is said of a wrong one. Imports no torch.

- `model`: the recipe as a whole
- `sections`: its sections
- `task_sections`: where a branch's problems come from
- `fields`: what sections are made of
- `reading`: YAML and overrides to a recipe
- `strict_yaml`: safe YAML without surprises
- `explain`: what is wrong, in the user's words
- `merges`: merge sections without a recipe
- `keys`: secrets of the environment, which no recipe may repeat
- `builtin/`: the recipes that ship
"""
