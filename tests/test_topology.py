"""Hub and full topologies."""

import pytest

from copd.topology import Edge, full, hub, to_one


def pairs(edges: tuple[Edge, ...]) -> list[tuple[str, str]]:
    return [(edge.student, edge.teacher) for edge in edges]


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        (["a"], []),
        (["a", "b"], [("a", "b"), ("b", "a")]),
        (["a", "b", "c"], [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")]),
    ],
)
def test_the_first_branch_is_the_hub(branches, expected):
    assert pairs(hub(branches, 1.0)) == expected


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        (["a"], []),
        (["a", "b"], [("a", "b"), ("b", "a")]),
        (["a", "b", "c"], [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")]),
    ],
)
def test_in_the_full_topology_every_branch_teaches_every_other(branches, expected):
    assert pairs(full(branches, 1.0)) == expected


@pytest.mark.parametrize("topology", [hub, full])
@pytest.mark.parametrize("branches", [list("ab"), list("abcd")])
def test_teaching_is_mutual_and_nobody_teaches_itself(topology, branches):
    edges = pairs(topology(branches, 1.0))
    assert all((teacher, student) in edges for student, teacher in edges)
    assert all(student != teacher for student, teacher in edges)
    assert len(set(edges)) == len(edges)


@pytest.mark.parametrize("topology", [hub, full])
@pytest.mark.parametrize("branches", [list("ab"), list("abcd")])
def test_all_teachers_of_a_student_share_the_weight_equally(topology, branches):
    edges = topology(branches, 0.75)
    for student in branches:
        weights = [edge.weight for edge in edges if edge.student == student]
        assert weights == [0.75 / len(weights)] * len(weights)


def test_teachers_of_one_student_teach_it_and_nobody_else():
    assert to_one("m", "abcd", 1.0) == tuple(Edge("m", teacher, 0.25) for teacher in "abcd")


def test_hub_and_full_are_one_for_two_branches():
    assert hub(["a", "b"], 2.0) == full(["a", "b"], 2.0)
