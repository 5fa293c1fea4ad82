"""Running again at the same output: what is damaged is made again, and a driver that lost its lease stops."""

import dataclasses
import io
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from raymill.cluster import lease as leases
from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import BusyError, DataError
from raymill.cluster.frame.job import FoundRun
from raymill.cluster.lease import Holder
from raymill.cluster.progress import Progress, ProgressLines
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.curate import job
from raymill.pipelines.curate.config import CurateConfig
from tests.support.inline import InlineEngine, curate_inline, without_ray
from tests.support.stories import story


@pytest.fixture
def settings(tmp_path) -> dict:
    texts = {f"s{number}": story(number) for number in range(4)} | {"copy": story(3)}
    lines = [json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items()]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    return {"inputs": [{"path": str(tmp_path / "in.jsonl"), "id": "id"}], "output": str(tmp_path / "run")}


@pytest.fixture
def run(settings, monkeypatch):
    return curate_inline(settings, monkeypatch)


@pytest.mark.parametrize("last", ["measure", "merge"])
def test_a_driver_that_lost_its_lease_stops_before_the_next_stage(settings, monkeypatch, tmp_path, last):
    """After the last stage it publishes no run."""
    monkeypatch.setattr(leases, "_REFRESH_S", 0.02)
    output, stages, others = str(tmp_path / "lost"), [], set(threading.enumerate())

    class TakenOver(InlineEngine):
        def run(self, stage):
            made = super().run(stage)
            stages.append(stage.name)
            if stage.name != last:
                return made
            other = dataclasses.replace(Holder.me(), user="other")
            Store().create(leases._uri(output, 2), leases._to_json(other))
            while a_lease_is_refreshed():
                time.sleep(0.01)
            return made

    def a_lease_is_refreshed() -> bool:
        return any(thread.name == "lease" for thread in set(threading.enumerate()) - others)

    config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings | {"output": output})
    without_ray(monkeypatch, TakenOver)
    with pytest.raises(BusyError, match=r"another run took over here \(process \d+ of other"):
        job.curate(config, Session(), Progress())
    assert stages[-1] == last and not (tmp_path / "lost" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("damaged", "shown"),
    [
        (1, "1 damaged file (f0: gone)"),
        (5, "5 damaged files (f0: gone; f1: gone; f2: gone; f3: gone; f4: gone)"),
        (6, "6 damaged files (f0: gone; f1: gone; f2: gone; f3: gone; f4: gone; ...)"),
    ],
)
def test_the_first_five_damaged_files_of_a_finished_run_are_named(damaged, shown):
    assert FoundRun(damage={f"f{at}": "gone" for at in range(damaged)}).damage_text == f"a finished run with {shown}"


@pytest.mark.parametrize("damage", ["truncated", "truncated, without _work", "gone", "a folder gone", "report gone"])
def test_damaged_files_of_a_finished_run_are_named_and_made_again(settings, run, monkeypatch, tmp_path, damage):
    output, digest = Path(run.uri), run.manifest["digest"]
    file = next((output / "corpus").glob("*.parquet"))
    whole = file.read_bytes()
    match damage:
        case "truncated" | "truncated, without _work":
            file.write_bytes(whole[:-10])
        case "gone":
            file.unlink()
        case "a folder gone":
            shutil.rmtree(output / "removed")
        case "report gone":
            (output / "report.html").unlink()
    if damage.endswith("_work"):
        shutil.rmtree(output / "_work")
        assert not (output / "_work").exists()
    shown = io.StringIO()
    again = curate_inline(settings, monkeypatch, progress=ProgressLines(shown))
    assert again.fresh and again.manifest["digest"] == digest
    assert [path.read_bytes() for path in (output / "corpus").glob("*.parquet")] == [whole]
    assert (output / "removed" / "_manifest.json").is_file() and (output / "report.html").is_file()
    seen = {
        "truncated": f"{file}: has {len(whole) - 10:,} bytes, and {len(whole):,} were written",
        "gone": f"{file}: is gone",
        "a folder gone": f"{output}/removed: is gone",
        "report gone": f"{output}/report.html: is gone",
    }[damage.removesuffix(", without _work")]
    assert f"{output}: a finished run with 1 damaged file ({seen}). Damaged files are made again.\n" in shown.getvalue()
    assert not curate_inline(settings, monkeypatch).fresh


@pytest.fixture
def several(tmp_path):
    """(settings of a run of four files with a unit each, function that returns the attempts of the attributes)."""
    for number in range(4):
        rows = [{"text": f"{story(number)} {story(at)}"} for at in range(40 * number, 40 * number + 40)]
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    size = max(path.stat().st_size for path in (tmp_path / "in").iterdir())

    def attempts() -> list[str]:
        files = Artifact.load(Store(), str(tmp_path / "run" / "attributes")).manifest.files
        assert [file.unit for file in files] == list(range(len(files)))
        return [file.path.rpartition("-")[2] for file in files]

    settings = {"inputs": [{"path": str(tmp_path / "in")}], "output": str(tmp_path / "run"), "language": None}
    return settings | {"execution": {"max_bad_documents": 1}}, attempts, size


def test_a_file_that_is_added_removed_or_changed_is_measured_alone(several, tmp_path, monkeypatch):
    """The other units keep their files, and every artifact equals the one of a run which began with these inputs."""
    settings, attempts, size = several
    monkeypatch.setattr("raymill.cluster.frame.files.freeze_listing", lambda listing, *_: freeze_listing(listing, size))

    def same_as_anew() -> bool:
        anew = curate_inline(settings | {"output": str(tmp_path / f"anew{len(list(tmp_path.iterdir()))}")}, monkeypatch)
        return anew.manifest["artifacts"] == run.manifest["artifacts"]

    curate_inline(settings, monkeypatch)
    before = attempts()
    assert len(before) == 4
    shutil.copy(tmp_path / "in" / "2.jsonl", tmp_path / "in" / "1a.jsonl")
    with pytest.raises(DataError, match=r"the input files changed \(1 new: 1a\.jsonl\)"):
        curate_inline(settings, monkeypatch)
    run = curate_inline(settings, monkeypatch, replace=True)
    after = attempts()
    assert [*after[:2], *after[3:]] == before and same_as_anew()
    (tmp_path / "in" / "0.jsonl").unlink()
    run = curate_inline(settings, monkeypatch, replace=True)
    assert attempts() == after[1:] and same_as_anew()
    (tmp_path / "in" / "3.jsonl").write_text(json.dumps({"text": story(9)}) + "\n" + " " * (size // 2))
    run = curate_inline(settings, monkeypatch, replace=True)
    assert attempts()[:-1] == after[1:-1] and attempts()[-1] != after[-1] and same_as_anew()
    assert len(list((tmp_path / "run" / "_commits" / "measure").iterdir())) == 4


def test_settings_that_change_no_measurement_measure_nothing_again(several, monkeypatch):
    settings, attempts, _ = several
    curate_inline(settings, monkeypatch)
    before = attempts()
    others = [
        {"inputs": [settings["inputs"][0] | {"licence": "CC0", "exclude": ["x*"]}]},
        {"report": {"groups": 3}},
        {"rules": {"gopher_quality": {"min_words": 3}}},
    ]
    for other in others:
        assert curate_inline(settings | other, monkeypatch, replace=True).fresh
        assert attempts() == before
    monkeypatch.setattr("raymill.cluster.__version__", "9.9")
    curate_inline(settings, monkeypatch, replace=True)
    assert attempts() == before
    curate_inline(settings | {"limits": {"max_document_bytes": 1 << 20}}, monkeypatch, replace=True)
    assert not set(attempts()) & set(before)
