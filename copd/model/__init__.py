"""A model as a thing: loaded, asked, trained, merged, saved.

- `policy`: a model with its processor and vocabulary mask: samples, log-probs, weights
- `folders`: where a model comes from, how it is loaded and saved, what it computes on
- `vocabulary`: the one vocabulary mask, and whether two models share it
- `lora`: adapters on one frozen base
- `learner`: parts to one optimizer step; the only backward
- `objectives`: what a part's tokens are trained on: GRPO and OPD, each with its own denominator
- `merging`: model folders merged tensor by tensor
- `pieces`: responses as text, token by token
- `parity`: the check at start that settles a model's path
- `tiny`: a Qwen3-VL of 1.3 M parameters
- `warmup`: the supervised warm-up of the embedded base
"""
