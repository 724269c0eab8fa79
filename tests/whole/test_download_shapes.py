"""Files in the shape in which known data sets are downloaded, made into a recipe and trained: two commands each."""

import io
import json
import random
from pathlib import Path

import pytest
from media_files import film
from PIL import Image

from copd.runs.runlog import read_lines

FEW = [
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 0}",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 2, max_new_tokens: 12}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 9}",
]

pytestmark = pytest.mark.usefixtures("undrawn")


def gsm8k(folder: Path) -> str:
    """openai/gsm8k: question, and a worked answer that ends in `#### N`."""
    rows = []
    for a in range(40):
        answer = f"Ann has {a} and {a} more, {a}+1000=<<{a}+1000={a + 1000}>>{a + 1000}.\n#### {a + 1000:,}"
        rows.append({"question": f"Ann has {a} clips and gets 1000 more. How many?", "answer": answer})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "train.jsonl"


def mmmu(folder: Path) -> str:
    """MMMU/MMMU: numbered pictures with marks in the question, choices as a text, and a few open questions."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng, rows = random.Random(0), []
    for i in range(40):
        shown = []
        for _ in range(2):
            data = io.BytesIO()
            Image.new("RGB", (32, 32), tuple(rng.randrange(256) for _ in range(3))).save(data, "PNG")
            shown.append({"bytes": data.getvalue(), "path": f"{i}.png"})
        is_open = i % 20 == 3
        rows.append(
            {
                "id": f"validation_Art_{i}",
                "question": "Which is <image 1>?" if i % 2 else "Is <image 2> like <image 1>?",
                "options": "[]" if is_open else "['red', 'blue', \"I don't know\"]",
                "explanation": "",
                "image_1": shown[0],
                "image_2": None if i % 2 else shown[1],
                "image_3": None,
                "img_type": "['Paintings']",
                "answer": "['24/7', '3.429']" if is_open else "ABC"[i % 3],
                "topic_difficulty": "Easy",
                "question_type": "open" if is_open else "multiple-choice",
                "subfield": "Art",
            }
        )
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "validation-00000-of-00001.parquet")
    return "validation-00000-of-00001.parquet"


def video_r1(folder: Path) -> str:
    """Video-R1/Video-R1-data: one JSON list; a picture or a video in `path`, as `data_type` says."""
    (folder / "media").mkdir()
    rows = []
    for i in range(30):
        name, data_type = (f"media/{i}.mp4", "video") if i % 3 else (f"media/{i}.png", "image")
        if data_type == "video":
            film(folder / name)
        else:
            Image.new("RGB", (32, 32), (i, i, i)).save(folder / name)
        rows.append(
            {
                "problem_id": i,
                "problem": "Which way?",
                "data_type": data_type,
                "problem_type": "multiple choice",
                "options": ["A. left", "B. right"],
                "process": "",
                "solution": f"<answer>{'AB'[i % 2]}</answer>",
                "path": f"./{name}",
                "data_source": "CLEVRER",
            }
        )
    (folder / "Video-R1.json").write_text(json.dumps(rows, indent=2))
    return "Video-R1.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("download", "name", "verifier"),
    [(gsm8k, "rows", "number"), (mmmu, "rows", "choice"), (video_r1, "Video-R1", "choice")],
)
def test_a_download_is_trained_in_two_commands(command, tmp_path, download, name, verifier):
    file = download(tmp_path)
    made = command("init", "--model", "builtin:digits", file)
    assert made.returncode == 0, made.stderr
    (tmp_path / "my.yaml").write_text(made.stdout)
    assert f"  {name}:\n" in made.stdout
    assert f"verifier: {verifier} " in made.stdout
    trained = command("train", "my.yaml", *FEW, "--out", "runs/first")
    assert trained.returncode == 0, trained.stderr
    updates = [line for line in read_lines(tmp_path / "runs" / "first" / "metrics.jsonl") if line["event"] == "update"]
    assert [line["branch"] for line in updates] == [name]
    assert (tmp_path / "runs" / "first" / "branches" / name / "model.safetensors").is_file()
