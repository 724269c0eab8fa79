"""Whatever stands in a recipe, a row, a response, a branch or a manifest: the errors are ours and name the place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import yaml
from checkpoints import save_checkpoint, tensors_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from merges import merge

from copd.data.check import check_file
from copd.errors import CheckpointError, DataError, RecipeError
from copd.maths.merge import MERGES
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.recipe.strict_yaml import parse_yaml
from copd.rewards.answers import FORMS, final_answer
from copd.rewards.verifiers import VERIFIERS, misread
from copd.runs.checkpoint import MANIFEST, latest_checkpoint, verify_checkpoint


def few(examples):
    """Always the same examples, so that a run tells the same as the one before it."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


@contextmanager
def nothing_but(kind: type[Exception], *parts: str) -> Iterator[None]:
    """No error, or one of this kind that says one of the parts."""
    try:
        yield
    except kind as error:
        said = str(error)
    else:
        return
    assert any(part in said for part in parts), said


HUGE = 10**400
"""Beyond every floating-point number, and short enough to be written out."""
SCALARS = st.none() | st.booleans() | st.integers() | st.just(HUGE) | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


# Recipes: text, and overrides


PIECES = ["a", "1", "0x", "f" * 5000, "1e999", "~", "yes", "'", '"', "\\U", "FFFFFFFF", "-", ": ", "? ", "{", "}"]
PIECES += ["[", "]", ",", "#", "|", ">", "&x ", "*x", "!!", "python/object:os.system", "<<: ", "=", "%", "@", "`"]
PIECES += ["\n", "\n  "]
PIECES += ["0001-01-01 00:00:00 +23:59", "2001-99-99", "012", "1:30", "\x00", "\ud800", "\ufeff", "---", "kind=x: 1"]
YAML = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join)
DEEP = "[" * 1100


@few(75)
@given(YAML)
@example(DEEP)
@example("{a: " * 1100)
@example('&x "\\UFFFFFFFF"')
@example('"\\UFFFFFFFF"')
@example("a: 0001-01-01 00:00:00 +23:59")
def test_any_text_is_a_value_or_a_recipe_error(text):
    with nothing_but(RecipeError, "my.yaml: "):
        parse_yaml(text, "my.yaml")


def paths(section=Recipe):
    """Every field of a recipe by its path, branches under the name `text`."""
    for name, field in section.model_fields.items():
        yield name
        if hasattr(field.default, "model_fields"):
            yield from (f"{name}.{inner}" for inner in paths(type(field.default)))


TASK = ["branches.text.task", "branches.text.task.kind", "branches.text.task.train", "branches.text.task.media.fps"]
PATHS = [*paths(), *TASK, "branches.text", "branches.9.task", "branches.edges.x", "topology.edges.0", "lora.rank"]
VALUES_OF_FIELDS = (
    YAML | VALUES.map(lambda value: json.dumps(value)) | st.sampled_from(["0", "-1", "0.5", "true", "null", "[]"])
)


@few(75)
@given(st.lists(st.tuples(st.sampled_from(PATHS) | st.text(max_size=9), VALUES_OF_FIELDS), min_size=1, max_size=4))
@example([("sampling", f"[0x{'f' * 5000}]")])
@example([("seed", f"0x{'f' * 5000}")])
@example([("topology", '{"\\ud800": false}')])
def test_any_override_makes_a_recipe_or_a_recipe_error(overrides):
    with nothing_but(RecipeError, ":"):
        load_recipe("demo-paper", [f"{path}={value}" for path, value in overrides])


KEYS = st.sampled_from(["branches", "text", "task", "kind", "rows", "train", "seed", "merge", "weights", "edges"])
KEYS |= st.text(max_size=6) | st.integers() | st.booleans() | st.none() | st.sampled_from(["kind=x", "kind=rows"])
RECIPES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@few(60)
@given(st.dictionaries(KEYS, RECIPES, max_size=4))
@example({"kind=x": 1})
@example({1: 2, None: 3})
@example({"branches": {"kind=x": 1}})
@example({"branches": {"a": {"task": {"kind": "rows", "kind=x": 1}}}})
@example({"topology": {"edges": [{"kind=x": 1}]}})
def test_any_mapping_is_a_recipe_or_a_recipe_error(tmp_path, data):
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=False), encoding="utf-8")
    with nothing_but(RecipeError, ":"):
        load_recipe(path)


@few(40)
@given(st.binary(max_size=60))
def test_any_file_is_a_recipe_or_a_recipe_error(tmp_path, content):
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "my.yaml")


# Rows


COLUMNS = ["prompt", "answer", "problem", "solution", "reward_model", "images", "image", "videos", "verifier", "id"]
COLUMNS += ["fps", "data_type", "problem_id", "extra"]
TEXTS = st.sampled_from(
    ["7", "a.png", "../a.png", "a\0b", "\ud800", "x" * 300, "http://a", "<image>", "<video>what?", "math", "<|im_end|>"]
)
REFERENCES = TEXTS | VALUES | st.fixed_dictionaries({"bytes": TEXTS | st.just("AAAA"), "path": TEXTS})
PROMPTS = TEXTS | st.lists(
    st.fixed_dictionaries({"role": TEXTS | st.just("user"), "content": TEXTS | st.lists(VALUES, max_size=2)}),
    max_size=2,
)
CELLS = (
    VALUES
    | TEXTS
    | PROMPTS
    | st.lists(REFERENCES, max_size=2)
    | st.fixed_dictionaries({"ground_truth": VALUES | TEXTS})
)
SOUND = [
    {"prompt": "what?", "answer": "7"},
    {"prompt": "what?", "reward_model": {"ground_truth": "7"}},
    {"prompt": "what?", "solution": "\\boxed{7}"},
    {"problem": "what?", "answer": "7"},
]
ROWS = st.builds(
    lambda row, changes: row | changes,
    st.sampled_from(SOUND),
    st.dictionaries(st.sampled_from(COLUMNS), CELLS, max_size=3),
)


def checked(path, **options):
    """What `copd data check` says of a file: one line for each bad row, or an error for the file."""
    said = []
    try:
        check_file(str(path), said.append, **options)
    except DataError as error:
        said.append(str(error))
    assert all(line.startswith(str(path)) and "\n" not in line for line in said), said
    return said


@few(75)
@given(ROWS, st.sampled_from(["auto", "native", "verl", "trl", "easyr1"]))
@example({"prompt": "what?", "answer": "7", "fps": HUGE}, "native")
@example({"problem": "what?", "answer": "7", "data_type": ["text"]}, "easyr1")
@example({"prompt": "what?", "answer": "7", "images": ["a\0b"]}, "native")
@example({"prompt": "what?", "answer": "7", "images": ["\ud800"]}, "native")
@example({"prompt": "what?", "answer": "7", "images": ["x" * 300]}, "native")
def test_any_row_is_a_problem_or_a_bad_row_with_file_and_line(tmp_path, row, format_name):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    checked(tmp_path / "rows.jsonl", format_name=format_name)


@few(60)
@given(st.lists(st.binary(max_size=30) | ROWS.map(lambda row: json.dumps(row).encode()), max_size=4))
@example([b"[" * 100_000])
@example([b'{"a": ' * 100_000])
@example([b"1" * 5000])
@example([b"\xef\xbb\xbf\xef\xbb\xbf{}"])
def test_any_file_is_rows_or_bad_rows_or_a_data_error(tmp_path, lines):
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    checked(tmp_path / "rows.jsonl")


# Answers


SAID = [
    "\\boxed{",
    "}",
    "{",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "16",
    "1e999999999",
    "9**9**9",
    "1/0",
    "\x00",
]
SAID += ["\ud800", "\\frac{1}{0}", "%", ",", "\n", " ", "$", "\\text{", "**", "A", "٣", "²"]
RESPONSES = st.lists(st.sampled_from(SAID) | st.text(max_size=4), max_size=12).map("".join)


@few(75)
@given(RESPONSES, st.sampled_from([*FORMS]))
def test_any_response_has_one_final_answer_that_stands_in_it_or_none(response, form):
    answer = final_answer(response, finished=True, form=form)
    assert answer is None or answer in response
    assert final_answer(response, finished=False, form=form) is None


@few(75)
@given(RESPONSES, RESPONSES, st.sampled_from([*VERIFIERS]))
@example("1/0", "1/0", "number")
@example("\\frac{1}{0}", "0", "number")
def test_any_answer_is_right_or_wrong_against_any_reference(answer, reference, verifier):
    assert VERIFIERS[verifier](answer, reference) in (True, False)
    said = misread(verifier, reference)
    assert said is None or said.startswith((f"verifier {verifier} reads", "a final answer never holds "))


# Merges


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 1e-30, 3e38, -3e38, float("nan"), float("inf")]) | st.floats(-2, 2, width=32)
TYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
SHAPES = st.sampled_from([(), (0,), (1,), (2, 3)])


@st.composite
def tensors(draw):
    shape = draw(SHAPES)
    count = torch.Size(shape).numel()
    values = draw(st.lists(NUMBERS, min_size=count, max_size=count))
    return torch.tensor(values, dtype=torch.float64).reshape(shape).to(draw(TYPES))


@st.composite
def alike(draw):
    """Branches, and a base, that mostly fit together."""
    shapes = draw(st.dictionaries(st.sampled_from(["w", "b"]), SHAPES, min_size=1, max_size=2))
    kind = draw(TYPES)

    def model():
        return {
            name: torch.tensor(
                draw(
                    st.lists(
                        st.floats(-2, 2, width=32) | NUMBERS, min_size=(n := torch.Size(shape).numel()), max_size=n
                    )
                )
            )
            .reshape(shape)
            .to(kind)
            for name, shape in shapes.items()
        }

    return [model() for _ in range(draw(st.integers(2, 3)))], model()


FACTORS = st.sampled_from([1e-300, 0.4, 1.0, 3e38, 1e300])
STRANGE = st.dictionaries(st.sampled_from(["w", "b"]), tensors(), max_size=2)


@few(150)
@given(
    st.one_of(alike(), st.tuples(st.lists(STRANGE, max_size=3), STRANGE)),
    st.sampled_from([*MERGES]),
    FACTORS,
    st.sampled_from([1e-9, 0.5, 1.0]),
)
def test_any_branches_are_merged_into_finite_tensors_or_refused_by_name(models, method, factor, density):
    branches, base = models
    settings_ = {"scale": factor, "density": density, "seed": 0, "weights": [factor, *[1.0] * (len(branches) - 1)]}
    names = {"weighted": ["weights"], "task_arithmetic": ["scale"], "ties": ["scale", "density", "weights"]}
    names |= {"dare": ["scale", "density", "seed"], "slerp": ["weights"], "mean": []}
    with nothing_but(ValueError, "'w'", "'b'", "no branches", "two branches"):
        merged = merge(branches, method=method, base=base, **{name: settings_[name] for name in names[method]})
        for name, tensor in merged.items():
            assert tensor.shape == branches[0][name].shape
            assert tensor.dtype == branches[0][name].dtype
            assert torch.isfinite(tensor).all()


# Manifests


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    folder = save_checkpoint(root, 5, {"a": {"w": torch.ones(2)}}, {"counts": {}}, 1)
    return folder, (folder / MANIFEST).read_bytes(), (folder / "a.safetensors").read_bytes()


@few(60)
@given(st.data())
def test_a_manifest_damaged_anywhere_is_refused_by_name(checkpoint, data):
    folder, whole, tensors_of_a = checkpoint
    (folder / "a.safetensors").write_bytes(tensors_of_a)
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    damaged = whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:]
    (folder / MANIFEST).write_bytes(damaged)
    with nothing_but(CheckpointError, f"{folder / MANIFEST}: "):
        found = verify_checkpoint(folder)
        assert json.loads(damaged) == json.loads(whole), "white space at most"
        assert found.step == 5


ENTRIES = VALUES | st.fixed_dictionaries({"bytes": st.integers(), "sha256": st.text(max_size=4)})
NAMES = st.sampled_from(["a.safetensors", "../a", "/dev/null", "a\0b", "\ud800", "..", "", "x" * 300]) | st.text(
    max_size=4
)
MANIFESTS = st.fixed_dictionaries(
    {
        "step": VALUES | st.just(5),
        "branches": VALUES | st.just(["a"]),
        "notes": VALUES | st.just({}),
        "files": VALUES | st.dictionaries(NAMES, ENTRIES, max_size=2) | st.lists(st.tuples(VALUES, VALUES), max_size=2),
    }
)


def sealed(manifest):
    content = json.dumps(manifest, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(content.encode()).hexdigest(), **json.loads(content)}).encode()


@few(75)
@given(MANIFESTS)
@example({"step": float("inf"), "branches": ["a"], "notes": {}, "files": {}})
@example({"step": 5, "branches": ["a"], "notes": {}, "files": [[1, 2]]})
@example({"step": 5, "branches": ["a\0b", 7, "../../x"], "notes": {}, "files": {}})
def test_any_manifest_under_a_right_seal_is_a_checkpoint_or_refused_by_name(checkpoint, manifest):
    folder, _, _ = checkpoint
    (folder / MANIFEST).write_bytes(sealed(manifest))
    with nothing_but(CheckpointError, str(folder)):
        found = verify_checkpoint(folder)
        for branch in found.branches:
            tensors_of(found, branch)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "..", "", "a\0b"])
@pytest.mark.parametrize("where", ["files", "branches"])
def test_a_sealed_manifest_that_names_a_file_elsewhere_is_refused(checkpoint, where, name):
    folder, _, _ = checkpoint
    named = {"files": {"files": {name: {}}}, "branches": {"branches": [name]}}[where]
    (folder / MANIFEST).write_bytes(sealed({"step": 5, "branches": [], "notes": {}, "files": {}, **named}))
    with pytest.raises(CheckpointError, match="is no name of a file in it"):
        verify_checkpoint(folder)


@few(40)
@given(st.binary(max_size=40))
def test_any_file_of_tensors_is_refused_by_name_even_where_the_manifest_vouches_for_it(checkpoint, content):
    folder, whole, _ = checkpoint
    path = folder / "a.safetensors"
    path.write_bytes(content)
    manifest = json.loads(whole)
    del manifest["sha256"]
    manifest["files"] = {path.name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    (folder / MANIFEST).write_bytes(sealed(manifest))
    with nothing_but(CheckpointError, f"{path}: cannot be read"):
        tensors_of(latest_checkpoint(folder.parent), "a")
