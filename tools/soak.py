"""Kill a short run again and again, go on with it each time, and compare what it becomes with an undisturbed run.

    python tools/soak.py [--kills 100] [--seed 0] [--backend local] [--victims run] [--out FOLDER]

A run is killed by SIGKILL at a random moment of its life or, every second time, at a random moment after it has begun
to write a checkpoint. With `--victims branches` the run lives on, and the process or actor of one of its branches is
killed at a random moment; the run then goes on by itself from its last checkpoint. `--victims nodes` does so with the
raylets of a Ray cluster on this machine, which has a node for each branch; another node takes the place of a killed
one. A run that comes to its end is compared, and the next one begins in a new folder; the last one is not killed any
more. Exit status 1: one of them is not, bit for bit, what the undisturbed run is.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from copd.assemble import SERVER
from copd.assemble.plan import make_plan
from copd.commands.train import train
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.runs.runlog import read_lines
from copd.tasks.digits import handwriting

CHANGES = (
    "branches={text: {task: {capability: text, conflict: 1.0}}, image: {task: {capability: image, conflict: 1.0}}}",
    "model.threads_per_branch=1",
    "schedule={cycles: 2, rl_steps: 2, opd_steps: 2}",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 28}",
    "opd={prompts_per_step: 2, rollouts_per_prompt: 2}",
    "evaluation={problems: 2, validation_problems: 1, behaviour_problems: 1, pass_at: [1]}",
    "checkpoint={every_steps: 1, keep_last: 2}",
)
LOADED = tuple(f"transformers.models.qwen3_vl.{part}_qwen3_vl" for part in ("modeling", "processing"))
"""Imported before any run begins, as is the handwriting, so that more of a run's life is that of the run."""
SAME_BYTES = ("samples.jsonl", "answers.jsonl", "**/*.safetensors")
CLOCKS = ("seconds", "tokens_per_second", "critical_path")
POLL_SECONDS = 0.0002
IN_STEPS = 0.5
"""About the share of the run's time that its steps take."""
BUILT_BYTES = 2**28
"""A branch that holds as much memory has been built, or nearly."""
WRITING_SECONDS = 0.05
"""A kill at a checkpoint comes within so long of its beginning: while files are written, flushed or removed."""


def begin(recipe: Recipe, folder: Path) -> int:
    """Train in a process of its own, which goes on with the run in the folder; its number."""
    process = os.fork()
    if process:
        return process
    try:
        with (folder.parent / "said.txt").open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        train(recipe, folder, resume=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(process: int) -> bool:
    """Whether it has come to its end; raises SystemExit where that was an error."""
    number, status = os.waitpid(process, os.WNOHANG)
    if number and status:
        sys.exit(
            f"a run failed with exit status {os.waitstatus_to_exitcode(status)}; its folder has a said.txt beside it"
        )
    return bool(number)


def seconds_of(recipe: Recipe, folder: Path) -> float:
    """Let a run come to its end undisturbed; print and return how long that took."""
    begun, process = time.monotonic(), begin(recipe, folder)
    while not ended(process):
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    return seconds


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def killed(process: int, folder: Path, delay: float, writes: int) -> bool:
    """Kill it after so many seconds from the beginning, or of the so-manyth checkpoint; False: it has ended before."""
    while writes:
        while not list(folder.glob("checkpoints/.writing-*")):
            if ended(process):
                return False
            time.sleep(POLL_SECONDS)
        writes -= 1
        while writes and list(folder.glob("checkpoints/.writing-*")):
            time.sleep(POLL_SECONDS)
    until = time.monotonic() + delay
    while time.monotonic() < until:
        if ended(process):
            return False
        time.sleep(POLL_SECONDS)
    kill(process)
    return True


def branches_of(run: int) -> list[psutil.Process]:
    """The processes of a run's branches, or its actors of Ray, that have been built."""
    found = []
    for process in psutil.Process(run).children(recursive=True):
        with suppress(psutil.Error):
            actor = "ray::_Served" in " ".join(process.cmdline())
            parent = process.parent()
            forked = parent and all(SERVER in " ".join(each.cmdline()) for each in (parent, process))
            if (actor or forked) and process.memory_info().rss > BUILT_BYTES:
                found.append(process)
    return found


Strike = Callable[[int, Path, random.Random], bool]
"""Kills a part of the run with this process number and folder; False: there was nothing to kill yet."""


def strike_branch(run: int, _: Path, draw: random.Random) -> bool:
    with suppress(psutil.NoSuchProcess):
        if victims := branches_of(run):
            draw.choice(victims).kill()
            return True
    return False


def serve_nodes(asked: Connection, count: int) -> None:
    """A Ray cluster whose head runs no branch. Sends its address, then replaces node i for each i that comes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(count)]
    asked.send(cluster.address)
    with suppress(EOFError):
        while True:
            cluster.remove_node(nodes.pop(asked.recv()), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))
    cluster.shutdown()


@contextmanager
def nodes_of_ray(branches: int) -> Iterator[Strike]:
    """A cluster that the runs join, served by a program of its own: a process that has used Ray cannot fork a run."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve_nodes, args=(theirs, branches))
    server.start()
    theirs.close()

    def strike(_: int, folder: Path, draw: random.Random) -> bool:
        if not (folder / "metrics.jsonl").exists():
            return False  # no branch has a place yet
        ours.send(draw.randrange(branches))
        return True

    try:
        os.environ["RAY_ADDRESS"] = ours.recv()
        yield strike
    except EOFError:
        sys.exit("no Ray cluster has started; its error is above")
    finally:
        ours.close()
        server.join()


def soaked(recipe: Recipe, folder: Path, draw: random.Random, kills: int, whole: float, strike: Strike) -> int:
    """Strike one run at random moments until it has ended; the number of kills."""
    process, count = begin(recipe, folder), 0
    until = time.monotonic() + draw.uniform(0, whole)
    while not ended(process):
        time.sleep(0.01)
        if count < kills and time.monotonic() > until and strike(process, folder, draw):
            count += 1
            until = time.monotonic() + draw.uniform(0, whole)
    return count


def soak_parts(recipe: Recipe, kills: int, seed: int, out: Path, strike: Strike) -> int:
    """As `soak`, with parts of a run as victims."""
    draw = random.Random(seed)
    whole = seconds_of(recipe, out / "undisturbed")
    total = rounds = differing = 0
    while total < kills or not rounds:
        folder = out / f"run{rounds}"
        total += soaked(recipe, folder, draw, kills - total, whole, strike)
        found = differences(folder, out / "undisturbed")
        print(f"run {rounds}, after {total} kills in all: {', '.join(found) or 'the same'}", flush=True)
        rounds, differing = rounds + 1, differing + bool(found)
        shutil.rmtree(folder)
    begun_anew = (out / "said.txt").read_text().count("all branches go on from the last checkpoint")
    print(f"kills: {total}; new beginnings of all branches: {begun_anew}")
    print(f"{rounds} runs, {rounds - differing} of them bit for bit the undisturbed one")
    return differing


def done(folder: Path, steps: int) -> float:
    """The share of the steps that a run would not make again."""
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*")), default=0) / steps


def left_behind(folder: Path) -> str:
    """What the kill has interrupted, as the disk shows it."""
    if list(folder.glob("checkpoints/.writing-*")):
        return "while a checkpoint was written"
    if not list(folder.glob("checkpoints/step-*")):
        return "before the first checkpoint"
    if (folder / "branches").is_dir():
        return "while merging, exporting and evaluating"
    return "elsewhere in training"


def without_clocks(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS and not k.endswith("_seconds")}
    return [without_clocks(v) for v in value] if isinstance(value, list) else value


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """The files of a finished run that are not those of the other; of the metrics, clocks aside."""
    names = {
        path.relative_to(root) for root in (folder, undisturbed) for each in SAME_BYTES for path in root.glob(each)
    }
    found = [
        str(name)
        for name in sorted(names)
        if not all((root / name).is_file() for root in (folder, undisturbed))
        or (folder / name).read_bytes() != (undisturbed / name).read_bytes()
    ]
    ours, theirs = ([without_clocks(line) for line in read_lines(f / "metrics.jsonl")] for f in (folder, undisturbed))
    return found if ours == theirs else [*found, "metrics.jsonl"]


def soak(recipe: Recipe, kills: int, seed: int, out: Path) -> int:
    """Print what was killed and what became of it; the number of runs that differ from the undisturbed one."""
    draw = random.Random(seed)
    for module in LOADED:
        import_module(module)
    handwriting()
    undisturbed = out / "undisturbed"
    whole = seconds_of(recipe, undisturbed)
    moments: Counter[str] = Counter()
    rounds = differing = 0
    steps = make_plan(recipe).schedule.steps
    while moments.total() < kills or rounds == 0 or (out / f"run{rounds}").exists():
        folder = out / f"run{rounds}"
        process = begin(recipe, folder)
        writes = draw.randint(1, 3) if moments.total() % 2 else 0
        delay = draw.uniform(0, WRITING_SECONDS if writes else whole * (1 - done(folder, steps) * IN_STEPS))
        if moments.total() < kills and killed(process, folder, delay, writes):
            moments[left_behind(folder)] += 1
            continue
        while moments.total() == kills and not ended(process):
            time.sleep(0.01)
        found = differences(folder, undisturbed)
        print(f"run {rounds}, after {moments.total()} kills in all: {', '.join(found) or 'the same'}", flush=True)
        rounds, differing = rounds + 1, differing + bool(found)
        shutil.rmtree(folder)
    print(f"{moments.total()} kills: " + ", ".join(f"{count} {moment}" for moment, count in sorted(moments.items())))
    print(f"{rounds} runs, {rounds - differing} of them bit for bit the undisturbed one")
    return differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=("local", "processes", "ray"), default="local")
    parser.add_argument("--victims", choices=("run", "branches", "nodes"), default="run")
    parser.add_argument("--out", type=Path, help="for the runs; default a temporary folder")
    arguments = parser.parse_args()
    if arguments.victims == "branches" and arguments.backend == "local":
        parser.error("--victims branches: a local branch has no process of its own; add --backend processes or ray")
    if arguments.victims == "nodes" and arguments.backend != "ray":
        parser.error("--victims nodes: only Ray has nodes; add --backend ray")
    recipe = load_recipe(
        "demo-paper", [*CHANGES, f"backend={{kind: {arguments.backend}, restarts: {arguments.kills}}}"]
    )
    with TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        asked = (recipe, arguments.kills, arguments.seed, out)
        if arguments.victims == "nodes":
            with nodes_of_ray(len(recipe.branches)) as strike:
                differing = soak_parts(*asked, strike)
        elif arguments.victims == "branches":
            differing = soak_parts(*asked, strike_branch)
        else:
            differing = soak(*asked)
    sys.exit(int(bool(differing)))


if __name__ == "__main__":
    main()
