"""Why a RayJob does not run yet: from its pods and events as values."""

import pytest

from raymill.cluster.submit.rayjob_state import why_waiting

PLACED = {"type": "PodScheduled", "status": "True"}
UNPLACED = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available."}
UNPLACED_TOO = {"type": "PodScheduled", "status": "False", "message": "another reason"}


def job(labels=None, **spec):
    return {
        "metadata": {"name": "web-1", "labels": labels or {}},
        "spec": spec,
        "status": {"rayClusterName": "web-1-x"},
    }


def pod(name="head", *conditions, init=None, main=None):
    status = {"conditions": list(conditions)}
    for kind, reason in (("initContainerStatuses", init), ("containerStatuses", main)):
        if reason:
            status[kind] = [{"state": {"waiting": {"reason": reason, "message": f"message of\n{reason}."}}}]
    return {"metadata": {"name": name}, "status": status}


def failed(container, message):
    status = {"name": container, "state": {"terminated": {"exitCode": 1, "message": message}}}
    return {"metadata": {"name": "head"}, "status": {"containerStatuses": [status]}}


def event(name, reason, message, type="Warning"):
    return {"involvedObject": {"name": name}, "reason": reason, "message": message, "type": type}


QUEUE = {"kueue.x-k8s.io/queue-name": "team"}
STUCK = pod("b", main="ErrImagePull")
EVENTS = [
    event("web-1-x", "FailedToCreateHeadPod", "the first"),
    event("web-1-x", "FailedToCreateWorkerPod", "the newest"),
    event("web-1-x", "Created", "not a warning", "Normal"),
    event("other", "Failed", "of another job"),
]


@pytest.mark.parametrize(
    ("job", "pods", "events", "reason"),
    [
        (job(), [], [], ""),
        (job(suspend=True), [STUCK], [], "suspended"),
        (job(QUEUE, suspend=True), [], EVENTS, "waits for admission by Kueue, queue team"),
        (job(QUEUE, suspend=True), [], [event("rayjob-web-1-ab", "Pending", "no quota", "Normal"), *EVENTS],
         "waits for admission by Kueue, queue team: Pending: no quota"),
        (job(QUEUE, suspend=True), [], [event("rayjob-web-12-ab", "Pending", "of another", "Normal")],
         "waits for admission by Kueue, queue team"),
        (job(QUEUE), [pod("a", UNPLACED), STUCK], EVENTS,
         "b: ErrImagePull: message of ErrImagePull. Is the image's name right, and may the nodes pull it?"),
        (job(), [pod("a", init="CreateContainerConfigError")], [],
         "a: CreateContainerConfigError: message of CreateContainerConfigError."),
        (job(), [pod("a", init="PodInitializing", main="ContainerCreating")], [], ""),
        (job(), [pod("a", PLACED), pod("b", UNPLACED), pod("c", PLACED, UNPLACED_TOO)], EVENTS,
         "2 of 3 pods have no machine: 0/3 nodes are available."),
        (job(), [failed("ray-head", "Traceback\nAuthenticationError: no authentication token was found\n")], EVENTS,
         "head: its container ray-head failed: AuthenticationError: no authentication token was found"),
        (job(), [failed("ray-head", "")], EVENTS, "head: its container ray-head failed: exit code 1"),
        (job(), [pod("a", PLACED)], EVENTS,
         "FailedToCreateWorkerPod: the newest. Is the namespace set up with `kubectl apply -k`?"),
        (job(), [pod("a", PLACED)], [*EVENTS, event("a", "FailedMount", "m " * 300)], "FailedMount: " + ("m " * 150)),
        (job(), [], [event("web-1", "Invalid", "")], "Invalid"),
    ],
)  # fmt: skip
def test_the_reason_is_what_a_person_can_fix(job, pods, events, reason):
    assert why_waiting(job, pods, events) == reason
