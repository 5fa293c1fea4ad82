"""Which nodes take the units of a stage."""

import pytest

from cluster.nodes import Node, candidates, without_accelerators

GIB = 1 << 30
HEAD, SMALL, LARGE = Node("h", 0, 8 * GIB), Node("s", 4, 8 * GIB), Node("l", 4, 64 * GIB)
ONE_GPU, EIGHT_GPUS = Node("g", 16, 64 * GIB, True), Node("f", 16, 64 * GIB, True)


def described(resources: dict, labels: dict) -> dict:
    return {"NodeID": "n", "Resources": resources, "Labels": {"ray.io/node-id": "n", **labels}}


@pytest.mark.parametrize(
    ("resources", "labels", "node"),
    [
        ({"CPU": 2.0, "memory": 5.0}, {}, Node("n", 2, 5)),
        ({"CPU": 2.0, "memory": 5.0, "GPU": 1.0}, {}, Node("n", 2, 5, True)),
        ({"CPU": 2.0, "memory": 5.0}, {"ray.io/accelerator-type": "H100"}, Node("n", 2, 5, True)),
        ({"node:__internal_head__": 1.0}, {}, Node("n", 0, 0)),
    ],
)
def test_a_node_has_what_ray_says(resources, labels, node):
    assert Node.of(described(resources, labels)) == node


@pytest.mark.parametrize(
    ("nodes", "memory", "kept_off"),
    [
        ([HEAD, SMALL, LARGE], 0, ""),
        ([HEAD, SMALL, ONE_GPU], 0, "!in(g)"),
        ([SMALL, ONE_GPU, EIGHT_GPUS], 8 * GIB, "!in(f,g)"),
        ([HEAD, ONE_GPU], 0, ""),  # the head has no CPU
        ([SMALL, ONE_GPU], 9 * GIB, ""),  # too large for the other
        ([SMALL, LARGE, ONE_GPU], 9 * GIB, "!in(g)"),
        ([], 0, ""),
    ],
)
def test_units_are_kept_off_nodes_with_gpus_while_another_takes_them(nodes, memory, kept_off):
    assert without_accelerators(nodes, memory) == ({"ray.io/node-id": kept_off} if kept_off else {})


def test_units_are_given_to_nodes_with_gpus_only_if_no_other_can_run_them():
    assert candidates([HEAD, SMALL, ONE_GPU]) == [HEAD, SMALL]
    assert candidates([SMALL, ONE_GPU], 9 * GIB) == [SMALL, ONE_GPU]
    assert candidates([HEAD, ONE_GPU]) == [HEAD, ONE_GPU]


def test_a_node_with_the_resources_that_are_free():
    assert LARGE.with_resources({"CPU": 0.5, "memory": 2 * GIB}) == Node("l", 0.5, 2 * GIB)
    assert ONE_GPU.with_resources({}) == Node("g", 0, 0, True)
    assert not LARGE.with_resources({"CPU": 0.5, "memory": 2 * GIB}).takes(GIB)
