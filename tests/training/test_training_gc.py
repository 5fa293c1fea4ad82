"""`raymill gc` on a training: packed rows, checkpoints and export stay; what packing left goes."""

import os
import shutil
import time
from pathlib import Path

import pytest

from raymill.cluster import cli
from raymill.cluster.garbage import FINISHED, NO_ROWS, UNNAMED, UPLOAD, find_garbage
from raymill.cluster.store.store import Store
from tests.support.pack_runs import write_lines
from tests.support.train_inline import train_inline, write_corpus

DAY_S = 86_400.0


def test_a_finished_training_is_the_same_after_it(monkeypatch, tmp_path):
    settings = {"corpus": write_corpus(tmp_path), "columns": {"text": "text"}, "output": str(tmp_path / "run")}
    run = train_inline(settings, monkeypatch)
    left = {f"{run.uri}/packed/corpus-0/train/000000-000-0123456789ab.parquet", f"{run.uri}/.{'0' * 32}.part"}
    for path in left:
        Path(path).write_bytes(b"1")
    for path in Path(run.uri).rglob("*"):
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    garbage = find_garbage(Store(), run.uri, DAY_S)
    assert garbage.unknown == []
    found = {one.item.uri: one.why for one in garbage.old}
    records = {uri for uri in found if "/packed/_commits/" in uri}
    assert found.keys() == records | left and records
    assert set(found.values()) == {FINISHED, UNNAMED, UPLOAD}
    with pytest.raises(SystemExit) as ended:
        cli.main(["gc", run.uri, "--delete"])
    assert ended.value.code == 0 and not any(Path(uri).exists() for uri in found)
    again = train_inline(settings, monkeypatch, verify=True)
    assert not again.fresh and again.manifest == run.manifest


def test_log_probabilities_of_a_reference_model_stay_as_long_as_their_rows(monkeypatch, tmp_path):
    rows = [{"prompt": f"{at}?", "chosen": f"it is {at}", "rejected": f"no, {at}"} for at in range(60)]
    settings = {"corpus": write_lines(tmp_path / "rows.jsonl", rows), "objective": "dpo"}
    settings |= {"output": str(tmp_path / "run"), "packed": str(tmp_path / "packed")}
    train_inline(settings, monkeypatch)
    kept = {str(path) for path in tmp_path.glob("packed/reference/*/*/*")}
    assert len(kept) >= 4  # a part and a manifest of two splits
    digest = sorted(kept)[0].split("/")[-3]
    left = {path.replace(digest, "0" * 32) for path in kept if digest in path}
    for path in left:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.replace("0" * 32, digest), path)
    (tmp_path / "packed/reference" / digest / "key").mkdir()
    started = tmp_path / "packed/reference" / digest / "key/part-000000.parquet"  # of a training that was interrupted
    started.write_bytes(b"1")
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    garbage = find_garbage(Store(), str(tmp_path / "packed"), DAY_S)
    assert garbage.unknown == []
    assert {one.item.uri for one in garbage.old if one.why == NO_ROWS} == left
    assert not {one.item.uri for one in garbage.old} & {*kept, str(started)}
    with pytest.raises(SystemExit) as ended:
        cli.main(["gc", str(tmp_path / "packed"), "--delete"])
    assert ended.value.code == 0
    assert {str(path) for path in tmp_path.glob("packed/reference/*/*/*")} == {*kept, str(started)}
