"""`raymill gc` on a training: packed rows, checkpoints and export stay; what packing left goes."""

import os
import time
from pathlib import Path

import pytest

from raymill.cluster import cli
from raymill.cluster.garbage import FINISHED, UNNAMED, UPLOAD, find_garbage
from raymill.cluster.store.store import Store
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
