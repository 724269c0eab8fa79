"""A recipe as it may leave the machine: no path is whole, every name of the hub is."""

import json

from copd.recipe.reading import load_recipe
from copd.recipe.shareable import shareable

HOME = "/home/somebody/secret-project"
ROWS = (
    f"{{kind: rows, train: [{HOME}/a.jsonl, 'hub:org/rows'], validation: {HOME}/v.jsonl, test: rel/somebody/t.jsonl, "
    f"data_root: {HOME}/media, revision: {'a' * 40}}}"
)


def test_no_path_of_the_machine_is_left_but_its_last_part():
    changes = [
        f"model.path={HOME}/base",
        f"branches={{text: {{task: {ROWS}}}, image: {{task: {{capability: image}}}}}}",
        f"verifiers={{mine: '{HOME}/grade.py:grade'}}",
        f"experts.run={HOME}/runs/expert/",
    ]
    found = shareable(load_recipe("demo", changes))
    assert "somebody" not in json.dumps(found)
    assert found["model"]["path"] == "base"
    assert found["branches"]["text"]["task"]["train"] == ["a.jsonl", "hub:org/rows"]
    assert found["branches"]["text"]["task"]["data_root"] == "media"
    assert found["verifiers"] == {"mine": "grade.py:grade"}
    assert found["experts"]["run"] == "expert"


def test_builtin_and_hub_models_keep_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    named = {"builtin:digits": "builtin:digits", "Qwen/Qwen3-VL-4B": "Qwen/Qwen3-VL-4B", "here/model": "model"}
    assert {path: shareable(load_recipe("demo", [f"model.path={path}"]))["model"]["path"] for path in named} == named
