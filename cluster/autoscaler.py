"""Finds out whether the autoscaler of the joined Ray cluster can add machines for a run.

Ray does not publish the limits of its autoscaler (`get_max_resources_from_cluster_config` is None on an open-source
Ray). `can_add` therefore requests a placement group, and the autoscaler reports whether that is infeasible. Version 1
of the autoscaler does not report this. Ray must have been started or joined before.
"""

import json
import time
from collections.abc import Mapping, Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from raymill.cluster.ray_private import private

# The autoscaler looks every 5 s (AUTOSCALER_UPDATE_INTERVAL_S).
_ANSWER_S = 40
_POLL_S = 0.5


def can_add(bundles: Sequence[Mapping[str, float]]) -> bool | None:
    """Whether there is room for these bundles of resources at once, or the autoscaler can make it.

    The autoscaler starts the machines, and the run uses them. None: the cluster has version 1 of the autoscaler, or it
    did not answer within 40 s.
    """
    if not private("is_autoscaler_v2")(fetch_from_server=True):
        # Whether version 1 of the autoscaler may add machines: without a configuration it adds none.
        status = private("_internal_kv_get")(private("DEBUG_AUTOSCALING_STATUS"))
        report = json.loads(status).get("autoscaler_report") if status else None
        watched = {private("format_readonly_node_type")(node["NodeID"]) for node in ray.nodes()}
        return None if report is not None and not set(report["active_nodes"]) <= watched else False
    group = placement_group([dict(bundle) for bundle in bundles])
    try:
        return _answer(group)
    finally:
        remove_placement_group(group)


def _answer(group: PlacementGroup) -> bool | None:
    name = group.id.hex()
    requested = None  # the first version of the cluster's state with the request
    until = time.monotonic() + _ANSWER_S
    while time.monotonic() < until:
        if group.wait(_POLL_S):
            return True
        reply = private("internal_kv_get_gcs_client")().get_cluster_status(timeout_s=_ANSWER_S)
        status = private("autoscaler_pb2").GetClusterStatusReply.FromString(reply)
        state, answer = status.cluster_resource_state, status.autoscaling_state
        if any(name in request.details for request in answer.infeasible_gang_resource_requests):
            return False
        if requested is None and any(name in request.details for request in state.pending_gang_resource_requests):
            requested = state.cluster_resource_state_version
        if requested is not None and answer.last_seen_cluster_resource_state_version >= requested:
            return True
    return None
