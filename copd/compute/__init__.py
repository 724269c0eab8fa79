"""How a model is computed: problems to tensors, passes through the model, log-probs and samples.

- `family`: prompts, positions and inputs of each kind of model
- `encode`: problems to tensors
- `batching`: rows, and micro-batches by a token budget
- `forward`: the passes through a model: packed, plain, and the prefill of sampling
- `packing`: prompts and responses in one sequence
- `layout`: where each of them stands in it
- `devices`: what each type of device computes log-probs with
- `flex`: attention of the sequence on cards, by blocks of its mask
- `windows`: attention of the sequence elsewhere, in windows of it
- `tf32`: products in TF32, for the output head on cards
- `ranks`: the processes that compute one branch together: their shares of samples and scores
- `logprobs`: log-probs, entropy and top-k of responses, in chunks of the vocabulary
- `refill`: the decode loop that cards take, on a cache of bounded size
- `stops`: strings that end a response
- `queue`: which rows it runs at once
- `decode`: the decode loop elsewhere, and its cached prefixes
- `cpu`: a decode step that only CPUs use
"""
