"""Status of a RayJob, as KubeRay 1.7.0 writes it -> attempt."""

import pytest

from cluster.submit.backend import State
from cluster.submit.rayjob_state import attempt_of


def job(deployment, job_status="", message="", deleted=False, **status):
    metadata = {
        "name": "web-1-a2",
        "creationTimestamp": "2026-11-22T10:00:00Z",
        "labels": {"raymill.io/run-id": "web-1"},
    }
    metadata |= {"deletionTimestamp": "2026-11-22T11:00:00Z"} if deleted else {}
    status |= {"jobDeploymentStatus": deployment, "jobStatus": job_status, "message": message}
    return {"metadata": metadata, "spec": {"backoffLimit": 3}, "status": status}


ENDED = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\nsecret text"


@pytest.mark.parametrize(
    ("found", "state", "code", "message"),
    [
        (job(""), State.WAITING, None, "KubeRay's operator has not taken it up yet; does the operator run?"),
        (job("Initializing"), State.WAITING, None, "its pods start"),
        (job("Running"), State.WAITING, None, "its driver starts"),
        (job("Running", "PENDING"), State.WAITING, None, "its driver starts"),
        (job("Running", "RUNNING"), State.RUNNING, None, ""),
        (job("Running", "RUNNING", deleted=True), State.RUNNING, None, "is being cancelled"),
        (job("Complete", "SUCCEEDED"), State.SUCCEEDED, 0, ""),
        (job("Complete", "STOPPED"), State.CANCELLED, None, ""),
        (job("Failed", "FAILED", ENDED.format(2)), State.FAILED, 2, "exit code 2"),
        (job("Failed", "FAILED", ENDED.format(-9)), State.FAILED, 137, "exit code 137"),
        (job("Failed", "", "late", reason="DeadlineExceeded"), State.FAILED, 1, "DeadlineExceeded: late"),
        (job("ValidationFailed", "", "a rule", reason="ValidationFailed"), State.FAILED, 1, "ValidationFailed: a rule"),
        (job("Suspending"), State.WAITING, None, "its pods are being removed"),
        (job("Suspended"), State.WAITING, None, "suspended"),
        (job("Retrying", "FAILED", failed=2), State.WAITING, None,
         "failed 2 of 4 times; the next cluster starts when the pods of the last one are gone"),
        (job("of a later KubeRay"), State.WAITING, None, "its driver starts"),
    ],
)  # fmt: skip
def test_states(found, state, code, message):
    attempt = attempt_of(found)
    assert (attempt.state, attempt.exit_code, attempt.message) == (state, code, message)
    assert attempt.run_id == "web-1" and attempt.started == 1795341600.0
