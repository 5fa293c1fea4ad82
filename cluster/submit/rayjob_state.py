"""RayJobs as attempts: state, exit code and message from the status that KubeRay 1.7.0 writes, and why one does not run
yet, from its pods and the events of its namespace.

Source: ray-operator/controllers/ray/rayjob_controller.go and apis/ray/v1/rayjob_types.go of KubeRay 1.7.0.
"""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from raymill.cluster.errors import DataError
from raymill.cluster.kuberay.rayjob import CONFIG, FINGERPRINT, KIND, LABEL, OUTPUT, RUN_ID
from raymill.cluster.secret_values import shortened
from raymill.cluster.submit.backend import Attempt, State

T = TypeVar("T")

Object = Mapping[str, Any]

# Annotations that only submitted attempts have: when by the submitter's clock, and when it was cancelled.
SUBMITTED, CANCELLED = f"{LABEL}submitted", f"{LABEL}cancelled"

# status.jobDeploymentStatus -> state. Complete and Running depend on status.jobStatus too.
_STATES = {
    "New": State.WAITING,
    "Initializing": State.WAITING,
    "Waiting": State.WAITING,
    "Running": State.RUNNING,
    "Complete": State.SUCCEEDED,
    "Failed": State.FAILED,
    "ValidationFailed": State.FAILED,
    "Suspending": State.WAITING,
    "Suspended": State.WAITING,
    "Retrying": State.WAITING,
}
_PHASES = {
    "": "KubeRay's operator has not taken it up yet; does the operator run?",
    "New": "KubeRay's operator has not taken it up yet; does the operator run?",
    "Initializing": "its pods start",
    "Suspending": "its pods are being removed",
    "Suspended": "suspended",
    "Retrying": "the next cluster starts when the pods of the last one are gone",
}
_SHOWN = 300
_LATEST_S = 1 << 33  # the year 2242
_QUEUE = "kueue.x-k8s.io/queue-name"
# Reasons for which a container waits until a person fixes something.
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
_FIXES = {
    "ErrImagePull": "Is the image's name right, and may the nodes pull it?",
    "ImagePullBackOff": "Is the image's name right, and may the nodes pull it?",
    "FailedToCreateHeadPod": "Is the namespace set up with `kubectl apply -k`?",
    "FailedToCreateWorkerPod": "Is the namespace set up with `kubectl apply -k`?",
}


def state_of(job: Object) -> State:
    """The state of a RayJob."""
    status = job.get("status") or {}
    state = _STATES.get(status.get("jobDeploymentStatus") or "", State.WAITING)
    if state is State.SUCCEEDED and status.get("jobStatus") == "STOPPED":
        return State.CANCELLED
    if state is State.RUNNING and status.get("jobStatus") in (None, "", "PENDING"):
        return State.WAITING
    return state


def ended_without_ray(job: Object) -> bool:
    """Whether the RayJob has ended although Ray did not report that its driver ended by itself.

    KubeRay leaves status.jobStatus as it was, empty or RUNNING, when a deadline has passed or the head does not answer;
    the driver may go on until the cluster is deleted. The cluster of a STOPPED job is never deleted.
    """
    return state_of(job).final and (job.get("status") or {}).get("jobStatus") not in ("SUCCEEDED", "FAILED")


def attempt_of(job: Object, reason: str = "", lingers: bool = False) -> Attempt:
    """The attempt of a RayJob. reason: why it waits, "" if unknown. lingers: whether pods of an ended one are there."""
    metadata, status, state = job["metadata"], job.get("status") or {}, state_of(job)
    info = status.get("rayJobInfo") or {}
    code = _exit_code(status.get("message") or "")
    started = info.get("startTime") or status.get("startTime") or metadata["creationTimestamp"]
    ended = (status.get("endTime") or info.get("endTime")) if state.final else None
    return Attempt(
        name=metadata["name"],
        run_id=metadata["labels"][RUN_ID],
        kind=metadata["labels"].get(KIND, ""),
        state=state,
        message=_message(job, state, code, reason, lingers),
        exit_code={State.SUCCEEDED: 0, State.FAILED: 1 if code is None else code}.get(state),
        started=seconds(started),
        ended=seconds(ended) if ended else None,
        config_fingerprint=annotation(job, f"{LABEL}{FINGERPRINT}"),
        output=annotation(job, f"{LABEL}{OUTPUT}"),
        lingers=lingers,
    )


def is_record(config_map: Object) -> bool:
    """Whether the ConfigMap stays as the record of a cancelled attempt."""
    return bool(annotation(config_map, CANCELLED))


def cancelled_attempt(record: Object) -> Attempt:
    """The cancelled attempt that a ConfigMap is kept as the record of."""
    metadata = record["metadata"]
    return Attempt(
        name=metadata["name"].removesuffix(CONFIG),
        run_id=metadata["labels"][RUN_ID],
        kind=metadata["labels"].get(KIND, ""),
        state=State.CANCELLED,
        started=seconds(metadata["creationTimestamp"]),
        ended=seconds(annotation(record, CANCELLED)),
        config_fingerprint=annotation(record, f"{LABEL}{FINGERPRINT}"),
        output=annotation(record, f"{LABEL}{OUTPUT}"),
    )


def creation(thing: Object) -> tuple[str, str]:
    """Sort key: the time of creation in whole seconds, as Kubernetes has it, then by the clock of the submitter."""
    return thing["metadata"]["creationTimestamp"], annotation(thing, SUBMITTED)


def annotation(thing: Object, name: str) -> str:
    """The value of an annotation; "" if there is none."""
    return (thing["metadata"].get("annotations") or {}).get(name, "")


def now() -> str:
    """The time, as Kubernetes writes it but with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def seconds(moment: str) -> float:
    """Unix time of a time as Kubernetes writes it.

    Raises:
        ValueError: it is no time, or one that no clock of a cluster shows.
    """
    found = datetime.datetime.fromisoformat(moment).timestamp()
    if not 0 <= found < _LATEST_S:
        raise ValueError(f"the time {moment}")
    return found


def undamaged(read: Callable[[Object], T], thing: Object) -> T:
    """What `read` reads of an object, whose annotations and status others of the namespace may have written.

    Raises:
        DataError: a value is not possible for its field.
    """
    try:
        return read(thing)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        name = thing["metadata"].get("name")
        raise DataError(
            f"{name}: an annotation or a field of its {thing.get('kind') or 'record'} is damaged "
            f"({type(error).__name__}: {shortened(str(error), _SHOWN)}). Look at it with kubectl, and delete it."
        ) from None


def _message(job: Object, state: State, code: int | None, reason: str, lingers: bool) -> str:
    """One line on why the job waits or failed."""
    status = job.get("status") or {}
    if job["metadata"].get("deletionTimestamp") and (lingers or not state.final):
        return "is being cancelled"
    more = "its pods are still there (`raymill cancel` ends them)" if lingers else ""
    if state is State.FAILED:
        # The driver's last lines follow in the message; they are in the log.
        text = " ".join((status.get("message") or "").split("\n", 1)[0].split())[:_SHOWN].rstrip(".")
        why = f"{status.get('reason', '')}: {text}".strip(": ") if code is None else f"exit code {code}"
        return f"{why}; {more}" if more else why
    if state is not State.WAITING:
        return more
    failed = status.get("failed") or 0
    again = f"failed {failed} of {1 + (job['spec'].get('backoffLimit') or 0)} times; " if failed else ""
    return again + (reason or _PHASES.get(status.get("jobDeploymentStatus") or "", "its driver starts"))


def _exit_code(message: str) -> int | None:
    """The driver's exit code in the message; 128 + N for a process that was ended by signal N, as in a shell."""
    # Source: job_supervisor.py of Ray 2.60, "Job entrypoint command failed with exit code N, ...".
    found = re.search(r"failed with exit code (-?[0-9]{1,10})(?![0-9])", message)
    if found is None:
        return None
    code = int(found[1])
    return code if code >= 0 else 128 - code


def why_waiting(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    """The reason why a job waits; "" if none was found. events: the oldest first."""
    metadata, status = job["metadata"], job.get("status") or {}
    if job["spec"].get("suspend"):
        queue = (metadata.get("labels") or {}).get(_QUEUE)
        where = f"waits for admission by Kueue, queue {queue}" if queue else "suspended"
        return _joined(where, _newest(events, lambda name: name.startswith(f"rayjob-{metadata['name']}-")))
    for pod in pods:
        statuses = pod.get("status") or {}
        for container in (*(statuses.get("initContainerStatuses") or ()), *(statuses.get("containerStatuses") or ())):
            stuck = (container.get("state") or {}).get("waiting") or {}
            if (reason := stuck.get("reason")) in _STUCK:
                return _joined(f"{pod['metadata']['name']}: {reason}", stuck.get("message", ""), reason)
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            if code := ended.get("exitCode"):
                last = (ended.get("message") or "").strip().rpartition("\n")[2]  # of its output
                what = f"{pod['metadata']['name']}: its container {container['name']} failed"
                return _joined(what, last or f"exit code {code}")
    unplaced = []
    for pod in pods:
        conditions = (pod.get("status") or {}).get("conditions") or ()
        wrong = (one for one in conditions if one["type"] == "PodScheduled" and one["status"] == "False")
        unplaced += [one.get("message", "") for one in islice(wrong, 1)]
    if unplaced:
        return _joined(f"{len(unplaced)} of {len(pods)} pods have no machine", unplaced[0])
    names = {metadata["name"], status.get("rayClusterName"), *(pod["metadata"]["name"] for pod in pods)}
    warnings = [one for one in events if one.get("type") == "Warning"]
    return _newest(warnings, names.__contains__)


def _newest(events: Sequence[Object], is_of: Any) -> str:
    """The message of the newest event of an object whose name fulfils `is_of`."""
    for event in reversed(events):
        if is_of((event.get("involvedObject") or {}).get("name") or ""):
            reason = event.get("reason", "")
            return _joined(reason, event.get("message", ""), reason)
    return ""


def _joined(first: str, message: str, reason: str = "") -> str:
    message = " ".join(message.split())[:_SHOWN]
    fix = _FIXES.get(reason, "")
    text = f"{first}: {message}" if message else first
    return f"{text.rstrip('.')}. {fix}" if fix else text
