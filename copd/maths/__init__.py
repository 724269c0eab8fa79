"""The mathematics of the method: pure functions of tensors, one objective each. Imports torch and nothing else.

- `advantages`: group-relative advantages
- `losses`: token-level surrogates, the KL to a reference, and their aggregation
- `distill`: the distillation signal, and the measures of behaviour
- `logprobs`: log-probs of tokens under the vocabulary mask; draws from them
- `merge`: merge methods: K tensors of one name to one, K models to one
- `intervals`: intervals at 95 %, and the pass@k estimator
"""
