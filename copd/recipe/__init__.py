"""The recipe: every field, how it is read, and how a wrong one is explained. Imports no torch.

- `model`: the recipe as a whole
- `sections`: its sections
- `sampling_section`: that of sampling
- `method_sections`: those of what happens between and after RLVR: distillation, merge, baselines
- `task_sections`: where a branch's problems come from
- `fields`: the base class and types of all sections
- `reading`: YAML and overrides to a recipe
- `strict_yaml`: safe YAML without surprises
- `explain`: errors in the user's words
- `synonyms`: what other libraries call the fields
- `merges`: merge sections outside a recipe
- `shareable`: a recipe without the user's paths
- `keys`: refuses a recipe that repeats a secret of the environment
- `builtin/`: the recipes that ship
"""
