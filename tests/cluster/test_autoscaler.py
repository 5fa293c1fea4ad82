"""What the autoscaler answers about a request for machines, from the cluster's status as its control process has it."""

import json
from types import SimpleNamespace

import pytest
from ray.autoscaler.v2 import utils
from ray.core.generated import autoscaler_pb2
from ray.experimental import internal_kv

from raymill.cluster import autoscaler

OURS, OTHER = "ab" * 18, "cd" * 18


def status(*, pending=(), infeasible=(), version=1, seen=0) -> bytes:
    """pending, infeasible: placement groups that wait, and those for which no machine can be added."""
    reply = autoscaler_pb2.GetClusterStatusReply()
    reply.cluster_resource_state.cluster_resource_state_version = version
    reply.autoscaling_state.last_seen_cluster_resource_state_version = seen
    for name in pending:
        reply.cluster_resource_state.pending_gang_resource_requests.add(details=f"{name}:STRICT_SPREAD")
    for name in infeasible:
        reply.autoscaling_state.infeasible_gang_resource_requests.add(details=f"{name}:STRICT_SPREAD")
    return reply.SerializeToString()


@pytest.mark.parametrize(
    ("replies", "ready", "answer"),
    [
        ([], True, True),  # there is room already
        ([status(pending=[OURS], seen=0), status(pending=[OURS], seen=1)], False, True),
        ([status(pending=[OURS], version=5, seen=4), status(infeasible=[OTHER, OURS], seen=5)], False, False),
        ([status(pending=[OTHER], infeasible=[OTHER], version=2, seen=9)], False, None),  # it has not our request yet
        ([status(pending=[OURS], version=5, seen=4)], False, None),  # it has not looked since
        ([status(version=3, seen=3)], False, None),
    ],
)
def test_the_autoscaler_has_answered_once_it_saw_the_request(monkeypatch, replies, ready, answer):
    given = iter(replies)
    last = [b""]

    def reply(timeout_s):
        last[0] = next(given, last[0])
        return last[0]

    monkeypatch.setattr(autoscaler, "_ANSWER_S", 0.2)
    client = SimpleNamespace(get_cluster_status=reply)
    monkeypatch.setattr(internal_kv, "internal_kv_get_gcs_client", lambda: client)
    group = SimpleNamespace(id=SimpleNamespace(hex=lambda: OURS), wait=lambda seconds: ready)
    assert autoscaler._answer(group) is answer


class Groups:
    """Stands in for Ray's placement groups: which were requested and removed."""

    def __init__(self, monkeypatch, *, version_2=True):
        self.requested, self.removed = [], []
        monkeypatch.setattr(utils, "is_autoscaler_v2", lambda fetch_from_server: version_2 and fetch_from_server)
        monkeypatch.setattr(autoscaler, "placement_group", lambda bundles: self.requested.append(bundles) or "group")
        monkeypatch.setattr(autoscaler, "remove_placement_group", self.removed.append)


@pytest.mark.parametrize("answer", [True, False, None])
def test_what_is_requested_is_given_back_with_the_answer(monkeypatch, answer):
    groups = Groups(monkeypatch)
    monkeypatch.setattr(autoscaler, "_answer", lambda group: answer)
    assert autoscaler.can_add([{"CPU": 2}, {"GPU": 1}]) is answer
    assert groups.requested == [[{"CPU": 2}, {"GPU": 1}]] and groups.removed == ["group"]


def test_what_is_requested_is_given_back_after_an_error(monkeypatch):
    groups = Groups(monkeypatch)
    monkeypatch.setattr(autoscaler, "_answer", lambda group: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        autoscaler.can_add([{"CPU": 2}])
    assert groups.removed == ["group"]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (None, False),  # no autoscaler
        ({}, False),
        ({"autoscaler_report": {"active_nodes": {"node_own": 1}}}, False),  # it only watches the nodes that there are
        ({"autoscaler_report": {"active_nodes": {}}}, False),
        ({"autoscaler_report": {"active_nodes": {"ray.head.default": 1}}}, None),
        ({"autoscaler_report": {"active_nodes": {"node_own": 1, "worker": 2}}}, None),
    ],
)
def test_version_1_of_the_autoscaler_is_not_asked_and_may_add_machines_if_it_has_a_configuration(
    monkeypatch, status, answer
):
    groups = Groups(monkeypatch, version_2=False)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key: status if status is None else json.dumps(status))
    monkeypatch.setattr(autoscaler.ray, "nodes", lambda: [{"NodeID": "own"}])
    assert autoscaler.can_add([{"CPU": 2}]) is answer
    assert groups.requested == []
