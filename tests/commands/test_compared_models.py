"""Models without a run: evaluated side by side, and one as the teacher of another."""

import json
import re
import shutil
import weakref

import pytest

from copd.assemble.assembled import load_policy
from copd.commands.behaviour import compare_behaviour
from copd.commands.evaluate import evaluate_models
from copd.errors import ModelFolderError, RecipeError
from copd.measure.evaluate import AVERAGE
from copd.recipe.reading import load_recipe

SMALL = [
    "branches={text: {task: {kind: digits, capability: text}}, image: {task: {kind: digits, capability: image}}}",
    "sampling.max_new_tokens=6",
    "model.threads_per_branch=1",
    "evaluation={problems: 5, behaviour_problems: 2, pass_at: [1]}",
]


@pytest.fixture(scope="module")
def folders(policy, ending, tmp_path_factory) -> tuple[str, str]:
    """Two models of different random weights."""
    root = tmp_path_factory.mktemp("models")
    policy.save(root / "random", "")
    ending.save(root / "other", "")
    return str(root / "random"), str(root / "other")


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("demo-paper", SMALL)


def test_models_are_evaluated_side_by_side_and_each_with_the_first(folders, recipe):
    told = []
    table, compared = evaluate_models(recipe, [*folders, folders[0]], told.append)
    assert told[:3] == [
        f"{folders[0]}: {what}" for what in ("loading", *(f"answering 5 problems of {c}" for c in ("text", "image")))
    ]
    assert [(cell.model, cell.capability) for cell in table] == [
        (folder, capability) for folder in folders for capability in ("text", "image", AVERAGE)
    ]
    value = {(cell.model, cell.capability): cell.greedy.value for cell in table}
    assert [(d.model, d.against, d.capability) for d in compared] == [
        (folders[1], folders[0], capability) for capability in ("text", "image", AVERAGE)
    ]
    for d in compared:
        assert d.greedy.value == pytest.approx(value[folders[1], d.capability] - value[folders[0], d.capability])
        assert d.greedy.low <= d.greedy.value <= d.greedy.high


def test_models_are_in_memory_one_at_a_time_although_rows_ask_each_whether_they_fit(folders, tmp_path, monkeypatch):
    lines = [json.dumps({"prompt": f"{i} + 1 =", "answer": str(i + 1), "verifier": "number"}) for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rows = {"kind": "rows", "train": str(tmp_path / "rows.jsonl"), "test": str(tmp_path / "rows.jsonl")}
    few = {"problems": 2, "validation_problems": 1, "behaviour_problems": 1}
    recipe = load_recipe(
        "demo-paper", [f"branches={{a: {{task: {rows}}}}}", f"evaluation={few}", "method=expert", *SMALL[1:3]]
    )
    loaded, alive = [], []

    def load(recipe, path, **_):
        alive.append(sum(model() is not None for model in loaded))
        policy = load_policy(recipe, path)
        loaded.append(weakref.ref(policy.model.get_input_embeddings()))
        return policy

    monkeypatch.setattr("copd.assemble.assembled.load_policy", load)
    evaluate_models(recipe, folders)
    assert alive == [0, 0]


def test_a_model_alone_is_compared_with_nobody(folders, recipe):
    assert evaluate_models(recipe, folders[:1])[1] == []


def test_a_teacher_is_compared_with_a_student_in_every_capability_on_the_students_tokens(folders, recipe):
    text, image = compare_behaviour(recipe, *folders)
    assert (text.capability, image.capability) == ("text", "image")
    for capability in (text, image):
        assert 0 < capability.tokens <= 2 * 2 * 6
        assert set(capability.likeness.overlap) == {5, 10}
        assert capability.likeness.overlap[5] < 1
        assert capability.likeness.symmetric_kl > 0
        sizes = [abs(dispute.delta) for dispute in capability.disputes]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes
    assert compare_behaviour(recipe, *folders, problems=1)[0].tokens < text.tokens


def test_a_model_agrees_with_itself_to_the_last_bit(folders, recipe):
    for capability in compare_behaviour(recipe, folders[0], folders[0]):
        assert capability.likeness.overlap == {5: 1.0, 10: 1.0}
        assert capability.likeness.symmetric_kl == 0
        assert capability.disputes == []


def test_a_teacher_of_other_tokens_is_refused(folders, recipe, tmp_path):
    shutil.copytree(folders[1], tmp_path / "stricter")
    path = tmp_path / "stricter" / "generation_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "suppress_tokens": [*(config.get("suppress_tokens") or []), 5]}))
    with pytest.raises(ModelFolderError, match=r"STUDENT .*random and TEACHER .*stricter do not share"):
        compare_behaviour(recipe, folders[0], str(tmp_path / "stricter"))


def test_an_overlap_larger_than_the_vocabulary_is_refused(folders):
    recipe = load_recipe("demo-paper", [*SMALL, "evaluation.overlap_k=[5, 999]"])
    with pytest.raises(RecipeError, match=r"evaluation.overlap_k: 999 is larger than the \d+ tokens"):
        compare_behaviour(recipe, *folders)


def test_a_run_whose_overlap_is_larger_than_the_vocabulary_does_not_begin(command, tmp_path):
    done = command("train", "demo-paper", *SMALL, "evaluation.overlap_k=[5, 999]")
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"error: evaluation\.overlap_k: 999 is larger than the \d+ tokens of the masked vocabulary", said
    )
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
