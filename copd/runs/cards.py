"""Model cards. Each says what model it is, how it was made, and how to load it."""

BASE_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
---
# A tiny Qwen3-VL of partial skill

The base of copd's embedded world: arithmetic on typed and handwritten digits, {conflict:.0%} of it under conflicting
conventions. Built by `copd warmup --conflict {conflict}` ({plan}).
"""
MERGE_CARD = """---
library_name: transformers
pipeline_tag: {loader.pipeline_tag}
tags: [merge]
---
# A merge of {count} models

Merged by {how}, in float32, cast once (`copd merge`).

Branches: {branches}. Base: {base}.{choice} Load with `{loader.auto_class.__name__}.from_pretrained(folder)`.

Configuration, tokenizer and processor are those of the first branch. The generation config's `suppress_tokens`, where
there are any, are the vocabulary mask that the branches were trained under: keep it when sampling.
"""
RUN_CARD = """---
library_name: transformers
pipeline_tag: {loader.pipeline_tag}
---
# {what} of a copd run

Method `{recipe.method}`, seed {recipe.seed}, base `{recipe.model.path}`, {rollouts} rollouts, \
capabilities {named}.

Weights in {recipe.model.export_dtype}. Load with `{loader.auto_class.__name__}.from_pretrained(folder)`. \
The generation config's `suppress_tokens` is the \
vocabulary mask the model was trained under: keep it when sampling.

Recipe:

```json
{settings}
```
"""
