"""The published sets that `copd data prepare` knows: those on which the paper trains, and tests that copd grades."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from copd.errors import DataError, visible
from copd.sets.converting import Shape
from copd.sets.image import MMFINEREASON, ZEROBENCH
from copd.sets.text import POLARIS, PROBLEMS
from copd.sets.video import VIDEO40K
from copd.system.files import HUB


@dataclass(frozen=True)
class PublishedSet:
    """One set.

    homes      where it is published: ids of the Hugging Face Hub
    licence    as its card says. "not checked" = we could not read the card
    shapes     the forms that its files may have
    problems   how many there are in a test; None for a set to train on
    default    what is read if no source is given; None = a source must be given
    remarks    what a user should know of its rows
    """

    title: str
    homes: tuple[str, ...]
    licence: str
    shapes: tuple[Shape, ...]
    problems: int | None = None
    default: str | None = None
    remarks: tuple[str, ...] = ()


SETS: Mapping[str, PublishedSet] = {
    "polaris": PublishedSet(
        title="Polaris-53K, text",
        homes=("POLARIS-Project/Polaris-Dataset-53K",),
        licence="apache-2.0",
        shapes=POLARIS,
        default=f"{HUB}POLARIS-Project/Polaris-Dataset-53K/*",
        remarks=(
            "`difficulty` is the pass rate of DeepSeek-R1-Distill-Qwen-7B. It chooses nothing here: `copd data filter` "
            "asks the model that is trained.",
            "The set is known to repeat problems of AIME 2024: give the prepared tests with --without.",
        ),
    ),
    "mmfinereason": PublishedSet(
        title="MMFineReason-123K, images",
        homes=("OpenDataArena/MMFineReason-SFT-123K-Qwen3-VL-235B-Thinking", "iieycx/rlsd-train-MMFineReason-123K"),
        licence="apache-2.0 for the first, not checked for the second; the pictures keep the licences of their sources",
        shapes=MMFINEREASON,
        default=f"{HUB}OpenDataArena/MMFineReason-SFT-123K-Qwen3-VL-235B-Thinking",
        remarks=(
            "`pass_rate` is 0 in every row: these are the rows that Qwen3-VL-4B-Thinking failed four times of four. "
            "It chooses nothing here: `copd data filter` asks the model that is trained.",
            "About a fifth of the answers are free text. They are left out: no verifier can compare them.",
        ),
    ),
    "video40k": PublishedSet(
        title="OneThinker, Video-R1 and VideoChat-R1, videos",
        homes=(
            "OneThink/OneThinker-train-data",
            "Video-R1/Video-R1-data",
            "OpenGVLab/VideoChat-R1 on GitHub (NExT-GQA)",
        ),
        licence="apache-2.0 for Video-R1, not checked for the others; the videos keep the licences of their sources",
        shapes=VIDEO40K,
        remarks=(
            "The paper's list of 40,000 rows is not published. `copd data filter --at-most 40000` makes one like it: "
            "rows whose pass rate is neither 0 nor 1.",
            "OneThinker holds training videos of Video-Holmes, a set on which the paper tests.",
        ),
    ),
    "aime24": PublishedSet(
        "AIME 2024",
        ("math-ai/aime24", "Maxwell-Jia/AIME_2024", "HuggingFaceH4/aime_2024"),
        "not checked",
        PROBLEMS,
        30,
        f"{HUB}math-ai/aime24/*",
    ),
    "aime25": PublishedSet(
        "AIME 2025",
        ("math-ai/aime25", "MathArena/aime_2025"),
        "not checked",
        PROBLEMS,
        30,
        f"{HUB}math-ai/aime25/*",
        ("Some copies are two sets, AIME I and II, of 15 problems each: give both.",),
    ),
    "hmmt25": PublishedSet(
        "HMMT, February 2025",
        ("MathArena/hmmt_feb_2025",),
        "cc-by-nc-sa-4.0",
        PROBLEMS,
        30,
        f"{HUB}MathArena/hmmt_feb_2025/*",
        ("The paper says HMMT 2025. February is the usual one; there is a set of November too.",),
    ),
    "math500": PublishedSet(
        "MATH-500",
        ("HuggingFaceH4/MATH-500",),
        "not checked",
        PROBLEMS,
        500,
        f"{HUB}HuggingFaceH4/MATH-500/*",
    ),
    "minerva": PublishedSet(
        "Minerva Math (MIT OpenCourseWare)",
        ("math-ai/minervamath", "knoveleng/Minerva-Math"),
        "not checked",
        PROBLEMS,
        272,
        f"{HUB}math-ai/minervamath/*",
    ),
    "zerobench_sub": PublishedSet(
        "ZeroBench (sub-questions)",
        ("jonathan-roberts1/zerobench",),
        "not checked; gated: accept its terms on the hub first",
        ZEROBENCH,
        334,
        f"{HUB}jonathan-roberts1/zerobench/*zerobench_subquestions*",
        ("An answer that is a word is compared as it is written, case included.",),
    ),
}


def published(name: str) -> PublishedSet:
    """The set of this name. Raises DataError naming all sets."""
    if name not in SETS:
        raise DataError(f"{visible(name[:40])}: no set of this name; accepted: {', '.join(SETS)}")
    return SETS[name]


def shape_in(shapes: Collection[Shape], columns: Collection[str], where: str) -> Shape:
    """The shape that a file with these columns has; of several, the one with most columns, then the first.

    Raises DataError naming the file `where` and the columns of each shape.
    """
    fitting = [shape for shape in shapes if shape.columns <= set(columns)]
    if not fitting:
        needs = "; ".join(f"{shape.name} has {', '.join(sorted(shape.columns))}" for shape in shapes)
        raise DataError(f"{where}: no shape fits the columns {visible(', '.join(sorted(columns)[:20]))}: {needs}")
    return max(fitting, key=lambda shape: len(shape.columns))
