"""Model folders: find, load and save models, and choose the device and the type of the arithmetic."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as library

from copd.compute.family import Family, family_of, tokenizer_of
from copd.errors import CopdError, ModelFolderError, WriteError, first_line
from copd.system.files import REVISION, sha256, with_usual_modes
from copd.system.hub import commit_of

logger = logging.getLogger(__name__)
BUILTIN = "builtin:"
CHECKSUMS = "SHA256SUMS"
AT_REVISION = re.compile(rf"(\w[\w.-]*/\w[\w.-]*)@({REVISION[1:-1]})")
FETCHED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""The files fetched of a model of the hub: weights, configuration, chat template, vocabulary."""
DESCRIBED = ("README.md", "LICENSE*", "NOTICE*")
"""Files that tell of a model of the hub and its licence; they decide nothing."""
SETTINGS = FETCHED[1:]
"""The same without the weights."""


EXPORTED = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The types of weights in a model folder that copd writes."""


class Loader(NamedTuple):
    """The class of transformers that loads a model, and the hub's name for the model's kind of task."""

    auto_class: Any
    pipeline_tag: str


WITH_PICTURES = Loader(AutoModelForImageTextToText, "image-text-to-text")
TEXT_ONLY = Loader(AutoModelForCausalLM, "text-generation")


def model_folder(
    path: str, given_as: str = "model.path", revision: str | None = None, fetched: Sequence[str] = FETCHED
) -> Path:
    """The folder of a model: a local one, a builtin one, or that of a hub id at a `revision`: a commit, branch or tag.

    Without a `revision` the path may hold it, as ORGANISATION/NAME@REVISION. Of a hub id the files that match
    `fetched` are there. `builtin:NAME` is a base that ships with copd; it is checked against its sha256 sums. Raises
    ModelFolderError, naming the field or argument `given_as`, for an unknown name, a missing folder, a hub id without a
    revision, a hub model that cannot be fetched, or a damaged builtin file.
    """
    local = is_local(path)
    if local and revision is not None:
        raise ModelFolderError(f"model.revision: {given_as} is {path!r}, which is no hub id; leave the revision out")
    if path.startswith(BUILTIN):
        return _builtin_folder(path, given_as)
    if local:
        return Path(path)
    named = AT_REVISION.fullmatch(path if revision is None else f"{path}@{revision}")
    if named is None:
        raise ModelFolderError(
            f"{given_as}: no folder {path!r}; give a folder, one of {', '.join(builtin_models())}, or a hub id with a "
            "commit, branch or tag, as ORGANISATION/NAME@main or by model.path and model.revision"
        )
    try:
        commit = commit_of(named[1], named[2], "model")
    except CopdError as error:
        raise ModelFolderError(f"{given_as}: {error}") from error
    return _hub_folder(named[1], given_as, commit, fetched)


def is_local(path: str) -> bool:
    """Whether a path names a model that is here: a folder, or one that ships with copd."""
    return path.startswith(BUILTIN) or Path(path).is_dir()


def _builtin_folder(path: str, given_as: str) -> Path:
    folder = Path(str(files("copd"))) / "assets" / path.removeprefix(BUILTIN)
    if path not in builtin_models():
        raise ModelFolderError(f"{given_as}: no builtin model {path!r}; there is {', '.join(builtin_models())}")
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        digest, name = line.split(maxsplit=1)
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise ModelFolderError(f"{folder / name}: missing or damaged; reinstall copd")
    return folder


def _hub_folder(path: str, given_as: str, revision: str, fetched: Sequence[str]) -> Path:
    """The snapshot of one commit in the hub's cache, fetched if it is not there. It holds neither pickles nor code."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    from copd.system.fetching import Fetching

    if not isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
        logger.warning("fetching %s at %s ...", path, revision)
    try:
        wanted = [*fetched, *DESCRIBED]
        return Path(snapshot_download(path, revision=revision, allow_patterns=wanted, tqdm_class=Fetching))
    except Exception as error:
        reason = first_line(error)
        raise ModelFolderError(f"{given_as}: {path!r} at {revision} cannot be fetched: {reason}") from error


def load_model(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple[Any, Any]:
    """The model of a local folder of safetensors, and its processor; for a model of text only, its tokenizer.

    Tensors for a card are read a few at a time; the CPU never holds them all. Weights are never unpickled, and code
    in the folder is never run. Raises ModelFolderError naming the fault.
    """
    _check_config(folder)
    place = {} if torch.device(device).type == "cpu" else {"device_map": {"": device}}
    try:
        loader = loader_of(read_config(folder))
        with _without_bars():
            model, loading = loader.auto_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, trust_remote_code=False, **place
            )
        processor = load_processor(folder, loader)
    except Exception as error:
        raise ModelFolderError(f"{folder}: the model cannot be loaded: {first_line(error)}") from error
    if absent := sorted(loading["missing_keys"]):
        raise ModelFolderError(f"{folder}: the weights lack {len(absent)} of the model's tensors, first {absent[0]!r}")
    _check_template(folder, processor)
    return model, processor


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of transformers within: copd tells its own progress, and a quiet program tells none."""
    former = library.set_tqdm_hook(lambda make, given, named: make(*given, **{**named, "disable": True}))
    try:
        yield
    finally:
        library.set_tqdm_hook(former)


def load_processor(folder: Path, loader: Loader) -> Any:
    """The processor in a local folder; for a model of text only, its tokenizer. Code in the folder is never run.

    Raises ValueError for a tokenizer that knows no text, which is what transformers makes where no vocabulary is there.
    """
    auto_class = AutoProcessor if loader is WITH_PICTURES else AutoTokenizer
    processor = auto_class.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer_of(processor)("a 1", add_special_tokens=False)["input_ids"]:
        raise ValueError("its tokenizer makes no tokens of a text; accepted: a folder with tokenizer.json")
    return processor


def load_family(folder: Path, own: type[Family] | None = None) -> Family:
    """The family of the model in a local folder, which makes its prompts. No weights are read or held in memory.

    Raises ModelFolderError naming the fault.
    """
    return family_in(folder, without_weights(folder), own)


def without_weights(folder: Path) -> Any:
    """The model of the configuration in a local folder. Its tensors have shapes, but no values; no weights are read.

    Raises ModelFolderError naming the fault.
    """
    _check_config(folder)
    try:
        config = read_config(folder)
        with torch.device("meta"):
            return loader_of(config).auto_class.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise ModelFolderError(f"{folder}: config.json is not that of a model: {first_line(error)}") from error


def family_in(folder: Path, model: Any, own: type[Family] | None = None) -> Family:
    """The family of a model, with the processor in its folder; `own` is the user's.

    Raises ModelFolderError if it cannot be loaded, or makes no prompts for lack of a chat template.
    """
    try:
        family = family_of(model, load_processor(folder, loader_of(model.config)), own)
    except Exception as error:
        raise ModelFolderError(f"{folder}: the processor cannot be loaded: {first_line(error)}") from error
    _check_template(folder, family.processor)
    return family


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder}: no model here (config.json is missing); give a folder with a saved model")


def _check_template(folder: Path, processor: Any) -> None:
    if not getattr(processor, "chat_template", None):
        raise ModelFolderError(f"{folder}: has no chat template, which turns a problem into a prompt; add one")


def save_model(
    model: Any,
    processor: Any,
    folder: Path,
    card: str,
    *,
    suppressed: list[int],
    end_ids: list[int],
    pad_id: int,
    dtype: torch.dtype,
) -> None:
    """Save weights (safetensors, in `dtype`), processor, generation config and model card into `folder`.

    The generation config suppresses the tokens of the vocabulary mask and decodes greedily, so that `generate` gives
    the same responses as `Policy.sample`. Raises WriteError if the folder cannot be written.
    """
    config = model.generation_config
    config.suppress_tokens = suppressed
    config.eos_token_id = end_ids
    config.pad_token_id = pad_id
    config.do_sample = False
    config.temperature = config.top_p = config.top_k = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _without_bars():
            if dtype == model.dtype:
                model.save_pretrained(folder)
            else:
                model.save_pretrained(folder, state_dict=_in_type(model.state_dict(), dtype))
                name_type(folder / "config.json", dtype)
        with_usual_modes(folder)
        processor.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{folder}: the model cannot be written: {error}") from error


def _in_type(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies in another type. Tied tensors stay one tensor, which is how they are told from others."""
    copies: dict[tuple[int, torch.Size], Tensor] = {}
    return {
        name: copies.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(dtype))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


def name_type(config: Path, dtype: torch.dtype) -> None:
    """Let a config.json name this type as that of the weights."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    for section in (settings, *(part for part in settings.values() if isinstance(part, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in section:
                section[key] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def loader_of(config: Any) -> Loader:
    """The loader of a model of this configuration, in copd and for users of the model."""
    return WITH_PICTURES if config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES else TEXT_ONLY


def stored_type(folder: Path) -> str:
    """The type of the weights of the model in a local folder by its configuration; empty if that names none.

    Raises ModelFolderError if there is no configuration, or one that cannot be read.
    """
    _check_config(folder)
    try:
        named = getattr(read_config(folder), "dtype", None)
    except Exception as error:
        raise ModelFolderError(f"{folder}: config.json cannot be read: {first_line(error)}") from error
    return str(named).removeprefix("torch.") if named else ""


def read_config(folder: Path) -> Any:
    """The configuration of the model in a local folder; code in the folder is never run."""
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def builtin_models() -> list[str]:
    """Paths of the models that ship with copd."""
    assets = Path(str(files("copd"))) / "assets"
    return sorted(BUILTIN + folder.name for folder in assets.iterdir() if (folder / CHECKSUMS).is_file())


def sums_of(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a model folder by its name: those that are `FETCHED` from the hub."""
    return {path.name: sha256(path) for path in sorted(path for pattern in FETCHED for path in folder.glob(pattern))}


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` for the files of a model folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def compute_on(device: str, dtype: str, given_as: str = "model.device") -> tuple[torch.device, torch.dtype | None]:
    """The device, and the type of autocast, or None for plain float32.

    "auto" is cuda, else mps, else cpu; for the type it is bfloat16 on cuda, else float32. Raises ModelFolderError,
    naming the field `given_as`, for a device that this machine lacks.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(d for d, there in available.items() if there) if device == "auto" else device
    kind, _, number = name.partition(":")
    if not available[kind] or (number and int(number) >= torch.cuda.device_count()):
        there = [d for d, present in available.items() if present and d != "cuda"]
        cards = [f"cuda:{i}" for i in range(torch.cuda.device_count() if available["cuda"] else 0)]
        raise ModelFolderError(f"{given_as}: {name!r} is not available here; there is {', '.join([*cards, *there])}")
    half = dtype == "bfloat16" or (dtype == "auto" and kind == "cuda")
    place = torch.device("cuda", int(number or 0)) if kind == "cuda" else torch.device(name)
    return place, torch.bfloat16 if half else None
