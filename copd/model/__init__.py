"""A model as a thing: loading, sampling, scoring, training, merging, saving.

- `policy`: a model with its processor and vocabulary mask: samples, log-probs, weights
- `engine`: samples by another engine: when it takes over the weights, and the check that it computes with them
- `vllm_sampler`: vLLM as such an engine; the only module that imports it
- `builtin_sampler`: sampling by the policy's own model
- `folders`: finds, loads and saves models; chooses device and type of the arithmetic
- `vocabulary`: the one vocabulary mask, and whether two models share it
- `differences`: where two nested values differ, in few words
- `lora`: adapters on one frozen base
- `holding`: copies on another device; frozen weights in half precision
- `learner`: parts to one optimizer step; the only backward
- `sharded`: the learner of a branch of several ranks, by FSDP2
- `optimizers`: AdamW with moments in float32, in 8 bits, or on the CPU
- `rates`: the learning rate over the updates: warm-up and decay
- `objectives`: GRPO and OPD: advantage and penalty of each token, each part with its own denominator
- `merging`: model folders, and weights of branches, merged tensor by tensor
- `stored`: the tensors of a folder, one at a time; the settings of a model folder, without loading the model
- `pieces`: responses as text, token by token
- `parity`: the check at start that chooses a model's path
- `tiny`: a Qwen3-VL of 1.3 M parameters
- `warmup`: the supervised warm-up of the embedded base
"""
