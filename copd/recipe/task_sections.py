"""The sections of a recipe that say where a branch's problems come from. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from copd.recipe.fields import Amount, CodeOfFile, Count, CountFrom0, Positive, Section, Share, VerifierName
from copd.system.files import HUB, REVISION

HUB_FILE = re.compile(rf"{HUB}[\w.-]+/[\w.-]+(/.+)?")
TASK_TAG = "kind="
"""How a member of a union of sections begins in the path of an error."""
RESERVED_VARIABLES = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "load_audio_from_video",
    "processor_kwargs",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tools",
}
"""Arguments of transformers' `apply_chat_template` that are not variables of the template."""


class DigitsTask(Section):
    """The embedded world (`copd.tasks.digits`)."""

    kind: Literal["digits"] = Field("digits", description="which source of problems")
    capability: Literal["text", "image", "video"] = Field(
        description="typed numbers, handwriting, or moving handwriting"
    )
    conflict: Share = Field(
        1.0,
        description="share of problems that follow the capability's own convention; "
        "builtin:digits was warmed up at 1; for another value see `copd warmup --conflict`",
    )
    operators: tuple[Literal["sum", "max", "min", "diff", "chain"], ...] | None = Field(
        None, min_length=1, description="operators that occur; null = all of the capability"
    )
    length: tuple[Count, Count] = Field((2, 4), description="least and greatest number of operands, 2 to 6")
    max_number: int = Field(12, ge=1, le=999, description="greatest operand of a text problem")
    noise: float = Field(
        0.1, ge=0, le=1, description="standard deviation of the pixel noise, where black to white is 1"
    )
    jitter: int = Field(
        2, ge=0, le=4, description="greatest distance of a digit from the centre of its cell, in pixels"
    )

    @model_validator(mode="after")
    def _sound(self) -> DigitsTask:
        if not 2 <= self.length[0] <= self.length[1] <= 6:
            raise ValueError(
                f".length: found {list(self.length)}; accepted: [least, greatest] with 2 <= least <= greatest <= 6"
            )
        if self.capability != "text" and self.operators and "chain" in self.operators:
            raise ValueError(".operators: 'chain' exists for text only; accepted: sum, max, min, diff")
        return self


class MediaSection(Section):
    """Bounds of the images and videos of rows. Sizes are checked before anything is decoded."""

    max_image_pixels: Amount = Field(2**26, description="larger images, and videos with larger frames, are refused")
    image_pixels: Amount = Field(2**22, description="larger images are scaled down to about this many pixels")
    frame_pixels: Amount = Field(
        2**18, description="larger frames of a video are scaled down to about this many pixels"
    )
    max_frames: int = Field(
        64, ge=2, description="most frames per video; a longer one keeps this many at equal distances"
    )
    fps: Positive = Field(
        2.0, description="frames taken per second of a video file; also the rate of a list of frames without a rate"
    )
    max_video_seconds: Positive = Field(1800.0, description="longer video files are refused")


FilesOrFile = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | tuple[str, ...]
    ),
]


ColumnOfOurs = Literal["prompt", "answer", "images", "videos", "options", "verifier", "id", "fps"]
"""The columns that a recipe may name."""
OR_A_SHARE = "null = a share of train, chosen by hash of a row's media, else of its text"


class RowsTask(Section):
    """The user's own problems (`copd.rows.rows`)."""

    kind: Literal["rows"] = Field(description="which source of problems")
    train: FilesOrFile = Field(
        description="a .jsonl or .parquet file, a list of them, or hub:OWNER/NAME[/FILE] on the Hugging Face Hub"
    )
    validation: FilesOrFile | None = Field(None, description=f"files of the validation rows, as in train; {OR_A_SHARE}")
    test: FilesOrFile | None = Field(None, description=f"files of the test rows, as in train; {OR_A_SHARE}")
    validation_share: Share = Field(0.1, description="share of train's rows, if no validation file is given")
    test_share: Share = Field(0.1, description="share of train's rows, if no test file is given")
    revision: str | None = Field(
        None,
        pattern=REVISION,
        description="commit, branch or tag of a data set of the Hugging Face Hub; a run keeps the commit that this is "
        "at its start",
    )
    data_root: str | None = Field(
        None,
        description="folder of images and videos; their paths start in it and stay in it; null = folder of the file",
    )
    format: Literal["auto", "native", "verl", "trl", "easyr1"] = Field(
        "auto", description="format of the rows; auto = recognised by the columns, refused if they fit several"
    )
    columns: dict[ColumnOfOurs, Annotated[str, Field(min_length=1)]] = Field(
        {},
        description="our name of a column: its name in your files, as in {prompt: question, images: figure}; the usual "
        "names are understood without it",
    )
    verifier: str | None = Field(None, description="the verifier of rows that name none; null = every row names one")
    system_prompt: str | None = Field(None, min_length=1, description="system message of rows that have none")
    prompt_template: str | None = Field(
        None,
        min_length=1,
        description="Jinja template of the last user message: `prompt` is its text; columns by name, but no answers",
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="variables of the model's chat template, for instance enable_thinking: false"
    )
    bad_rows: Literal["error", "skip"] = Field("error", description="stop at a bad row, or leave it out and count it")
    max_bad_rows: CountFrom0 = Field(100, description="with bad_rows skip: more than this many stop the run")
    media: MediaSection = Field(MediaSection(), description="bounds of the rows' images and videos")

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables_only(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(RESERVED_VARIABLES & set(value)):
            raise ValueError(f"{taken[0]!r} is not a variable of a chat template")
        return value

    @model_validator(mode="after")
    def _sound(self) -> RowsTask:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        hub = [(split, file) for split, files in splits.items() for file in files or () if file.startswith(HUB)]
        for split, file in hub:
            if not HUB_FILE.fullmatch(file):
                raise ValueError(f".{split}: write hub:OWNER/NAME or hub:OWNER/NAME/FILE, found {file!r}")
            if self.revision is None:
                raise ValueError(f".revision: missing; {split} is {file}, so give its commit, branch or tag")
        if self.revision is not None and len({tuple(file.split("/")[:2]) for _, file in hub}) != 1:
            raise ValueError(
                ".revision: is that of one data set of the Hugging Face Hub; it needs exactly one hub:OWNER/NAME"
            )
        shares = {"validation_share": self.validation_share, "test_share": self.test_share}
        cut = {name: share for name, share in shares.items() if splits[name.removesuffix("_share")] is None}
        if (total := sum(cut.values())) >= 1:
            *others, last = cut
            found = f"with {others[0]} it comes to" if others else "is"
            raise ValueError(f".{last}: {found} {total:g}; accepted: less than 1, else nothing is left of train")
        return self


class PythonTask(Section):
    """Problems that a class of yours makes (`copd.tasks.own`)."""

    kind: Literal["python"] = Field(description="which source of problems")
    source: CodeOfFile = Field(
        description="path/file.py:Class, with a method `problem(split, index)` that returns a `copd.types.Problem`"
    )
    arguments: dict[str, bool | int | float | str] = Field(
        {}, description="arguments of the class by name; the recipe's seed goes to a parameter `seed`, if it has one"
    )


def tag_of_task(value: Any) -> str:
    kind = value.get("kind", "digits") if isinstance(value, dict) else getattr(value, "kind", "digits")
    return f"{TASK_TAG}{kind}"


TASKS: dict[str, type[Section]] = {"digits": DigitsTask, "rows": RowsTask, "python": PythonTask}


class BranchSection(Section):
    """One branch: the capability it trains on."""

    task: Annotated[
        Annotated[DigitsTask, Tag(f"{TASK_TAG}digits")]
        | Annotated[RowsTask, Tag(f"{TASK_TAG}rows")]
        | Annotated[PythonTask, Tag(f"{TASK_TAG}python")],
        Discriminator(
            tag_of_task,
            custom_error_type="unknown_kind",
            custom_error_message="accepted: 'digits', 'rows' or 'python'",
        ),
    ] = Field(description="source of the branch's problems and their verifiable answers")
    rewards: dict[VerifierName, float] = Field(
        {},
        description="further verifiers, each with the weight at which its score is added to that of the problem's own "
        "verifier; that one alone says whether an answer is right",
    )
    device: str | None = Field(
        None,
        pattern=r"^(cpu|mps|cuda(:\d{1,3})?)$",
        description="device of this branch, for instance cuda:1; null = model.device",
    )
