"""The mathematics of the method: pure functions of tensors. Imports torch, and mpmath for Student's distribution.

- `advantages`: group-relative advantages
- `losses`: token-level surrogates, the KL to a reference, and their aggregation
- `importance`: truncated importance weights, where the sampler's distribution is not the trainer's
- `cut`: the distribution that is left of one by top_p, top_k and min_p
- `distill`: the signal of the sampled token; measures of behaviour
- `divergences`: the divergences of dense OPD
- `logprobs`: log-probs of tokens under the vocabulary mask; draws from them
- `merge`: merge methods for K tensors of one name, and for K models
- `intervals`: intervals at 95 %, and the pass@k estimator
- `gradients`: the signal in a few noisy gradients
- `seeds`: intervals, tests and corrections over seeds
"""
