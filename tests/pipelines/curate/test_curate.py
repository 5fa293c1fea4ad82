"""The whole job without Ray: what a run leaves, that it is right, and that running again is safe."""

import json
import shutil
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from raymill.cluster.artifact import MANIFEST, Artifact
from raymill.cluster.engine import Engine
from raymill.cluster.errors import BusyError, ConfigError, DataError, UserError
from raymill.cluster.lease import held
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.readers.units import Unit
from raymill.cluster.store.store import Store
from raymill.pipelines.curate import job
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import run_stages
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.sample import sample_rows
from raymill.pipelines.curate.questions.what_if import compare_decisions, table_text
from raymill.pipelines.curate.stages import write_corpus
from raymill.pipelines.curate.stages.kept_texts import MeasuredUnit, groups_in
from raymill.pipelines.dedup.compare import GROUPS_SCHEMA
from raymill.pipelines.dedup.group import DEFAULT_SIZES, Sizes
from tests.support.inline import NoRay, curate_inline
from tests.support.stages import counting_stage, run_inline
from tests.support.stories import ledger, story


@pytest.fixture
def inputs(tmp_path):
    """30 stories, an exact copy, a near copy, a short one, a German one, and one with an address in it."""
    texts = {f"s{n}": story(n) for n in range(30)}
    texts["copy"] = texts["s3"] + "  \r\n"  # equal once normalised
    texts["near"] = texts["s4"].replace("chapter 47", "chapter fortyseven")
    texts["short"] = "Too short to keep, and that is that."
    texts["german"] = " ".join(["Der alte Hafen war am Morgen still, und die Boote kamen erst spät zurück."] * 3)
    texts["mail"] = story(77) + " Write to jane.roe@mailhost.org or call +1 415 555 2671 about the house."
    path = tmp_path / "in" / "texts.parquet"
    path.parent.mkdir()
    table = pa.table({"id": list(texts), "text": list(texts.values()), "year": list(range(len(texts)))})
    pq.write_table(table, path, row_group_size=8)
    return texts, {
        "inputs": [{"source": "stories", "path": str(path), "id": "id", "columns": ["year"]}],
        "output": str(tmp_path / "run"),
        "language": {"keep": ["en"]},
        "corpus": {"columns": ["gopher_mean_word_length"]},
    }


@pytest.fixture
def run(inputs, monkeypatch):
    return curate_inline(inputs[1], monkeypatch)


def test_every_document_is_in_the_corpus_or_in_the_ledger_and_never_in_both(inputs, run):
    kept = run.corpus.table()["id"].to_pylist()
    removed = list(ledger(run))
    assert sorted(kept + removed) == sorted(inputs[0])


def test_the_ledger_says_why_with_value_and_threshold(run):
    rows = ledger(run)
    assert set(rows) == {"copy", "near", "short", "german"}
    assert (rows["german"]["stage"], rows["german"]["reason"]) == ("language", "language_not_kept")
    assert (rows["short"]["stage"], rows["short"]["reason"]) == ("gopher_quality", "gopher_short_doc")
    assert (rows["short"]["value"], rows["short"]["threshold"]) == (8, 50)
    assert (rows["copy"]["reason"], rows["copy"]["partner"], rows["copy"]["similarity"]) == ("exact_duplicate", "s3", 1)
    assert (rows["near"]["reason"], rows["near"]["partner"]) == ("near_duplicate", "s4")
    assert 0.8 <= rows["near"]["similarity"] < 1


def test_the_corpus_has_stable_columns_and_its_documents_keep_their_order(inputs, run):
    table = run.corpus.table()
    assert table.schema.names == [
        "id", "text", "source", "language", "language_score", "gopher_mean_word_length",
        "duplicate_count", "group_id", "year",
    ]  # fmt: skip
    assert table["id"].to_pylist() == [*(f"s{n}" for n in range(30)), "mail"]
    assert table["text"][0].as_py() == inputs[0]["s0"]
    assert table["year"].to_pylist()[:3] == [0, 1, 2]
    measured = Artifact.load(Store(), f"{run.uri}/attributes").table(["id", "gopher_mean_word_length"]).to_pylist()
    lengths = {row["id"]: row["gopher_mean_word_length"] for row in measured}
    assert table["gopher_mean_word_length"].to_pylist() == [lengths[id] for id in table["id"].to_pylist()], "exactly"
    counts = dict(zip(table["id"].to_pylist(), table["duplicate_count"].to_pylist(), strict=True))
    assert (counts["s3"], counts["s4"], counts["s5"]) == (2, 2, 1)
    assert len(set(table["group_id"].to_pylist())) == table.num_rows


def test_personal_data_is_redacted_in_the_corpus_and_counted_in_the_report(run):
    text = run.corpus.table().to_pylist()[-1]["text"]
    assert "<EMAIL>" in text and "<PHONE>" in text and "jane.roe" not in text
    found = {entry["kind"]: entry["found"] for entry in run.report["personal_data"]}
    assert found["email"] == found["phone"] == 1
    assert "jane.roe" not in json.dumps(run.report)


def test_the_output_folder_holds_what_the_contract_names(run, tmp_path):
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"manifest.json", "corpus", "removed", "attributes", "quarantine", "report.json", "report.html"} <= names
    listed = sorted(path.name for path in (tmp_path / "run" / "corpus").iterdir())
    assert listed == sorted([*(file.path for file in run.corpus.manifest.files), MANIFEST])
    assert "text" not in Artifact.load(Store(), f"{run.uri}/attributes").table().column_names


def test_the_verdicts_count_the_documents_that_passed(run):
    removed = Artifact.load(Store(), f"{run.uri}/removed").table()
    duplicates = sum(stage.endswith("_duplicates") for stage in removed["stage"].to_pylist())
    counters = Artifact.load(Store(), f"{run.uri}/_work/verdicts").manifest.counters
    assert duplicates > 0
    assert counters["passed"] == run.corpus.manifest.rows + duplicates
    assert counters["documents"] == run.corpus.manifest.rows + removed.num_rows


def test_the_funnel_adds_up(inputs, run):
    left = len(inputs[0])
    for step in run.report["funnel"]:
        left -= step["removed"]["documents"]
        assert step["left"]["documents"] == left
        assert sum(reason["documents"] for reason in step["reasons"]) == step["removed"]["documents"]
    assert left == run.corpus.manifest.rows


def test_a_finished_run_is_found_and_not_made_again(inputs, run, monkeypatch, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    # From listings alone: no input is opened, and no Ray is started.
    monkeypatch.setattr("raymill.cluster.frame.files.freeze_listing", lambda *_: pytest.fail("the inputs were opened"))
    again = curate_inline(inputs[1], monkeypatch, session=(session := NoRay()), engine=Engine)
    assert not again.fresh and again.report == run.report and session.starts == 0
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_second_run_at_the_same_output_is_refused_while_the_first_is_under_way(inputs, monkeypatch, tmp_path):
    output = str(tmp_path / "busy")
    with held(Store(), output), pytest.raises(BusyError, match=r"another run is writing here: process \d+ of "):
        curate_inline(inputs[1] | {"output": output}, monkeypatch)
    assert [path.name for path in (tmp_path / "busy").iterdir()] == ["_lease"]
    assert curate_inline(inputs[1] | {"output": output}, monkeypatch).fresh


def test_other_settings_are_refused_with_what_differs_and_replace_keeps_what_was_measured(inputs, run, monkeypatch):
    changed = inputs[1] | {"rules": {"gopher_quality": {"min_words": 5}}}
    with pytest.raises(DataError, match=r"rules\.gopher_quality.*min_words.*replace=True"):
        curate_inline(changed, monkeypatch)
    attributes = Artifact.load(Store(), f"{run.uri}/attributes").manifest
    new = curate_inline(changed, monkeypatch, replace=True)
    assert Artifact.load(Store(), f"{run.uri}/attributes").manifest == attributes
    assert ledger(new)["short"]["reason"] != "gopher_short_doc"
    fresh = curate_inline(changed | {"output": f"{run.uri}-2"}, monkeypatch)
    assert fresh.manifest["digest"] == new.manifest["digest"]


def test_changed_input_files_are_noticed(inputs, run, monkeypatch, tmp_path):
    path = tmp_path / "in" / "texts.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(DataError, match="other settings or inputs: the input files changed"):
        curate_inline(inputs[1], monkeypatch)


@pytest.mark.parametrize("part", ["language", "rules", "personal_data", "dedup"])
def test_each_part_can_be_switched_off(inputs, monkeypatch, part):
    run = curate_inline(inputs[1] | {part: None, "corpus": {}}, monkeypatch)
    rows = ledger(run)
    gone = {"language": {"german"}, "rules": {"short"}, "personal_data": set(), "dedup": {"copy", "near"}}[part]
    stages = {row["stage"] for row in rows.values()}
    assert not (gone & set(rows)) or part == "language"
    assert part not in stages
    if part == "personal_data":
        assert any("jane.roe@" in text for text in run.corpus.table()["text"].to_pylist())
    if part == "dedup":
        assert "group_id" not in run.corpus.table().column_names


def test_duplicates_can_be_marked_and_kept(inputs, monkeypatch):
    counted, real = [], write_corpus._kept_bytes
    monkeypatch.setattr(write_corpus, "_kept_bytes", lambda *given: counted.append(given[1]) or real(*given))
    run = curate_inline(inputs[1] | {"dedup": {"remove": False}}, monkeypatch)
    rows = {row["id"]: row for row in run.corpus.table().to_pylist()}
    assert rows["copy"]["group_id"] == rows["s3"]["group_id"] and rows["copy"]["duplicate_count"] == 2
    assert rows["near"]["group_id"] == rows["s4"]["group_id"] != rows["s3"]["group_id"]
    assert counted == [None], "the text of duplicates that stay counts towards the size of a file"


@pytest.mark.parametrize("exact_short", [True, False])
def test_exact_short_decides_whether_a_short_document_has_its_shingles_or_a_signature(inputs, monkeypatch, exact_short):
    run = curate_inline(inputs[1] | {"dedup": {"exact_short": exact_short}}, monkeypatch)
    rows = Artifact.load(Store(), f"{run.uri}/attributes").table(["id", "signature"]).to_pylist()
    sketches = {row["id"]: len(row["signature"]) for row in rows}
    assert sketches["short"] == 4 * (4 if exact_short else 14 * 8) and max(sketches.values()) == 4 * 14 * 8


@pytest.mark.parametrize(
    ("dedup", "kept"),
    [
        ({"keeper": "position"}, "s4"),
        ({"keeper": "longest"}, "near"),
        ({"keeper": "score", "keeper_score": "language_score"}, None),
    ],
)
def test_the_keeper_policy_decides_which_duplicate_stays(inputs, monkeypatch, dedup, kept):
    texts, settings = inputs
    assert len(texts["near"]) > len(texts["s4"])
    run = curate_inline(settings | {"dedup": dedup}, monkeypatch)
    ids = run.corpus.table()["id"].to_pylist()
    assert len({"s4", "near"} & set(ids)) == 1
    assert kept is None or kept in ids


def test_the_pair_shown_of_a_group_is_the_kept_document_and_a_near_duplicate(tmp_path, monkeypatch):
    """An exact copy would show no difference."""
    texts = {"first": story(4), "copy": story(4), "near": story(4).replace("chapter 47", "chapter fortyseven")}
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items()))
    settings = {"inputs": [{"path": str(path), "id": "id"}], "language": None, "rules": None}
    run = curate_inline(settings | {"output": str(tmp_path / "run")}, monkeypatch)
    groups = Artifact.load(Store(), f"{run.uri}/_work/groups").table()
    assert groups["reason"].to_pylist() == [None, "exact_duplicate", "near_duplicate"]
    assert groups["shown"].to_pylist() == [True, False, True]


def test_a_scope_keeps_duplicates_of_other_sources_apart(inputs, monkeypatch, tmp_path):
    shutil.copytree(tmp_path / "in", tmp_path / "in2")
    first = inputs[1]["inputs"][0]
    both = [first, first | {"source": "second", "path": str(tmp_path / "in2")}]
    every = curate_inline(inputs[1] | {"inputs": both}, monkeypatch)
    apart = curate_inline(
        inputs[1] | {"inputs": both, "dedup": {"scope": "source"}, "output": str(tmp_path / "apart")}, monkeypatch
    )
    assert set(every.corpus.table()["source"].to_pylist()) == {"stories"}
    assert apart.corpus.table()["source"].to_pylist().count("second") == 31
    preferred = {"dedup": {"keeper": "source", "sources": ["second"]}, "output": str(tmp_path / "preferred")}
    chosen = curate_inline(inputs[1] | {"inputs": both} | preferred, monkeypatch).corpus.table()
    assert set(chosen["source"].to_pylist()) == {"second"}


def test_one_text_that_two_sources_hold_twice_stays_once_in_each_where_sources_are_the_scope(tmp_path, monkeypatch):
    sources = []
    for name in ("a", "b"):
        rows = [{"id": f"{name}{number}", "text": story(1)} for number in range(2)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append({"source": name, "path": str(tmp_path / f"{name}.jsonl"), "id": "id"})
    settings = {"inputs": sources, "language": None, "rules": None}
    kept = {
        scope: curate_inline(settings | {"dedup": {"scope": scope}, "output": str(tmp_path / scope)}, monkeypatch)
        .corpus.table()["id"]
        .to_pylist()
        for scope in ("source", "all")
    }
    assert kept == {"source": ["a0", "b0"], "all": ["a0"]}


def test_the_result_does_not_depend_on_the_size_of_units(inputs, monkeypatch, tmp_path):
    """At most eight parts of a row group a unit, or all in one: the same rows in the same order, the same ledger."""
    found, units = [], []
    for number, unit_bytes in enumerate((1, 20_000, 1 << 30)):
        monkeypatch.setattr(
            "raymill.cluster.frame.files.freeze_listing",
            lambda listing, *_, size=unit_bytes: freeze_listing(listing, size),
        )
        run = curate_inline(inputs[1] | {"output": str(tmp_path / f"units{number}")}, monkeypatch)
        units.append(len({file.unit for file in Artifact.load(Store(), f"{run.uri}/attributes").manifest.files}))
        rows = sorted(ledger(run).items())
        found.append((run.corpus.table(), rows))
    assert units[0] == 35 > units[1] > units[2] == 1, "a unit a row: row groups have at most 8"
    assert all(table.equals(found[0][0]) and rows == found[0][1] for table, rows in found)


def test_the_result_does_not_depend_on_how_grouping_is_cut(inputs, monkeypatch, tmp_path):
    """Of ranges of some documents, a unit of select reads the groups of two or three."""
    settings = inputs[1] | {"execution": {"unit_mib": 1}}
    found = []
    cut = {"documents": 7, "pairs": 100, "batch": 2}
    for number, sizes in enumerate((DEFAULT_SIZES, Sizes(**cut), Sizes(**cut, fan=2))):
        monkeypatch.setattr(job, "run_stages", partial(run_stages, sizes=sizes))
        run = curate_inline(settings | {"output": str(tmp_path / f"cut{number}")}, monkeypatch)
        groups = Artifact.load(Store(), f"{run.uri}/_work/groups")
        assert (len(groups.manifest.files) > 1) == bool(number)
        found.append(
            (run.corpus.manifest.digest, sorted(ledger(run).items()), run.report["funnel"], run.report["groups"])
        )
    assert found[0] == found[1] == found[2]
    assert any(row["reason"] == "near_duplicate" for _, row in found[0][1])


def test_only_the_groups_of_a_unit_are_read_for_it(tmp_path, monkeypatch):
    """Groups are sorted by unit and cut into row groups; what cannot hold a wanted unit is passed over."""
    rows = [{"unit": unit, "row": row} for unit in range(6) for row in range(4)]
    table = pa.Table.from_pylist(rows, GROUPS_SCHEMA)
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=8)
    read = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda file, at, **kw: read.append(at) or real(file, at, **kw)
    )
    files = [str(tmp_path / "groups.parquet")]
    found = groups_in(Store(), [MeasuredUnit(Unit(unit, "x", 0, ()), 0, [], [], files) for unit in (2, 3)])
    assert found["unit"].to_pylist() == [2] * 4 + [3] * 4
    assert read == [1]


def test_unreadable_documents_are_quarantined_and_too_many_end_the_run(tmp_path, monkeypatch):
    lines = [json.dumps({"text": story(n), "id": f"s{n}"}) for n in range(20)]
    lines[7] = '{"text": "broken'
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    settings = {"inputs": [{"path": str(tmp_path / "in.jsonl"), "id": "id"}], "output": str(tmp_path / "run")}
    with pytest.raises(DataError, match=r"1 of 20 documents could not be read(.|\n)*byte \d+(.|\n)*max_bad_documents"):
        curate_inline(settings, monkeypatch)
    run = curate_inline(settings | {"execution": {"max_bad_documents": 0.1}}, monkeypatch)
    assert run.corpus.manifest.rows == 19
    assert [(q["problem"], q["documents"]) for q in run.report["quarantine"]] == [("broken_json", 1)]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('[{"text": "a"}]', "one JSON array; write one object a line"),
        ('{"text": "a"}\r{"text": "b"}\r', "carriage returns alone; make them line feeds"),
    ],
)
def test_the_cause_that_spoils_a_whole_file_is_named_with_its_fix(tmp_path, monkeypatch, content, hint):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(content, newline="")
    (tmp_path / "in" / "b.jsonl").write_text("".join(json.dumps({"text": story(n)}) + "\n" for n in range(3)))
    settings = {"inputs": [{"path": str(tmp_path / "in")}], "output": str(tmp_path / "run")}
    with pytest.raises(DataError, match=rf"{hint}.*a\.jsonl byte 0"):
        curate_inline(settings, monkeypatch)
    run = curate_inline(settings | {"execution": {"max_bad_documents": 0.5}}, monkeypatch)
    assert any(hint in warning and "a.jsonl" in warning for warning in run.report["warnings"])


def test_everything_removed_is_a_warning_and_not_a_crash(inputs, monkeypatch):
    run = curate_inline(inputs[1] | {"language": {"keep": ["ja"]}}, monkeypatch)
    assert run.corpus.manifest.rows == 0
    assert any("empty" in warning for warning in run.report["warnings"])


def test_explain_tells_what_became_of_a_document(run):
    assert "gopher_short_doc" in explain(RunReader(Store(), run.uri), "short") and "8 is under the least" in explain(
        RunReader(Store(), run.uri), "short"
    )
    near = explain(RunReader(Store(), run.uri), "near")
    assert "near_duplicate of s4" in near and "[-47-]{+fortyseven+}" in near
    assert "outcome   kept, standing for a group of 2 duplicates" in explain(RunReader(Store(), run.uri), "s3")
    with pytest.raises(DataError, match="no document has id 'nobody'"):
        explain(RunReader(Store(), run.uri), "nobody")


def test_what_if_counts_what_other_settings_would_do_and_agrees_with_doing_it(inputs, run, monkeypatch):
    before = CurateConfig.model_validate({"kind": "curate", "name": "test"} | inputs[1])
    settings = inputs[1] | {"rules": {"gopher_quality": {"min_words": 5}}, "language": {"keep": ["en", "de"]}}
    after = CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)
    found = compare_decisions(before, after)
    done = curate_inline(settings | {"dedup": None, "output": f"{run.uri}-3", "corpus": {}}, monkeypatch)
    assert found["total"]["after"]["documents"] == done.corpus.manifest.rows
    reasons = {entry["reason"]: entry for entry in found["reasons"]}
    assert reasons["gopher_short_doc"]["first"]["before"]["documents"] == 1
    assert reasons["gopher_short_doc"]["alone"]["before"]["documents"] == 2  # German is short too, but goes before
    assert reasons["gopher_short_doc"]["first"]["after"]["documents"] == 0
    assert found["languages"]["de"]["before"]["documents"] == 0
    assert "gopher_short_doc" in table_text(found)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"language": {"keep": ["en"], "max_chars": 500}}, r"config: language.max_chars would be measured"),
        ({"dedup": {"ngram_words": 3}}, r"config: dedup.ngram_words would be measured"),
    ],
)
def test_what_if_refuses_what_it_cannot_answer_and_names_it(inputs, run, change, error):
    before = CurateConfig.model_validate({"kind": "curate", "name": "test"} | inputs[1])
    after = CurateConfig.model_validate({"kind": "curate", "name": "test"} | inputs[1] | change)
    with pytest.raises((DataError, ConfigError), match=error):
        compare_decisions(before, after)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"language": {"keep": ["english"]}}, "Did you mean en"),
        ({"language": {"model": "no/such.bin"}}, "no/such.bin"),
        ({"rules": {"bad_words": {"paths": {"en": "no/such.txt"}}}}, "no/such.txt"),
    ],
)
def test_a_label_or_file_that_is_not_there_is_refused_before_any_work(inputs, monkeypatch, tmp_path, change, error):
    with pytest.raises(UserError, match=error):
        curate_inline(inputs[1] | change, monkeypatch)
    assert not (tmp_path / "run").exists()


def test_everything_switched_off_still_makes_a_corpus(inputs, monkeypatch):
    off = {"language": None, "rules": None, "personal_data": None, "dedup": None, "corpus": {}}
    run = curate_inline(inputs[1] | off, monkeypatch)
    assert run.corpus.manifest.rows == len(inputs[0])
    assert run.corpus.table().column_names == ["id", "text", "source", "year"]


def test_a_carried_column_and_a_signal_cannot_have_one_name(inputs):
    entry = inputs[1]["inputs"][0] | {"columns": ["gopher_words"]}
    settings = inputs[1] | {"inputs": [entry], "corpus": {"columns": ["gopher_words"]}}
    with pytest.raises(ValidationError, match="gopher_words is also a carried column"):
        CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)


def test_a_kept_language_that_loses_everything_is_a_warning(inputs, monkeypatch):
    run = curate_inline(inputs[1] | {"language": {"keep": ["en", "de"]}}, monkeypatch)
    assert (
        "Language de is in language.keep, but the corpus has no document in it; 1 in the input."
        in run.report["warnings"]
    )


def test_a_sample_is_of_all_tables_and_not_of_the_first(tmp_path):
    """Of 0 + 1 + .. + 19 rows in tables of one row or more; ten of them, for five seeds."""
    artifact = run_inline(counting_stage(20), str(tmp_path))["numbers"]
    for seed in range(5):
        units = [row["unit"] for row in sample_rows(Store(), artifact.uri, 10, [], seed)]
        assert len(units) == 10 and max(units) > 10, f"seed {seed}: all from the first quarter of the rows"


def test_sample_finds_rows_by_value_and_says_what_there_is(run):
    rows = sample_rows(Store(), f"{run.uri}/removed", 5, ["reason=gopher_quality_gopher_short_doc"], 1)
    assert [row["id"] for row in rows] == ["short"]
    assert sample_rows(Store(), run.uri, 2, [], 1) == sample_rows(Store(), run.uri, 2, [], 1)
    with pytest.raises(ConfigError, match="reason there holds: exact_duplicate"):
        sample_rows(Store(), run.uri, 5, ["reason=nonsense"], 1)
    with pytest.raises(ConfigError, match="wanted COLUMN=VALUE"):
        sample_rows(Store(), run.uri, 5, ["colour=red"], 1)
    with pytest.raises(ConfigError, match=r"quarantine: no row has problem=x: it has no rows\.$"):
        sample_rows(Store(), f"{run.uri}/quarantine", 5, ["problem=x"], 1)
