"""Model cards. Each says what model it is, how it was made, and how to load it."""

import re

RECIPE_FILE = "recipe.yaml"
"""The recipe in the folder of each model of a run, without folders of the machine that it was made on."""
FRONT = re.compile(r"---\n(.*?)\n---", re.DOTALL)
"""The head of a card."""
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
{front}
---
# {what} of a copd run

Trained from `{base}` by method `{recipe.method}` of copd, which trains one model on several capabilities.
Seed {seed}, {rollouts} rollouts, weights in {recipe.model.export_dtype}.

## Results

{results}

## Use

{loading}

The final answer stands once, in {form}, behind the thoughts if there are any. In training a response had at most
{limit} tokens. The generation config's `suppress_tokens` are the vocabulary mask that the model was trained under.
`generate` reads them; vLLM does not, so send it `"logit_bias": {{"ID": -100, ...}}` for these ids.

## Training data

{data}

Licence: {licence}.

## How it was made

`{recipe_file}` in this folder is the whole recipe, for copd {version}. The files that it names are not part of this
folder.

## Citation

{citation}
"""
LOADING = """```python
from transformers import {auto_class}, AutoProcessor

model, processor = ({auto_class}.from_pretrained("FOLDER"), AutoProcessor.from_pretrained("FOLDER"))
chat = [{system}{{"role": "user", "content": [{{"type": "text", "text": "your question"}}]}}]
text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False{variables})
inputs = processor(text=[text], return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={limit}, do_sample=False)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```

A picture is one more item, `{{"type": "image"}}`, before the text, and goes to the processor as `images=[picture]`."""
LOADING_TEXT = """```python
from transformers import {auto_class}, AutoTokenizer

model, tokenizer = {auto_class}.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
chat = [{system}{{"role": "user", "content": "your question"}}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True{variables}
)
output = model.generate(**inputs, max_new_tokens={limit}, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
DIFFERENT = (
    "The capabilities were asked in different ways: `branches.NAME.task` of the recipe has the system prompt, the "
    "`prompt_template` and the `chat_template_kwargs` of each."
)
TEMPLATE = """In training each question was put into this template, with the columns of its row:

```jinja
{template}
```"""
CITATION = """```bibtex
@article{gu2026copd,
  title = {Co-Evolving Policy Distillation},
  author = {Gu, Naibin and Yang, Chenxu and Si, Qingyi and Qin, Chuanyu and Yao, Dingyu and Fu, Peng and Lin, Zheng and
            Wang, Weiping and Duan, Nan and Wang, Jiaqi},
  journal = {arXiv preprint arXiv:2604.27083},
  year = {2026},
  url = {https://arxiv.org/abs/2604.27083}
}
```"""
"""The paper, as CITATION.cff has it."""
