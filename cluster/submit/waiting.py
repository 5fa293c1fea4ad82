"""Why a RayJob does not run yet, from its pods and the events of its namespace, in one line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]

_QUEUE = "kueue.x-k8s.io/queue-name"
# Reasons for which a container waits until a person mends something.
_STUCK = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
)
_MENDS = {
    "ErrImagePull": "Is the image's name right, and may the nodes pull it?",
    "ImagePullBackOff": "Is the image's name right, and may the nodes pull it?",
    "FailedToCreateHeadPod": "Is the namespace set up with `kubectl apply -k`?",
    "FailedToCreateWorkerPod": "Is the namespace set up with `kubectl apply -k`?",
}
_SHOWN = 300


def why_waiting(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    """The reason why a job waits; "" if none was found. events: the oldest first."""
    metadata, status = job["metadata"], job.get("status") or {}
    if job["spec"].get("suspend"):
        queue = (metadata.get("labels") or {}).get(_QUEUE)
        where = f"waits for admission by Kueue, queue {queue}" if queue else "suspended"
        return _joined(where, _newest(events, lambda name: name.startswith(f"rayjob-{metadata['name']}-")))
    for pod in pods:
        for reason, message in _stuck_containers(pod):
            return _joined(f"{pod['metadata']['name']}: {reason}", message, reason)
    for pod in pods:
        for name, message in _failed_containers(pod):
            return _joined(f"{pod['metadata']['name']}: its container {name} failed", message)
    unplaced = [text for pod in pods if (text := _unschedulable(pod)) is not None]
    if unplaced:
        return _joined(f"{len(unplaced)} of {len(pods)} pods have no machine", unplaced[0])
    names = {metadata["name"], status.get("rayClusterName"), *(pod["metadata"]["name"] for pod in pods)}
    warnings = [one for one in events if one.get("type") == "Warning"]
    return _newest(warnings, names.__contains__)


def _stuck_containers(pod: Object) -> Iterator[tuple[str, str]]:
    status = pod.get("status") or {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _STUCK:
                yield waiting["reason"], waiting.get("message", "")


def _failed_containers(pod: Object) -> Iterator[tuple[str, str]]:
    """(name, last line of its output) of each container that ended with an error."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            last = (ended.get("message") or "").strip().rpartition("\n")[2]
            yield container["name"], last or f"exit code {ended['exitCode']}"


def _unschedulable(pod: Object) -> str | None:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("message", "")
    return None


def _newest(events: Sequence[Object], is_of: Any) -> str:
    """The message of the newest event of an object whose name fulfils `is_of`."""
    for event in reversed(events):
        if is_of((event.get("involvedObject") or {}).get("name") or ""):
            reason = event.get("reason", "")
            return _joined(reason, event.get("message", ""), reason)
    return ""


def _joined(first: str, message: str, reason: str = "") -> str:
    message = " ".join(message.split())[:_SHOWN]
    mend = _MENDS.get(reason, "")
    text = f"{first}: {message}" if message else first
    return f"{text.rstrip('.')}. {mend}" if mend else text
