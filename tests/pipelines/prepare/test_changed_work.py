"""A run of prepare that is continued although files of its unfinished work were changed ends with what to do."""

import pyarrow as pa
import pytest

from raymill.cluster.errors import DataError
from tests.support.changed_work import change
from tests.support.fault_works import EVERY_STAGE_OF_PREPARE, tickets_source, write_tickets
from tests.support.inline import InlineEngine, prepare_inline


class Stopped(InlineEngine):
    """Is interrupted before the data set is written."""

    def run(self, stage):
        if stage.name == "write":
            raise KeyboardInterrupt
        return super().run(stage)


@pytest.mark.parametrize(
    ("artifact", "edit"),
    [
        ("rejected", lambda table: pa.concat_tables([table, table])),
        ("rejected", lambda table: table.slice(0, 0)),
        ("splits", lambda table: table.slice(1)),
    ],
    ids=["more rejected", "none rejected", "fewer in splits"],
)
def test_records_that_are_neither_in_a_split_nor_removed_or_both_end_the_run(monkeypatch, tmp_path, artifact, edit):
    write_tickets(tmp_path / "tickets")
    settings = EVERY_STAGE_OF_PREPARE | {
        "inputs": [tickets_source(tmp_path / "tickets")],
        "output": str(tmp_path / "run"),
    }
    with pytest.raises(KeyboardInterrupt):
        prepare_inline(settings, monkeypatch, engine=Stopped)
    change(tmp_path / "run" / "_work" / artifact, edit)
    with pytest.raises(DataError, match=f"delete {tmp_path}/run"):
        prepare_inline(settings, monkeypatch)
    assert not (tmp_path / "run" / "manifest.json").exists()
