"""`deduplicate` on Ray: the groups of `curate`, continuing, and what it refuses."""

import re
import runpy
import textwrap
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.session import Session
from raymill.cluster.stage import COMMITS
from raymill.pipelines.dedup.cost import Sizes
from raymill.pipelines.dedup.group import files_of, group_stage
from raymill.pipelines.ray_data.deduplicate import _column
from tests.support.curated import curated
from tests.support.guides import GUIDES, ROOT
from tests.support.inline import InlineEngine
from tests.support.stories import story


@pytest.fixture(scope="module")
def ray_data(shared_session: Session):
    """The module ray.data; imported after the session has set how Ray authenticates."""
    shared_session.start()
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data


@pytest.fixture
def module(ray_data, monkeypatch):
    """The module of `deduplicate`. Its stages of grouping run in this process; the blocks are measured by Ray."""
    from raymill.pipelines.ray_data import deduplicate as module

    monkeypatch.setattr(module, "Engine", InlineEngine)
    return module


pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

TEXTS = [
    *(story(n) for n in range(40)),
    story(3) + "  \r\n",  # equal once normalised
    story(4).replace("chapter 47", "chapter fortyseven"),
    story(3),
    "few words",
    "few words",
    "",
    "",
    None,
]


def documents(texts: list[str | None] = TEXTS) -> pa.Table:
    return pa.table({"id": pa.array([f"d{n}" for n in range(len(texts))]), "text": pa.array(texts, pa.string())})


def blocks(ray_data, table: pa.Table, rows: int = 7):
    return ray_data.from_arrow([table.slice(start, rows) for start in range(0, table.num_rows, rows)])


def in_order(dataset) -> list[dict]:
    """The rows in the order of their blocks, which Ray keeps on request only."""
    dataset.context.execution_options.preserve_order = True
    return dataset.take_all()


def assert_groups_of_curate(rows: list[dict], table: pa.Table, folder: Path, monkeypatch, **dedup) -> None:
    wanted = curated(table, folder, monkeypatch, language=None, rules=None, dedup=dedup).groups
    assert len(wanted) > 3
    ids = table["id"].to_pylist()
    for number, row in enumerate(rows):
        of_curate = wanted.get(number, {"group_id": None, "partner": None, "similarity": None})
        assert row["id"] == ids[number]
        assert (row["group"], row["partner"], row["similarity"]) == (
            of_curate["group_id"], of_curate["partner"], of_curate["similarity"],
        )  # fmt: skip


def test_the_groups_are_those_of_curate_whatever_the_blocks(module, ray_data, tmp_path, monkeypatch):
    for size, sizes in ((7, None), (20, Sizes(documents=16, pairs=64, batch=4, block=8, fan=2))):
        if sizes:  # several ranges, batches and levels, as with many documents
            monkeypatch.setattr(module, "group_stage", partial(group_stage, sizes=sizes))
            monkeypatch.setattr(module, "files_of", partial(files_of, sizes=sizes))
        found = module.deduplicate(blocks(ray_data, documents(), size), scratch=f"{tmp_path}/{size}", id="id")
        assert_groups_of_curate(in_order(found), documents(), tmp_path / f"curated-{size}", monkeypatch)
    assert found.schema().names == ["id", "text", "group", "partner", "similarity"]


def test_without_ids_a_partner_is_a_position_and_the_longest_may_be_kept(ray_data, tmp_path, monkeypatch):
    """On Ray as a whole; every other row of a block is a longer near-copy of the one before it."""
    from raymill.data import deduplicate

    texts = [text for n in range(6) for text in (story(n), story(n) + " and that was all")]
    grouped = deduplicate(
        blocks(ray_data, pa.table({"content": texts, "number": range(12)}), 5),
        scratch=str(tmp_path), text="content", threshold=0.7, keeper="longest",
    )  # fmt: skip
    found = in_order(grouped)
    assert [row["position"] for row in found] == [row["number"] for row in found] == list(range(12))
    assert [row["partner"] for row in found] == [None if n % 2 else n + 1 for n in range(12)]
    assert all((row["similarity"] is None) == (row["partner"] is None) for row in found)
    assert len({row["group"] for row in found}) == 6


def test_the_newest_by_a_column_of_the_dataset_is_kept(module, ray_data, tmp_path):
    table = pa.table({"text": [story(1)] * 3, "score": [0.5, 0.9, 0.1], "id": [7, 8, 9]})
    found = module.deduplicate(
        blocks(ray_data, table, 1), scratch=str(tmp_path), id="id", keeper="newest", newest_by="score"
    )
    assert [row["partner"] for row in in_order(found)] == ["8", None, "8"]


def test_a_call_that_failed_is_continued_and_measures_no_block_again(module, ray_data, tmp_path, monkeypatch):
    dataset, scratch = blocks(ray_data, documents()), str(tmp_path / "scratch")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_grouped", lambda *arguments: (_ for _ in ()).throw(RuntimeError("the driver died")))
        with pytest.raises(RuntimeError):
            module.deduplicate(dataset, scratch=scratch, id="id")
    measured = {path: path.stat().st_mtime_ns for path in Path(scratch).rglob("*") if path.is_file()}
    assert len(list(Path(scratch, "rows").iterdir())) == 7
    damaged = next(Path(scratch, "attributes").iterdir())
    damaged.write_bytes(b"cut short")
    found = in_order(module.deduplicate(dataset, scratch=scratch, id="id"))
    after = {path: path.stat().st_mtime_ns for path in Path(scratch).rglob("*") if path.is_file()}
    assert len(list(Path(scratch, "rows").iterdir())) == 8  # of the damaged block a second time
    unchanged = {path for path, time in measured.items() if after.get(path) == time}
    assert len(measured.keys() - unchanged) == 2, "the damaged file and its record"
    assert_groups_of_curate(found, documents(), tmp_path / "curated", monkeypatch)


def test_blocks_that_were_measured_before_the_dataset_failed_are_kept(module, ray_data, tmp_path, monkeypatch):
    flag, scratch = tmp_path / "mended", tmp_path / "scratch"

    def fails_once(block: pa.Table) -> pa.Table:
        if block["id"][0].as_py() == "d42" and not flag.exists():
            raise ValueError("the network is down")
        return block

    dataset = blocks(ray_data, documents()).map_batches(fails_once, batch_format="pyarrow")
    with pytest.raises(Exception, match="the network is down"):
        module.deduplicate(dataset, scratch=str(scratch), id="id")
    kept = {path: path.stat().st_mtime_ns for path in (scratch / "rows").iterdir()}
    assert 0 < len(kept) < 7
    flag.touch()
    found = in_order(module.deduplicate(dataset, scratch=str(scratch), id="id"))
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in (scratch / "rows").iterdir()}.items()
    # Not files: a block that was still being measured when the Dataset failed may have a second one, of no record.
    assert len(list((scratch / COMMITS / "measure").iterdir())) == 7
    assert_groups_of_curate(found, documents(), tmp_path / "curated", monkeypatch)


def test_other_datasets_and_settings_share_a_scratch_and_do_not_meet(module, ray_data, tmp_path, monkeypatch):
    other = documents([story(100), story(100), *TEXTS[:8]])
    for number, (table, settings) in enumerate([(documents(), {}), (other, {}), (documents(), {"threshold": 0.99})]):
        found = module.deduplicate(blocks(ray_data, table), scratch=f"{tmp_path}/scratch", id="id", **settings)
        if number == 0:
            first = found
    assert_groups_of_curate(in_order(found), documents(), tmp_path / "strict", monkeypatch, threshold=0.99)
    assert_groups_of_curate(in_order(first), documents(), tmp_path / "usual", monkeypatch)


def test_equal_blocks_are_copies_of_each_other(module, ray_data, tmp_path):
    table = pa.table({"text": [story(1), story(2)]})
    found = in_order(module.deduplicate(ray_data.from_arrow([table, table, table]), scratch=str(tmp_path)))
    assert [row["partner"] for row in found] == [None, None, 0, 1, 0, 1]


def test_columns_of_any_type_come_back_as_they_were(module, ray_data, tmp_path):
    table = pa.table(
        {
            "text": pa.array([story(1), None, story(1)]).dictionary_encode(),
            "nested": [[{"a": 1}], None, []],
            "times": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
        }
    )
    found = module.deduplicate(ray_data.from_arrow(table), scratch=str(tmp_path))
    back = pa.concat_tables(found.iter_batches(batch_format="pyarrow", batch_size=None))
    assert back.select(table.column_names).to_pylist() == table.to_pylist()
    assert back.schema.field("nested").type == table.schema.field("nested").type


def test_texts_that_cannot_be_read_are_in_no_group_and_are_counted(module, ray_data, tmp_path, caplog):
    rows = [{"text": text} for text in ("\ud800 half", "\ud800 half", None, story(1), story(1), "long " * 50_000)]
    dataset = ray_data.from_items(rows, override_num_blocks=2)
    found = in_order(module.deduplicate(dataset, scratch=str(tmp_path), limits={"max_document_bytes": 100_000}))
    assert [row["partner"] for row in found] == [None, None, None, None, 3, None]
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert "deduplicate: 4 texts cannot be read: 2 lone_surrogate, 1 null_text, 1 too_large" in caplog.messages


def test_a_dataset_without_rows_has_the_columns(module, ray_data, tmp_path):
    empty = ray_data.from_arrow(documents()).filter(expr="id == 'nothing'")
    assert module.deduplicate(empty, scratch=str(tmp_path), id="id").take_all() == []


def test_rows_that_were_changed_in_the_scratch_are_an_error(module, ray_data, tmp_path):
    found = module.deduplicate(blocks(ray_data, documents()), scratch=str(tmp_path), id="id")
    changed = next((tmp_path / "rows").iterdir())
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match="was changed after it was written"):
        found.take_all()


@pytest.mark.parametrize(
    ("table", "settings", "error", "said"),
    [
        ({"body": ["a"]}, {}, DataError, "deduplicate: the Dataset has no column text; it has: body."),
        ({"text": ["a"]}, {"id": "url"}, DataError, "no column url, which `id` names; it has: text."),
        ({"text": ["a"], "id": [[1]]}, {"id": "id"}, DataError, "the column id holds list<item: int64>, and ids are"),
        ({"text": ["a"], "group": [1]}, {}, DataError, "already has 1 column that it would add: group."),
        (
            {"text": ["a"], "x": [[1]]},
            {"keeper": "newest", "newest_by": "x"},
            DataError,
            "wanted dates, times",
        ),
        ({"text": ["a"]}, {"treshold": 0.8}, ConfigError, "deduplicate, dedup.treshold: no such setting."),
        ({"text": ["a"]}, {"keeper": "score", "keeper_score": "x"}, ConfigError, 'keeper="newest", newest_by="COLUMN"'),
        (
            {"text": ["a"]},
            {"scope": "source", "remove": False},
            ConfigError,
            "dedup: remove, scope of a config",
        ),
    ],
)
def test_an_error_says_what_to_do_and_is_raised_as_itself(module, ray_data, tmp_path, table, settings, error, said):
    with pytest.raises(error) as raised:
        module.deduplicate(ray_data.from_arrow(pa.table(table)), scratch=str(tmp_path), **settings)
    assert said in str(raised.value)
    assert not ray_data.DataContext.get_current().execution_options.preserve_order


def test_operators_run_as_tasks_and_as_actors(ray_data):
    from raymill.data import Language, Rules

    dataset = blocks(ray_data, documents())
    as_tasks = dataset.map_batches(Language(keep=["en"]), batch_format="pyarrow").map_batches(
        Rules(), batch_format="pyarrow"
    )
    as_actors = dataset.map_batches(
        Language, fn_constructor_kwargs={"keep": ["en"]}, batch_format="pyarrow",
        compute=ray_data.ActorPoolStrategy(size=1),
    ).map_batches(Rules, batch_format="pyarrow", compute=ray_data.ActorPoolStrategy(size=1), num_cpus=0.5)  # fmt: skip

    def rows(dataset) -> list[tuple]:
        return sorted((row["id"], row["keep"], row["reason"]) for row in dataset.take_all())

    found = rows(as_tasks)
    assert found == rows(as_actors)
    assert {reason for _, _, reason in found} >= {None, "null_text", "gopher_short_doc"}


def test_groups_of_technical_texts_and_387_languages(module, ray_data, shared_data, tmp_path, monkeypatch):
    peps = pq.read_table(shared_data / "peps.parquet", columns=["text"]).slice(0, 400)
    udhr = pq.read_table(shared_data / "udhr.parquet", columns=["text"])
    texts = pa.concat_tables([peps, udhr])["text"]
    table = pa.table({"id": pc.cast(pa.array(range(len(texts))), pa.string()), "text": texts})
    found = in_order(module.deduplicate(blocks(ray_data, table, 100), scratch=f"{tmp_path}/scratch", id="id"))
    assert_groups_of_curate(found, table, tmp_path / "curated", monkeypatch)


EXAMPLE = ROOT / "docs" / "examples" / "ray_data" / "pages.py"


def test_the_guide_shows_a_part_of_the_example():
    (shown,) = re.findall(r"```python\n(.*?)```", GUIDES["pipelines/ray_data/README.md"], re.DOTALL)
    assert textwrap.indent(shown, "    ") in EXAMPLE.read_text()


def test_the_example_writes_pages_that_curate_reads_and_gives_back(ray_data, tmp_path, capsys):
    runpy.run_path(str(EXAMPLE))["main"](str(tmp_path))
    corpus, words = ray_data.read_parquet(f"{tmp_path}/curated/corpus"), ray_data.read_parquet(f"{tmp_path}/pages")
    assert 0 < corpus.count() == words.count() < 41
    assert f"{corpus.count()} pages, " in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["id", "newest_by"])
def test_a_damaged_or_repeated_column_that_a_setting_names_is_an_error(setting):
    offsets = pa.array([0, 20, 3], pa.int32()).buffers()[1]
    damaged = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"x" * 30))
    with pytest.raises(DataError, match="the column x is damaged"):
        _column(pa.table({"x": damaged}), "x", setting)
    with pytest.raises(DataError, match="several columns x"):
        _column(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["x", "x"]), "x", setting)
