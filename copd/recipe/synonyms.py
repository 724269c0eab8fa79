"""What other libraries call the fields of a recipe, and where a field of the same name is here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from copd.recipe.model import Recipe

LEAVES_SHOWN = 3
ALIKE = 0.8


class Row(NamedTuple):
    """A field here, or an option of `copd train`, and the names of three libraries for it; where meanings differ.

    `here` is empty where copd has nothing like it; the note then says what copd does.
    """

    here: str
    trl: tuple[str, ...] = ()
    verl: tuple[str, ...] = ()
    easyr1: tuple[str, ...] = ()
    note: str = ""

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        return {"TRL": self.trl, "verl": self.verl, "EasyR1": self.easyr1}


TASK = "branches.NAME.task"
ROWS = (
    Row("model.path", ("model_name_or_path",), ("model.path",), ("model_path",)),
    Row("model.dtype", ("bf16", "torch_dtype"), ("model_dtype",), note="arithmetic; weights stay float32"),
    Row(
        "model.gradient_checkpointing",
        ("gradient_checkpointing",),
        ("enable_gradient_checkpointing",),
        ("enable_gradient_checkpointing",),
    ),
    Row(
        "model.micro_batch_tokens",
        ("gradient_accumulation_steps",),
        ("ppo_max_token_len_per_gpu", "ppo_micro_batch_size_per_gpu", "log_prob_micro_batch_size_per_gpu"),
        ("micro_batch_size_per_device_for_update", "micro_batch_size_per_device_for_experience"),
        "a budget of tokens, not of rows; gradients do not depend on it",
    ),
    Row("model.freeze", (), ("freeze_vision_tower",), ("freeze_vision_tower",), "a list of modules: [visual]"),
    Row("model.offload", (), ("param_offload", "optimizer_offload"), ("offload_params", "offload_optimizer")),
    Row(f"{TASK}.train", ("train_dataset",), ("train_files",), ("train_files",), "of each branch"),
    Row(f"{TASK}.validation", ("eval_dataset",), ("val_files",), ("val_files",), "of each branch"),
    Row(
        f"{TASK}.columns",
        (),
        ("prompt_key", "image_key", "video_key"),
        ("prompt_key", "answer_key", "image_key", "video_key"),
        "our name of a column: its name in the files",
    ),
    Row(f"{TASK}.prompt_template", easyr1=("format_prompt",)),
    Row(
        f"{TASK}.media.image_pixels",
        ("max_pixels",),
        ("max_pixels",),
        ("max_pixels",),
        "larger images are scaled down; a larger one than media.max_image_pixels is refused",
    ),
    Row(f"{TASK}.media.fps", ("fps",), ("fps",), ("video_fps",)),
    Row(
        "sampling.prompts_per_step",
        ("per_device_train_batch_size", "generation_batch_size", "batch_size"),
        ("train_batch_size", "gen_batch_size"),
        ("rollout_batch_size",),
        "prompts of one branch, on all its devices; TRL's batch size counts responses",
    ),
    Row("sampling.rollouts_per_prompt", ("num_generations",), ("n", "rollout.n"), ("rollout.n",)),
    Row(
        "sampling.max_new_tokens",
        ("max_completion_length",),
        ("max_response_length", "response_length"),
        ("max_response_length",),
    ),
    Row("sampling.temperature", ("temperature",), ("temperature",), ("temperature",), "of every log-prob too"),
    Row("sampling.top_p", ("top_p",), ("top_p",), ("top_p",), "with importance weights"),
    Row("sampling.top_k", ("top_k",), ("top_k",), ("top_k",), "null = all, where they write 0 or -1"),
    Row("sampling.min_p", ("min_p",)),
    Row(
        "sampling.refill",
        (),
        ("filter_groups", "filter_groups.enable", "max_num_gen_batches"),
        ("online_filtering", "max_try_make_batch"),
        "refills at most, 0 = none; a reward that varies, no bounds of accuracy",
    ),
    Row(
        "sampling.stop", ("stop", "stop_strings"), note="in TRL by generation_kwargs; the string stays in the response"
    ),
    Row("sampling.engine", ("use_vllm", "vllm_mode"), ("rollout.name",)),
    Row(
        "sampling.vllm_cache_gib",
        ("vllm_gpu_memory_utilization",),
        ("gpu_memory_utilization",),
        ("gpu_memory_utilization",),
        "GiB, not a share of the card",
    ),
    Row("sampling.importance_cap", ("vllm_importance_sampling_cap",), ("rollout_is_threshold",)),
    Row(
        "verifiers",
        ("reward_funcs",),
        ("custom_reward_function", "custom_reward_function.path"),
        ("score_function", "reward_function"),
    ),
    Row("branches.NAME.rewards", ("reward_weights",), note="further verifiers of a branch, each with its weight"),
    Row("grpo", (), ("adv_estimator",), ("adv_estimator",), "GRPO is the only estimator of advantages"),
    Row(
        "grpo.kl_coefficient",
        ("beta",),
        ("kl_loss_coef", "kl_coef", "use_kl_loss"),
        ("kl_coef", "disable_kl", "use_kl_loss"),
        "0 turns the reference off",
    ),
    Row("grpo.clip_low", ("epsilon",), ("clip_ratio", "clip_ratio_low"), ("clip_ratio_low",)),
    Row("grpo.clip_high", ("epsilon_high",), ("clip_ratio_high",), ("clip_ratio_high",)),
    Row("grpo.aggregation", ("loss_type",), ("loss_agg_mode",), ("loss_avg_mode",)),
    Row("grpo.normalize_std", ("scale_rewards",), ("norm_adv_by_std_in_grpo",)),
    Row(
        "grpo.iterations",
        ("num_iterations",),
        ("ppo_epochs", "ppo_mini_batch_size"),
        ("ppo_epochs", "global_batch_size"),
        "optimizer steps over the whole batch; there are no mini-batches",
    ),
    Row("grpo.mask_truncated", ("mask_truncated_completions",)),
    Row(
        "opd.responses",
        ("lmbda", "seq_kd"),
        note="student: all on-policy, lmbda 1; teacher: lmbda 0 with seq_kd",
    ),
    Row("optimizer.learning_rate", ("learning_rate",), ("lr",), ("lr",)),
    Row(
        "optimizer.warmup_steps",
        ("warmup_steps", "warmup_ratio"),
        ("lr_warmup_steps", "lr_warmup_steps_ratio"),
        ("lr_warmup_steps", "lr_warmup_ratio"),
        "updates of a branch, not a share of them",
    ),
    Row(
        "optimizer.decay",
        ("lr_scheduler_type",),
        ("lr_scheduler_type", "warmup_style"),
        ("lr_scheduler_type", "warmup_style"),
        "none, linear or cosine, over optimizer.decay_steps",
    ),
    Row("optimizer.max_grad_norm", ("max_grad_norm",), ("grad_clip", "clip_grad"), ("max_grad_norm",)),
    Row("optimizer.betas", ("adam_beta1", "adam_beta2"), ("betas",), ("betas",)),
    Row("optimizer.kind", ("optim",), ("optimizer",)),
    Row("lora.rank", ("lora_r", "r"), ("lora_rank",)),
    Row("lora.alpha", ("lora_alpha",), ("lora_alpha",)),
    Row("lora.targets", ("lora_target_modules", "target_modules"), ("target_modules",)),
    Row(
        "schedule",
        ("num_train_epochs", "max_steps"),
        ("total_epochs", "total_training_steps"),
        ("total_epochs", "total_episodes"),
        "cycles x (rl_steps + opd_steps) steps",
    ),
    Row("checkpoint.every_steps", ("save_steps",), ("save_freq",), ("save_freq",)),
    Row("checkpoint.keep_last", ("save_total_limit",), ("max_actor_ckpt_to_keep",), ("save_limit",)),
    Row("checkpoint.keep_best", ("load_best_model_at_end",), note="kept, not loaded: `copd export RUN --step best`"),
    Row("evaluation.every_steps", ("eval_steps",), ("test_freq",), ("val_freq",)),
    Row("evaluation", (), ("val_before_train",), ("val_before_train",), "the base is always measured first"),
    Row(
        "backend",
        (),
        ("n_gpus_per_node", "nnodes", "tensor_model_parallel_size"),
        ("n_gpus_per_node", "nnodes", "tensor_parallel_size"),
        "a branch has a card, or backend.ranks of them",
    ),
    Row("trackers", ("report_to", "logging_steps"), ("logger",), ("logger",), "every step is recorded"),
    Row("trackers[].project", ("project",), ("project_name",), ("project_name",)),
    Row("trackers[].name", ("run_name",), ("experiment_name",), ("experiment_name",), "null: the run folder's"),
    Row("--out", ("output_dir",), ("default_local_dir",), ("save_checkpoint_path",)),
    Row("--resume", ("resume_from_checkpoint",), ("resume_mode",), ("load_checkpoint_path",)),
    Row(
        "",
        ("max_prompt_length",),
        ("max_prompt_length", "filter_overlong_prompts"),
        ("max_prompt_length", "filter_overlong_prompts"),
        "a prompt of any length is trained; `copd plan` measures them",
    ),
    Row("", (), (), ("min_pixels",), "an image is enlarged only where the processor of the model needs it"),
    Row("", (), (), ("limit_images",), "all images of a row are read"),
)


def meant(path: str) -> str | None:
    """Where a reader finds what an unknown key at `path` says elsewhere: in another library, or in another section."""
    leaf = path.rpartition(".")[2]
    for row in ROWS:
        theirs = {
            library: name for library, names in row.names.items() for name in names if f".{path}".endswith(f".{name}")
        }
        if theirs and leaf != row.here.rpartition(".")[2]:
            return _said(row, theirs)
    if there := fields_called().get(leaf):
        return f"there is {' and '.join(there[:LEAVES_SHOWN])}"
    return None


def alike(path: str) -> str | None:
    """`meant` for the name of another library that an unknown key at `path` is most like, or None."""
    names = [name.rpartition(".")[2] for row in ROWS for names in row.names.values() for name in names]
    near = get_close_matches(path.rpartition(".")[2], names, n=1, cutoff=ALIKE)
    return meant(near[0]) if near else None


def _said(row: Row, theirs: Mapping[str, str]) -> str:
    *most, last = (f"{library}'s" for library in theirs)
    whose = " and ".join(filter(None, (", ".join(most), last)))
    kind = "the option " if row.here.startswith("--") else ""
    place = f"is {kind}{row.here} here" if row.here else "is no field here"
    return f"{whose} {next(iter(theirs.values()))} {place}{f' ({row.note})' if row.note else ''}"


def meant_within(path: str, value: object) -> Iterator[str]:
    """`meant` for an unknown key, or for each key inside the section that it holds."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from meant_within(f"{path}.{name}", inner)
    elif found := meant(path):
        yield found


@cache
def fields_called() -> dict[str, list[str]]:
    """The paths of all fields of a recipe that are not sections, by their last name."""
    found: dict[str, list[str]] = {}
    for path in dict.fromkeys(_paths(Recipe, "")):
        found.setdefault(path.rpartition(".")[2], []).append(path)
    return found


def _paths(section: type[BaseModel], before: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = list(_sections(field.annotation, ""))
        if not inner:
            yield before + name
        for end, each in inner:
            yield from _paths(each, f"{before}{name}{end}.")


def _sections(annotation: Any, end: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections in an annotation, each with what a path has between the field's name and theirs."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield end, annotation
    origin = getattr(annotation, "__origin__", None)
    for argument in get_args(annotation):
        yield from _sections(argument, ".NAME" if origin is dict else "[]" if origin is tuple else end)
