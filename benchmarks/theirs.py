"""The other side: TRL's trainers and transformers' `generate`, on the same model and the same problems.

A video is given to TRL, which trains on text and images only, as the pictures it amounts to: Qwen3-VL reads a video as
one timestamp and one picture for every two frames, so the prompt has the same tokens but for the placeholder's name.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from benchmarks.measure import WARMUPS, Times, seconds
from benchmarks.ours import Size, problems_of
from copd.branches.branch import Branch
from copd.model.policy import Policy
from copd.rewards.grading import Response
from copd.types import Problem, Task


def ordinary(policy: Policy) -> Any:
    """The policy's model as transformers makes it: its weights in a copy."""
    model = type(policy.model)(copy.deepcopy(policy.model.config)).eval()
    model.load_state_dict(policy.model.state_dict())
    model.generation_config = policy.model.generation_config
    return model


def conversation(problem: Problem) -> list[dict[str, Any]]:
    """The prompt as TRL takes it, pictures in place."""
    content: list[dict[str, Any]] = [{"type": "image", "image": Image.fromarray(image)} for image in problem.images]
    for video, fps in zip(problem.videos, problem.fps_of_videos, strict=True):
        content.append({"type": "text", "text": "<|vision_start|>"})
        for first in range(0, len(video), 2):
            content.append({"type": "text", "text": f"<{(2 * first + 1) / 2 / fps:.1f} seconds>"})
            content.append({"type": "image", "image": Image.fromarray(video[first])})
        content.append({"type": "text", "text": "<|vision_end|>"})
    return [{"role": "user", "content": [*content, {"type": "text", "text": problem.prompt}]}]


def dataset(problems: Sequence[Problem]) -> Any:
    """The problems as a dataset whose rows are ready in memory: nothing is decoded when one is drawn."""
    from datasets import Dataset

    ready = [conversation(problem) for problem in problems]

    def fetch(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = batch["index"]
        return {"prompt": [ready[i] for i in chosen], "problem": [problems[i] for i in chosen]}

    return Dataset.from_dict({"index": list(range(len(problems)))}).with_transform(fetch)


def settings(folder: str, branch: Branch, size: Size, max_new_tokens: int) -> dict[str, Any]:
    """What both trainers are told: our optimizer, one step on one batch of all rows, everything beside it off."""
    (group,) = branch.learner.optimizer.param_groups
    return {
        "output_dir": folder,
        "max_steps": WARMUPS + size.repetitions,
        "per_device_train_batch_size": size.rows,
        "gradient_accumulation_steps": 1,
        "max_completion_length": max_new_tokens,
        "temperature": 1.0,
        "generation_kwargs": {"suppress_tokens": branch.policy.banned_V.nonzero()[:, 0].tolist()},
        "shuffle_dataset": False,
        "learning_rate": group["lr"],
        "adam_beta1": group["betas"][0],
        "adam_beta2": group["betas"][1],
        "weight_decay": group["weight_decay"],
        "max_grad_norm": branch.learner.max_grad_norm,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "bf16": False,
        "fp16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def problems_of_all_steps(task: Task, size: Size) -> list[Problem]:
    """What the steps of a run draw, those that are not kept included."""
    return [problem for step in range(WARMUPS + size.repetitions) for problem in problems_of(task, step, size)]


def grpo_trainer(branch: Branch, size: Size, max_new_tokens: int) -> Any:
    """TRL's GRPOTrainer over the problems of the branch's capability, with our grader, on a copy of its model."""
    from trl import GRPOConfig, GRPOTrainer

    ends = set(branch.policy.end_ids.tolist())

    def reward(
        completions: list[Any], completion_ids: list[list[int]], problem: list[Problem], **ignored: Any
    ) -> list[float]:
        responses = [
            Response(message[0]["content"], torch.tensor(ids), ids[-1] in ends)
            for message, ids in zip(completions, completion_ids, strict=True)
        ]
        return branch.grader.grade(problem, responses).rewards

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            **settings(folder, branch, size, max_new_tokens),
            num_generations=size.rollouts,
            num_iterations=1,
            beta=0.0,
            loss_type="grpo",
            scale_rewards="group",
            epsilon=branch.learner.clip_low,
            epsilon_high=branch.learner.clip_high,
        )
        return GRPOTrainer(
            model=ordinary(branch.policy),
            reward_funcs=reward,
            args=config,
            train_dataset=dataset(problems_of_all_steps(branch.asked.tasks[branch.capability], size)),
            processing_class=branch.policy.processor,
        )


def distillation_trainer(student: Branch, teacher: Branch, size: Size, max_new_tokens: int) -> Any:
    """TRL's DistillationTrainer over the teacher's problems, each answered as often as ours, on copies of both."""
    from trl import DistillationConfig, DistillationTrainer

    problems = problems_of_all_steps(teacher.asked.tasks[teacher.capability], size)
    with tempfile.TemporaryDirectory() as folder:
        config = DistillationConfig(**settings(folder, student, size, max_new_tokens), beta=1.0)
        return DistillationTrainer(
            model=ordinary(student.policy),
            teacher_model=ordinary(teacher.policy),
            args=config,
            train_dataset=dataset([problem for problem in problems for _ in range(size.rollouts)]),
            processing_class=student.policy.processor,
        )


class Turns(TrainerCallback):
    """After each step of the trainer the other sides take their turn; the first `WARMUPS` are not kept."""

    def __init__(self, model: Any, sides: Mapping[str, Callable[[int], object]], restore: Callable[[], None]) -> None:
        self.times: Times = {"theirs": [], **{name: [] for name in sides}}
        self._model, self._sides, self._restore_ours = model, sides, restore
        self._weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self._started = 0.0

    def begin(self) -> None:
        """The trainer's step is measured from here."""
        self._started = time.perf_counter()

    def taken(self) -> float:
        """The seconds since then."""
        return time.perf_counter() - self._started

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        taken = {"theirs": self.taken()}
        number = state.global_step - 1
        for name, side in self._sides.items():
            taken[name] = seconds(lambda side=side: side(number))
            self._restore_ours()
        self._restore()
        if number >= WARMUPS:
            for name, value in taken.items():
                self.times[name].append(value)
        self.begin()

    @torch.no_grad()
    def _restore(self) -> None:
        for name, parameter in self._model.named_parameters():
            parameter.copy_(self._weights[name])


def interleave_trainer(
    trainer: Any, sides: Mapping[str, Callable[[int], object]], restore: Callable[[], None]
) -> Times:
    """Seconds of the trainer's steps ("theirs") and of the sides, in turns.

    A step of the trainer counts from the end of what came before it to its end, its data loading included. Between the
    turns everyone goes back to the weights of the beginning, off the clock.
    """
    turns = Turns(trainer.model, sides, restore)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(turns)
    trainer.train()
    return turns.times


def arguments(policy: Policy, problems: Sequence[Problem]) -> dict[str, Any]:
    """Problems of one kind as the processor takes them; videos are videos here."""
    chats = []
    for problem in problems:
        media = [{"type": "image"}] * len(problem.images) + [{"type": "video"}] * len(problem.videos)
        chats.append([{"role": "user", "content": [*media, {"type": "text", "text": problem.prompt}]}])
    texts = [policy.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    found: dict[str, Any] = {"text": texts}
    if images := [image for problem in problems for image in problem.images]:
        found["images"] = images
    if videos := [video for problem in problems for video in problem.videos]:
        rates = [fps for problem in problems for fps in problem.fps_of_videos]
        found["videos"] = videos
        found["video_metadata"] = [
            {"fps": fps, "total_num_frames": len(video), "frames_indices": list(range(len(video)))}
            for video, fps in zip(videos, rates, strict=True)
        ]
    return found


def generate(model: Any, policy: Policy, problems: Sequence[Problem], rollouts: int, max_new_tokens: int) -> Tensor:
    """transformers' `generate` as its manual has it: prompts through the processor, then the answers of `model`."""
    inputs = policy.processor(**arguments(policy, problems), padding=True, return_tensors="pt")
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=max_new_tokens,
        num_return_sequences=rollouts,
        suppress_tokens=policy.banned_V.nonzero()[:, 0].tolist(),
        eos_token_id=policy.end_ids.tolist(),
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    with torch.inference_mode():
        return model.generate(**inputs, generation_config=config)
