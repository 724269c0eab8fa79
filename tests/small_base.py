"""Models of fewer layers than the tiny one's, and a base for tests of whole runs that half knows easy answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from copd.model.policy import Policy
from copd.model.tiny import tiny_config, tiny_processor
from copd.model.warmup import WarmupPlan, warm_up
from copd.tasks.digits import CAPABILITIES, Digits
from copd.types import Problem, Split

EASY: dict[str, Any] = {"operators": ("max",), "length": (2, 2)}
KNOWN = 4
"""So many training problems of each capability are known by heart."""
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1}
VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "depth": 1, "num_heads": 2, "out_hidden_size": 64}
VISION |= {"deepstack_visual_indexes": []}
TWO_LAYERS: tuple[Mapping[str, Any], Mapping[str, Any]] = (
    {"num_hidden_layers": 2},
    {"depth": 2, "deepstack_visual_indexes": [0, 1]},
)
"""Sizes of language model and vision tower for `small_model`: as many layers as it takes to have several."""


def easy(*capabilities: str) -> str:
    """The branches of a recipe, one for each capability, on problems of which the base knows some."""
    task = "operators: [max], length: [2, 2]"
    return f"branches={{{', '.join(f'{name}: {{task: {{capability: {name}, {task}}}}}' for name in capabilities)}}}"


class Curt(Digits):
    """Easy problems whose solution is an answer alone: the right one, and at the next turn of them one too great."""

    def problem(self, split: Split, index: int) -> Problem:
        turn, known = divmod(index, KNOWN)
        problem = super().problem(split, known)
        return replace(problem, solution=f"\\boxed{{{int(problem.answer) + turn % 2}}}")


def small_model(processor: Any, seed: int, text: Mapping[str, Any], vision: Mapping[str, Any]) -> Any:
    """The tiny model, initialised from `seed`, with other sizes of its language model and of its vision tower."""
    config = tiny_config(processor)
    for part, sizes in ((config.text_config, text), (config.vision_config, vision)):
        for name, value in sizes.items():
            setattr(part, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model.eval()


def build_small_base(folder: Path) -> None:
    """Initialise it, teach it both answers to every problem alike, and save it."""
    processor = tiny_processor()
    policy = Policy(small_model(processor, 0, TEXT, VISION), processor)
    tasks = [Curt(capability, **EASY) for capability in CAPABILITIES]
    plan = WarmupPlan(steps=65, problems_per_step=2 * KNOWN, learning_rate=1e-2)
    warm_up(policy, tasks, plan, lambda step, steps: None)
    for task in tasks:
        problems = [task.problem(Split.TRAIN, index) for index in range(KNOWN)]
        drawn = policy.sample(
            problems, rollouts_per_prompt=32, generator=torch.Generator().manual_seed(0), max_new_tokens=12
        )
        pairs = zip(drawn.prompt_of_N.tolist(), policy.texts(drawn), strict=True)
        right = [f"{{{problems[place].answer}}}" in text for place, text in pairs]
        assert 0.2 < sum(right) / len(right) < 0.8, "GRPO has no signal where all answers are right, or all are wrong"
    policy.save(folder, "")
