"""A text that is extracted, as from HTML, is extracted once: `measure` stores it, and all that follows reads it."""

import gzip
import json
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.garbage import find_garbage
from raymill.cluster.guard import Guard
from raymill.cluster.plan.plan import Prices, plan_of
from raymill.cluster.plan.sample import draw_sample
from raymill.cluster.readers.formats import READERS, web_pages
from raymill.cluster.readers.freeze import freeze, freeze_listing
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import plan as subject
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.sample import sample_rows
from raymill.pipelines.curate.stages import measured_texts
from raymill.pipelines.curate.stages.measure import measure_stage
from raymill.pipelines.curate.stages.measured_texts import TEXTS
from tests.support.inline import InlineEngine, curate_inline
from tests.support.mails import ANN, mail, mbox
from tests.support.pdf import pdf
from tests.support.stories import story
from tests.support.warc_records import record, response

EXTRACTING = {"html", "warc", "arc", "pdf", "docx", "mail"}


def page(text: str) -> bytes:
    lines = "".join(f"<p>{line}</p>" for line in text.splitlines())
    return f"<html><head><title>T</title></head><body><nav><a href=x>Home</a></nav>{lines}</body></html>".encode()


def write_inputs(folder: Path) -> None:
    """Pages, an archive of them, mail, a PDF, and lines of JSON; some without text, and some with the same."""
    (folder / "pages").mkdir(parents=True)
    for number in range(6):
        (folder / "pages" / f"{number}.html").write_bytes(page(story(number % 5)))
    (folder / "pages" / "none.html").write_bytes(b"<html></html>")
    records = [record("response", response(page(story(10 + number))), number) for number in range(4)]
    (folder / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    (folder / "a.mbox").write_bytes(mbox(mail(1, ANN, story(3)), mail(2, ANN, story(21))))
    (folder / "a.pdf").write_bytes(pdf([story(22).splitlines()]))
    lines = [json.dumps({"text": story(30 + number)}) + "\n" for number in range(4)]
    (folder / "a.jsonl").write_text("".join([*lines, '{"text": 1}\n']))


@pytest.fixture
def settings(tmp_path) -> dict:
    write_inputs(tmp_path / "in")
    return {
        "inputs": [{"source": "web", "path": str(tmp_path / "in"), "columns": ["url"]}],
        "output": str(tmp_path / "run"),
        "execution": {"max_bad_documents": 1.0},
        "rules": None,
        "language": None,
        "dedup": {"remove": True},
        "repeats": {},
        "boilerplate": {},
    }


def refuse_extraction(patch) -> None:
    def refuse(*arguments):
        raise AssertionError("extracted again")

    for format in EXTRACTING:
        patch.setattr(type(READERS[format]), "read", refuse)


def test_the_formats_with_extraction_are_those_that_parse_documents():
    assert {format for format, reader in READERS.items() if reader.extracts} == EXTRACTING


def test_no_stage_after_measure_and_no_question_extracts_a_text(settings, tmp_path, monkeypatch):
    class ExtractsNoMore(InlineEngine):
        def run(self, stage):
            made = super().run(stage)
            if stage.name == "measure":
                refuse_extraction(monkeypatch)
            return made

    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "none.html").write_bytes(b"<html></html>")  # a unit without documents
    inputs = [*settings["inputs"], {"source": "empty", "path": str(tmp_path / "empty")}]
    run = curate_inline(settings | {"inputs": inputs}, monkeypatch, engine=ExtractsNoMore)
    texts = run.corpus.table()["text"].to_pylist()
    assert len(texts) == 5 + 4 + 1 + 1 + 4  # a copy among the pages, and one among the mails
    stored = run.artifact(TEXTS).table()
    assert (
        stored.column_names == ["row", "id", "text", "url"] and len(stored) == 6 + 4 + 2 + 1 + 4
    )  # the lines share a unit
    reader = RunReader(Store(), run.uri)
    assert len({reader.text_of(reader.document_at(at)) for at in range(run.report["totals"]["input"]["documents"])}) > 9
    rows = sample_rows(Store(), run.uri, 5, [], 1, ())
    assert rows and all(story(5 % 5)[:20] in row["text"] or row["text"] for row in rows)
    garbage = find_garbage(Store(), run.uri, 0.0)
    assert not [one for one in garbage.old if one.folder == TEXTS] and not garbage.unknown


def test_the_results_are_those_of_reading_again(settings, tmp_path, monkeypatch):
    size = 20_000  # several units of each format
    monkeypatch.setattr("raymill.cluster.frame.files.freeze_listing", lambda listing, *_: freeze_listing(listing, size))
    stored = curate_inline(settings, monkeypatch)
    for reader in READERS.values():
        monkeypatch.setattr(type(reader), "extracts", False)
    again = curate_inline(settings | {"output": str(tmp_path / "again")}, monkeypatch)
    made, before = stored.manifest["artifacts"], again.manifest["artifacts"]
    assert made.keys() - before.keys() == {TEXTS}
    assert {name: made[name] for name in before} == before


def test_the_units_of_a_run_without_extraction_are_used_when_pages_are_added_and_removed(
    settings, tmp_path, monkeypatch
):
    """A record of a unit that has no texts to store is the same with and without the artifact of texts."""
    lines, pages = str(tmp_path / "in" / "a.jsonl"), str(tmp_path / "in" / "pages")
    inputs = [{"source": source, "path": path} for source, path in (("lines", lines), ("pages", pages))]

    def attempts(given: list) -> tuple[str, ...]:
        run = curate_inline(settings | {"inputs": given}, monkeypatch, replace=True)
        anew = curate_inline(settings | {"inputs": given, "output": str(tmp_path / f"anew{len(given)}")}, monkeypatch)
        assert run.manifest["artifacts"] == anew.manifest["artifacts"]
        files = Artifact.load(Store(), f"{run.uri}/attributes").manifest.files
        return tuple(file.path.rpartition("-")[2] for file in files)

    (alone,) = attempts(inputs[:1])
    both = attempts(inputs)
    assert both[0] == alone and len(both) == 2
    assert attempts(inputs[:1]) == (alone,)


def test_the_extractor_and_its_version_are_in_the_keys_of_units_with_pages_alone(settings, tmp_path, monkeypatch):
    """The keys of other units are those of earlier versions, whose measurements are used."""

    def keys(**more) -> dict[str, str]:
        inputs = [
            {"source": name, "path": str(tmp_path / "in" / name), **more} for name in ("pages", "a.jsonl", "a.pdf")
        ]
        given = {"kind": "curate", "name": "test"} | settings | {"inputs": inputs}
        config = CurateConfig.model_validate(given)
        frozen = freeze(config.store, config.inputs, 1 << 20)
        stage = measure_stage(config, config.filters, frozen)
        return {unit.source: stage.record_name(unit.index, unit) for unit in frozen.units}

    def changed(**more) -> set[str]:
        return {name for name, key in keys(**more).items() if key != before[name]}

    before = keys()
    assert changed(extractor="router") == {"pages"} and changed(extractor="resiliparse") == set()
    with monkeypatch.context() as patch:
        patch.setattr("raymill.cluster.readers.formats.extractors.version", lambda library: "9.9")
        assert changed() == {"pages"}
    with monkeypatch.context() as patch:  # as in versions that stored no texts
        for format in EXTRACTING:
            patch.setattr(type(READERS[format]), "extracts", False)
        assert changed() == {"pages", "a.pdf"}


def test_a_damaged_file_of_texts_is_made_again(settings, tmp_path, monkeypatch):
    class Killed(InlineEngine):
        def run(self, stage):
            if stage.name == "decide":
                raise KeyboardInterrupt
            return super().run(stage)

    whole = curate_inline(settings | {"output": str(tmp_path / "whole")}, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        curate_inline(settings, monkeypatch, engine=Killed)
    file = max((tmp_path / "run" / TEXTS).glob("*.parquet"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-10])
    assert curate_inline(settings, monkeypatch).manifest["digest"] == whole.manifest["digest"]


def test_a_file_of_texts_that_is_damaged_during_a_run_is_named(settings, tmp_path, monkeypatch):
    class Damaged(InlineEngine):
        def run(self, stage):
            made = super().run(stage)
            if stage.name == "measure":
                for file in (tmp_path / "run" / TEXTS).glob("*.parquet"):
                    file.write_bytes(file.read_bytes()[:-10])
            return made

    with pytest.raises(DataError, match=f"{TEXTS}/.*parquet: "):
        curate_inline(settings, monkeypatch, engine=Damaged)


FORGED = {
    "other texts": lambda texts: pa.array(["forged"] * len(texts), pa.large_string()),
    "no texts": lambda texts: pa.nulls(len(texts), pa.large_string()),
    "no UTF-8": lambda texts: pa.array([b"\xff" * len(one.as_py()) for one in texts]).cast(pa.large_binary()),
}


@pytest.mark.parametrize("kind", FORGED)
def test_stored_texts_that_were_not_measured_are_refused(settings, tmp_path, monkeypatch, kind):
    """As in an unfinished run that somebody else made: its records agree with its files."""

    def forge(file: str) -> None:
        table = pq.read_table(file)
        texts = FORGED[kind](table["text"].combine_chunks())
        texts = pa.Array.from_buffers(pa.large_string(), len(texts), texts.buffers(), texts.null_count)
        pq.write_table(table.set_column(table.column_names.index("text"), "text", texts), file)

    def forged(store, files):
        for file in files:
            copy = f"{tmp_path}/forged.parquet"
            shutil.copy(file, copy)
            forge(copy)
            yield pq.read_table(copy)

    monkeypatch.setattr(measured_texts, "read_tables", forged)
    with pytest.raises(DataError, match=f"{TEXTS}"):
        curate_inline(settings, monkeypatch)


def test_a_finished_run_without_stored_texts_is_asked_by_reading_again(settings, tmp_path, monkeypatch):
    """As one of an earlier version, or one of which `_work` was deleted."""
    run = curate_inline(settings, monkeypatch)
    shutil.rmtree(f"{run.uri}/_work")
    path = str(tmp_path / "in" / "pages" / "1.html")
    assert "row 1, counted from 0" in (found := explain(RunReader(Store(), run.uri), path)) or path in found
    reader = RunReader(Store(), run.uri)
    (document,) = reader.find_file(path)
    assert story(1)[:40].split()[0] in reader.text_of(document)


def test_a_plan_of_pages_extracts_in_measure_alone_and_stores_the_texts(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    given = settings | {"inputs": [{"source": "web", "path": str(tmp_path / "in" / "pages")}], "boilerplate": None}

    def planned(**more) -> dict:
        config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | given | {"repeats": None} | more)
        return {
            one["name"]: one
            for one in plan_of(subject(config, documents=1e6, duplicates=0.1), (2,), Prices())["stages"]
        }

    # Seconds to extract a byte, which dwarf all others: of some pages no time can be measured.
    monkeypatch.setattr("raymill.cluster.plan.sample.Sample.read_s", property(lambda sample: 1.0))
    stored = planned()
    for reader in READERS.values():
        monkeypatch.setattr(type(reader), "extracts", False)
    again = planned()
    assert again["select"]["core_s"] == pytest.approx(again["measure"]["core_s"], rel=0.01)
    assert stored["measure"]["core_s"] == pytest.approx(again["measure"]["core_s"], rel=0.01)
    assert stored["select"]["core_s"] < 0.01 * stored["measure"]["core_s"]
    assert stored["measure"]["written"] > again["measure"]["written"]


def test_a_plan_counts_the_time_of_the_child_process_that_extracts(settings, tmp_path, monkeypatch):
    def busy(page):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return found(page)

    found = web_pages._main_content
    monkeypatch.setattr(web_pages, "_pages", Guard(busy))
    inputs = freeze(Store(), [Input(path=str(tmp_path / "in" / "pages"))], 1 << 20)
    sample = draw_sample(inputs, Limits())
    assert sample.documents == 6
    assert sample.read_s * sample.text_bytes > 0.05 * sample.documents
