"""How a model is computed: problems to tensors, passes through the model, log-probs and samples.

- `family`: prompts, positions and inputs of each kind of model
- `encode`: problems to tensors
- `batching`: rows, and micro-batches by a token budget
- `forward`: the passes through a model: packed, plain, and the prefill of sampling
- `packing`: prompts and responses in one sequence, and attention in windows of it
- `logprobs`: log-probs, entropy and top-k of responses, in chunks of the vocabulary
- `decode`: the decode loop and its cached prefixes
- `cpu`: a decode step that only CPUs use
"""
