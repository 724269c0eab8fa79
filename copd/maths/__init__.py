"""The mathematics of the method: pure functions of tensors, one objective each. Imports torch and nothing else."""
