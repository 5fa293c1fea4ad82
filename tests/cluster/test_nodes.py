"""Which nodes take the units of a stage."""

import pytest

from raymill.cluster.nodes import Node, candidates, without_accelerators

GIB = 1 << 30
HEAD = Node("h", {"memory": 8 * GIB})
SMALL, LARGE = Node("s", {"CPU": 4, "memory": 8 * GIB}), Node("l", {"CPU": 4, "memory": 64 * GIB})
ONE_GPU, EIGHT_GPUS = (
    Node(name, {"CPU": 16, "memory": 64 * GIB, "GPU": gpus}, accelerated=True) for name, gpus in (("g", 1), ("f", 8))
)


def described(resources: dict, labels: dict) -> dict:
    return {"NodeID": "n", "Resources": resources, "Labels": {"ray.io/node-id": "n", **labels}}


@pytest.mark.parametrize(
    ("resources", "labels", "accelerated"),
    [
        ({"CPU": 2.0, "memory": 5.0}, {}, False),
        ({"CPU": 2.0, "memory": 5.0, "GPU": 1.0}, {}, True),
        ({"CPU": 2.0, "memory": 5.0}, {"ray.io/accelerator-type": "H100"}, True),
        ({"node:__internal_head__": 1.0}, {}, False),
    ],
)
def test_a_node_has_what_ray_says(resources, labels, accelerated):
    assert Node.of(described(resources, labels)) == Node("n", resources, accelerated)


@pytest.mark.parametrize(
    ("nodes", "wanted", "kept_off"),
    [
        ([HEAD, SMALL, LARGE], {"CPU": 1}, ""),
        ([HEAD, SMALL, ONE_GPU], {"CPU": 1}, "!in(g)"),
        ([SMALL, ONE_GPU, EIGHT_GPUS], {"CPU": 1, "memory": 8 * GIB}, "!in(f,g)"),
        ([HEAD, ONE_GPU], {"CPU": 1}, ""),  # the head has no CPU
        ([SMALL, ONE_GPU], {"CPU": 1, "memory": 9 * GIB}, ""),  # too large for the other
        ([SMALL, ONE_GPU], {"CPU": 8}, ""),
        ([SMALL, LARGE, ONE_GPU], {"CPU": 1, "memory": 9 * GIB}, "!in(g)"),
        ([SMALL, ONE_GPU], {"CPU": 1, "GPU": 1}, ""),  # wants a GPU
        ([], {"CPU": 1}, ""),
    ],
)
def test_units_are_kept_off_nodes_with_gpus_while_another_takes_them(nodes, wanted, kept_off):
    assert without_accelerators(nodes, wanted) == ({"ray.io/node-id": kept_off} if kept_off else {})


def test_units_are_given_to_nodes_with_gpus_only_if_no_other_can_run_them():
    assert candidates([HEAD, SMALL, ONE_GPU]) == [HEAD, SMALL]
    assert candidates([SMALL, ONE_GPU], {"CPU": 1, "memory": 9 * GIB}) == [SMALL, ONE_GPU]
    assert candidates([HEAD, ONE_GPU]) == [HEAD, ONE_GPU]


def test_a_node_takes_what_it_has_all_of():
    assert SMALL.takes({"CPU": 4, "memory": 8 * GIB}) and not SMALL.takes({"CPU": 4.5})
    assert not SMALL.takes({"CPU": 1, "TPU": 1}) and not HEAD.takes({"CPU": 1})
