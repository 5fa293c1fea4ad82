"""The demo's configs submitted by the command line to a Ray cluster of several nodes with tokens, as a user would."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymill.cluster.cli import main
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.ray_api import RayApi
from tests.support.processes import Command, end_commands, wait_until
from tests.support.proxies import Proxy
from tests.support.ray_cluster import RayCluster
from tests.support.submitted import SMALL_UNITS, digest, losses, raymill, records, run_of, write_demo

pytestmark = pytest.mark.cluster

# On a busy machine; a whole curate takes a tenth of it.
WAIT_S = 500
STEPS, SAVED_EVERY = 60, 5
TRAIN = [
    word
    for setting in (
        f"steps={STEPS}",
        "optimizer.warmup_steps=1",
        f"evaluate.every_steps={STEPS}",
        f"checkpoint.every_steps={SAVED_EVERY}",
    )
    for word in ("-o", setting)
]


@pytest.fixture(autouse=True)
def no_command_left() -> Iterator[None]:
    yield
    end_commands()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(workers=2, cpus_each=1) as ray:
        yield ray


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("submitted") / "demo")


@pytest.fixture(scope="module")
def curated(cluster: RayCluster, demo: Path) -> tuple[int, str, str]:
    """(exit code, output, errors) of submitting the demo's curate config, with the connection cut in the middle."""
    with Proxy(cluster.dashboard_port) as proxy:
        job = raymill(cluster, "submit", str(demo / "curate.yaml"), *SMALL_UNITS, url=proxy.url)
        assert wait_until(lambda: (demo / "inputs.json").exists(), WAIT_S)
        proxy.cut()
        return job.wait(WAIT_S)


@pytest.fixture(scope="module")
def trained(cluster: RayCluster, demo: Path, curated: object) -> tuple[int, str, str]:
    """(exit code, output, errors) of submitting the demo's train config."""
    return raymill(cluster, "submit", str(demo / "train.yaml"), *TRAIN).wait(WAIT_S)


def test_curate_is_submitted_followed_over_cut_connections_and_found_finished(cluster, demo, curated):
    code, out, err = curated
    assert code == 0, err
    lines = out.splitlines()
    assert f"corpus  {demo}/corpus" in lines and lines.count(f"corpus  {demo}/corpus") == 1
    assert re.search(r"^demo-[0-9a-f]{8}: submitted\. Output: ", err, re.MULTILINE)
    assert re.search(r"^demo-[0-9a-f]{8}: succeeded after ", err, re.MULTILINE)
    assert cluster.token not in out + err
    log = raymill(cluster, "logs", run_of(err)).wait(60)[1].splitlines()
    assert log == lines
    code, out, err = raymill(cluster, "submit", str(demo / "curate.yaml"), *SMALL_UNITS).wait(60)
    assert (code, out) == (0, "") and "already finished, nothing to do" in err


def test_train_is_submitted(demo, trained):
    code, out, err = trained
    assert code == 0, out + err
    assert f"report  {demo}/tune-lora/report.html" in out
    assert json.loads((demo / "tune-lora" / "manifest.json").read_text())["name"] == "demo-lora"


def test_a_run_is_cancelled_and_submitted_again_and_continues(cluster, demo):
    other = ["-o", f"output={demo}/again", *SMALL_UNITS, "--name", "again"]
    config = str(demo / "curate.yaml")
    code, out, err = raymill(cluster, "submit", config, *other, "--detach").wait(WAIT_S)
    assert (code, out) == (0, ""), err
    name = run_of(err)
    assert f"raymill logs {name} -f --address {cluster.url}" in err

    code, out, err = raymill(cluster, "submit", config, *other, "-o", "execution.stall_s=800", "--detach").wait(60)
    assert code == 2 and "execution.stall_s was" in err and "now 800" in err

    assert wait_until(lambda: (demo / "again" / "inputs.json").exists(), WAIT_S)
    assert raymill(cluster, "cancel", name).wait(WAIT_S)[0] == 0
    code, out, err = raymill(cluster, "status", name).wait(60)
    assert (code, err) == (0, "") and "state     cancelled" in out
    code, out, err = raymill(cluster, "logs", name, "-f").wait(60)
    assert code == 130

    code, out, err = raymill(cluster, "submit", config, *other).wait(WAIT_S)
    assert code == 0, out + err
    assert f"{name}-a2: submitted, continues {name} (cancelled)." in err
    assert f"corpus  {demo}/again/corpus" in out
    rows = raymill(cluster, "runs").wait(60)[1].splitlines()
    assert [row.split()[0] for row in rows[-2:]] == [name, f"{name}-a2"]
    assert re.split(r"\s{2,}", rows[-1])[1] == "succeeded"


def test_a_failed_job_ends_with_its_exit_code_and_its_message_is_in_the_log(cluster, demo):
    words = ["-o", f"output={demo}/fails", "-o", "execution.max_bad_documents=0"]
    code, out, err = raymill(cluster, "submit", str(demo / "curate.yaml"), *words).wait(WAIT_S)
    assert code == 2, out + err
    assert "execution.max_bad_documents" in out
    assert re.search(r"failed after .*, exit code 2\.$", err, re.MULTILINE)


def test_spot_machines_that_go_with_and_without_notice_change_nothing(cluster, demo, curated):
    output = demo / "spot"
    job = raymill(cluster, "submit", str(demo / "curate.yaml"), "-o", f"output={output}", *SMALL_UNITS)
    assert wait_until(lambda: bool(records(output)), WAIT_S)
    first = records(output)
    preempted = cluster.preempt()
    assert wait_until(lambda: len(records(output)) > len(first), WAIT_S)
    cluster.kill_node()
    assert preempted.wait(WAIT_S) is not None
    assert wait_until(lambda: cluster.alive() == 1, WAIT_S), "only the head is left"
    done = records(output)
    assert first.items() <= done.items() and not (output / "manifest.json").exists()
    cluster.add_node()
    cluster.add_node()
    code, out, err = job.wait(WAIT_S)
    assert code == 0, out + err
    assert done.items() <= records(output).items(), "what was committed is not done again"
    assert digest(output) == digest(demo)


def test_the_head_is_replaced_in_the_middle_of_curate_and_the_run_continues(cluster, demo, curated):
    output = demo / "replaced"
    words = [str(demo / "curate.yaml"), "-o", f"output={output}", *SMALL_UNITS]
    follower = raymill(cluster, "submit", *words)
    assert wait_until(lambda: (output / "inputs.json").exists(), WAIT_S)
    processes = cluster.processes()  # the job takes seconds from here on, and finding them takes one
    assert wait_until(lambda: bool(records(output)), WAIT_S)
    cluster.kill_head(processes)
    done = records(output)
    assert not (output / "manifest.json").exists()
    cluster.start()
    code, _, err = follower.wait(WAIT_S)
    assert code == 1 and "the cluster no longer has this job" in err and "submit the config again" in err
    code, out, err = raymill(cluster, "submit", *words).wait(WAIT_S)
    assert code == 0, out + err
    assert done.items() <= records(output).items(), "what was committed is not done again"
    assert digest(output) == digest(demo)


@pytest.mark.slow
def test_a_training_that_is_cancelled_then_loses_its_head_continues_to_the_same_losses(cluster, demo, trained):
    output = demo / "tune-broken"
    words = ["submit", str(demo / "train.yaml"), *TRAIN, "-o", f"output={output}"]

    def saved() -> int:
        """The step of the newest whole checkpoint."""
        steps = (int(path.parent.name.split("-")[1]) for path in output.rglob("step-*/manifest.json"))
        return max(steps, default=0)

    job = raymill(cluster, *words)
    assert wait_until(lambda: saved() > 0, WAIT_S)
    backend = JobsApi(RayApi(cluster.url, cluster.token))  # the command would take as long as the training
    (attempt,) = [one for one in backend.attempts() if one.output == str(output)]
    backend.cancel(attempt)
    code, out, err = job.wait(WAIT_S)
    assert code == 130, out + err
    cancelled = saved()
    assert SAVED_EVERY <= cancelled < STEPS

    job = raymill(cluster, *words)
    assert wait_until(lambda: begun(output)[1:] != [], WAIT_S)
    processes = cluster.processes()
    assert wait_until(lambda: saved() > cancelled, WAIT_S)
    cluster.kill_head(processes)
    lost = saved()
    assert cancelled < lost < STEPS
    cluster.start()
    assert "the cluster no longer has this job" in job.wait(WAIT_S)[2]

    code, out, err = raymill(cluster, *words).wait(WAIT_S)
    assert code == 0, out + err
    first, second, third = begun(output)
    assert first == 0 and second >= cancelled and third >= lost
    assert losses(output) == losses(demo / "tune-lora")
    assert len(losses(output)) == STEPS


def begun(output: Path) -> list[int]:
    """The steps that the attempts of a training began at."""
    return sorted(json.loads(file.read_text())["step"] for file in output.rglob("attempts/*"))


def test_a_detached_run_on_this_machine_is_followed_and_finished(demo, tmp_path):
    """Without any cluster: the job starts a Ray of its own."""
    inputs = f"inputs=[{{source: languages, path: {demo}-input/languages.jsonl, id: id}}]"
    words = ["-o", inputs, "-o", f"output={demo}/local", "--to", "local"]
    here = {"XDG_STATE_HOME": str(tmp_path)}
    code, out, err = Command("submit", str(demo / "curate.yaml"), *words, "--detach", **here).wait(60)
    assert (code, out) == (0, ""), err
    name = run_of(err)
    assert f"raymill logs {name} -f --to local" in err
    code, out, err = Command("logs", name, "-f", "--to", "local", **here).wait(WAIT_S)
    assert code == 0 and f"report  {demo}/local/report.html" in out, out + err
    code, out, err = Command("submit", str(demo / "curate.yaml"), *words, **here).wait(60)
    assert code == 0 and "already finished" in err
    assert "succeeded" in Command("runs", **here).wait(60)[1]


def test_errors_of_a_user_are_one_message(cluster, demo, capsys):
    config = str(demo / "curate.yaml")
    code, out, err = raymill(cluster, "submit", config, "-o", f"output={demo}/x", token="f" * 32).wait(60)
    assert (code, out) == (2, "") and "refused the token" in err and "f" * 32 not in err
    token = demo / "token"
    token.write_text(cluster.token)
    there = ["--address", cluster.url, "--token-file", str(token)]
    for words, wanted in (
        (["status", "demo-00000000", *there], f"no run of this name at {cluster.url}."),
        (
            ["submit", config, "--to", "jods"],
            "--to jods: no such place. Give one of: local, jobs, kuberay. Did you mean jobs?",
        ),
        (["submit", config, "--address", "http://10.0.0.1:8265"], "unencrypted"),
        (["submit", config, "--within", "8h", *there], "--within 8h: chooses how many machines --to kuberay makes"),
    ):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        assert wanted in capsys.readouterr().err
