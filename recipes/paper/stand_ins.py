"""Small files in the shapes of the paper's sets, and small recipes for them. Nothing is fetched.

    python recipes/paper/stand_ins.py sets small

The columns and their types are those that the cards of the sets name. The problems are sums, and copd's handwritten
digits in pictures and films, so that copd's tiny base is sometimes right. Each set has hostile rows too: the numbers of
`HOSTILE` say how many of them `copd data prepare` must leave out. The recipes in the folder `small` are those beside
this file with the tiny base and few steps; they find sets and rows where the large ones do. `small/suite.yaml` is the
suite `paper` without the benchmarks that a harness asks.
"""

from __future__ import annotations

import io
import json
import sys
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import yaml
from PIL import Image

from copd.tasks.digits import Digits
from copd.types import Problem, Split

Row = dict[str, Any]
ROWS = 60
"""Sound rows of each set to train on."""
TESTS = {"aime24": 30, "aime25": 30, "hmmt25": 30, "math500": 40, "minerva": 40}
"""Problems of each test of text. The last two have fewer than the real ones."""
HOSTILE = {"polaris": 7, "mmfinereason": 7, "onethinker": 6, "video_r1": 4, "videochat_r1": 3, "zerobench_sub": 2}
TILE = 16
"""Side of a frame in pixels: one patch of the tiny model."""


SMALL: Row = {
    "model": {"path": "builtin:digits", "dtype": "float32", "device": "cpu", "threads_per_branch": 1},
    "schedule": {"cycles": 1, "rl_steps": 2, "opd_steps": 4},
    "sampling": {"prompts_per_step": 4, "rollouts_per_prompt": 4, "max_new_tokens": 24},
    "opd": {"prompts_per_step": 3, "rollouts_per_prompt": 4},
    "optimizer": {"learning_rate": 1.0e-4},
    "evaluation": {"problems": 4, "validation_problems": 4, "behaviour_problems": 2, "pass_at": []},
    "backend": "processes",
}
"""The sections of the small recipes that differ from the large ones."""


def main(folder: Path, recipes: Path) -> None:
    """Write all sets into a folder, each in one of its own, and the small recipes and suite into another."""
    write_sets(folder)
    recipes.mkdir(parents=True, exist_ok=True)
    (recipes / "suite.yaml").write_text(yaml.safe_dump(small_suite(), sort_keys=False))
    for name in ("two", "three"):
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(small_recipe(name), sort_keys=False))
        (recipes / f"{name}_branches.yaml").write_text(yaml.safe_dump(small_comparison(name), sort_keys=False))


def recipe_of(name: str) -> Row:
    """A file beside this one."""
    found: Row = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def small_recipe(name: str) -> Row:
    """A recipe with the tiny base, few steps, and shares of rows that leave some for each split."""
    recipe = recipe_of(name) | SMALL
    for branch in recipe["branches"].values():
        branch["task"] |= {"validation_share": 0.2, "test_share": 0.2}
        del branch["task"]["system_prompt"]  # the tiny base boxes its answers, and knows no English
    return recipe


def small_comparison(name: str) -> Row:
    """A comparison with the arms of the large one, at the small recipe's rollouts, each job on one core."""
    comparison = recipe_of(f"{name}_branches")
    rollouts = {"two": 288, "three": 480}[name]
    for arm in comparison["arms"].values():
        if "opd" in arm:
            arm["opd"] |= {"prompts_per_step": 4}
        if "replay" in arm.get("opd", {}):
            arm["opd"]["replay"] = 1
    return comparison | {"rollouts": rollouts, "problems": 4, "place": "core"}


def small_suite() -> Row:
    """The benchmarks of the suite `paper` that copd asks itself, with short responses and two of them at most."""
    suite: Row = yaml.safe_load((files("copd") / "assets" / "suites" / "paper.yaml").read_text(encoding="utf-8"))
    kept = {name: each for name, each in suite["benchmarks"].items() if each["engine"] == "rows"}
    for each in kept.values():
        each["samples"] = min(2, each.get("samples", 1))
        del each["system_prompt"]
    return suite | {"benchmarks": kept, "harnesses": {}, "sampling": suite["sampling"] | {"max_new_tokens": 24}}


def write_sets(folder: Path) -> None:
    """Write all sets into a folder, each in one of its own."""
    tests = {name: sums(count, place + 1) for place, (name, count) in enumerate(TESTS.items())}
    write_lines(folder / "polaris" / "polaris-data-53K.jsonl", polaris(tests["aime24"][0]))
    for name, rows in tests.items():
        write_lines(folder / name / "test.jsonl", rows)
    write_parquet(folder / "mmfinereason" / "data" / "train-00000-of-00001.parquet", mmfinereason())
    write_parquet(folder / "zerobench" / "data" / "zerobench_subquestions-00000-of-00001.parquet", zerobench())
    for index in range(ROWS):
        film(folder / "videos" / "films" / f"{index}.mp4", problem("video", index))
    write_list(folder / "videos" / "onethinker_rl_train.json", onethinker())
    write_list(folder / "videos" / "Video-R1-260k.json", video_r1())
    write_list(folder / "videos" / "nextgqa_val.json", videochat_r1())


def problem(capability: str, index: int) -> Problem:
    """A problem of the embedded world that asks for a sum."""
    return Digits(capability=capability, operators=("sum",), length=(2, 2)).problem(Split.TRAIN, index)


def sums(count: int, last: int) -> list[Row]:
    """Different sums that end in the same number, with the columns that the tests of text share."""
    asked = [(1 + i % 12, 1 + i // 12) for i in range(count)]
    return [
        {"problem": f"usual value: {a}+{b}-{last}", "answer": str(a + b - last), "id": i}
        for i, (a, b) in enumerate(asked)
    ]


def polaris(tested: Row) -> list[Row]:
    """POLARIS-Project/Polaris-Dataset-53K: a share as a text, known repetitions, proofs and damaged answers."""
    sound = [
        {
            "problem": f"usual value: {1 + i % 12}+{1 + i // 12}",
            "answer": str(2 + i % 12 + i // 12),
            "difficulty": "3/8",
        }
        for i in range(ROWS)
    ]
    hostile = [
        sound[0],
        {**tested, "difficulty": "0/8"},
        {"problem": "Let n be odd. Prove that n^2 is odd.", "answer": "n^2", "difficulty": "1/8"},
        {"problem": "What is 2+2?", "answer": "", "difficulty": "8/8"},
        {"problem": "", "answer": "4", "difficulty": "8/8"},
        {"problem": "What is 2+3?", "answer": "\\boxed{5} or \\boxed{6}", "difficulty": "8/8"},
        {"problem": "What is 3+3?", "answer": ["6"], "difficulty": "8/8"},
    ]
    return [{name: row[name] for name in ("problem", "answer", "difficulty")} for row in [*sound, *hostile]]


def mmfinereason() -> list[Row]:
    """OpenDataArena's MMFineReason-123K: one picture a row in the file, `pass_rate` 0, answers that may be missing."""

    def row(number: int, question: str, answer: str | None, picture: bytes | None) -> Row:
        return {
            "source": "BMMR",
            "id": str(number),
            "ori_question": question,
            "original_answer": answer or "",
            "image": None if picture is None else {"bytes": picture, "path": None},
            "question": question,
            "answer": answer,
            "caption": "A picture.",
            "qwen3vl_235b_thinking_response": "<think>...</think><answer>...</answer>",
            "pass_rate": 0.0,
            "is_consistent": True,
            "consistency_analysis": "",
        }

    asked = [problem("image", index) for index in range(ROWS)]
    sound = [row(i, f"<image>{each.prompt}", each.answer, picture(each.images[0])) for i, each in enumerate(asked)]
    first = picture(asked[0].images[0])
    hostile = [
        row(100, "<image>What colour is it?", "a kind of grey", first),
        row(101, "<image>How many?", None, first),
        row(102, "<image>How many?", "2", None),
        row(103, "<image>How many?", "2", b"GIF89a, says the picture"),
        row(104, "<image><image>How many?", "2", first),
        row(105, sound[0]["question"], sound[0]["answer"], first),
        row(106, "", "2", first),
    ]
    return [*sound, *hostile]


def zerobench() -> list[Row]:
    """jonathan-roberts1/zerobench, sub-questions: several pictures a row."""

    def row(number: int, text: str | None, pictures: list[bytes]) -> Row:
        return {
            "question_id": f"{number}_1",
            "question_text": text,
            "question_images_decoded": [{"bytes": each, "path": None} for each in pictures],
            "question_images": [f"images/{number}.png" for _ in pictures],
            "question_answer": "7" if number % 2 else "seven",
            "image_attribution": "Own work.",
        }

    shown = picture(problem("image", 0).images[0])
    sound = [row(i, f"Sum number {i}?", [shown] * (1 + i % 3)) for i in range(8)]
    return [*sound, row(8, None, [shown]), row(9, "Sum?", [])]


def onethinker() -> list[Row]:
    """OneThink/OneThinker-train-data: all kinds of problems in one list, `images` or `videos` by their kind."""

    def row(number: int, **fields: Any) -> Row:
        base = {"problem_id": number, "data_type": "video", "problem_type": "numerical", "options": []}
        more = {"data_source": "made", "videos": [f"films/{number % ROWS}.mp4"], "problem_reserved_text": ""}
        return base | more | {"problem": "<video>usual sum", "answer": "<answer>1</answer>"} | fields

    sound = [
        row(i, problem=f"<video>{problem('video', i).prompt}", answer=f"<answer>{problem('video', i).answer}</answer>")
        for i in range(ROWS // 2)
    ]
    picture_row = row(100, data_type="image", images=["films/0.png"])
    del picture_row["videos"]
    hostile = [
        picture_row,
        row(101, problem_type="segmentation", answer='<answer>{"boxes": [0, 0, 1, 1]}</answer>'),
        row(102, videos=["films/none.mp4"]),
        row(103, videos=["../polaris/polaris-data-53K.jsonl"]),
        row(104, videos=["/etc/hostname"]),
        row(105, problem_type="multiple choice", options=["A. up", "B. down"], answer="<answer>D</answer>"),
    ]
    return [*sound, *hostile]


def video_r1() -> list[Row]:
    """Video-R1/Video-R1-data: one path, the answer in the tag of `solution`."""

    def row(number: int, **fields: Any) -> Row:
        base = {"problem_id": number, "data_type": "video", "problem_type": "multiple choice"}
        more = {"options": ["A. light", "B. dark"], "solution": "<answer>B</answer>", "data_source": "made"}
        return base | more | {"problem": "How is it?", "path": f"./films/{number % ROWS}.mp4"} | fields

    sound = [row(i) for i in range(ROWS // 2, ROWS - 10)]
    hostile = [
        row(100, problem_type="free-form", options=[], solution="<answer>a man walks</answer>"),
        row(101, data_type="image", path="./films/0.png"),
        row(102, solution="B"),
        row(103, path=None),
    ]
    hostile[2]["solution"] = "<answer>B"
    return [*sound, *hostile]


def videochat_r1() -> list[Row]:
    """NExT-GQA as VideoChat-R1 reads it: letters in brackets, and spans of time that are not asked."""

    def row(number: int, **fields: Any) -> Row:
        base = {"video": f"films/{number % ROWS}.mp4", "question": "why is it light", "duration": 2.0}
        return base | {"options": ["(A) by day", "(B) by night"], "answer": "(A)", "glue": [[0.1, 1.2]]} | fields

    sound = [row(i) for i in range(ROWS - 10, ROWS)]
    return [*sound, row(100, options="(A) by day"), row(101, answer=None), row(102, video="films")]


def picture(pixels: Any) -> bytes:
    """The file of a picture."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, "PNG")
    return file.getvalue()


def film(path: Path, shown: Problem) -> None:
    """Write the frames of a problem's video as MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.asarray(shown.videos[0])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        stream.codec_context.time_base = Fraction(1, 2)
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())


def write_lines(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_list(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_parquet(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
