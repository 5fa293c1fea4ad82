"""What the autoscaler answers about a request for machines, from the cluster's status as its control process has it."""

from types import SimpleNamespace

import pytest
from ray.core.generated import autoscaler_pb2

from cluster import autoscaler

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
    monkeypatch.setattr(autoscaler, "internal_kv_get_gcs_client", lambda: SimpleNamespace(get_cluster_status=reply))
    group = SimpleNamespace(id=SimpleNamespace(hex=lambda: OURS), wait=lambda seconds: ready)
    assert autoscaler._answer(group) is answer
