"""Versions never change, and what differs between two of them is what was changed."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from datasets import load_dataset

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.job import read_assessment
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import PrepareJob, assess_again
from raymill.pipelines.prepare.versions.diff import Beginning, ChangedRecord, compare_versions, psi
from raymill.pipelines.prepare.versions.export import _rows as export_rows
from raymill.pipelines.prepare.versions.export import card, export
from raymill.pipelines.prepare.versions.registry import Registry, Version
from tests.support.inline import prepare_inline
from tests.support.prepared_versions import prepared, rows
from tests.support.sampled import sampled
from tests.support.tickets import answer, question


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(Store(), str(tmp_path / "datasets"))


def test_versions_are_numbered_listed_and_found(tmp_path, monkeypatch, registry):
    first, second = prepared(tmp_path, monkeypatch, "one", rows(20)), prepared(tmp_path, monkeypatch, "two", rows(30))
    made = [
        registry.tag("help", first.uri),
        registry.tag("help", second.uri, note="more"),
        registry.tag("help", first.uri, "good"),
    ]
    assert [one.version for one in made] == ["v1", "v2", "good"]
    assert sorted(one.version for one in registry.versions("help")) == ["good", "v1", "v2"]
    assert registry.find("help:v2").records == {"train": 24, "validation": 3, "test": 3}
    assert registry.tag("help", first.uri, "good") == made[2], "the same again is the same"
    assert registry.tag("help", first.uri) == made[0] and registry.tag("help", second.uri) == made[1]
    with pytest.raises(ConfigError, match=r"help:good is .*one since"):
        registry.tag("help", second.uri, "good")
    with pytest.raises(ConfigError, match=r"has no version v9\. There are"):
        registry.find("help:v9")
    with pytest.raises(ConfigError, match="no data set of this name"):
        registry.find("other")
    with pytest.raises(ConfigError, match="names have letters"):
        registry.tag("../help", first.uri)
    with pytest.raises(DataError, match="nothing: "):
        registry.tag("help", str(tmp_path / "nothing"))


@pytest.mark.parametrize("records", [{"train": 1}, {"train": 1, "validation": 1, "test": 1, "other": 1}])
def test_a_version_whose_record_lacks_a_split_is_refused(records):
    plain = {"name": "help", "version": "v1", "output": "/o", "digest": "d", "note": "", "tagged": ""}
    whole = {"train": 1, "validation": 1, "test": 1}
    assert Version.parse(json.dumps(plain | {"records": whole}).encode()).records == whole
    with pytest.raises(ValueError, match="records are those of train, validation, test"):
        Version.parse(json.dumps(plain | {"records": records}).encode())


def test_an_output_on_another_store_than_the_registry_is_read_only_with_a_config(tmp_path, monkeypatch, registry):
    run = prepared(tmp_path, monkeypatch, "one", rows(20))
    path = tmp_path / "datasets/help" / f"{registry.tag('help', run.uri).version}.json"
    assert registry.readable("help").output == run.uri
    path.write_text(json.dumps(json.loads(path.read_text()) | {"output": "s3://somebody/out"}))
    with pytest.raises(
        ConfigError, match=r"s3://somebody/out, which is not on this machine as the registry is\. .*config=CONFIG"
    ):
        registry.readable("help")
    assert Registry(Store(), registry.uri, any_output=True).readable("help").output == "s3://somebody/out"
    assert registry.find("help").output == "s3://somebody/out", "the log is shown"


@pytest.mark.parametrize(
    ("action", "more"), [("card", []), ("diff", ["help"]), ("export", ["out"]), ("push", ["hf://a/b"])]
)
def test_no_action_reads_an_output_that_only_a_record_names(tmp_path, monkeypatch, registry, run_cli, action, more):
    path = tmp_path / "datasets/help" / "v1.json"
    registry.tag("help", prepared(tmp_path, monkeypatch, "one", rows(20)).uri)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"output": "s3://somebody/out"}))
    monkeypatch.setattr(Store, "list_files", refuse_remote(Store.list_files))
    monkeypatch.setattr(Store, "read_bytes", refuse_remote(Store.read_bytes))
    _, _, err = run_cli("dataset", action, "help", *more, "--registry", registry.uri)
    assert "by its record, its output is s3://somebody/out" in err


def refuse_remote(ask):
    def asked(store, uri, *how, **named):
        assert not uri.startswith("s3:"), uri
        return ask(store, uri, *how, **named)

    return asked


def test_a_tagged_output_is_not_replaced(tmp_path, monkeypatch, registry):
    """Whatever registry the tag is in; the same settings change nothing, and without the tag it is replaced."""
    run = prepared(tmp_path, monkeypatch, "one", rows(20))
    version = registry.tag("help", run.uri)
    assert not prepared(tmp_path, monkeypatch, "one", rows(20), replace=True).fresh
    before = {file: file.read_bytes() for file in (tmp_path / "one").rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match=r"one: tagged as help:v1, and replace=True would remove") as error:
        prepared(tmp_path, monkeypatch, "one", rows(21), replace=True)
    assert f"delete {run.uri}/tags/help/v1.json and run again" in str(error.value)
    after = {file: file.read_bytes() for file in (tmp_path / "one").rglob("*") if file.is_file()}
    assert after == before, "nothing was touched"
    assert [one.manifest.rows for one in version.splits(Store()).values()] == [16, 2, 2]
    (tmp_path / "one/report.json").unlink()
    with pytest.raises(ConfigError, match="tagged as help:v1"):  # it would be made again
        prepared(tmp_path, monkeypatch, "one", rows(20), replace=True)
    (tmp_path / "one/tags/help/v1.json").unlink()
    assert prepared(tmp_path, monkeypatch, "one", rows(21), replace=True).fresh
    assert registry.tag("help", run.uri).version == "v2"
    with pytest.raises(ConfigError, match="tagged as help:v2"):
        prepared(tmp_path, monkeypatch, "one", rows(22), replace=True)


def test_nothing_is_fetched_into_a_tagged_output_and_no_job_that_replaces_it_is_submitted(
    tmp_path, monkeypatch, registry
):
    run = prepared(tmp_path, monkeypatch, "one", rows(20))
    registry.tag("help", run.uri)
    fetched = {"source": "db", "database": {"url": f"sqlite:///{tmp_path}/none.db", "query": "SELECT 1"}}
    with pytest.raises(ConfigError, match="tagged as help:v1"):
        prepare_inline({"inputs": [fetched], "output": run.uri}, monkeypatch, replace=True)
    source = {"path": str(tmp_path / "one.jsonl"), "columns": {"prompt": "q", "completion": "a"}}
    config = {"kind": "prepare", "name": "x", "inputs": [source], "output": run.uri}
    with pytest.raises(ConfigError, match="tagged as help:v1"):
        PrepareJob(PrepareConfig.model_validate(config)).work(replace=True)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_an_output_with_a_cut_file_is_not_tagged_assessed_or_exported(tmp_path, monkeypatch, registry, run_cli, damage):
    """Its manifest was read alone; the gates passed, and an export copied the cut file."""
    run = prepared(tmp_path, monkeypatch, "one", rows(20))
    version = registry.tag("before", run.uri)
    (file,) = run.split("train").file_uris
    Path(file).unlink() if damage == "gone" else Path(file).write_bytes(Path(file).read_bytes()[:-9])
    seen = (
        rf"{re.escape(file)}: {'is gone' if damage == 'gone' else 'has .* bytes, and .* were written'}\. It was damaged"
    )
    for ask in (
        lambda: registry.tag("help", run.uri),
        lambda: card(Store(), version),
        lambda: export(Store(), version, str(tmp_path / "out"), "parquet"),
        lambda: assess_again(Store(), run.uri, Session(), Progress()),
    ):
        with pytest.raises(DataError, match=seen):
            ask()


def test_a_version_whose_output_was_made_again_is_refused(tmp_path, monkeypatch, registry):
    run = prepared(tmp_path, monkeypatch, "one", rows(20))
    version = registry.tag("help", run.uri)
    (tmp_path / "one/tags/help/v1.json").unlink()
    prepared(tmp_path, monkeypatch, "one", rows(21), replace=True)
    with pytest.raises(DataError, match="was made again after help:v1 was tagged"):
        version.splits(Store())


def test_a_tag_with_a_long_note_protects_its_output_and_one_that_would_not_is_refused(tmp_path, monkeypatch, registry):
    run = prepared(tmp_path, monkeypatch, "one", rows(20))
    registry.tag("help", run.uri, note="x" * 100_000)
    with pytest.raises(ConfigError, match="tagged as help:v1"):
        prepared(tmp_path, monkeypatch, "one", rows(21), replace=True)
    with pytest.raises(ConfigError, match=r"help:v2: its record would have 1,0[\d,]+ bytes, .* a shorter note"):
        registry.tag("help", run.uri, "v2", note="x" * (1 << 20))
    assert [one.version for one in registry.versions("help")] == ["v1"]


def test_a_record_of_a_version_of_megabytes_is_refused_by_its_name(tmp_path, monkeypatch, registry, run_cli):
    file = tmp_path / "datasets" / "help" / "v1.json"
    file.parent.mkdir(parents=True)
    plain = {"name": "help", "version": "v1", "output": "/x", "digest": "d", "note": "x" * (2 << 20), "tagged": "",
             "records": dict.fromkeys(SPLITS, 1)}  # fmt: skip
    file.write_text(json.dumps(plain))
    for action in (["log", "help"], ["card", "help"], ["diff", "help", "help"]):
        code, out, err = run_cli("dataset", *action, "--registry", str(file.parents[1]))
        assert code == 2 and str(file) in err and len(out + err) < 1000


@pytest.mark.parametrize(
    "note", ["a\nv9      forged", "\x1b[2J", "\u202etxt.exe", "a\u2028b", "\ud800", "[x](http://a) <b>"]
)
def test_what_others_wrote_into_a_version_forges_no_line_and_no_markup(tmp_path, monkeypatch, registry, run_cli, note):
    run = prepared(tmp_path, monkeypatch, "one", rows(20))
    made = registry.tag("help", run.uri)
    (tmp_path / "datasets").mkdir(exist_ok=True)
    file = Path(registry.uri, "help", "v1.json")
    changed = asdict(made) | {"note": note, "tagged": note, "corrections": {note: 3}}
    file.write_text(json.dumps(changed))
    code, out, _ = run_cli("dataset", "log", "help", "--registry", registry.uri)
    assert code == 0 and len(out.splitlines()) == 2 and "\u202e" not in out and "\x1b" not in out
    text = card(Store(), registry.find("help"))  # which is written and published as it is
    assert not re.search("[\x1b\u2028\u202e\ud800]", text) and "<b>" not in text and "\n[x](" not in text
    assert text.encode().startswith(b"---\npretty_name: help\n")


def test_the_difference_names_what_was_added_removed_and_changed(tmp_path, monkeypatch, registry):
    old = rows(40)
    new = [row | ({"label": "b"} if row["id"] in ("r0", "r2") else {}) for row in rows(44)[3:]]
    new[0]["a"] = "Quite another answer, with other words than before."
    first, second = (
        prepared(tmp_path, monkeypatch, "one", old),
        prepared(tmp_path, monkeypatch, "two", [*new, old[0] | {"label": "b"}]),
    )
    store = Store()
    found = compare_versions(registry.tag("h", first.uri).splits(store), registry.tag("h", second.uri).splits(store))
    assert (found.added, found.removed, found.changed) == (4, 2, 2)
    examples = {what: {one.id: one for one in some} for what, some in found.examples.items()}
    assert examples["added"].keys() == {"r40", "r41", "r42", "r43"} and examples["removed"].keys() == {"r1", "r2"}
    assert examples["added"]["r41"] == ChangedRecord("r41", None, Beginning(question(41), answer(41)))
    assert examples["removed"]["r1"] == ChangedRecord("r1", Beginning(question(1), answer(1)), None)
    assert {id: one.differs for id, one in examples["changed"].items()} == {
        "r0": ("annotations.labels", "metadata.label"), "r3": ("messages",),
    }  # fmt: skip
    assert examples["changed"]["r3"].before == Beginning(question(3), answer(3))
    assert examples["changed"]["r3"].after == Beginning(question(3), new[0]["a"])
    shifts = {one.name: one for one in found.shifts}
    base = {"source", "licence", "domain", "task_type", "language"}
    assert set(shifts) == {"length", "split", "label"} | base
    assert shifts["label"].shares["a"] == (0.5, shifts["label"].shares["a"][1])
    assert shifts["source"].psi == 0 and 0 < shifts["label"].psi < 0.1 and shifts["length"].ks < 0.2


class Changed:
    """An artifact in whose rows the metadata has another field."""

    def __init__(self, artifact, values) -> None:
        self.uri, self.manifest = artifact.uri, artifact.manifest
        metadata = artifact.table()["metadata"].combine_chunks()
        names = [*(field.name for field in metadata.type), "other"]
        other = pa.StructArray.from_arrays([*metadata.flatten(), values], names)
        at = artifact.schema.get_field_index("metadata")
        self.changed = artifact.table().set_column(at, "metadata", other)

    def tables(self):
        yield self.changed


def test_a_version_with_millions_of_values_is_neither_compared_nor_exported(tmp_path, monkeypatch):
    train = prepared(tmp_path, monkeypatch, "one", rows(30)).split("train")
    offsets = pa.array([0] + [5_000_000] * train.rows, pa.int32())
    many = Changed(train, pa.ListArray.from_arrays(offsets, pa.nulls(5_000_000, pa.int8())))
    with pytest.raises(DataError, match="values; at most"):
        compare_versions({"train": train}, {"train": many})
    with pytest.raises(DataError, match="values; at most"):
        next(export_rows(many, "jsonl"))


def test_metadata_of_lists_is_compared(tmp_path, monkeypatch):
    train = prepared(tmp_path, monkeypatch, "one", rows(30)).split("train")
    lists = Changed(train, pa.array([["x"]] * train.rows))
    assert compare_versions({"train": lists}, {"train": lists}).changed == 0


def test_complexity_and_quality_are_compared_as_numbers(tmp_path, monkeypatch):
    runs = []
    for name, scores in (("one", (0.1, 0.9)), ("two", (0.5, 0.5))):
        made = [row | {"score": scores[n % 2]} for n, row in enumerate(rows(30))]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
        columns = {"prompt": "q", "completion": "a", "quality_score": "score"}
        source = {"path": str(tmp_path / f"{name}.jsonl"), "id": "id", "columns": columns}
        settings = {
            "inputs": [source],
            "output": str(tmp_path / name),
            "curriculum": {},
            "assess": {"embeddings": None},
        }
        run = prepare_inline(settings, monkeypatch)
        runs.append({split: run.split(split) for split in ("train", "validation", "test")})
    shifts = {one.name: one for one in compare_versions(*runs).shifts}
    assert shifts["quality_score"].ks == 0.5 and shifts["quality_score"].largest == "median 0.500 -> 0.500"
    assert shifts["complexity"].ks == 0.0 and shifts["length"].ks == 0.0


def test_equal_versions_do_not_differ(tmp_path, monkeypatch):
    run = prepared(tmp_path, monkeypatch, "one", rows(30))
    splits = {name: run.split(name) for name in ("train", "validation", "test")}
    found = compare_versions(splits, splits)
    assert (found.added, found.removed, found.changed) == (0, 0, 0)
    assert {one.psi for one in found.shifts} == {0.0}


def test_the_population_stability_index_by_hand():
    assert psi(np.array([50, 50]), np.array([25, 75])) == pytest.approx(0.25 * np.log(1.5) + 0.25 * np.log(2))
    assert psi(np.array([1, 0]), np.array([0, 1])) == pytest.approx(2 * 0.9999 * np.log(1e4), rel=1e-3)


@pytest.mark.parametrize(
    ("file", "at", "value", "said"),
    [
        ("report.json", ("sources", 0, "splits", "train"), "many", r"report\.json: not the report of this run \(Type"),
        ("report.json", ("config", "split"), 0, r"report\.json: not the report of this run \(Undefined"),
        ("report.json", ("reasons",), 5, r"report\.json: not the report of this run \(Type"),
        ("assessment.json", ("metrics", 1), "s3://x", r"assessment\.json: not the assessment of a run \(metrics\.1: "),
        ("assessment.json", ("metrics", 1, "name"), {}, r"assessment\.json: .* \(metrics\.1\.name: "),
        ("assessment.json", ("gates",), "x", r"assessment\.json: .* \(gates: "),
        ("assessment.json", ("findings", "languages"), "x", r"assessment\.json: .* \(findings\.languages: "),
    ],
)
def test_a_report_or_assessment_of_others_with_other_values_is_named(
    tmp_path, monkeypatch, registry, file, at, value, said
):
    version = registry.tag("help", prepared(tmp_path, monkeypatch, "one", rows(20)).uri)
    path = Path(version.output, file)
    changed = part = json.loads(path.read_text())
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = value
    path.write_text(json.dumps(changed))
    shown = [lambda: card(Store(), version), lambda: export(Store(), version, str(tmp_path / "hf"), "hf")]
    if file == "assessment.json":
        shown.append(lambda: read_assessment(Store(), version.output))
    for show in shown:
        with pytest.raises(DataError, match=said):
            show()


def test_an_export_loads_with_datasets_and_its_card_says_what_it_is(tmp_path, monkeypatch, registry):
    run = prepared(tmp_path, monkeypatch, "one", rows(20), licence="cc-by-4.0")
    version = registry.tag("help", run.uri, note="a *bold* [note](x)")
    store, folder = Store(), str(tmp_path / "hf")
    assert len(export(store, version, folder, "hf")) == 4
    loaded = load_dataset(folder, cache_dir=str(tmp_path / "cache"))
    assert {split: len(loaded[split]) for split in loaded} == {"train": 16, "validation": 2, "test": 2}
    assert loaded["test"][0]["messages"][0]["role"] == "user"
    text = card(store, version)
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["task_categories"]) == ("cc-by-4.0", ["question-answering"])
    assert "| s | cc-by-4.0 | 20 | 20 |" in text and r"a \*bold\* \[note\](x)" in text
    assert front["language"] == ["en"] and front["tags"] == ["raymill", "qa"]
    today = version.tagged[:10]
    assert f"collected on {today}: " in text and f"Prepared on {today}, tagged on {today}." in text
    sections = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert sections == [
        "Motivation", "Composition", "Collection", "Preprocessing", "Uses", "Distribution", "Maintenance", "Assessment",
        "Known gaps", "Recipe",
    ]  # fmt: skip
    assert "| completeness | 1.000 |" in text and "| coverage |" in text
    assert "* Personal data was not looked for." in text and version.digest in text
    with pytest.raises(ConfigError, match="has files already"):
        export(store, version, folder, "jsonl")
    export(store, version, str(tmp_path / "lines"), "jsonl")
    lines = (tmp_path / "lines" / "train.jsonl").read_text().splitlines()
    assert len(lines) == 16 and json.loads(lines[0])["split"] == "train"


@pytest.mark.parametrize(
    ("licences", "front"),
    sampled(
        [
            (["mit", "mit"], {"license": "mit"}),
            (["MIT", None], {"license": "other", "license_name": "MIT, not stated"}),
            (["cc-by-4.0", "internal"], {"license": "other", "license_name": "cc-by-4.0, internal"}),
            (["internal", "internal"], {"license": "other", "license_name": "internal"}),
            ([None, None], {"license": "unknown"}),
        ],
        2,
    ),
)
def test_a_card_has_the_licences_of_all_sources_and_no_folders(tmp_path, monkeypatch, registry, licences, front):
    sources = []
    for name, licence in zip("ab", licences, strict=True):
        row = {"question": question(1) if name == "a" else "Why?", "answer": answer(1)}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        sources.append({"source": name, "path": str(tmp_path / f"{name}.jsonl"), "licence": licence})
    (tmp_path / "terms.yaml").write_text("Rechner: computer\n")
    settings = {
        "inputs": sources, "output": str(tmp_path / "out"), "clean": {"terminology": str(tmp_path / "terms.yaml")},
        "records": {"templates": {"policy": {"prompt": "/help {text}/x", "completion": "{text}"}}},
    }  # fmt: skip
    text = card(Store(), registry.tag("help", prepare_inline(settings, monkeypatch).uri))
    written = yaml.safe_load(text.split("---")[1])
    assert {name: written[name] for name in ("license", "license_name") if name in written} == front
    assert str(tmp_path) not in text and '"path": "a.jsonl"' in text and '"terminology": "terms.yaml"' in text
    assert "\n1 record of the shape" in text and "* 1 record removed: " in text and '"/help {text}/x"' in text
    settings["inputs"][0]["columns"] = {"prompt": "question", "completion": "answer", "licence": "licence"}
    settings["output"] = str(tmp_path / "own")
    text = card(Store(), registry.tag("help", prepare_inline(settings, monkeypatch).uri))
    assert "of each record" in yaml.safe_load(text.split("---")[1])["license_name"]


def test_the_verb(tmp_path, monkeypatch, run_cli):
    first, second = prepared(tmp_path, monkeypatch, "one", rows(20)), prepared(tmp_path, monkeypatch, "two", rows(30))
    monkeypatch.setenv("RAYMILL_DATASETS", str(tmp_path / "datasets"))

    def raymill(*words: str) -> tuple[int, str]:
        code, out, err = run_cli("dataset", *words)
        return code, out + err

    assert raymill("tag", "help", first.uri) == (0, f"help:v1 is {first.uri}, 20 records\n")
    code, again = raymill("tag", "help", first.uri)
    assert (
        code == 0
        and again.startswith(f"help:v1 is {first.uri}, 20 records since 20")
        and "nothing was changed" in again
    )
    raymill("tag", "help", second.uri, "--note", "ten more")
    code, log = raymill("log", "help")
    assert code == 0 and [line.split()[0] for line in log.splitlines()] == ["v1", "v2"] and log.endswith("ten more\n")
    code, diff = raymill("diff", "help:v1", "help:v2")
    assert (
        code == 0
        and diff.startswith("help:v1 -> help:v2\ntrain               16 -> 24\n")
        and "added               10" in diff
    )
    plain = json.loads(raymill("diff", "help:v1", "help:v2", "--json")[1])
    assert (plain["before"], plain["records"]["after"]["train"], plain["added"]) == ("help:v1", 24, 10)
    assert plain["examples"]["added"][0]["after"]["question"] and plain["metrics"]["completeness"] == [1.0, 1.0]
    assert "\ncompleteness" in diff and " 1.000 -> 1.000\n" in diff and "language en" in diff
    assert raymill("card", "help:v1")[1].startswith("---\npretty_name: help\n")
    assert raymill("export", "help", str(tmp_path / "out"))[1] == f"4 files written to {tmp_path / 'out'}\n"
    for words, said in (
        (("drop", "help"), "no such action"),
        (("diff", "help:v1"), "write `raymill dataset diff"),
        (("log", "help", "--note", "x"), "go with `tag`"),
        (("log", "help", "--json"), "goes with `diff`"),
        (("log", "nobody"), "no data set of this name"),
        (("tag", "help", second.uri, "--note", "https://me:word@host"), "--note: holds a secret (a password"),
    ):
        code, shown = raymill(*words)
        assert code == 2 and said in shown
