"""The demo's configs submitted by the command line to a Ray cluster of several nodes with tokens, as a user would."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.store.store import Store
from pipelines.demo.commands import config_text as curate_config
from pipelines.demo.commands import stage_inputs
from pipelines.demo.installed import collect, packages
from tests.support.processes import Command, wait_until
from tests.support.proxies import Proxy
from tests.support.ray_cluster import RayCluster
from training.demo import config_text as train_config

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(workers=2, cpus_each=1) as ray:
        yield ray


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the demo's run, with its inputs beside it and its two configs in it. Fewer documents than there."""
    folder = tmp_path_factory.mktemp("submitted") / "demo"
    stage_inputs(f"{folder}-input", islice(collect(packages()), 4000))
    Store().write_bytes(str(folder / "curate.yaml"), curate_config(str(folder)).encode())
    Store().write_bytes(str(folder / "train.yaml"), train_config("lora", str(folder)).encode())
    return folder


def raymill(cluster: RayCluster, *words: str, url: str = "", token: str = "") -> Command:
    address = ["--address", url or cluster.url] if words[0] in VERBS else []
    # An address in the environment must not replace the one that is given.
    return Command(*words, *address, RAY_AUTH_TOKEN=token or cluster.token, RAY_ADDRESS="http://127.0.0.1:9")


VERBS = ("submit", "runs", "status", "logs", "cancel")


@pytest.fixture(scope="module")
def curated(cluster: RayCluster, demo: Path) -> tuple[int, str, str]:
    """(exit code, output, errors) of submitting the demo's curate config, with the connection cut in the middle."""
    with Proxy(cluster.dashboard_port) as proxy:
        job = raymill(cluster, "submit", str(demo / "curate.yaml"), "-o", "execution.unit_mib=1", url=proxy.url)
        assert wait_until(lambda: (demo / "inputs.json").exists(), 120)
        proxy.cut()
        return job.wait(240)


def test_curate_and_train_are_submitted_followed_over_cut_connections_and_found_finished(cluster, demo, curated):
    curate, train = str(demo / "curate.yaml"), str(demo / "train.yaml")
    code, out, err = curated
    assert code == 0, err
    lines = out.splitlines()
    assert f"corpus  {demo}/corpus" in lines and lines.count(f"corpus  {demo}/corpus") == 1
    assert re.search(r"^demo-[0-9a-f]{8}: submitted\. Output: ", err, re.MULTILINE)
    assert re.search(r"^demo-[0-9a-f]{8}: succeeded after ", err, re.MULTILINE)
    assert cluster.token not in out + err
    log = raymill(cluster, "logs", run_of(err)).wait(60)[1].splitlines()
    assert log == lines

    code, out, err = raymill(cluster, "submit", curate, "-o", "execution.unit_mib=1").wait(60)
    assert (code, out) == (0, "") and "already finished, nothing to do" in err

    settings = ("steps=4", "optimizer.warmup_steps=1", "evaluate.every_steps=4", "checkpoint.every_steps=4")
    quick = [word for setting in settings for word in ("-o", setting)]
    code, out, err = raymill(cluster, "submit", train, *quick).wait(400)
    assert code == 0, out + err
    assert f"report  {demo}/tune-lora/report.html" in out
    assert json.loads((demo / "tune-lora" / "manifest.json").read_text())["name"] == "demo-lora"


def run_of(err: str) -> str:
    return re.search(r"^(\S+): submitted", err, re.MULTILINE)[1]


def test_a_run_is_cancelled_and_submitted_again_and_continues(cluster, demo):
    other = ["-o", f"output={demo}/again", "-o", "execution.unit_mib=1", "--name", "again"]
    config = str(demo / "curate.yaml")
    code, out, err = raymill(cluster, "submit", config, *other, "--detach").wait(120)
    assert (code, out) == (0, ""), err
    name = run_of(err)
    assert f"raymill logs {name} -f --address {cluster.url}" in err

    code, out, err = raymill(cluster, "submit", config, *other, "-o", "execution.stall_s=800", "--detach").wait(60)
    assert code == 2 and "execution.stall_s was" in err and "now 800" in err

    assert wait_until(lambda: (demo / "again" / "inputs.json").exists(), 120)
    assert raymill(cluster, "cancel", name).wait(120)[0] == 0
    code, out, err = raymill(cluster, "status", name).wait(60)
    assert (code, err) == (0, "") and "state     cancelled" in out
    code, out, err = raymill(cluster, "logs", name, "-f").wait(60)
    assert code == 130

    code, out, err = raymill(cluster, "submit", config, *other).wait(240)
    assert code == 0, out + err
    assert f"{name}-a2: submitted, continues {name} (cancelled)." in err
    assert f"corpus  {demo}/again/corpus" in out
    rows = raymill(cluster, "runs").wait(60)[1].splitlines()
    assert [row.split()[0] for row in rows[-2:]] == [name, f"{name}-a2"]
    assert re.split(r"\s{2,}", rows[-1])[1] == "succeeded"


def test_a_failed_job_ends_with_its_exit_code_and_its_message_is_in_the_log(cluster, demo):
    words = ["-o", f"output={demo}/fails", "-o", "execution.max_bad_documents=0"]
    code, out, err = raymill(cluster, "submit", str(demo / "curate.yaml"), *words).wait(240)
    assert code == 2, out + err
    assert "execution.max_bad_documents" in out
    assert re.search(r"failed after .*, exit code 2\.$", err, re.MULTILINE)


def test_the_head_is_replaced_in_the_middle_and_the_run_continues(cluster, demo, curated):
    words = ["-o", f"output={demo}/replaced", "-o", "execution.unit_mib=1"]
    config = str(demo / "curate.yaml")
    follower = raymill(cluster, "submit", config, *words)
    units = demo / "replaced" / "attributes"
    assert wait_until(lambda: (units.parent / "inputs.json").exists(), 180)
    processes = cluster.processes()  # the job takes seconds from here on, and finding them takes one
    assert wait_until(lambda: any(units.rglob("*.parquet")), 180)
    cluster.kill_head(processes)
    done = {path.name for path in units.rglob("*.parquet")}
    assert not (units.parent / "manifest.json").exists()
    cluster.start()
    code, _, err = follower.wait(120)
    assert code == 1 and "the cluster no longer has this job" in err and "submit the config again" in err
    code, out, err = raymill(cluster, "submit", config, *words).wait(240)
    assert code == 0, out + err
    assert done <= {path.name for path in units.rglob("*.parquet")}, "committed files are kept"
    same = json.loads((demo / "manifest.json").read_text())["digest"]
    assert json.loads((demo / "replaced" / "manifest.json").read_text())["digest"] == same


def test_a_detached_run_on_this_machine_is_followed_and_finished(demo, tmp_path):
    """Without any cluster: the job starts a Ray of its own."""
    inputs = f"inputs=[{{source: languages, path: {demo}-input/languages.jsonl, id: id}}]"
    words = ["-o", inputs, "-o", f"output={demo}/local", "--to", "local"]
    here = {"XDG_STATE_HOME": str(tmp_path)}
    code, out, err = Command("submit", str(demo / "curate.yaml"), *words, "--detach", **here).wait(60)
    assert (code, out) == (0, ""), err
    name = run_of(err)
    assert f"raymill logs {name} -f --to local" in err
    code, out, err = Command("logs", name, "-f", "--to", "local", **here).wait(120)
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
        (["status", "demo-00000000", *there], "no run of this name there"),
        (["submit", config, "--to", "jods"], "--to jods: no such place. Give local or jobs. Did you mean jobs?"),
        (["submit", config, "--address", "http://10.0.0.1:8265"], "unencrypted"),
        (["submit", config, "--within", "soon", *there], "--within soon: not a duration"),
    ):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        assert wanted in capsys.readouterr().err
