"""Algorithm 1 on branches that note their calls: who answers what, who scores, and in which order all happens."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir

import pytest

from copd.algorithm import copd
from copd.phases import Consolidation, merged, mutual_opd, rlvr
from copd.schedule import Batches, Phase, Schedule
from copd.system.files import passing_folder
from copd.topology import Edge, full, hub

BATCHES = Batches(prompts=16, rollouts_per_prompt=8, opd_prompts=4, opd_rollouts_per_prompt=2)
SOME = (Edge("a", "b", 0.5), Edge("c", "b", 2.0), Edge("a", "c", 0.25))


@dataclass(frozen=True)
class Call:
    """One call of a branch; `subject` is what was passed on or asked for."""

    branch: str
    what: str
    subject: object


@dataclass(frozen=True)
class Answers:
    """Rollouts as a handle would pass them on: opaque, but each one tells who made it, on what, when, and how many."""

    student: str
    task: str
    step: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Marks:
    """A score that knows what was scored, and how many updates the teacher had made."""

    teacher: str
    answers: object
    version: int


class Noting:
    """A branch that notes when each of its calls begins and ends, and lets others run in between."""

    def __init__(self, name: str, log: list[tuple[str, Call]], turns: int = 0) -> None:
        self.name, self.capability, self.turns = name, f"capability of {name}", turns
        self.version, self.held = 0, None
        self._log = log

    async def _do(self, call: Call) -> None:
        self._log.append(("begin", call))
        for _ in range(self.turns):
            await asyncio.sleep(0)
        self._log.append(("end", call))

    async def collect(self, task, step, prompts, rollouts_per_prompt, *, visit=False):
        answers = Answers(self.name, task, step, (prompts, rollouts_per_prompt))
        await self._do(Call(self.name, "collect", answers))
        return answers

    async def replay(self, place):
        answers = Answers(self.name, f"kept {place}", place, (0, 0))
        await self._do(Call(self.name, "replay", answers))
        return answers

    async def score(self, rollouts):
        marks = Marks(self.name, rollouts, self.version if self.held is None else self.held)
        await self._do(Call(self.name, "score", rollouts))
        return marks

    async def update(self, parts):
        await self._do(Call(self.name, "update", tuple(parts)))
        self.version += 1
        return {"loss": float(self.version)}

    async def write_weights(self, folder):
        folder.write_text(str(float(ord(self.name))))

    async def load_weights(self, folder):
        await self._do(Call(self.name, "load_weights", float(folder.read_text())))

    async def start_optimizer(self):
        await self._do(Call(self.name, "start_optimizer", None))

    async def hold(self):
        await self._do(Call(self.name, "hold", None))
        self.held = self.version

    async def release(self):
        await self._do(Call(self.name, "release", None))
        self.held = None


class Looking:
    """An observer that notes."""

    def __init__(self, log: list[tuple[str, Call]], meet_every: int = 100) -> None:
        self.meet_every, self.meet_after = meet_every, ()
        self.log = log

    def may_begin(self, step):
        return True

    def updated(self, branch, step, metrics):
        self.log.append(("updated", Call(branch, "step", (step, metrics["loss"]))))

    async def met(self, stretch):
        self.log.append(("met", Call("", "met", stretch)))


class Stage:
    """Three branches of unequal pace, an observer, and what they noted."""

    def __init__(self, turns=(0, 0, 0), meet_every: int = 100) -> None:
        self.log: list[tuple[str, Call]] = []
        self.branches = {name: Noting(name, self.log, t) for name, t in zip("abc", turns, strict=True)}
        self.observer = Looking(self.log, meet_every)

    def train(self, schedule=None, edges=SOME, start=0) -> "Stage":
        schedule = schedule or Schedule(2, 3, 2)
        asyncio.run(copd(self.branches, edges, schedule, BATCHES, self.observer, start))
        return self

    def opd(self, edges=SOME, step=7) -> "Stage":
        asyncio.run(mutual_opd(self.branches, edges, step, BATCHES, self.observer, version=step))
        return self

    def calls(self, what: str, when: str = "begin") -> list[Call]:
        return [call for event, call in self.log if event == when and call.what == what]

    def times(self, what: str, when: str) -> list[int]:
        return [i for i, (event, call) in enumerate(self.log) if event == when and call.what == what]


PACES = [(0, 0, 0), (1, 1, 1), (0, 5, 2), (7, 0, 1)]


def assert_before_its_update(what: str, stage: Stage) -> None:
    """Every branch has begun and ended all its calls of this kind before it begins its update."""
    for name in "abc":
        own = [(event, call.what) for event, call in stage.log if call.branch == name]
        update = own.index(("begin", "update"))
        assert all(i < update for i, (_, each) in enumerate(own) if each == what)


@pytest.mark.parametrize("turns", PACES)
def test_a_branch_scores_all_that_it_teaches_before_it_updates(turns):
    assert_before_its_update("score", Stage(turns).opd())


@pytest.mark.parametrize("turns", PACES)
def test_a_branch_answers_with_the_weights_of_the_beginning_of_the_step(turns):
    assert_before_its_update("collect", Stage(turns).opd())


def test_a_branch_waits_only_for_those_that_it_teaches_or_is_taught_by():
    apart = (Edge("a", "b", 1.0), Edge("b", "a", 1.0))
    stage = Stage((50, 50, 0)).opd(apart)
    assert stage.times("update", "end")[0] < min(stage.times("score", "begin"))
    assert stage.calls("update", "end")[0].branch == "c"


@pytest.mark.parametrize("turns", PACES)
def test_every_score_is_as_fresh_as_the_student_it_teaches(turns):
    stage = Stage(turns).train(Schedule(2, 1, 3))
    updates = dict.fromkeys("abc", 0)
    for call in stage.calls("update"):
        assert all(part.teacher.version == updates[call.branch] for part in call.subject if part.teacher)
        updates[call.branch] += 1


def test_each_student_answers_the_teachers_capability():
    collected = {(c.subject.student, c.subject.task, c.subject.size) for c in Stage().opd().calls("collect")}
    assert collected == {
        ("a", "capability of a", (16, 8)),
        ("b", "capability of b", (16, 8)),
        ("c", "capability of c", (16, 8)),
        ("a", "capability of b", (4, 2)),
        ("c", "capability of b", (4, 2)),
        ("a", "capability of c", (4, 2)),
    }


def test_each_teacher_scores_what_its_student_answered_on_the_teachers_capability():
    scored = [(c.branch, c.subject.student, c.subject.task) for c in Stage().opd().calls("score")]
    assert scored == [("b", "a", "capability of b"), ("b", "c", "capability of b"), ("c", "a", "capability of c")]


def test_edges_decide_parts_and_betas():
    parts = {call.branch: call.subject for call in Stage().opd().calls("update")}
    described = {
        student: [(part.name, part.weight, part.teacher and part.teacher.teacher) for part in given]
        for student, given in parts.items()
    }
    assert described == {
        "a": [("native", 1.0, None), ("from_b", 0.5, "b"), ("from_c", 0.25, "c")],
        "b": [("native", 1.0, None)],
        "c": [("native", 1.0, None), ("from_b", 2.0, "b")],
    }


@pytest.mark.parametrize("turns", PACES)
def test_a_part_holds_the_students_own_answers_and_the_teachers_score_of_exactly_those(turns):
    for call in Stage(turns).opd().calls("update"):
        for part in call.subject:
            assert part.rollouts.student == call.branch
            teacher = part.name.removeprefix("from_") if part.teacher else call.branch
            assert part.rollouts.task == f"capability of {teacher}"
            assert part.teacher is None or part.teacher.answers is part.rollouts


@pytest.mark.parametrize("edges", [SOME, hub("abc", 1.0), full("abc", 1.0), ()])
def test_the_native_part_is_present_in_every_opd_step(edges):
    stage = Stage().train(Schedule(2, 1, 3), edges)
    updates = stage.calls("update")
    assert len(updates) == 3 * 8
    for call in updates:
        (native,) = [part for part in call.subject if part.teacher is None]
        assert (native.name, native.weight) == ("native", 1.0)
        assert native.rollouts.task == f"capability of {call.branch}"
        assert native.rollouts.size == (16, 8)


@pytest.mark.parametrize("turns", PACES)
def test_without_native_batches_an_opd_step_is_its_lessons_alone(turns):
    stage = Stage(turns)
    edges, batches = hub("abc", 1.0), replace(BATCHES, native_in_opd=False)
    asyncio.run(copd(stage.branches, edges, Schedule(2, 1, 3), batches, stage.observer))
    updates = stage.calls("update")
    assert len(updates) == 3 * 8
    names = [tuple(part.name for part in call.subject) for call in updates]
    assert names.count(("native",)) == 3 * 2
    assert names.count(("from_b", "from_c")) == names.count(("from_a",)) / 2 == 6
    assert len(stage.calls("collect")) == 3 * 2 + 4 * 6


@pytest.mark.parametrize("turns", PACES)
@pytest.mark.parametrize("meet_every", [1, 100])
def test_held_teachers_teach_as_they_were_when_the_phase_began(turns, meet_every):
    stage, schedule = Stage(turns, meet_every), Schedule(2, 2, 3)
    edges, batches = (*hub("abc", 1.0), Edge("b", "b", 0.5)), replace(BATCHES, held_teachers=True)
    asyncio.run(copd(stage.branches, edges, schedule, batches, stage.observer))
    versions = {
        (part.rollouts.step, part.teacher.version, part.teacher_version)
        for call in stage.calls("update")
        for part in call.subject
        if part.teacher
    }
    assert versions == {(step, first, first) for first in (2, 7) for step in range(first, first + 3)}
    assert [call.what for call in stage.calls("hold")] == ["hold"] * 6
    assert len(stage.calls("release")) == 6


@pytest.mark.parametrize("turns", PACES)
def test_teachers_who_answer_their_prompts_themselves_score_their_own_responses(turns):
    stage, batches = Stage(turns), replace(BATCHES, teachers_answer=True)
    asyncio.run(mutual_opd(stage.branches, SOME, 7, batches, stage.observer, version=0))
    parts = [(call.branch, part) for call in stage.calls("update") for part in call.subject]
    visits = {(student, part.rollouts.student, part.teacher.teacher) for student, part in parts if part.teacher}
    assert visits == {("a", "b", "b"), ("c", "b", "b"), ("a", "c", "c")}
    assert all(part.by_teacher == (part.teacher is not None) for _, part in parts)
    assert {part.rollouts.size for _, part in parts if part.teacher} == {(4, 2)}


def test_a_phase_that_goes_on_in_its_middle_holds_what_it_held():
    stage, batches = Stage(), replace(BATCHES, held_teachers=True)
    for branch in stage.branches.values():
        branch.held = 2
    asyncio.run(copd(stage.branches, SOME, Schedule(1, 2, 3), batches, stage.observer, 3))
    assert stage.calls("hold") == []
    assert {part.teacher_version for call in stage.calls("update") for part in call.subject if part.teacher} == {2}


@pytest.mark.parametrize(("edges", "scores"), [(hub("abc", 1.0), 4), (full("abc", 1.0), 6), (SOME, 3), ((), 0)])
def test_every_edge_is_scored_once_in_every_opd_step(edges, scores):
    stage = Stage().train(Schedule(2, 3, 2), edges)
    assert len(stage.calls("score")) == 4 * scores
    assert len(stage.calls("collect")) == 10 * 3 + 4 * scores


def test_rlvr_makes_no_score_call_and_has_the_native_part_alone():
    stage = Stage().train(Schedule(2, 3, 0), full("abc", 1.0))
    assert stage.calls("score") == []
    assert [len(call.subject) for call in stage.calls("update")] == [1] * 18
    assert {(c.branch, c.subject.task) for c in stage.calls("collect")} == {(n, f"capability of {n}") for n in "abc"}


def test_scores_are_made_in_opd_steps_only():
    schedule = Schedule(2, 3, 2)
    stage = Stage().train(schedule)
    phases = {schedule.position(call.subject.step).phase for call in stage.calls("score")}
    assert phases == {Phase.OPD}


@pytest.mark.parametrize("turns", PACES)
def test_every_branch_makes_one_update_per_step_in_order(turns):
    stage = Stage(turns).train(Schedule(2, 3, 2))
    for name in "abc":
        updated = [call.subject for event, call in stage.log if event == "updated" and call.branch == name]
        assert updated == [(step, float(step + 1)) for step in range(10)]
        natives = [part.rollouts.step for c in stage.calls("update") if c.branch == name for part in c.subject[:1]]
        assert natives == list(range(10))


def test_in_rlvr_a_branch_need_not_wait_for_another():
    async def slow_and_fast() -> None:
        stage, fast_is_done = Stage(), asyncio.Event()
        slow, fast = stage.branches["a"], stage.branches["b"]
        collect = slow.collect

        async def waiting(*arguments):
            await fast_is_done.wait()
            return await collect(*arguments)

        slow.collect = waiting

        class Watching(Looking):
            def updated(self, branch, step, metrics):
                if (branch, step) == ("b", 4):
                    fast_is_done.set()

        pair = {"a": slow, "b": fast}
        await asyncio.wait_for(copd(pair, (), Schedule(1, 5, 0), BATCHES, Watching(stage.log)), timeout=5)

    asyncio.run(slow_and_fast())


def test_in_an_opd_step_branches_collect_score_and_update_at_once():
    async def together() -> None:
        stage = Stage()
        meetings = {"collect": asyncio.Barrier(3 + 3), "score": asyncio.Barrier(3), "update": asyncio.Barrier(3)}

        class Meeting(Noting):
            async def _do(self, call):
                await meetings[call.what].wait()

        branches = {name: Meeting(name, stage.log) for name in "abc"}
        await asyncio.wait_for(mutual_opd(branches, SOME, 0, BATCHES, stage.observer, version=0), timeout=5)

    asyncio.run(together())


@pytest.mark.parametrize("turns", PACES)
@pytest.mark.parametrize("meet_every", [1, 2, 100])
def test_branches_meet_when_all_have_made_all_steps_of_a_stretch(turns, meet_every):
    schedule = Schedule(2, 3, 2)
    stage = Stage(turns, meet_every).train(schedule)
    expected = [list(stretch.steps) for stretch in schedule.stretches(0, meet_every)]
    done: dict[str, list[int]] = {name: [] for name in "abc"}
    met = []
    for event, call in stage.log:
        if event == "updated":
            done[call.branch].append(call.subject[0])
        if event == "met":
            met.append(list(call.subject.steps))
            assert done == {name: list(range(call.subject.steps[-1] + 1)) for name in "abc"}
    assert met == expected


def step_of(call: Call) -> int:
    return call.subject[0].rollouts.step if call.what == "update" else call.subject.step


def content_of(call: Call) -> tuple[object, ...]:
    """What was asked, on which problems, and with which parts; the teachers' versions aside."""
    if call.what == "update":
        return call.what, [(part.name, part.weight, part.rollouts) for part in call.subject]
    return call.what, call.subject


@pytest.mark.parametrize("turns", PACES)
def test_a_start_in_the_middle_makes_the_same_remaining_calls(turns):
    def calls_of(stage, name):
        return [call for event, call in stage.log if event == "begin" and call.branch == name]

    whole = Stage(turns).train()
    for start in range(11):
        resumed = Stage(turns).train(start=start)
        for name in "abc":
            rest = [content_of(call) for call in calls_of(whole, name) if step_of(call) >= start]
            assert [content_of(call) for call in calls_of(resumed, name)] == rest


def test_one_branch_alone_can_do_rlvr():
    stage = Stage()
    asyncio.run(rlvr(stage.branches["a"], range(4, 7), BATCHES, stage.observer))
    assert [call.subject.step for call in stage.calls("collect")] == [4, 5, 6]
    assert {call.branch for call in stage.calls("update")} == {"a"}


def test_the_merge_is_made_of_exactly_the_k_branches_in_order():
    given = {}

    def merge(parts, out):
        given.update({name: float(part.read_text()) for name, part in parts.items()})
        out.write_text("7.0")

    assert asyncio.run(theta_of(Stage().branches, merge)) == 7.0
    assert list(given.items()) == [(name, float(ord(name))) for name in "abc"]


def test_weights_that_have_travelled_are_removed():
    async def folder_of_theta():
        async with merged(Stage().branches, summed, exchange) as weights:
            assert {path.name for path in weights.parent.iterdir()} == {"a", "b", "c", "merged"}
            return weights.parent

    assert not asyncio.run(folder_of_theta()).exists()


def exchange():
    return passing_folder(Path(gettempdir()))


async def theta_of(branches, merge, consolidated=None):
    """The number that stands for the weights of theta*."""
    async with merged(branches, merge, exchange, consolidated) as weights:
        return float(weights.read_text())


def summed(parts, out):
    out.write_text(str(sum(float(part.read_text()) for part in parts.values())))


SUM = float(sum(map(ord, "abc")))
TO_ONE = tuple(Edge("m", teacher, 0.5) for teacher in "abc")


class Merging(Stage):
    """A stage with a student, `m`, whom all branches teach in phase III."""

    def __init__(self, turns=(0, 0, 0), *, student: str = "m") -> None:
        super().__init__(turns)
        self.student = self.branches.get(student) or Noting(student, self.log)

    def train(self, schedule=None, edges=(), start=0, *, merge=summed, lessons=TO_ONE, batches=BATCHES) -> "Merging":
        schedule = schedule or Schedule(1, 2, 0, merge_steps=3)
        consolidated = Consolidation(self.student, lessons)
        given = {"merge": merge, "exchange": exchange, "consolidated": consolidated}
        asyncio.run(copd(self.branches, edges, schedule, batches, self.observer, start, **given))
        return self

    def of(self, name: str) -> list[tuple[str, object]]:
        """The calls of a branch in order, without what was passed on."""
        return [(call.what, call.subject) for event, call in self.log if event == "begin" and call.branch == name]


@pytest.mark.parametrize("turns", PACES)
def test_in_consolidation_all_branches_teach_the_student_and_only_it_is_updated(turns):
    stage = Merging(turns).train()
    updates = [call for call in stage.calls("update") if call.branch == "m"]
    assert len(updates) == 3
    for call in updates:
        parts = [(part.name, part.weight, part.teacher.teacher, part.rollouts.task) for part in call.subject]
        assert parts == [(f"from_{name}", 0.5, name, f"capability of {name}") for name in "abc"]
        assert {part.rollouts.student for part in call.subject} == {"m"}
        assert {part.rollouts.size for part in call.subject} == {(4, 2)}
    assert len(stage.calls("update")) == 3 * 2 + 3


def test_the_student_begins_each_consolidation_as_the_merge_of_the_branches():
    stage = Merging().train(Schedule(3, 1, 0, merge_steps=2, restart=True))
    whats = [
        (what, subject if what == "load_weights" else None)
        for what, subject in stage.of("m")
        if what in ("load_weights", "update")
    ]
    assert whats == [("load_weights", SUM), ("update", None), ("update", None)] * 3


@pytest.mark.parametrize("turns", PACES)
def test_a_replay_is_on_what_each_teacher_kept_the_oldest_first_and_comes_before_the_students_own_responses(turns):
    stage = Merging(turns).train(Schedule(2, 3, 0, merge_steps=1, restart=True, replay_steps=2))
    updates = [call for call in stage.calls("update") if call.branch == "m"]
    seen = [[(part.rollouts.student, part.rollouts.task, part.by_teacher) for part in call.subject] for call in updates]
    replays = [[(name, f"kept {place}", True) for name in "abc"] for place in (0, 1)]
    visits = [("m", f"capability of {name}", False) for name in "abc"]
    assert seen == [*replays, visits] * 2
    assert len([what for what, _ in stage.of("m") if what == "load_weights"]) == 2, "one beginning for both"
    for call in updates:
        assert all(part.teacher.teacher == part.name[-1] for part in call.subject)
        assert all(part.teacher.version == part.teacher_version for part in call.subject)


def test_without_a_merge_the_student_keeps_its_weights_and_forgets_its_moments():
    stage = Merging().train(merge=None)
    assert [what for what, _ in stage.of("m") if not what.startswith("co")] == ["start_optimizer"] + ["update"] * 3


@pytest.mark.parametrize("turns", PACES)
def test_teachers_stand_at_the_version_at_which_their_own_training_ended(turns):
    schedule = Schedule(2, 2, 1, merge_steps=3, restart=True)
    stage = Merging(turns).train(schedule, SOME)
    for call in stage.calls("update"):
        for part in call.subject:
            if part.teacher:
                assert part.teacher.version == part.teacher_version == schedule.updates_before(part.rollouts.step)


def test_branches_begin_the_next_cycle_from_the_merge_where_asked():
    schedule = Schedule(3, 1, 1, restart=True)
    stage = Stage()
    asyncio.run(copd(stage.branches, SOME, schedule, BATCHES, stage.observer, merge=summed, exchange=exchange))
    for name in "abc":
        events = [
            c
            for event, c in stage.log
            if event == "begin" and c.branch == name and c.what in ("load_weights", "update")
        ]
        assert [call.what for call in events] == ["update", "update", *["load_weights", "update", "update"] * 2]
        assert {call.subject for call in events if call.what == "load_weights"} == {SUM}


@pytest.mark.parametrize("start", [0, 3, 4])
def test_a_cycle_begins_anew_once_however_often_its_branches_meet(start):
    stage = Stage(meet_every=1)
    schedule = Schedule(2, 3, 0, restart=True)
    asyncio.run(copd(stage.branches, (), schedule, BATCHES, stage.observer, start, merge=summed, exchange=exchange))
    assert len(stage.calls("load_weights")) == (3 if start <= 3 else 0)


def test_after_a_consolidation_branches_begin_from_the_student():
    stage = Merging().train(Schedule(2, 1, 0, merge_steps=2, restart=True))
    assert [call.subject for call in stage.calls("load_weights") if call.branch in "abc"] == [float(ord("m"))] * 3
    assert asyncio.run(theta_of(stage.branches, None, Consolidation(stage.student, TO_ONE))) == ord("m")


def test_without_restart_no_branch_takes_weights_over():
    stage = Merging().train(Schedule(2, 1, 1, merge_steps=2), SOME)
    assert {call.branch for call in stage.calls("load_weights")} == {"m"}


@pytest.mark.parametrize(("native", "parts"), [(True, ["native", "from_b"]), (False, ["from_b"])])
def test_a_student_that_is_a_branch_goes_on_with_grpo_only_where_asked(native, parts):
    stage = Merging(student="a")
    stage.train(lessons=(Edge("a", "b", 1.0),), merge=None, batches=replace(BATCHES, native_in_opd=native))
    taught = [call.subject for call in stage.calls("update") if call.branch == "a"][2:]
    assert [[part.name for part in given] for given in taught] == [parts] * 3


@pytest.mark.parametrize("turns", PACES)
def test_a_start_in_the_middle_of_cycles_that_merge_makes_the_same_remaining_calls(turns):
    schedule = Schedule(3, 2, 1, merge_steps=2, restart=True)

    def calls_of(stage, name, since):
        calls = [call for event, call in stage.log if event == "begin" and call.branch == name]
        kept = [call for call in calls if call.what in ("collect", "score", "update") and step_of(call) >= since]
        return [content_of(call) for call in kept]

    whole = Merging(turns).train(schedule, SOME)
    for start in range(schedule.steps + 1):
        resumed = Merging(turns).train(schedule, SOME, start)
        for name in "abcm":
            assert calls_of(resumed, name, start) == calls_of(whole, name, start)
    for start in (5, 10):
        loads = Merging().train(schedule, SOME, start).calls("load_weights")
        assert [call.branch for call in loads[:3]] == ["a", "b", "c"], "a cycle's first step repeats the restart"
