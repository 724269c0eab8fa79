"""How a model is computed: problems to tensors, passes through the model, log-probs and samples out of them.

- `family`: what depends on the kind of a model: prompts, positions, inputs
- `encode`: problems to tensors
- `batching`: rows, and micro-batches by a token budget
- `forward`: the passes through a model: packed, plain, and the prefill of sampling
- `packing`: prompts and responses in one sequence, and attention in windows of it
- `logprobs`: log-probs, entropy and top-k of responses: which path, how much of the vocabulary at once
- `decode`: the decode loop and its cached prefixes
- `cpu`: what only CPUs use
"""
