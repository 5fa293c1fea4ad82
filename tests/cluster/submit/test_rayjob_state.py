"""Status of a RayJob, as KubeRay 1.7.0 writes it -> attempt."""

import pytest

from raymill.cluster.submit.backend import State
from raymill.cluster.submit.rayjob_state import (
    attempt_of,
    cancelled_attempt,
    creation,
    ended_without_ray,
    is_record,
    seconds,
)


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
        (job("Failed", "FAILED", message=f"Job entrypoint command failed with exit code {'9' * 5000}"), State.FAILED, 1,
         f": Job entrypoint command failed with exit code {'9' * 5000}"[2:302]),
        (job("of a later KubeRay"), State.WAITING, None, "its driver starts"),
    ],
)  # fmt: skip
def test_states(found, state, code, message):
    attempt = attempt_of(found)
    assert (attempt.state, attempt.exit_code, attempt.message) == (state, code, message)
    assert attempt.run_id == "web-1" and attempt.started == 1795341600.0


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (job("Failed", "RUNNING", reason="DeadlineExceeded"), True),
        (job("Failed", "RUNNING", reason="JobStatusCheckTimeoutExceeded"), True),
        (job("Failed", "", reason="PreRunningDeadlineExceeded"), True),
        (job("Complete", "STOPPED"), True),
        (job("ValidationFailed", "RUNNING"), True),
        (job("Failed", "FAILED", ENDED.format(1)), False),
        (job("Complete", "SUCCEEDED"), False),
        (job("Running", "RUNNING"), False),
        (job("Retrying", ""), False),
    ],
)
def test_a_driver_may_outlive_its_rayjob_where_ray_did_not_report_its_end(found, wanted):
    assert ended_without_ray(found) is wanted


def test_the_message_of_an_ended_job_says_that_its_pods_are_there():
    late = job("Failed", "RUNNING", "late.", reason="DeadlineExceeded")
    attempt = attempt_of(late, lingers=True)
    assert attempt.lingers and attempt.exit_code == 1
    assert attempt.message == "DeadlineExceeded: late; its pods are still there (`raymill cancel` ends them)"
    stopped = attempt_of(job("Complete", "STOPPED"), lingers=True)
    assert stopped.message == "its pods are still there (`raymill cancel` ends them)"
    assert attempt_of(job("Failed", "RUNNING", deleted=True), lingers=True).message == "is being cancelled"


def test_the_times_are_those_of_the_driver_else_of_the_rayjob():
    driver = {"startTime": "2026-11-22T10:05:00Z", "endTime": "2026-11-22T10:06:00Z"}
    whole = {"startTime": "2026-11-22T10:01:00Z", "endTime": "2026-11-22T10:07:00Z"}
    late = job("Complete", "SUCCEEDED", rayJobInfo=driver, **whole)
    assert (attempt_of(late).started, attempt_of(late).ended) == (1795341900.0, 1795342020.0)
    early = attempt_of(job("Complete", "SUCCEEDED", startTime=whole["startTime"], rayJobInfo={"endTime": ENDS}))
    assert (early.started, early.ended) == (1795341660.0, seconds(ENDS))
    assert attempt_of(job("Running", "RUNNING", rayJobInfo=driver)).ended is None, "of an earlier cluster"


ENDS = "2026-11-22T10:06:00+00:00"


def test_what_was_submitted_is_read_from_labels_and_annotations_also_of_the_record_of_a_cancelled_attempt():
    marks = {"raymill.io/config-fingerprint": "f", "raymill.io/output": "s3://o", "raymill.io/submitted": "2026"}
    found = job("Running", "RUNNING")
    found["metadata"]["labels"]["raymill.io/kind"] = "train"
    found["metadata"]["annotations"] = marks
    running = attempt_of(found)
    assert (running.kind, running.config_fingerprint, running.output) == ("train", "f", "s3://o")
    record = {"metadata": found["metadata"] | {"name": "web-1-a2-config", "annotations": marks}}
    assert not is_record(record) and creation(record) == ("2026-11-22T10:00:00Z", "2026")
    record["metadata"]["annotations"] = marks | {"raymill.io/cancelled": ENDS}
    cancelled = cancelled_attempt(record)
    assert is_record(record) and cancelled.state is State.CANCELLED and cancelled.exit_code is None
    assert (cancelled.started, cancelled.ended) == (1795341600.0, seconds(ENDS))
    same = ("name", "run_id", "kind", "config_fingerprint", "output")
    assert [getattr(cancelled, name) for name in same] == [getattr(running, name) for name in same]
