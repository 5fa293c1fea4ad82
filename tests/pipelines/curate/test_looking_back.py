"""Messages of `explain`, `sample` and `what-if`, and of a run at the output of another one."""

import io
import itertools
import json
import os
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster import cli
from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import RetryLimits
from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.progress import Progress, ProgressLines
from raymill.cluster.run import differences
from raymill.cluster.session import Session
from raymill.cluster.stage import discard
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import check_models_and_lists
from raymill.pipelines.curate.questions.explain import _duplicate_count, explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.sample import sample_rows
from raymill.pipelines.curate.questions.what_if import _units, compare_decisions, table_text
from raymill.pipelines.curate.stages import ids
from raymill.pipelines.curate.stages.ids import row_at
from tests.support.inline import InlineEngine, NoRay, curate_inline
from tests.support.stories import story


def write(path, rows) -> str:
    """Rows of (id, text), or a line as it is, as a JSON lines file."""
    lines = (row if isinstance(row, str) else json.dumps(dict(zip(("id", "text"), row, strict=True))) for row in rows)
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


@pytest.fixture
def settings(tmp_path):
    """Nine documents, two of them with id j0, an exact copy of the first of these, and a line that is no JSON."""
    rows = [("j0", story(0)), *((f"s{n}", story(n)) for n in range(1, 7)), ("copy", story(0)), ("j0", story(50))]
    return {
        "inputs": [{"path": write(tmp_path / "in.jsonl", [*rows, "{broken"]), "id": "id"}],
        "output": str(tmp_path / "run"),
        "execution": {"max_bad_documents": 0.5},
    }


def config_of(settings: dict) -> CurateConfig:
    return CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)


scan = RunReader._scan


def test_null_for_a_pack_leaves_it_out(settings, monkeypatch):
    packs = ("gopher_quality", "c4", "fineweb")
    assert config_of(settings | {"rules": {"gopher_repetition": None}}).rules.packs == packs
    assert config_of(settings | {"rules": {"packs": ["c4", "fineweb"], "c4": None}}).rules.packs == ("fineweb",)
    curate_inline(settings, monkeypatch)
    without = config_of(settings | {"rules": (settings.get("rules") or {}) | {"c4": None}})
    reasons = compare_decisions(config_of(settings), without)["reasons"]
    assert {one["stage"] for one in reasons if one["first"]["after"]["documents"]} & {"c4"} == set()


def test_a_document_of_a_unit_that_the_inputs_lack_is_an_error_that_names_the_run(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    path = f"{run.uri}/inputs.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    for ask in (
        lambda: explain(RunReader(Store(), run.uri), "s1"),
        lambda: sample_rows(Store(), run.uri, 3, (), 1, texts_from=()),
    ):
        with pytest.raises(DataError, match=r"run: its attributes are of unit 0, and inputs\.parquet has 0 units"):
            ask()


@pytest.mark.parametrize("threshold", [0.7, 0.95])
def test_another_threshold_finds_duplicates_again(settings, monkeypatch, tmp_path, threshold):
    words = story(5).split()
    texts = {"a": " ".join(words), "c": story(6)}
    for name, changed in (("b", 13), ("d", 1), ("e", 4)):
        texts[name] = " ".join([*words[:-changed], *(f"w{n}" for n in range(changed))])
    write(tmp_path / "b.jsonl", list(texts.items()))
    settings |= {"inputs": [{"path": str(tmp_path / "b.jsonl"), "id": "id"}], "rules": None, "language": None}
    there = settings | {"output": str(tmp_path / "there"), "dedup": {"threshold": threshold}}
    before, after = config_of(settings), config_of(settings | {"dedup": {"threshold": threshold}})
    removed = curate_inline(settings, monkeypatch).report["totals"]
    monkeypatch.setattr("raymill.pipelines.curate.questions.what_if.Engine", InlineEngine)
    shown = io.StringIO()
    found = compare_decisions(before, after, Session(progress=ProgressLines(shown)))
    assert "group: 0/1 unit\n" in shown.getvalue()
    assert found["deduplicated"] and found["total"]["before"]["documents"] == removed["corpus"]["documents"]
    wanted = curate_inline(there, monkeypatch).report["totals"]["corpus"]
    assert found["total"]["after"] == wanted != found["total"]["before"]


def test_other_rules_and_another_threshold_are_two_questions(settings, monkeypatch):
    curate_inline(settings, monkeypatch)
    changed = config_of(settings | {"rules": None, "dedup": {"threshold": 0.9}})
    with pytest.raises(ConfigError, match=r"dedup\.threshold: what-if finds duplicates again .* nothing but `dedup`"):
        compare_decisions(config_of(settings), changed)


def test_explain_tells_documents_of_one_id_apart(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    first, second = explain(RunReader(Store(), run.uri), "j0").split("\n\n")
    assert "outcome   kept, standing for a group of 2 duplicates\nposition  unit 0, row 0 " in first
    assert "outcome   kept\nposition  unit 0, row 8 " in second


def test_explain_finds_a_document_by_the_index_and_without_one(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    monkeypatch.setattr(ids, "id_hash", lambda id: 7 + (id == "s1"))  # all other ids have one hash
    stage = ids.index_stage(RunReader(Store(), run.uri).attributes)
    discard(stage, run.uri)
    InlineEngine(run.uri, NoRay(), Progress(), RetryLimits(1, 900, 0), replace=False).run(stage)
    reader = RunReader(Store(), run.uri)
    index = reader.artifact(ids.ID_INDEX)
    assert index.table().to_pydict() == {"hash": [7] * 8 + [8], "position": [0, *range(2, 9), 1]}
    by_index = [explain(reader, id) for id in ("j0", "s1", "s6", "copy")]
    asked = []
    monkeypatch.setattr(RunReader, "_scan", lambda self, column, id: asked.append(id) or scan(self, column, id))
    assert [explain(reader, "s1"), explain(reader, "j0")] == [by_index[1], by_index[0]] and not asked
    discard(stage, run.uri)
    assert [explain(reader, id) for id in ("j0", "s1", "s6", "copy")] == by_index and len(asked) == 4


def test_an_artifact_without_the_row_that_another_one_names_is_named(settings, monkeypatch):
    attributes = RunReader(Store(), curate_inline(settings, monkeypatch).uri).attributes
    with pytest.raises(DataError, match="attributes: has fewer rows than the run names"):
        row_at(attributes, attributes.manifest.rows, {"id"}.__contains__)


def test_the_group_of_a_kept_document_is_found_in_a_run_whose_ledger_has_no_positions():
    rows = pa.table({"id": ["a", "b", "a"], "source": ["x", "x", "y"], "duplicate_count": [2, 3, 4]})
    ledger: Any = SimpleNamespace(schema=pa.schema([("id", pa.string())]))
    corpus: Any = SimpleNamespace(schema=rows.schema, tables=lambda columns: iter([rows.select(columns)]))

    def count(id: str, source: str) -> int | None:
        document: Any = SimpleNamespace(attributes={"source": source})
        return _duplicate_count(ledger, corpus, id, document)

    assert [count("a", "x"), count("a", "y"), count("b", "x"), count("b", "y")] == [2, 4, 3, None]


def test_explain_of_an_unknown_id_counts_the_documents_in_quarantine(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    with pytest.raises(
        DataError, match=rf"no document has id 'x'\..* 1 document could .*sample\(.{run.uri}/quarantine.\)`"
    ):
        explain(RunReader(Store(), run.uri), "x")


def test_a_part_of_a_reason_is_no_reason(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    for value in ("near_dup", "exact_dup", "exact"):
        with pytest.raises(ConfigError, match=f"no row has reason={value}. reason there holds: exact_duplicate"):
            sample_rows(Store(), run.uri, 5, [f"reason={value}"], 1)
    for value in ("exact_duplicate", "exact_duplicates", "exact_duplicates_exact_duplicate"):
        assert [row["id"] for row in sample_rows(Store(), run.uri, 5, [f"reason={value}"], 1)] == ["copy"]


def test_reasons_of_one_name_have_their_stage_in_front(settings, monkeypatch, tmp_path):
    write(tmp_path / "in.jsonl", [("a", story(1)), ("none", "")])
    settings |= {"language": None}
    curate_inline(settings, monkeypatch)
    text = table_text(compare_decisions(config_of(settings), config_of(settings)))
    names = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert {"gopher_repetition_empty", "fineweb_empty"} < set(names) and "gopher_short_doc" in names
    assert len(set(names)) == len(names)


def test_differences_name_the_setting_inside_a_list_of_groups():
    before = {"inputs": [{"path": "a", "id": None}, {"path": "b"}], "keep": ["en"]}
    now = {"inputs": [{"path": "c", "id": None}], "keep": ["en", "de"]}
    assert differences(before, now) == [
        'inputs.0.path was "a", now "c"',
        'inputs.1 was {"path": "b"}, now null',
        'keep was ["en"], now ["en", "de"]',
    ]


def test_what_if_names_only_the_settings_that_need_other_measurements(settings, monkeypatch):
    curate_inline(settings, monkeypatch)
    bound = {"language": {"min_score": 0.9}}
    compare_decisions(config_of(settings), config_of(settings | bound))
    changed = settings | bound | {"rules": {"c4": {"remove_citations": False}}}
    with pytest.raises(DataError, match=r"the changed config: rules\.c4\.remove_citations would be "):
        compare_decisions(config_of(settings), config_of(changed))
    without = settings | bound | {"rules": None}
    compare_decisions(config_of(without), config_of(settings))
    curate_inline(without | {"output": f"{settings['output']}-2"}, monkeypatch)
    moved = {"output": f"{settings['output']}-2"}
    with pytest.raises(DataError, match=r"fit the changed config: rules would be "):
        compare_decisions(config_of(without | moved), config_of(settings | moved))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"boilerplate": {"max_documents": 2}}, "boilerplate.max_documents: what-if"),
        ({"boilerplate": None}, "boilerplate: what-if"),
        ({"repeats": {"cut": False}}, "repeats.cut: what-if"),
        ({"boilerplate": None, "repeats": {"min_words": 20, "cut": True}}, "boilerplate, repeats.min_words: what-if"),
    ],
)
def test_what_if_refuses_other_cuts_and_names_the_setting(settings, monkeypatch, change, named):
    settings |= {"boilerplate": {}, "repeats": {"cut": True}}
    curate_inline(settings, monkeypatch)
    fix = re.escape("report.html. Compare without this change, or run `raymill.curate` with it and another output.")
    with pytest.raises(ConfigError, match=f"^{re.escape(named)} counts .* this run cut is in .*/{fix}$"):
        compare_decisions(config_of(settings), config_of(settings | change))


@pytest.mark.parametrize(
    ("cuts", "not_counted"),
    [
        ({}, []),
        ({"repeats": {}}, []),  # listed, and not cut
        ({"boilerplate": {}, "repeats": {"cut": True}}, ["boilerplate", "repeats"]),
    ],
)
def test_what_if_says_which_cuts_it_does_not_count(settings, monkeypatch, tmp_path, cuts, not_counted):
    settings |= {"language": None, "rules": None} | cuts
    settings["inputs"] = [{"path": write(tmp_path / "in.jsonl", [(f"s{n}", story(n) + "\nHome") for n in range(9)])}]
    curate_inline(settings, monkeypatch)
    found = compare_decisions(config_of(settings), config_of(settings | {"dedup": None}))
    assert found["not_counted"] == not_counted
    assert found["total"]["after"]["documents"] == 9
    assert ("Not counted: " in table_text(found)) == bool(not_counted)


LOREM, CURLY, BOTH = "lorem ipsum dolor sit", "if a { b c", "lorem ipsum dolor {"
SCRIPT, POLICY = "lorem ipsum { in javascript", "if a { our privacy policy"


def test_what_if_without_checks_of_c4_agrees_with_runs_without_them(settings, monkeypatch, tmp_path, run_cli):
    prose = [f"This is line number {number}." for number in range(5)]
    ends = [[], [LOREM], [CURLY], [BOTH], [SCRIPT], [POLICY], [LOREM, CURLY], [CURLY, LOREM], [SCRIPT, CURLY, BOTH]]
    # The second document of each pair has too few sentences if its last line is removed.
    rows = [(f"{at} {start}", "\n".join(prose[start:] + end)) for at, end in enumerate(ends) for start in (0, 1)]
    settings |= {"inputs": [{"path": write(tmp_path / "in.jsonl", rows), "id": "id"}], "language": None, "dedup": None}
    runs = {}
    for switches in itertools.product((True, False), repeat=2):
        c4 = dict(zip(("drop_lorem_ipsum", "drop_curly_bracket"), switches, strict=True))
        config = settings | {"rules": {"packs": ["c4"], "c4": c4}, "output": f"{tmp_path}/run-{len(runs)}"}
        run = curate_inline(config, monkeypatch)
        path = tmp_path / f"{len(runs)}.yaml"
        path.write_text(json.dumps({"kind": "curate", "name": "test"} | config))
        ledger = Artifact.load(Store(), f"{run.uri}/removed").table()
        overrides = [word for name, on in c4.items() for word in ("-o", f"rules.c4.{name}={str(on).lower()}")]
        runs[path] = (overrides, Counter(ledger["reason"].to_pylist()))
    assert len({str(removed) for _, removed in runs.values()}) == 4
    for path in runs:
        for overrides, removed in runs.values():
            code, out, err = run_cli("what-if", str(path), *overrides, "--json")
            assert (code, err) == (0, "")
            assert (
                +Counter({one["reason"]: one["first"]["after"]["documents"] for one in json.loads(out)["reasons"]})
                == removed
            )


def test_a_changed_input_of_a_finished_run_is_named(settings, monkeypatch, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate("abc"):
        write(folder / f"{name}.jsonl", [(name, story(number))])
    settings |= {"inputs": [{"path": str(folder)}]}
    curate_inline(settings, monkeypatch)
    (folder / "b.jsonl").rename(folder / "d.jsonl")
    write(folder / "c.jsonl", [("c", story(2)), ("e", story(3))])
    os.utime(folder / "a.jsonl", (1, 1))
    found = "1 new: d.jsonl; 1 gone: b.jsonl; 2 changed: a.jsonl (same size, another time stamp or ETag), c.jsonl)"
    with pytest.raises(DataError, match=re.escape(f"the input files changed ({found}")):
        curate_inline(settings, monkeypatch)


def test_a_source_without_a_document_has_a_warning(settings, monkeypatch, tmp_path):
    sources = {"good": [("a", story(1))], "blank": [""], "bad": ["{"] * 20, "worse": ["{"]}
    inputs = [{"source": name, "path": write(tmp_path / f"{name}.jsonl", rows)} for name, rows in sources.items()]
    run = curate_inline(settings | {"inputs": inputs, "execution": {"max_bad_documents": 1}}, monkeypatch)
    assert {
        "Source blank: no document in its 1 file.",
        "Source bad: none of its 20 rows could be read (broken_json).",
        "Source worse: its only row could not be read (broken_json).",
    } < set(run.report["warnings"])
    assert not any(warning.startswith("Source good") for warning in run.report["warnings"])


def test_a_dry_run_warns_of_more_unreadable_rows_than_the_run_allows(settings, tmp_path, capsys):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"kind": "curate", "name": "test"} | settings))
    for allowed, warned in (("0.05", True), ("0.1", False)):
        with pytest.raises(SystemExit) as left:
            cli.main(("curate", str(path), "--dry-run", "-o", f"execution.max_bad_documents={allowed}"))
        assert left.value.code == 0
        note = "note     10.0% of the rows seen cannot be read, and the run allows 5.0%"
        assert (note in (out := capsys.readouterr().out)) == warned
        assert ("with -o execution.max_bad_documents=0.1." in out) == warned


def test_the_bound_that_a_dry_run_proposes_allows_the_rows_it_saw(settings, tmp_path, capsys):
    write(tmp_path / "in.jsonl", [*((f"s{n}", story(n)) for n in range(8)), "{broken"])  # 11.1%
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"kind": "curate", "name": "test"} | settings))
    notes = []
    for allowed in ("0.11", "0.12"):
        with pytest.raises(SystemExit):
            cli.main(("curate", str(path), "--dry-run", "-o", f"execution.max_bad_documents={allowed}"))
        notes.append([line for line in capsys.readouterr().out.splitlines() if "the run allows" in line])
    assert notes[1] == [] and "allow more with -o execution.max_bad_documents=0.12." in notes[0][0]


def test_what_is_wrong_with_models_and_lists_is_reported_together(settings, tmp_path):
    absent = str(tmp_path / "absent")
    rules = {
        "packs": [],
        "url_blocklist": {"paths": [absent]},
        "bad_words": {"paths": {"en": absent}},
        "quality_classifier": {"model": absent, "label": "hq"},
    }
    inputs = [one | {"columns": ["url"]} for one in settings["inputs"]]
    config = config_of(settings | {"inputs": inputs, "language": {"keep": ["eng"]}, "rules": rules})
    with pytest.raises(ConfigError) as refused:
        check_models_and_lists(config.filters, config.store)
    lines = str(refused.value).splitlines()
    assert len(lines) == 4 and lines[0].startswith("language.keep: 'eng' is not a label of lid.176.ftz")
    assert all(absent in line for line in lines[1:])
    alone = config_of(settings | {"rules": {"packs": [], "bad_words": {"paths": {"en": absent}}}})
    with pytest.raises(StorageError, match="absent"):
        check_models_and_lists(alone.filters, alone.store)


@pytest.mark.parametrize(
    ("sample", "units"),
    [
        (None, range(0, 20, 2)),
        (250, range(0, 20, 2)),
        (100, range(0, 20, 2)),
        (99, range(0, 20, 2)),
        (30, [2, 10, 16]),
        (1, [10]),
    ],
)
def test_a_sample_for_what_if_is_of_units_from_all_over_the_run(sample, units):
    rows = [10, 0] * 10  # every second unit has no document
    attributes = SimpleNamespace(
        rows_by_unit=lambda count: rows,
        files_by_unit=lambda count: [[f"{unit}.parquet"] for unit in range(count)],
        manifest=SimpleNamespace(rows=sum(rows)),
    )
    run = SimpleNamespace(inputs=SimpleNamespace(units=rows), attributes=attributes)
    assert [unit.index for unit in _units(run, None, sample)] == list(units)


def sides(before: int, after: int) -> dict:
    """20 characters a document."""
    return {
        name: {"documents": count, "characters": 20 * count, "tokens_estimate": 5 * count}
        for name, count in (("before", before), ("after", after))
    }


def reason(stage: str, name: str, before: int, after: int, alone: tuple[int, int] | None = None) -> dict:
    found = {"stage": stage, "reason": name, "first": sides(before, after)}
    return found | {"alone": alone and sides(*alone)}


@pytest.mark.parametrize("sample", [False, True])
def test_a_comparison_is_shown_with_what_changes_and_the_largest_change_first(sample):
    comparison = {
        "documents": {"decided": 1500, "of": 2000 if sample else 1500},
        "deduplicated": not sample,
        "not_counted": ["boilerplate", "repeats"] if sample else [],
        "total": sides(1200, 1100),
        "sources": {"same": sides(1, 1), "more": sides(10, 60), "fewer": sides(1189, 1039)},
        "languages": {"en": sides(7, 7)},
        "reasons": [
            reason("c4", "few", 100, 250, (150, 1300)),
            reason("fineweb", "empty", 3, 0),
            reason("gopher_repetition", "empty", 0, 0, (0, 5)),
            reason("c4", "none", 0, 0, (0, 0)),
            reason("c4", "unchanged", 0, 0),
        ],
    }
    rows = [re.split(r"  +", line.strip()) for line in table_text(comparison).splitlines()]
    first = [
        ["Not counted: text that boilerplate and repeats cut, and documents removed for it."],
        ["A sample: 1,500 of 2,000 documents, from units at even distances."],
    ] * sample
    stays = "stays (before deduplication)" if sample else "stays"
    assert rows == [
        *first,
        [stays, "before", "after", "change"],
        ["documents", "1,200", "1,100", "-100"],
        ["characters", "24,000", "22,000", "-2,000"],
        ["tokens, about", "6,000", "5,500", "-500"],
        [""],
        ["sources that change (documents, tokens)"],
        ["fewer", "1,189", "1,039", "-150"],
        ["tokens, about", "5,945", "5,195", "-750"],
        ["more", "10", "60", "+50"],
        ["tokens, about", "50", "300", "+250"],
        [""],
        ["removed documents", "before", "after", "change", "by this check alone"],
        ["few", "100", "250", "+150", "150 -> 1,300"],
        ["fineweb_empty", "3", "0", "-3"],
        ["gopher_repetition_empty", "0", "0", "+0", "0 -> 5"],
    ]


class StopsAfterMeasure(InlineEngine):
    def run(self, stage):
        if stage.name != "measure":
            raise KeyboardInterrupt
        return super().run(stage)


def test_an_input_that_changed_between_two_attempts_is_named(settings, monkeypatch, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate("abc"):
        write(folder / f"{name}.jsonl", [(name, story(number))])
    settings |= {"inputs": [{"path": str(folder)}]}
    with pytest.raises(KeyboardInterrupt):
        curate_inline(settings, monkeypatch, engine=StopsAfterMeasure)
    write(folder / "b.jsonl", [("b", story(1)), ("e", story(3))])
    for _ in range(2):  # the refusal does not forget what it compared with
        with pytest.raises(DataError, match=r"an unfinished run with other .* changed \(1 changed: b\.jsonl\)"):
            curate_inline(settings, monkeypatch)
    write(folder / "b.jsonl", [("b", story(1))])
    run = curate_inline(settings, monkeypatch, replace=True)
    assert run.report["totals"]["input"]["documents"] == 3


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"limits": {"max_document_bytes": 1000}}, "limits.max_document_bytes was 10000000, now 1000"),
        ({"dedup": {"threshold": 0.7}}, "dedup.threshold was 0.8, now 0.7"),
    ],
)
def test_a_changed_setting_is_named_for_a_finished_and_for_an_unfinished_run(
    settings, monkeypatch, tmp_path, other, named
):
    run = tmp_path / "run"
    curate_inline(settings, monkeypatch)
    for gone in (None, run / "manifest.json", run / "_work" / "kept" / "_manifest.json"):
        if gone:
            gone.unlink()
        for _ in range(2):  # the refusal does not forget what it compared with
            with pytest.raises(DataError, match=rf"other settings or inputs: {re.escape(named)}\. .*replace=True"):
                curate_inline(settings | other, monkeypatch)
    curate_inline(settings, monkeypatch)


def test_a_damaged_artifact_of_an_unfinished_run_is_made_again(settings, monkeypatch, tmp_path):
    curate_inline(settings, monkeypatch)
    (tmp_path / "run" / "manifest.json").unlink()
    (quarantined,) = (tmp_path / "run" / "quarantine").glob("*.parquet")
    quarantined.unlink()
    with pytest.raises(DataError, match=r"max_bad_documents"):
        curate_inline(settings | {"execution": {"max_bad_documents": 0.05}}, monkeypatch)
    assert len([*(tmp_path / "run" / "quarantine").glob("*.parquet")]) == 1


@pytest.fixture
def pages(settings, monkeypatch, tmp_path):
    """A run of documents with URLs and other carried columns, of which every third is removed, and of text files."""
    rows = [
        {"text": story(n) if n % 3 else "short", "url": f"http://x/{n}", "reason": f"r{n}", "stars": str(n)}
        for n in range(12)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("one", story(20)), ("two", "short too"), ("three", story(21))):
        (tmp_path / f"{name}.txt").write_text(text)
    carried = ["url", "reason", "stars"]
    inputs = [
        {"source": "web", "path": str(tmp_path / "a.jsonl"), "columns": carried},
        {"source": "files", "path": f"{tmp_path}/*.txt"},
    ]
    return curate_inline(settings | {"inputs": inputs}, monkeypatch)


def test_the_ledger_has_the_carried_columns(pages):
    rows = Artifact.load(Store(), f"{pages.uri}/removed").table().to_pylist()
    assert [(row["url"], row["input_reason"], row["stars"]) for row in rows[:4]] == [
        (f"http://x/{n}", f"r{n}", str(n)) for n in (0, 3, 6, 9)
    ]
    assert [row["url"] for row in rows[4:]] == [None] and {row["source"] for row in rows[4:]} == {"files"}
    assert all(row["reason"] != row["input_reason"] for row in rows)


def test_explain_finds_a_document_by_a_carried_column_or_its_file(pages, tmp_path):
    run = RunReader(Store(), pages.uri)
    for n in range(12):
        (outcome,) = [line for line in explain(run, f"http://x/{n}").splitlines() if line.startswith("outcome")]
        assert ("removed" in outcome) == (n % 3 == 0)
        assert f"row {n}, " in explain(run, f"r{n}")
    assert "outcome   kept" in explain(run, str(tmp_path / "one.txt"))
    assert "outcome   removed" in explain(run, str(tmp_path / "two.txt"))
    with pytest.raises(DataError, match=r"has id 'http://y/', and none has it in url, reason, stars"):
        explain(run, "http://y/")


@pytest.mark.parametrize(
    ("where", "urls"),
    [
        (["url=http://x/3"], [3]),
        (["url!=http://x/3", "source=web"], [0, 6, 9]),
        (["stars<6"], [0, 3]),
        (["stars >= 6"], [6, 9]),
        (["position>3", "position<=6"], [6]),
        (["url in http://x/0, http://x/9"], [0, 9]),
        (["input_reason > r3"], [6, 9]),
    ],
)
def test_a_sample_can_be_limited_by_comparisons(pages, where, urls):
    rows = sample_rows(Store(), pages.uri, 20, where, 1)
    assert sorted(row["url"] for row in rows) == [f"http://x/{n}" for n in urls]


def test_a_comparison_that_cannot_be_made_is_refused(pages):
    with pytest.raises(ConfigError, match=r"removed, position<a: position is int64, with which 'a' cannot be compared"):
        sample_rows(Store(), pages.uri, 20, ["position<a"], 1)
    with pytest.raises(ConfigError, match=r"no row has stars in 7,8"):
        sample_rows(Store(), pages.uri, 20, ["stars in 7,8"], 1)


def test_a_sample_of_the_ledger_can_have_the_texts(pages):
    rows = sample_rows(Store(), pages.uri, 20, [], 1, ())
    assert sorted(row["text"] for row in rows) == ["short"] * 4 + ["short too"]
    with pytest.raises(ConfigError, match="text=True reads the texts of a run's ledger again"):
        sample_rows(Store(), f"{pages.uri}/quarantine", 20, [], 1, ())


def _with_null(table: pa.Table) -> pa.Table:
    return table.set_column(0, table.field(0), pa.nulls(table.num_rows, table.field(0).type))


@pytest.mark.parametrize(
    "change",
    [lambda table: table.drop_columns(["row"]), lambda table: table.cast(table.schema.set(0, pa.field(
        table.schema.names[0], pa.string()))), _with_null],
    ids=["column gone", "other type", "null in a column without nulls"],
)  # fmt: skip
def test_a_changed_file_of_a_run_is_named_by_each_question(settings, monkeypatch, change):
    run = curate_inline(settings, monkeypatch)
    attributes = RunReader(Store(), run.uri).attributes
    uri = attributes.file_uris[0]
    pq.write_table(change(pq.read_table(uri)), uri)
    config = config_of(settings)
    for ask in (
        lambda: explain(RunReader(Store(), run.uri), "0-1"),
        lambda: compare_decisions(config, config_of(settings | {"rules": None})),
        lambda: attributes.table(),
    ):
        with pytest.raises(DataError, match=rf"^{re.escape(uri)}: .*damaged after it was written\. Run the command"):
            ask()
