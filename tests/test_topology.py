"""Hub and full topologies."""

import pytest

from copd.topology import Edge, full, hub


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
def test_every_edge_has_the_given_beta(topology):
    assert {edge.weight for edge in topology(list("abc"), 0.25)} == {0.25}


def test_hub_and_full_are_one_for_two_branches():
    assert hub(["a", "b"], 2.0) == full(["a", "b"], 2.0)
