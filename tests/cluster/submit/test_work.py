"""The work of a config: durations, and what `--replace` changes."""

import json
from dataclasses import replace

import pytest

from cluster.errors import ConfigError, DataError
from cluster.kuberay.profiles import OVERLAYS
from cluster.kuberay.rayjob import build_rayjob
from cluster.run import RunFolder
from cluster.store.store import Store
from cluster.submit.backend import Request
from cluster.submit.local import Local
from cluster.submit.work import seconds_of, work_of


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("1.5h", 5400), ("2d", 172_800), ("10s", 10)])
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "-1h", "0m", "infh", "nanh", "1 week"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="not a duration"):
        seconds_of(text)


def test_replace_reaches_the_job_and_neither_the_run_id_nor_the_config(tmp_path):
    """Looking whether the output is finished removes nothing: the job does."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text('{"text": "A text."}\n')
    (tmp_path / "curate.json").write_text(
        json.dumps({"kind": "curate", "name": "x", "inputs": [{"path": str(tmp_path / "raw")}], "output": "o"})
    )
    config, output = str(tmp_path / "curate.json"), f"output={tmp_path / 'out'}"
    new = work_of(config, [output], None, None)
    RunFolder(Store(), str(tmp_path / "out")).put("curate", "x", {"rules": "others"}, "other inputs", {})
    with pytest.raises(DataError, match=r"finished run with other settings.*add --replace"):
        work_of(config, [output], None, None)
    work = work_of(config, [output], None, None, replace=True)
    assert not work.finished and (tmp_path / "out" / "manifest.json").exists()
    assert (work.run_id, work.config, work.options) == (new.run_id, new.config, ("--replace",))
    local = Local(tmp_path / "runs", ("echo",))
    attempt = local.start(Request(work, work.run_id))
    assert list(local.logs(attempt, follow=True)) == ["curate env:RAYMILL_CONFIG --replace"]
    profile = replace(OVERLAYS["kind"], image="x", claims={str(tmp_path): "shared"})
    assert build_rayjob(work, "x", profile)["spec"]["entrypoint"].endswith("config.json --replace")
