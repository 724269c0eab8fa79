"""Recipes: what is read, and every refusal with the path to the key, what was found and what is accepted."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from copd.arms.comparison import Comparison
from copd.errors import RecipeError
from copd.recipe.explain import PATTERN_MEANT
from copd.recipe.fields import Section
from copd.recipe.merges import merge_grid
from copd.recipe.method_sections import MERGE_FIELDS
from copd.recipe.model import Recipe
from copd.recipe.reading import builtin_recipes, described, load_recipe, make_recipe
from copd.recipe.strict_yaml import _StrictLoader, parse_yaml
from copd.suites.suite import Suite

TWO = "branches: {a: {task: {capability: text}}, b: {task: {capability: image}}}\n"
ONE = "branches: {a: {task: {capability: text}}}\n"
ROWS = "method: mixed\nbranches: {a: {task: {kind: rows, train: a.jsonl, "
COMMIT = "a" * 40

REFUSED = [
    pytest.param(
        "branches: {a: {task: {kind: digits, capability: text, train: x.jsonl}}, b: {task: {capability: image}}}",
        ["branches.a.task.train: a task of kind digits has none; it belongs to kind: rows"],
        id="a field of another kind of task",
    ),
    pytest.param(TWO + "sed: 1", ["sed: unknown key", "did you mean 'seed'?"], id="a typo at the top"),
    pytest.param(TWO + "schedule: {cycels: 2}", ["schedule.cycels: unknown key", "'cycles'"], id="a typo in a section"),
    pytest.param(
        TWO.replace("text", "text, conflct: 1"),
        ["branches.a.task.conflct: unknown key", "'conflict'"],
        id="in a branch",
    ),
    pytest.param(
        TWO + "topology: {edges: [{student: a, teacher: b, wight: 1}]}",
        ["topology.edges.0.wight: unknown key", "'weight'"],
        id="a typo in an edge",
    ),
    pytest.param(TWO + "opd: {beta: 0.5}", ["opd.beta: is called opd.weight now"], id="a former key of opd"),
    pytest.param(
        TWO + "topology: {edges: [{student: a, teacher: b, beta: 1}]}",
        ["topology.edges.0.beta: is called topology.edges.0.weight now"],
        id="a former key of an edge",
    ),
    pytest.param(TWO + "grpo: {passes: 2}", ["grpo.passes: is called grpo.iterations now"], id="a former key of grpo"),
    pytest.param(
        TWO + "reward: {answer: tag}",
        ["reward.answer: is called reward.answer_form now"],
        id="a former key of reward",
    ),
    pytest.param(
        TWO + "merge: {zzz: 1}", ["merge.zzz: unknown key", "accepted: method, weights"], id="an unlike key lists all"
    ),
    pytest.param(TWO + "merge: {zzz: null}", ["merge.zzz: unknown key"], id="an unlike key is no better empty"),
    pytest.param(
        TWO + "merge: {method: soup}", ["merge.method", "'weighted'", "found 'soup'"], id="an unknown merge method"
    ),
    pytest.param(
        TWO + "merge: {method: ties, seed: 1}",
        ["merge.seed: method 'ties' takes no seed; it takes weights, scale, density"],
        id="a field of another merge method",
    ),
    pytest.param(
        TWO + "merge: {weights: [1, 2]}", ["merge.weights: method 'mean' takes no weights"], id="a weighted plain mean"
    ),
    pytest.param(
        TWO + "merge: {method: weighted}", ["merge.weights: missing", "one per branch"], id="weighted without weights"
    ),
    pytest.param(
        TWO + "merge: {method: weighted, weights: [0, 0]}",
        ["merge.weights", "greater than 0"],
        id="weights of zero",
    ),
    pytest.param(
        TWO + "merge: {method: weighted, weights: [2, -1]}", ["merge.weights.1", "'-1'"], id="a negative weight"
    ),
    pytest.param(
        TWO + "merge: {method: ties, weights: [1, 2, 3]}",
        ["merge.weights: 3 weights for 2 branches"],
        id="more weights than branches",
    ),
    pytest.param(
        TWO.replace("}}}", "}}, c: {task: {capability: video}}}") + "merge: {method: slerp}",
        ["merge.method: 'slerp' merges two branches, found 3"],
        id="slerp of three",
    ),
    pytest.param(TWO + "merge: {method: dare, density: 0}", ["merge.density", "'0'"], id="nothing kept"),
    pytest.param(TWO + "sed: 1\nmetod: copd", ["sed: unknown", "metod: unknown"], id="every faulty key is named"),
    pytest.param(TWO + "seed: 1\nseed: 1", ["key 'seed' is given twice", "line 3"], id="a duplicate key"),
    pytest.param(
        "branches: {a: {task: {capability: text}}, a: {task: {capability: image}}}",
        ["key 'a' is given twice"],
        id="a duplicate branch",
    ),
    pytest.param(TWO + 'model: {path: "\\ud800"}', ["half of a surrogate pair"], id="half of a character"),
    pytest.param(TWO + "seed: !!python/object:os.system {}", ["python/object:os.system", "line 2"], id="an object"),
    pytest.param(
        TWO + "seed: !!python/object/apply:os.system ['exit 1']", ["python/object/apply:os.system"], id="a call"
    ),
    pytest.param(TWO + "seed: !!python/name:os.system ''", ["python/name:os.system"], id="a name"),
    pytest.param("x: &a 1\n" + TWO + "seed: *a", ["anchors and aliases are not accepted"], id="an anchor"),
    pytest.param(
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" + TWO, ["anchors and aliases are not accepted"], id="laughs"
    ),
    pytest.param(TWO + "seed: *nowhere", ["undefined alias 'nowhere'"], id="an alias of nothing"),
    pytest.param(
        TWO + "topology: {edges: [{student: a, teacher: c}]}",
        ["topology.edges.0: no branch 'c'", "branches are a, b"],
        id="an edge from nowhere",
    ),
    pytest.param(
        TWO + "topology: {edges: [{student: a, teacher: b}, {student: c, teacher: b}]}",
        ["topology.edges.1: no branch 'c'"],
        id="an edge to nowhere",
    ),
    pytest.param(
        TWO + "topology: {edges: [{student: b, teacher: b}]}",
        ["topology.edges.0: branch 'b' cannot teach itself"],
        id="a self edge",
    ),
    pytest.param(
        TWO + "topology: {edges: [{student: a, teacher: b}, {student: a, teacher: b, weight: 2}]}",
        ["topology.edges", "listed twice"],
        id="an edge given twice",
    ),
    pytest.param(
        TWO + "topology: {kind: full, edges: [{student: a, teacher: b}]}",
        ["topology", "edges are listed but kind is 'full'"],
        id="edges of another kind",
    ),
    pytest.param(TWO + "topology: {kind: edges}", ["topology", "no edges are listed"], id="no edges"),
    pytest.param(
        TWO + "topology: {edges: [{student: a}]}", ["topology.edges.0.teacher: missing"], id="an edge without teacher"
    ),
    pytest.param(
        TWO + "schedule: {rl_steps: 0, opd_steps: 0}",
        ["schedule", "no steps at all", "rl_steps and opd_steps are both 0"],
        id="no steps",
    ),
    pytest.param(ONE, ["branches", "at least two", "schedule.opd_steps=0"], id="one branch with OPD"),
    pytest.param(
        TWO + "topology: {edges: [{student: a, teacher: b}]}\nschedule: {opd_steps: 0}",
        ["topology.edges", "schedule.opd_steps is 0"],
        id="edges without OPD",
    ),
    pytest.param(
        TWO + "backend: processes\nmodel: {offload: true}", ["model.offload", "backend: local"], id="turns in processes"
    ),
    pytest.param("seed: 1", ["branches: missing"], id="no branches"),
    pytest.param("branches: {}", ["branches", "a length of 1 or more"], id="empty branches"),
    pytest.param(
        "branches: {a: {task: {}}, b: {task: {}}}", ["branches.a.task.capability: missing"], id="no capability"
    ),
    pytest.param(TWO.replace("a:", "9a:"), ["branches.9a"], id="a branch's name begins with a digit"),
    pytest.param(TWO.replace("a:", "../a:"), ["branches.../a"], id="a branch's name is a path"),
    pytest.param(
        TWO.replace("a:", "merged:", 1), ["branches", "'merged' is a name that copd uses"], id="reserved name"
    ),
    pytest.param(
        TWO + "schedule: {cycles: many}",
        ["schedule.cycles", "accepted: a whole number", "found 'many'"],
        id="a word for a number",
    ),
    pytest.param(
        TWO + "schedule: {cycles: 1.5}", ["schedule.cycles", "accepted: a whole number", "found '1.5'"], id="a fraction"
    ),
    pytest.param(
        TWO + "schedule: {cycles: [1]}", ["schedule.cycles", "accepted: a whole number", "found '[1]'"], id="a list"
    ),
    pytest.param(TWO + "schedule: {cycles:}", ["schedule.cycles", "found 'None'"], id="nothing for a number"),
    pytest.param(TWO + "schedule: {cycles: 0}", ["schedule.cycles: accepted: 1 or more, found '0'"], id="too small"),
    pytest.param(
        TWO + "schedule: 3",
        ["schedule: accepted: a section, that is fields with values, found '3'"],
        id="a number for a section",
    ),
    pytest.param(TWO + "schedule:", ["schedule: accepted: a section", "found 'None'"], id="nothing for a section"),
    pytest.param(
        TWO + "model: Qwen/Qwen3-VL", ["model: accepted: a section", "found 'Qwen/Qwen3-VL'"], id="a name for the model"
    ),
    pytest.param(TWO + "lora: true", ["lora: accepted: a section", "found 'True'"], id="a truth value for a section"),
    pytest.param(
        TWO.replace("text}", "text}, device: gpu"),
        ["branches.a.device: accepted: cpu, mps, cuda or cuda:N, found 'gpu'"],
        id="a device of another name",
    ),
    pytest.param(
        TWO + "model: {revision: ../main}",
        ["model.revision: accepted: a commit, a branch or a tag, found '../main'"],
        id="a revision that is none",
    ),
    pytest.param(
        TWO + "method: dpo",
        ["method", "'copd', 'expert', 'mixed', 'static_opd', 'mopd' or 'merge_only'", "found 'dpo'"],
        id="an unknown method",
    ),
    pytest.param(
        TWO + "verifiers: {mine: rewards.py}",
        ["verifiers.mine", "path/file.py:NAME, found 'rewards.py'"],
        id="a file",
    ),
    pytest.param(TWO + "verifiers: {mine: 'a.sh:f'}", ["verifiers.mine", "found 'a.sh:f'"], id="not of Python"),
    pytest.param(TWO + "verifiers: {mine: 'a.py:f()'}", ["verifiers.mine", "found 'a.py:f()'"], id="a call"),
    pytest.param(TWO + "verifiers: {mine: 'a.py:'}", ["verifiers.mine", "found 'a.py:'"], id="no function"),
    pytest.param(
        TWO + "verifiers: {a b: 'a.py:f'}",
        ["verifiers.a b", "letters, digits, _, / or -"],
        id="a verifier's name with a space",
    ),
    pytest.param(
        TWO + "seed: 9223372036854775808", ["seed", "less than 9223372036854775808"], id="a seed over 63 bits"
    ),
    pytest.param(
        TWO + "sampling: {prompts_per_step: 100000000000000000000}",
        ["sampling.prompts_per_step", "1000000 or less", "'100000000000000000000'"],
        id="more prompts than a step can have",
    ),
    pytest.param(
        TWO + "schedule: {cycles: 1000000, rl_steps: 1000000}",
        ["schedule", "cycles x (rl_steps + opd_steps) = 1,000,010,000,000", "at most 10,000,000"],
        id="more steps than a run can have",
    ),
    pytest.param(
        TWO + "verifiers: a.py:f",
        ["verifiers", "accepted: names with values", "found 'a.py:f'"],
        id="no mapping of verifiers",
    ),
    pytest.param(
        TWO + "reward: {answer_form: box}", ["reward.answer_form", "'boxed' or 'tag'"], id="an unknown place of answers"
    ),
    pytest.param(TWO + "reward: {format_weight: 1}", ["reward.format_weight", "less than 1"], id="format is all"),
    pytest.param(
        TWO + "optimizer: {learning_rate: 0}", ["optimizer.learning_rate: accepted: more than 0"], id="a zero rate"
    ),
    pytest.param(TWO + "optimizer: {learning_rate: .nan}", ["optimizer.learning_rate", "finite"], id="a rate of nan"),
    pytest.param(TWO + "opd: {clamp: .inf}", ["opd.clamp", "finite"], id="an infinite clamp"),
    pytest.param(
        TWO + "grpo: {aggregation: mean}",
        ["grpo.aggregation", "'sequence', 'token' or 'constant'", "found 'mean'"],
        id="an unknown aggregation",
    ),
    pytest.param(TWO + "grpo: {kl_coefficient: -0.1}", ["grpo.kl_coefficient", "'-0.1'"], id="a KL that repels"),
    pytest.param(TWO + "grpo: {iterations: 0}", ["grpo.iterations: accepted: 1 or more"], id="no pass"),
    pytest.param(
        TWO + "grpo: {iterations: on}",
        ["grpo.iterations: holds yes, no, on, off, true or false; accepted: a number"],
        id="a truth value for a number",
    ),
    pytest.param(
        TWO + "grpo: {mask_truncated: 1}", ["grpo.mask_truncated", "true or false", "'1'"], id="a number for a truth"
    ),
    pytest.param(
        TWO + "grpo: {normalize_std: 'no'}", ["grpo.normalize_std", "true or false", "'no'"], id="a word for a truth"
    ),
    pytest.param(TWO + "opd: {bound: none}", ["opd.bound", "'clamp', 'mask' or 'proximal'"], id="an unknown bound"),
    pytest.param(
        TWO + "opd: {anchor: 0.5}",
        ["opd.anchor: is 0.5, but teachers is 'moving'", "set teachers: phase_start"],
        id="an anchor that moves",
    ),
    pytest.param(TWO + "opd: {bound: proximal, teacher_share: 0}", ["opd.teacher_share", "'0'"], id="no teacher"),
    pytest.param(
        TWO + "opd: {bound: proximal, clamp: 3}",
        ["opd.clamp: is 3.0, but with bound 'proximal' there is none"],
        id="a clamp of the proximal form",
    ),
    pytest.param(
        TWO + "opd: {bound: mask, teacher_share: 0.5}",
        ["opd.teacher_share: is 0.5, but bound is 'mask'", "belongs to bound 'proximal'"],
        id="a share without the proximal form",
    ),
    pytest.param(
        TWO + "opd: {signal: kl}", ["opd.signal", "'sampled', 'reverse_kl', 'forward_kl' or 'jsd'"], id="a vague signal"
    ),
    pytest.param(
        TWO + "opd: {signal: jsd, clamp: 3}",
        ["opd.clamp: is 3.0, but signal 'jsd' has none"],
        id="a clamp of a direct loss",
    ),
    pytest.param(
        TWO + "opd: {signal: reverse_kl, bound: mask}",
        ["opd.bound: is 'mask', but signal 'reverse_kl' has none"],
        id="a bound of a direct loss",
    ),
    pytest.param(
        TWO + "opd: {signal: reverse_kl, teacher_share: 0.5}",
        ["opd.teacher_share: is 0.5, but signal 'reverse_kl' has none; leave it out"],
        id="a share of a direct loss",
    ),
    pytest.param(
        TWO + "opd: {signal: reverse_kl, responses: teacher}",
        ["opd.responses: is 'teacher', but signal 'reverse_kl' compares what the student samples", "forward_kl or jsd"],
        id="a student's loss on a teacher's responses",
    ),
    pytest.param(
        TWO + "opd: {replay: 3}",
        ["opd.replay: is 3, but signal 'sampled' compares what the student samples; set signal: forward_kl or jsd"],
        id="a replay of what a student has not sampled",
    ),
    pytest.param(
        TWO + "opd: {signal: jsd, responses: teacher, teachers: phase_start}",
        ["opd.responses: is 'teacher', but with teachers 'phase_start'"],
        id="responses of the moving branch and scores of the held one",
    ),
    pytest.param(
        TWO + "opd: {native: false}\ntopology: {edges: [{student: a, teacher: b}]}",
        ["opd.native: is false, but no edge teaches branch 'b'"],
        id="a branch without anything to do",
    ),
    pytest.param(
        TWO + "opd: {top_k: 9}",
        ["opd.top_k: is 9, but signal is 'sampled'"],
        id="likeliest tokens of the sampled signal",
    ),
    pytest.param(
        TWO + "lora: {rank: 2}\nmodel: {path: x, freeze: [visual]}\nbackend: local",
        ["model.freeze: lora trains no weight of the base"],
        id="frozen modules of a frozen base",
    ),
    pytest.param(
        TWO + "optimizer: {decay: cosine}",
        ["optimizer.decay_steps: missing; decay 'cosine' needs the number of updates"],
        id="a decay without an end",
    ),
    pytest.param(
        TWO + "optimizer: {decay_steps: 9}",
        ["optimizer.decay_steps: found without a decay; set optimizer.decay to linear or cosine"],
        id="an end without a decay",
    ),
    pytest.param(
        TWO + "sampling: {stop: ['']}",
        ["sampling.stop.0: accepted: a text that is not empty, found ''"],
        id="a string of nothing that ends a response",
    ),
    pytest.param(TWO + "optimizer: {betas: [0.9]}", ["optimizer.betas"], id="one of two betas"),
    pytest.param(TWO + "sampling: {rollouts_per_prompt: 1}", ["sampling.rollouts_per_prompt", "'1'"], id="no group"),
    pytest.param(
        TWO.replace("image", "image, operators: [chain]"),
        ["branches.b.task.operators: 'chain' exists for text only; accepted: sum, max, min, diff"],
        id="a chain of pictures",
    ),
    pytest.param(TWO.replace("image", "image, operators: []"), ["branches.b.task.operators"], id="no operators"),
    pytest.param(
        TWO.replace("image", "image, length: [4, 2]"),
        ["branches.b.task.length: found [4, 2]; accepted: [least, greatest] with 2 <= least <= greatest <= 6"],
        id="lengths",
    ),
    pytest.param(
        TWO.replace("image", "image, conflict: 1.5"), ["branches.b.task.conflict", "'1.5'"], id="a share above 1"
    ),
    pytest.param(
        "branches: {a: {task: {kind: words}}, b: {task: {kind: rows}}}",
        [
            "branches.a.task.kind: accepted: 'digits', 'rows' or 'python', found 'words'",
            "branches.b.task.train: missing",
        ],
        id="an unknown kind of task",
    ),
    pytest.param("branches: {a: {task: 3}}", ["branches.a.task: accepted: a section", "found '3'"], id="no task"),
    pytest.param(
        ROWS + "trian: b.jsonl}}}",
        ["branches.a.task.trian: unknown key; did you mean 'train'?"],
        id="a typo in a task on rows",
    ),
    pytest.param(
        ROWS + "media: {max_frame: 3}}}}",
        ["branches.a.task.media.max_frame: unknown key; did you mean 'max_frames'?"],
        id="a typo in the bounds of media",
    ),
    pytest.param(ROWS + "test: []}}}", ["branches.a.task.test", "a length of 1 or more"], id="an empty list of files"),
    pytest.param(ROWS + "test: [b, 3]}}}", ["branches.a.task.test.1: accepted: a text"], id="a number for a file"),
    pytest.param(ROWS + "format: csv}}}", ["branches.a.task.format", "'easyr1'", "found 'csv'"], id="a format"),
    pytest.param(
        ROWS + "test: 'hub:me/sums'}}}",
        ["branches.a.task.revision: missing; test is hub:me/sums, so give its commit, branch or tag"],
        id="a data set of the hub without a commit",
    ),
    pytest.param(
        ROWS + "test: 'hub:me/sums', revision: 'ma in'}}}",
        ["branches.a.task.revision: accepted: a commit, a branch or a tag, found 'ma in'"],
        id="a branch of the hub",
    ),
    pytest.param(
        ROWS + f"test: 'hub:sums', revision: {COMMIT}}}}}}}",
        ["branches.a.task.test: write hub:OWNER/NAME or hub:OWNER/NAME/FILE, found 'hub:sums'"],
        id="no owner",
    ),
    pytest.param(
        ROWS + f"test: ['hub:me/sums/a', 'hub:me/words'], revision: {COMMIT}}}}}}}",
        ["branches.a.task.revision: is that of one data set of the Hugging Face Hub; it needs exactly one hub:"],
        id="one commit for two data sets",
    ),
    pytest.param(
        ROWS + f"revision: {COMMIT}}}}}}}",
        ["branches.a.task.revision: is that of one data set"],
        id="no data set",
    ),
    pytest.param(
        ROWS + "validation_share: 0.5, test_share: 0.6}}}",
        ["branches.a.task.test_share: with validation_share it comes to 1.1; accepted: less than 1, else nothing is"],
        id="nothing left to train on",
    ),
    pytest.param(
        ROWS + "test: b.jsonl, validation_share: 1, test_share: 1}}}",
        ["branches.a.task.validation_share: is 1; accepted: less than 1, else nothing is left of train"],
        id="nothing left to train on beside a file for the test",
    ),
    pytest.param(
        ROWS + "chat_template_kwargs: {chat_template: x}}}}",
        ["branches.a.task.chat_template_kwargs: 'chat_template' is not a variable of a chat template"],
        id="a chat template by the back door",
    ),
    pytest.param(
        "",
        ["a recipe is a mapping of sections, found nothing; if `copd init` wrote the file, its error says why"],
        id="an empty file",
    ),
    pytest.param(
        "recipe: three.yaml\narms: {copd: {}}",
        ["has arms, so it is a comparison, for `copd compare` and `copd plan`; its recipe is three.yaml"],
        id="a comparison",
    ),
    pytest.param("[1, 2]", ["a recipe is a mapping of sections, found list"], id="a list of things"),
    pytest.param("a: b: c", ["not valid YAML", "line 1"], id="not YAML"),
    pytest.param("model:\n\tdevice: cpu", ["line 2, column 1: ", "; indent with spaces, not with tabs"], id="a tab"),
    pytest.param(TWO + "\x00", ["not valid YAML", "#x0000"], id="NUL"),
    pytest.param(TWO + "1: 2", ["1: Keys should be strings"], id="a number as a key"),
    pytest.param(TWO + "---\n" + TWO, ["not valid YAML", "document"], id="two documents"),
]

HOSTILE = [
    pytest.param(TWO + "? [a, b]\n: 1", "not valid YAML", id="a list as a key"),
    pytest.param(TWO + "seed: 2024-13-45", "not valid YAML|seed", id="a date that does not exist"),
    pytest.param(TWO + "seed: " + "9" * 5000, "not valid YAML|seed", id="5000 digits"),
    pytest.param(TWO + "schedule: {cycles: -0x" + "f" * 5000 + "}", "schedule.cycles", id="5000 hexadecimal digits"),
    pytest.param(TWO + "seed: " + "[" * 5000 + "]" * 5000, "nested too deeply", id="5000 nested lists"),
    pytest.param(TWO + "schedule: {cycles: yes}", "schedule.cycles", id="yes for a number"),
]

OVERRIDES = [
    ("schedule.cycles", "write section.key=value"),
    ("=3", "write section.key=value"),
    ("", "write section.key=value"),
    ("schedule..cycles=2", "write section.key=value"),
    (".cycles=2", "write section.key=value"),
    ("seed.x=1", "'seed' is a value, not a section"),
    ("schedule.cycles=[", "not valid YAML"),
    ("schedule.cycles=&x 3", "anchors and aliases"),
    ("schedule.cycles=!!int 3", "tags are not accepted in a recipe, found '!!"),
    ("evaluation.pass_at=!!set {4}", "tags are not accepted in a recipe, found '!!"),
    ("model.path=!!binary aGk=", "tags are not accepted in a recipe, found '!!"),
    ("schedule.cycles=012", "012 is no decimal number; quote it if it is meant as a text"),
    ("schedule.cycles=-0_7", "-0_7 is no decimal number"),
    ("schedule.cycles=1:30", "1:30 is no decimal number"),
    ("opd.clamp=1:30.5", "1:30.5 is no decimal number"),
    ("schedule.cycles=!!python/name:os.system ''", "python/name:os.system"),
    ("schedule.cycels=2", "schedule.cycels: unknown key; did you mean 'cycles'?"),
    ("shedule.cycles=2", "shedule: unknown key; did you mean 'schedule'?"),
    ("branchs.a.task.kind=digits", "branchs: unknown key; did you mean 'branches'?"),
    ("schedule.cycles=", "schedule.cycles: .*found 'None'"),
    ("schedule=2", "schedule: .*found '2'"),
    ("sampling.engine=sglang", "sampling.engine: .*'builtin' or 'vllm'"),
    ("sampling={engine: vllm, temperature: 2.5}", "^sampling.temperature: is 2.5; engine vllm takes at most 2"),
    ("sampling.importance_cap=0.9", "sampling.importance_cap: .*found '0.9'"),
    ("sampling.top_p=0", "sampling.top_p: .*found '0'"),
    ("sampling.top_p=1.1", "sampling.top_p: .*found '1.1'"),
    ("sampling.top_k=0", "sampling.top_k: .*found '0'"),
    ("sampling.min_p=1", "sampling.min_p: .*found '1'"),
    ("sampling.stop=['']", r"sampling\.stop.*: .*found ''"),
    ("trackers=[comet]", r"trackers\.0\.kind: accepted: .*'trackio'.*found 'comet'"),
    ("trackers=[{kind: wandb, project: a/b}]", r"trackers\.0\.project: accepted: letters, .*found 'a/b'"),
    ("trackers=[{kind: wandb, tags: ['']}]", r"trackers\.0\.tags\.0: accepted: letters, .*found ''"),
    ("sampling.stop=end", r"sampling\.stop: accepted: a list; write \[end\], found 'end'"),
    ("branches.a.task.noise=loud", r"branches\.a\.task\.noise: .*found 'loud'"),
]


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if value and isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize(("text", "fragments"), REFUSED)
def test_a_recipe_that_cannot_be_run_is_refused_with_key_and_reason(recipe_file, text, fragments):
    with pytest.raises(RecipeError) as refusal:
        load_recipe(recipe_file(text))
    for fragment in fragments:
        assert fragment in str(refusal.value)


@pytest.mark.parametrize(("text", "message"), HOSTILE)
def test_a_hostile_recipe_is_refused_like_any_other(recipe_file, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file(text))


@pytest.mark.parametrize(("override", "message"), OVERRIDES)
def test_a_bad_override_is_refused_with_what_is_wrong(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file(TWO + "seed: 3\n"), [override])


def test_marks_within_quotes_and_decimal_numbers_mean_what_they_say():
    text = "a: 'think! & answer 1:30'\nb: '012'\nc: [0, -7, 10, 0.5, 01.5, 1_000, 0x10, 1.0e-4, .inf]\n'!d': '!'\n"
    read = parse_yaml(text, "x")
    assert (read["a"], read["b"], read["!d"]) == ("think! & answer 1:30", "012", "!")
    assert read["c"] == [0, -7, 10, 0.5, 1.5, 1000, 16, 1e-4, float("inf")]


def test_a_tag_in_a_recipe_runs_nothing(recipe_file, tmp_path):
    witness = tmp_path / "witness"
    with pytest.raises(RecipeError):
        load_recipe(recipe_file(TWO + f"seed: !!python/object/apply:os.mkdir ['{witness}']"))
    assert not witness.exists()


def test_the_loader_of_recipes_could_run_nothing_even_if_a_tag_reached_it(tmp_path):
    witness = tmp_path / "witness"
    with pytest.raises(yaml.constructor.ConstructorError):
        _StrictLoader(f"!!python/object/apply:os.mkdir ['{witness}']").get_single_data()
    assert not witness.exists()


@pytest.mark.parametrize("source", ["nowhere.yaml", "", "x" * 5000, "."])
def test_a_recipe_that_is_not_there_is_refused_with_those_that_are(source):
    with pytest.raises(
        RecipeError, match=r"not a readable file( \(it is a folder\))?, nor one of the recipes of copd: .*demo"
    ):
        load_recipe(source)


def test_a_recipe_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"seed: 0 # caf\xe9\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: not UTF-8 at byte 14; save it as UTF-8$"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("source", [3, None, ["demo"]])
def test_what_is_no_source_of_a_recipe_is_refused_with_those_that_are(source):
    with pytest.raises(RecipeError, match=r"^recipe: found \w+; accepted: a file, the name of a recipe that ships"):
        load_recipe(source)


@pytest.mark.parametrize("override", [("seed", 1), 3, {"seed": 1}])
def test_an_override_that_is_no_text_is_refused_with_what_to_write(override):
    with pytest.raises(RecipeError, match=r"^override .*: write section\.key=value, for instance schedule\.cycles=2$"):
        load_recipe("demo", [override])


def test_a_recipe_that_may_not_be_read_is_refused_with_the_reason(recipe_file, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    path = recipe_file(TWO)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(
        RecipeError, match=rf"^recipe {path}: not a readable file \(.*Permission denied: '{path}'\), nor"
    ):
        load_recipe(path)


def patterns(section: type[Section]) -> set[str]:
    """The fields of a section with a pattern, and those of which the keys have one."""
    schema = section.model_json_schema()
    found = set()
    for name, field in schema.get("properties", {}).items():
        if "pattern" in field or any("pattern" in each for each in field.get("anyOf", ())):
            found.add(name)
        if "patternProperties" in field or "pattern" in field.get("propertyNames", {}):
            found.add(name)
    return found


def test_what_every_pattern_means_is_told_in_words():
    assert set().union(*map(patterns, {*Section.__subclasses__(), Comparison, Suite})) == set(PATTERN_MEANT)


@pytest.mark.parametrize("name", builtin_recipes())
def test_the_recipes_that_ship_can_be_loaded(name):
    assert isinstance(load_recipe(name), Recipe)


@pytest.mark.parametrize("name", ["demo", "demo-paper"])
def test_both_demos_are_three_branches_in_conflict(name):
    branches = load_recipe(name).branches.values()
    assert [branch.task.capability for branch in branches] == ["text", "image", "video"]
    assert all(branch.task.conflict > 0 for branch in branches)


def test_the_demo_is_one_cycle_whose_branches_teach_a_student():
    demo = load_recipe("demo")
    assert (demo.method, demo.schedule.cycles, demo.schedule.opd_steps, demo.merge.method) == ("copd", 1, 0, "distil")


def test_the_demo_in_the_papers_form_is_cycles_around_a_hub():
    demo = load_recipe("demo-paper")
    assert (demo.method, demo.schedule.cycles, demo.topology.kind, demo.opd.signal) == ("copd", 4, "hub", "sampled")


@pytest.mark.parametrize(
    ("opd", "sizes"),
    [
        ("", (8, 8)),
        ("signal: reverse_kl", (64, 1)),
        ("signal: jsd, prompts_per_step: 5", (5, 1)),
        ("signal: forward_kl, rollouts_per_prompt: 3", (64, 3)),
    ],
)
def test_a_direct_loss_asks_many_prompts_once_unless_told_otherwise(recipe_file, opd, sizes):
    found = load_recipe(recipe_file(TWO + f"opd: {{{opd}}}\n")).opd
    assert (found.prompts_per_step, found.rollouts_per_prompt) == sizes


def test_overrides_change_their_key_and_nothing_else(recipe_file):
    path = recipe_file(TWO + "schedule: {cycles: 4, rl_steps: 2}\n")
    changed = leaves(load_recipe(path, ["schedule.cycles=7", "branches.b.task.conflict=0.5"]).model_dump())
    before = leaves(load_recipe(path).model_dump())
    assert {key for key in before if before[key] != changed[key]} == {"schedule.cycles", "branches.b.task.conflict"}
    assert (changed["schedule.cycles"], changed["branches.b.task.conflict"]) == (7, 0.5)


def test_later_overrides_win_and_sections_may_be_new(recipe_file):
    recipe = load_recipe(recipe_file(TWO), ["seed=1", "seed=2", "evaluation.pass_at=[1, 8]", "model.path=a=b"])
    assert (recipe.seed, recipe.evaluation.pass_at, recipe.model.path) == (2, (1, 8), "a=b")


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001"])
def test_small_numbers_are_numbers_however_they_are_written(recipe_file, text):
    rate = load_recipe(recipe_file(TWO), [f"optimizer.learning_rate={text}"]).optimizer.learning_rate
    assert isinstance(rate, float)
    assert rate == 1e-5


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("yes", True), ("off", False)])
def test_truth_values_are_read_where_a_field_is_one(recipe_file, text, value):
    recipe = load_recipe(recipe_file(TWO), [f"grpo.mask_truncated={text}", f"grpo.normalize_std={text}"])
    assert (recipe.grpo.mask_truncated, recipe.grpo.normalize_std) == (value, value)


def test_a_byte_order_mark_and_windows_line_ends_are_read(recipe_file):
    assert load_recipe(recipe_file("\ufeff" + (TWO + "seed: 3\n").replace("\n", "\r\n"))).seed == 3


def test_an_ampersand_within_a_text_is_no_anchor(recipe_file):
    assert load_recipe(recipe_file(TWO + 'model: {path: "rock & roll"}')).model.path == "rock & roll"


def test_listed_edges_need_no_kind():
    edges = [{"student": "a", "teacher": "b", "weight": 0.5}]
    recipe = make_recipe({**yaml.safe_load(TWO), "topology": {"edges": edges}})
    assert recipe.topology.kind == "edges"
    assert recipe.topology.edges[0].weight == 0.5


@pytest.mark.parametrize("change", ["schedule: {opd_steps: 0}", "method: expert", "method: mixed"])
def test_one_branch_is_enough_without_mutual_opd(recipe_file, change):
    assert list(load_recipe(recipe_file(ONE + change)).branches) == ["a"]


def test_a_recipe_cannot_change_after_reading():
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("demo-paper").schedule.cycles = 9


def test_a_recipe_survives_being_written_and_read():
    demo = load_recipe("demo-paper")
    assert make_recipe(demo.model_dump(mode="json")) == demo


@pytest.mark.parametrize("method", MERGE_FIELDS)
def test_a_merge_method_has_its_own_fields_with_defaults_and_no_others(recipe_file, method):
    given = "{method: weighted, weights: [1, 3]}" if method == "weighted" else f"{{method: {method}}}"
    section = load_recipe(recipe_file(TWO + f"merge: {given}")).merge
    expected = MERGE_FIELDS[method] | ({"weights": (1.0, 3.0)} if method == "weighted" else {})
    assert section.settings == expected
    assert {name for name, value in section if value is not None} <= {"method", *expected}


def test_an_override_of_the_merge_method_leaves_out_what_only_the_former_method_takes():
    assert load_recipe("demo").merge.steps is not None
    assert load_recipe("demo", ["merge.method=mean"]).merge.settings == {}
    ties = load_recipe("demo", ["merge.density=0.3", "merge.method=ties", "merge.scale=0.7"]).merge
    assert (ties.density, ties.scale, ties.steps) == (0.3, 0.7, None)
    assert load_recipe("demo", ["method=merge_only", "merge.method=mean"]).method == "merge_only"
    with pytest.raises(RecipeError, match=r"merge\.steps: method 'mean' takes no steps"):
        load_recipe("demo", ["merge.method=mean", "merge.steps=3"])


def test_the_merge_is_the_plain_mean_unless_a_recipe_says_otherwise(recipe_file):
    assert load_recipe(recipe_file(TWO)).merge.method == load_recipe("demo-paper").merge.method == "mean"
    assert load_recipe(recipe_file(TWO), ["merge.method=ties", "merge.density=0.3"]).merge.density == 0.3


def test_weights_are_not_counted_where_nothing_is_merged(recipe_file):
    load_recipe(recipe_file(ONE + "method: expert\nmerge: {method: weighted, weights: [1, 2]}"))


def test_a_grid_of_weights_holds_every_share_once_and_even_ones_first():
    weights = [section.weights for section in merge_grid({"method": "weighted"}, 3, 2)]
    halves = {(0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)}
    assert set(weights[:3]) == halves
    assert set(weights[3:]) == {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)}
    assert len(weights) == 6
    sixths = [section.weights for section in merge_grid({"method": "slerp"}, 2, 6)]
    assert sixths[0] == (0.5, 0.5)
    assert len(sixths) == 7
    assert len(merge_grid({"method": "weighted"}, 3, 6)) == 28


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare"])
def test_a_grid_of_scales_ends_at_two_and_keeps_what_else_is_given(method):
    given = {"method": method, **({"density": 0.5} if method != "task_arithmetic" else {})}
    sections = merge_grid({**given, "weights": None, "seed": None}, 3, 2)
    assert [section.scale for section in sections] == [0.5, 1.0, 1.5, 2.0]
    assert {section.density for section in sections} == {given.get("density")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "mean"}, "--scan: method 'mean' has no weights and no scale; there are dare, slerp"),
        ({"method": "weighted", "weights": (1, 2)}, r"--scan: looks for merge.weights, found \(1, 2\) given"),
        ({"method": "ties", "scale": 1}, "--scan: looks for merge.scale, found 1 given"),
        ({"method": "soup"}, "merge.method: .*found 'soup'"),
        ({"method": "ties", "seed": 1}, "merge.seed: method 'ties' takes no seed"),
    ],
)
def test_a_scan_of_nothing_is_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        merge_grid(given, 2, 2)


def test_described_lists_every_field_with_a_meaning():
    demo = load_recipe("demo-paper")
    rows = list(described(demo))
    paths = [path for path, _, _ in rows]
    assert sorted(paths) == sorted(leaves(demo.model_dump()))
    assert all(meaning for _, _, meaning in rows)


def test_described_values_are_overrides_that_give_the_recipe_back(recipe_file):
    overrides = [
        "seed=5",
        "grpo.mask_truncated=true",
        "opd={bound: proximal, teacher_share: 0.5}",
        "verifiers.mine=some where/my.py:f",
        "topology.edges=[{student: a, teacher: b, weight: 0.25}]",
        "evaluation.pass_at=[1, 4]",
    ]
    recipe = load_recipe(recipe_file(TWO), [*overrides, "branches.a.task.operators=[sum, max]"])
    assert load_recipe(recipe_file(TWO), [f"{path}={value}" for path, value, _ in described(recipe)]) == recipe


def test_a_task_without_a_kind_is_digits_and_a_file_is_a_list_of_one(recipe_file):
    assert load_recipe(recipe_file(ONE + "method: mixed")).branches["a"].task.kind == "digits"
    task = load_recipe(recipe_file(ROWS + "test: [b, c]}}}")).branches["a"].task
    assert (task.kind, task.train, task.test, task.validation) == ("rows", ("a.jsonl",), ("b", "c"), None)


def test_described_values_of_rows_are_overrides_that_give_the_recipe_back(recipe_file):
    texts = ["branches.a.task.chat_template_kwargs={enable_thinking: false, level: 3}"]
    texts += [f"branches.a.task.prompt_template={json.dumps('{{ prompt }}: {% if x %}#{% endif %}')}"]
    texts += ["branches.a.task.system_prompt='null'", "branches.a.task.train=['a, b.jsonl', 'c: d.jsonl', 'yes']"]
    recipe = load_recipe(recipe_file(ROWS + "}}}"), texts)
    assert recipe.branches["a"].task.train == ("a, b.jsonl", "c: d.jsonl", "yes")
    assert recipe.branches["a"].task.chat_template_kwargs == {"enable_thinking": False, "level": 3}
    again = load_recipe(recipe_file(ROWS + "}}}"), [f"{path}={value}" for path, value, _ in described(recipe)])
    assert again == recipe == make_recipe(recipe.model_dump(mode="json"))


def test_every_section_refuses_unknown_keys_and_every_field_has_a_meaning():
    sections = Section.__subclasses__()
    assert len(sections) > 10
    for section in sections:
        assert section.model_config["extra"] == "forbid"
        if section is not Recipe:
            assert all(field.description for field in section.model_fields.values()), section


def test_reading_a_recipe_imports_no_torch():
    script = (
        "import sys; from copd.recipe.reading import load_recipe; load_recipe('demo'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("override", ["evaluation.overlap_k=[]", "optimizer.betas=[0.9, 1.0]"])
def test_values_that_would_crash_later_are_refused_at_once(override):
    with pytest.raises(RecipeError, match=override.split("=")[0]):
        load_recipe("demo-paper", [override])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("branches.9x.task.capability=text", "branches.9x: a branch's name is a letter, then letters, digits, _ or -,"),
        ("verifiers={'a b': 'x.py:f'}", "verifiers.a b: a verifier's name is letters, digits, _, / or -,"),
        ("trackers=wandb", "trackers: accepted: a list; write [wandb], found 'wandb'"),
        ("evaluation.pass_at=4", "evaluation.pass_at: accepted: a list; write [4], found '4'"),
        ("static_opd.native=1", "static_opd.native: accepted: true or false"),
    ],
)
def test_a_name_or_a_list_that_was_meant_is_told_in_words(override, said):
    with pytest.raises(RecipeError) as error:
        load_recipe("demo-paper", [override])
    assert str(error.value).startswith(said)
    assert "[key]" not in str(error.value)


def test_an_empty_section_can_be_filled_by_a_later_override():
    assert load_recipe("demo-paper", ["grpo=", "grpo.clip_low=0.1"]).grpo.clip_low == 0.1


def test_a_list_of_mappings_in_the_place_of_files_has_one_error_for_each_and_no_false_one():
    with pytest.raises(RecipeError) as refused:
        load_recipe("demo-paper", ["branches={a: {task: {kind: rows, train: [{x: y}, {z: y}], verifier: integer}}}"])
    assert str(refused.value).splitlines() == [
        """branches.a.task.train.0: accepted: a text, found "{'x': 'y'}\"""",
        """branches.a.task.train.1: accepted: a text, found "{'z': 'y'}\"""",
    ]


@pytest.mark.parametrize(
    "override",
    [
        *("seed=x", "seed=-1", "method=foo", "model=foo", "model.path=3", "branches=[]", "branches={}", "schedule=3"),
        *("sampling.temperature=hot", "sampling.temperature=0", "opd.bound=foo", "optimizer.betas=[0.9, 1, 1]"),
        *("grpo.clip_low=2", "lora={rank: 2, targets: [3]}", "verifiers=[a]", "reward.deadline_seconds=inf"),
        *("static_opd.native=maybe", "evaluation.overlap_k=[]", "optimizer.betas=[2, 3]"),
    ],
)
def test_no_refusal_speaks_the_words_of_the_library_behind_it(override):
    with pytest.raises(RecipeError) as refused:
        load_recipe("demo-paper", [override])
    assert not re.search(
        "Input should|valid (string|dict|integer|number|boolean)|Tuple|after validation", str(refused.value)
    )
    assert "accepted: " in str(refused.value)


def test_a_branch_has_several_ranks_on_ray_only():
    assert load_recipe("demo-paper", ["backend.kind=ray", "backend.ranks=2"]).backend.ranks == 2
    with pytest.raises(RecipeError, match=r"^backend\.ranks: found 2 with kind processes; accepted: 1, or kind ray"):
        load_recipe("demo-paper", ["backend.kind=processes", "backend.ranks=2"])
    with pytest.raises(
        RecipeError, match=r"^optimizer\.kind: found adamw_8bit with backend\.ranks above 1; accepted: adamw"
    ):
        load_recipe("demo-paper", ["backend.kind=ray", "backend.ranks=2", "optimizer.kind=adamw_8bit"])
    with pytest.raises(RecipeError, match=r"^backend\.ranks: accepted: 1 or more, found '0'"):
        load_recipe("demo-paper", ["backend.ranks=0"])


def test_the_name_of_a_backend_stands_for_its_section():
    assert load_recipe("demo-paper", ["backend=ray"]).backend.kind == "ray"
    several = load_recipe("demo-paper", ["backend=processes", "backend.restarts=7"]).backend
    assert (several.kind, several.restarts) == ("processes", 7)
    assert load_recipe("demo-paper", ["backend.restarts=7", "backend=local"]).backend.restarts == 3
    with pytest.raises(RecipeError, match=r"backend\.kind: accepted: 'local', 'processes' or 'ray', found 'rya'"):
        load_recipe("demo-paper", ["backend=rya"])


def test_a_branch_is_named_before_it_is_given_up():
    said = "^backend.give_up_minutes: found 10; accepted: more than slow_minutes, which is 30"
    with pytest.raises(RecipeError, match=said):
        load_recipe("demo-paper", ["backend.give_up_minutes=10"])


def test_no_branch_is_waited_for_longer_than_clocks_count():
    with pytest.raises(RecipeError, match=r"^backend\.give_up_minutes: accepted: 1000000\.0 or less, found '1e300'"):
        load_recipe("demo-paper", ["backend.give_up_minutes=1e300"])
    assert load_recipe("demo-paper", ["backend.give_up_minutes=1e6"]).backend.give_up_minutes == 1e6


def test_ray_chooses_the_card_of_a_branch():
    with pytest.raises(RecipeError, match=r"branches\.text\.device: is 'cuda:1', but Ray chooses the card"):
        load_recipe("demo-paper", ["backend=ray", "branches.text.device=cuda:1"])
    assert load_recipe("demo-paper", ["backend=ray", "branches.text.device=cuda"]).branches["text"].device == "cuda"
