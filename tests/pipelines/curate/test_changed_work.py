"""A run that is continued although files of its unfinished work were changed ends with what to do, never in silence.

The manifests agree with the changed files, as those of somebody who gives away an unfinished run can.
"""

import shutil
import warnings

import pyarrow as pa
import pytest

from raymill.cluster.engine import Engine
from raymill.cluster.errors import DataError, StageError
from tests.support.changed_work import change
from tests.support.fault_works import EVERY_STAGE, write_texts
from tests.support.inline import InlineEngine, NoRay, RoundsInline, curate_inline
from tests.support.sampled import sampled

SETTINGS = EVERY_STAGE | {
    "dedup": EVERY_STAGE["dedup"] | {"component_documents": 1000},
    "rules": {"gopher_quality": {"min_words": 95}},
}


class Stopped(InlineEngine):
    """Is interrupted before the corpus is written."""

    def run(self, stage):
        if stage.name == "select":
            raise KeyboardInterrupt
        return super().run(stage)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """(an unfinished run, its settings)."""
    folder = tmp_path_factory.mktemp("begun")
    write_texts(folder / "texts")
    settings = SETTINGS | {"inputs": [{"path": str(folder / "texts"), "id": "id", "columns": ["date"]}]}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        curate_inline(settings | {"output": str(folder / "run")}, patch, engine=Stopped)
    return folder / "run", settings


@pytest.fixture
def copy(begun, tmp_path):
    """(a copy of the unfinished run, its settings)."""
    shutil.copytree(begun[0], tmp_path / "run")
    return tmp_path / "run", begun[1] | {"output": str(tmp_path / "run")}


def with_value(column: str, value):
    """Set all values of a column."""

    def edit(table: pa.Table) -> pa.Table:
        values = pa.array([value] * table.num_rows, table.schema.field(column).type)
        return table.set_column(table.column_names.index(column), column, values)

    return edit


def twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table])


def test_a_run_that_nobody_changed_is_continued(copy, monkeypatch):
    assert curate_inline(copy[1], monkeypatch).report["funnel"][-1]["left"]["documents"] == 9


@pytest.mark.parametrize(
    ("artifact", "column", "value"),
    sampled(
        [
            ("groups", "unit", -(2**31)),
            ("groups", "duplicate_count", None),
            ("groups", "group_id", None),
            ("duplicates", "reason", None),
            ("duplicates", "unit", 1 << 30),
            ("similarity", "documents", -5),
            ("similarity", "bin", 1 << 20),
            ("tallies", "characters", None),
            ("verdicts", "row", None),
        ],
        4,
    ),
)
@pytest.mark.parametrize("engine", [InlineEngine, RoundsInline], ids=["at once", "in rounds"])
def test_a_value_that_no_stage_writes_ends_a_continued_run_with_what_to_do(
    copy, monkeypatch, artifact, column, value, engine
):
    root, settings = copy
    change(root / "_work" / artifact, with_value(column, value))
    always = warnings.catch_warnings(record=True, action="always")
    with always as seen, pytest.raises(DataError, match=f"delete {root}"):
        curate_inline(settings, monkeypatch, engine=engine, session=NoRay())
    assert not [str(one.message) for one in seen if one.category is RuntimeWarning], "refused before it is cast"


def test_without_its_unfinished_work_the_run_has_the_result_of_an_undisturbed_one(copy, monkeypatch, tmp_path):
    root, settings = copy
    change(root / "_work" / "duplicates", with_value("reason", None))
    with pytest.raises(DataError, match=f"KeyError(?s:.*)delete {root}/_work and make the same call again"):
        curate_inline(settings, monkeypatch)
    shutil.rmtree(root / "_work")
    undisturbed = curate_inline(settings | {"output": str(tmp_path / "other")}, monkeypatch)
    assert curate_inline(settings, monkeypatch).manifest["digest"] == undisturbed.manifest["digest"]


@pytest.mark.parametrize(
    ("artifact", "edit"),
    sampled(
        [
            ("groups", twice),
            ("groups", lambda table: table.slice(0, 0)),
            ("groups", lambda table: table.slice(0, 3)),
            ("duplicates", twice),
            ("duplicates", lambda table: table.slice(0, 0)),
            ("verdicts", twice),
            ("verdicts", lambda table: table.slice(0, 0)),
            ("tallies", twice),
            ("tallies", lambda table: table.slice(0, 1)),
        ],
        4,
    ),
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_documents_that_are_neither_in_the_corpus_nor_removed_or_both_end_the_run(copy, monkeypatch, artifact, edit):
    root, settings = copy
    change(root / "_work" / artifact, edit)
    with pytest.raises(DataError, match=f"delete {root}"):
        curate_inline(settings, monkeypatch)
    assert not (root / "manifest.json").exists()


def test_an_unexpected_error_of_a_new_run_is_no_damage(begun, monkeypatch, tmp_path):
    class Broken(Engine):
        def run(self, stage):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        curate_inline(begun[1] | {"output": str(tmp_path / "new")}, monkeypatch, engine=Broken)


def test_a_machine_that_fails_in_a_continued_run_is_no_damage(copy, monkeypatch):
    class Lost(RoundsInline):
        def _answers_of(self, run, units):
            return iter(())

    with pytest.raises(StageError, match="its worker died"):
        curate_inline(copy[1], monkeypatch, engine=Lost, session=NoRay())
