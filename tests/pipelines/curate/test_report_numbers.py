"""Every number of a report and every counter of its stages is the plain count over the run's documents."""

import json
import shutil
from bisect import bisect_right
from collections import Counter

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.questions import what_if
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.sample import sample_rows
from raymill.pipelines.curate.questions.what_if import DecideAgain, compare_decisions, table_text
from raymill.pipelines.curate.stages.decide import VERDICTS
from raymill.pipelines.rules.filters import decide
from tests.support.inline import curate_inline
from tests.support.stories import GERMAN, story

FRENCH = " ".join(["Le vieux port était calme ce matin, et les bateaux ne sont revenus que très tard le soir."] * 9)
MAILS = " Write to jane.roe@mailhost.org, or to john.roe@mailhost.org."


def near(text: str) -> str:
    return text.replace(" of ", " off ", 1)


# (id, text) by source; a str is a line as it is, which is no record.
SOURCES: dict[str, list] = {
    "books": [
        *((f"b{n}", story(n, 8 + n)) for n in range(9)),
        ("b-mail", story(70) + MAILS),
        "{broken",
        ("b-copy", story(2, 10)),
        ("b-copy-again", story(2, 10)),
        ("b-near", near(story(3, 11))),
        ("b-short", "Too short to keep, and that is that."),
        ("b-german", GERMAN),
        ("b-french", FRENCH),
        "[1]",
    ],
    "pages": [
        *((f"p{n}", story(20 + n)) for n in range(5)),
        ("p-empty", ""),
        ("p-short", "Far too short as well."),
        ("p-bracket", story(40) + " Here is a { bracket. " + story(41)),
        ("p-mail", story(71) + " Call +1 415 555 2671 about the house."),
        ("p-copy", story(2, 10)),
        ("p-near", near(story(5, 13))),
        ("p-german", GERMAN + " Ja."),
        *["{broken"] * 3,
    ],
    "notes": [("n0", "A note."), ("n1", "Another note, and a short one too.")],
}
GOOD = [(source, *row) for source, rows in SOURCES.items() for row in rows if isinstance(row, tuple)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three sources in many units, two examples a reason and two groups."""
    folder = tmp_path_factory.mktemp("numbers")
    for source, rows in SOURCES.items():
        lines = [row if isinstance(row, str) else json.dumps({"id": row[0], "text": row[1]}) for row in rows]
        (folder / f"{source}.jsonl").write_text("\n".join(lines))
    facts = {"books": {"licence": "CC0", "weight": 2.5}, "pages": {}, "notes": {"licence": "MIT"}}
    config = {
        "inputs": [{"source": s, "path": str(folder / f"{s}.jsonl"), "id": "id"} | facts[s] for s in SOURCES],
        "output": str(folder / "run"),
        "language": {"keep": ["en", "de"]},
        "execution": {"max_bad_documents": 0.5},
        "report": {"samples": 2, "groups": 2, "warn_source_loss": 0.5},
        "corpus": {"columns": ["gopher_words"]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raymill.cluster.frame.files.freeze_listing", lambda listing, *_: freeze_listing(listing, 4000))
        patch.setattr("raymill.pipelines.curate.stages.decide.MEASURED_UNITS_OF_A_UNIT", 3)
        patch.setattr("raymill.pipelines.curate.stages.tallies.FILES_OF_A_UNIT", 2)
        done = curate_inline(config, patch)
        done.__dict__["config"] = config
        return done


def rows_of(run, name: str) -> list[dict]:
    return Artifact.load(Store(), f"{run.uri}/{name}").table().to_pylist()


@pytest.fixture(scope="module")
def documents(run) -> list[dict]:
    """The attributes, by position, with `ledger`, the row of the removed documents, and `written`, the characters of
    the corpus's text; each may be None.
    """
    removed = {row["position"]: row for row in rows_of(run, "removed")}
    attributes = rows_of(run, "attributes")
    assert [(row["source"], row["id"], row["characters"]) for row in attributes] == [(s, i, len(t)) for s, i, t in GOOD]
    assert len({(row["stage"], row["reason"]) for row in removed.values()}) >= 6
    written = {(row["source"], row["id"]): len(row["text"]) for row in rows_of(run, "corpus")}
    return [
        row | {"ledger": removed.get(at), "written": written.get((row["source"], row["id"]))}
        for at, row in enumerate(attributes)
    ]


def amount(documents: list[dict]) -> dict[str, int]:
    return {"documents": len(documents), "characters": sum(one["characters"] for one in documents)}


def removed_by(documents: list[dict], stage: str) -> list[dict]:
    return [one for one in documents if one["ledger"] and one["ledger"]["stage"] == stage]


def reasons_of(documents: list[dict]) -> dict[tuple[str, str], dict[str, int]]:
    gone = [one for one in documents if one["ledger"]]
    keys = {(one["ledger"]["stage"], one["ledger"]["reason"]) for one in gone}
    return {
        key: amount([one for one in gone if (one["ledger"]["stage"], one["ledger"]["reason"]) == key]) for key in keys
    }


def kept(documents: list[dict]) -> dict[str, int]:
    """Documents and characters as they are in the corpus, where personal data is replaced."""
    written = [one["written"] for one in documents if not one["ledger"]]
    return {"documents": len(written), "characters": sum(written)}


def test_totals_and_funnel(run, documents):
    totals = run.report["totals"]
    assert totals["input"] == amount(documents)
    corpus = kept(documents)
    assert corpus["characters"] < sum(one["characters"] for one in documents if not one["ledger"]), "redaction"
    assert totals["corpus"] == corpus | {"tokens_estimate": corpus["characters"] // 4}
    left = amount(documents)
    stages = [step["stage"] for step in run.report["funnel"]]
    assert stages == [
        "read", "language", "gopher_quality", "gopher_repetition", "c4", "fineweb",
        "exact_duplicates", "near_duplicates", "corpus",
    ]  # fmt: skip
    for step in run.report["funnel"][:-1]:
        gone = amount(removed_by(documents, step["stage"]))
        left = {key: left[key] - gone[key] for key in left}
        assert (step["removed"], step["left"]) == (gone, left)
        wanted = {r: a for (stage, r), a in reasons_of(documents).items() if stage == step["stage"]}
        assert {r.pop("reason"): r for r in map(dict, step["reasons"])} == wanted
    assert run.report["funnel"][-1] == {
        "stage": "corpus", "left": corpus, "removed": {"documents": 0, "characters": 0}, "reasons": []
    }  # fmt: skip
    assert left["documents"] == corpus["documents"]


def test_sources_and_languages(run, documents):
    assert [(s["source"], s["licence"], s["weight"]) for s in run.report["sources"]] == [
        ("books", "CC0", 2.5), ("pages", None, 1.0), ("notes", "MIT", 1.0)
    ]  # fmt: skip
    for entry in run.report["sources"]:
        own = [one for one in documents if one["source"] == entry["source"]]
        assert (entry["input"], entry["corpus"]) == (amount(own), kept(own))
        assert {(r.pop("stage"), r.pop("reason")): r for r in map(dict, entry["reasons"])} == reasons_of(own)
    assert [s["empty_texts"] for s in run.report["sources"]] == [0, 1, 0]
    by_language = {
        name: [one for one in documents if one["language"] == name] for name in {one["language"] for one in documents}
    }
    assert len(by_language) >= 3
    order = sorted(by_language, key=lambda name: (-len(by_language[name]), name))
    assert run.report["languages"] == [
        {"language": name, "input": amount(by_language[name]), "corpus": kept(by_language[name])} for name in order
    ]


def test_histograms(run, documents):
    signals = {entry["signal"]: entry for entry in run.report["histograms"]}
    wanted = [name for name in documents[0] if isinstance(documents[0][name], int | float)]
    assert set(signals) == {
        name for name in wanted if name not in ("row", "written") and not name.startswith("personal_")
    }
    for name, entry in signals.items():
        bins = [0] * (len(entry["edges"]) - 1)
        for value in (one[name] for one in documents):
            if value is not None and value == value:
                bins[min(max(bisect_right(entry["edges"], value) - 1, 0), len(bins) - 1)] += 1
        assert entry["documents"] == bins, name
    by_rules = [one for one in documents if one["ledger"] and one["ledger"]["value"] is not None]
    for one in (one for one in by_rules if not one["ledger"]["partner"]):
        ledger = one["ledger"]
        ((signal, bound),) = (
            (name, bound)
            for name, entry in signals.items()
            for bound in entry["bounds"]
            if (entry["stage"], bound["reason"]) == (ledger["stage"], ledger["reason"])
        )
        assert ledger["value"] == one[signal]
        assert ledger["threshold"] in (bound["minimum"], bound["maximum"])
        assert (
            ledger["value"] < ledger["threshold"] if bound["maximum"] is None else ledger["value"] > ledger["threshold"]
        )
    assert signals["gopher_words"]["stage"] == "gopher_quality" and signals["characters"]["stage"] == ""
    assert signals["language_score"]["stage"] == "language"
    assert signals["language_score"]["bounds"] == [
        {"reason": "language_low_score", "minimum": 0.65, "maximum": None}
    ]  # fmt: skip


def test_similarity_groups_and_personal_data(run, documents):
    bins = [0] * 40
    for one in removed_by(documents, "near_duplicates"):
        bins[min(int(one["ledger"]["similarity"] * 40), 39)] += 1
    assert sum(bins) == 2
    edges = [at / 40 for at in range(41)]
    assert run.report["similarity"] == {"edges": edges, "documents": bins, "threshold": 0.8}
    counts = Counter(one["ledger"]["partner"] for one in documents if one["ledger"] and one["ledger"]["partner"])
    assert counts["b2"] == 3
    groups = run.report["groups"]
    assert [group["documents"] for group in groups] == [4, 2], "the two largest of three"
    assert groups[0]["kept"]["id"] == "b2" and groups[0]["similarity"] == 1.0
    similar = next(one["ledger"] for one in documents if one["id"] == groups[1]["removed"]["id"])
    assert (similar["partner"], similar["similarity"]) == (groups[1]["kept"]["id"], groups[1]["similarity"])
    columns = [name for name in documents[0] if name.startswith("personal_")]
    wanted = {
        name.removeprefix("personal_"): (sum(one[name] > 0 for one in documents), sum(one[name] for one in documents))
        for name in columns
        if any(one[name] for one in documents)
    }
    assert wanted["email"] == (1, 2) and wanted["phone"] == (1, 1)
    found = {entry["kind"]: (entry["documents"], entry["found"]) for entry in run.report["personal_data"]}
    assert found == wanted and all(entry["redacted"] for entry in run.report["personal_data"])


def test_samples_are_those_with_the_smallest_hashes_of_every_reason(run, documents):
    by_reason: dict[tuple[str, str], list[dict]] = {}
    for one in documents:
        ledger = one["ledger"] or {"stage": "corpus", "reason": "kept"}
        by_reason.setdefault((ledger["stage"], ledger["reason"]), []).append(one)
    assert max(map(len, by_reason.values())) > 2
    shown: dict[tuple[str, str], list[dict]] = {}
    for sample in run.report["samples"]:
        shown.setdefault((sample["stage"], sample["reason"]), []).append(sample)
    assert set(shown) == set(by_reason) and next(iter(shown)) == ("corpus", "kept")
    texts = {(source, id): text for source, id, text in GOOD}
    for key, all_of_it in by_reason.items():
        least = sorted(all_of_it, key=lambda one: (int.from_bytes(one["text_hash"][:8], "little"), one["id"]))[:2]
        assert [sample["id"] for sample in shown[key]] == [one["id"] for one in least]
        for sample, one in zip(shown[key], least, strict=True):
            ledger = one["ledger"] or {"value": None, "threshold": None}
            assert (sample["source"], sample["language"]) == (one["source"], one["language"])
            assert (sample["value"], sample["threshold"]) == (ledger["value"], ledger["threshold"])
            text = texts[one["source"], one["id"]]
            if "roe" not in text and "+1" not in text:
                assert sample["excerpt"] == text[:1200] + "…" * (len(text) > 1200)


def test_quarantine_stages_and_counters(run, documents):
    assert [(q["source"], q["problem"], q["documents"]) for q in run.report["quarantine"]] == [
        ("pages", "broken_json", 3), ("books", "broken_json", 1), ("books", "not_an_object", 1)
    ]  # fmt: skip
    rows = rows_of(run, "quarantine")
    places = [row["where"] for row in rows if row["source"] == "pages"]
    assert run.report["quarantine"][0]["examples"] == places and len(set(places)) == 3
    text_bytes = sum(len(text.encode()) for _, _, text in GOOD)
    counters = {name: Artifact.load(Store(), f"{run.uri}/{name}").manifest.counters
                for name in ("attributes", "_work/verdicts", "_work/groups", "corpus")}  # fmt: skip
    whole = amount(documents) | {"text_bytes": text_bytes}
    assert counters["attributes"] == whole | {"quarantined": 5, "empty_text/pages": 1}
    by_rule = [one for one in documents if one["ledger"] and not one["ledger"]["stage"].endswith("_duplicates")]
    passed = {"documents": len(documents), "text_bytes": text_bytes, "passed": len(documents) - len(by_rule)}
    named = Counter(f"reason/{one['ledger']['reason']}" for one in by_rule)
    assert counters["_work/verdicts"] == passed | named
    duplicates = Counter(
        f"reason/{one['ledger']['reason']}" for one in documents if one["ledger"] and one["ledger"]["partner"]
    )
    assert duplicates == {"reason/exact_duplicate": 3, "reason/near_duplicate": 2}
    candidates = counters["_work/groups"].pop("documents")
    assert counters["_work/groups"] == duplicates and 8 <= candidates <= len(documents) - len(by_rule)
    corpus = kept(documents)
    assert counters["corpus"] == {
        "documents": len(documents), "text_bytes": text_bytes,
        "corpus_documents": corpus["documents"], "corpus_characters": corpus["characters"],
    }  # fmt: skip
    units = pc.count_distinct(pq.read_table(f"{run.uri}/inputs.parquet")["unit"]).as_py()
    assert units > 5
    assert {s["stage"]: (s["units"], s["documents"]) for s in run.report["stages"] if s["stage"] != "select"} == {
        "measure": (units, len(documents)),
        "decide": (-(-units // 3), len(documents)),
        "group": (1, candidates),
    }
    for stage, name in (("measure", "attributes"), ("decide", "_work/tallies"), ("select", "corpus")):
        (row,) = (row for row in run.report["stages"] if row["stage"] == stage)
        assert row["core_s"] == Artifact.load(Store(), f"{run.uri}/{name}").manifest.seconds
    assert run.report["totals"]["core_s"] == pytest.approx(sum(s["core_s"] for s in run.report["stages"]), abs=0.01)


def test_the_ledger_and_the_corpus_have_what_was_measured(run, documents):
    for one in documents:
        if ledger := one["ledger"]:
            assert (ledger["language"], ledger["language_score"]) == (one["language"], one["language_score"])
            if ledger["stage"].endswith("_duplicates"):
                assert ledger["value"] == ledger["similarity"] and ledger["threshold"] == 0.8
    corpus = run.corpus.table().to_pylist()
    assert [(row["source"], row["id"]) for row in corpus] == [
        (one["source"], one["id"]) for one in documents if not one["ledger"]
    ]
    sizes = Counter(
        one["ledger"]["partner_position"] for one in documents if one["ledger"] and one["ledger"]["partner"]
    )
    positions = [at for at, one in enumerate(documents) if not one["ledger"]]
    for position, row in zip(positions, corpus, strict=True):
        one = documents[position]
        assert row["duplicate_count"] == 1 + sizes[position]
        assert row["group_id"] == int.from_bytes(one["text_hash"][:8], "little", signed=True)
        assert all(row[name] == one[name] for name in ("language", "language_score", "gopher_words"))


def test_what_is_found_of_a_document_is_its_own(run, documents):
    """`explain` of every document: its outcome, its unit, its row, its file, and the size of its group."""
    reader = RunReader(Store(), run.uri)
    assert [reader.document_at(at).attributes["id"] for at in range(len(documents))] == [one["id"] for one in documents]
    texts = {(source, id): text for source, id, text in GOOD}
    sizes = Counter(one["ledger"]["partner"] for one in documents if one["ledger"] and one["ledger"]["partner"])
    for at, one in enumerate(documents):
        (found,) = reader.find(one["id"])
        assert (found.position, found.row) == (at, one["row"])
        assert reader.text_of(found) == texts[one["source"], one["id"]]
        assert reader.place_of(found).endswith(f"/{one['source']}.jsonl")
        words = explain(reader, one["id"])
        if one["ledger"] is None:
            copies = 1 + sizes[one["id"]]
            group = f", standing for a group of {copies} duplicates" if copies > 1 else ""
            assert f"outcome   kept{group}\n" in words
        elif one["ledger"]["partner"] is None and one["ledger"]["value"] is not None:
            side = "under the least" if one["ledger"]["value"] < one["ledger"]["threshold"] else "over the most"
            assert f"{one['ledger']['reason']}\n" in words and f" is {side} that may stay" in words


def test_what_if_counts_are_those_of_the_ledger_for_the_settings_of_the_run(run, documents):
    """Before deduplication; of the changed settings, which remove by other bounds, by the attributes."""
    plain = {"kind": "curate", "name": "test"} | run.__dict__["config"]
    before = CurateConfig.model_validate(plain)
    after = CurateConfig.model_validate(plain | {"language": {"keep": ["en"]}})
    found = compare_decisions(before, after)
    stay = [one for one in documents if not one["ledger"] or one["ledger"]["partner"]]
    english = [one for one in stay if one["language"] == "en"]

    def counts(some: list[dict]) -> dict[str, int]:
        return (wanted := amount(some)) | {"tokens_estimate": wanted["characters"] // 4}

    assert found["total"] == {"before": counts(stay), "after": counts(english)}
    for group, column in (("sources", "source"), ("languages", "language")):
        assert found[group] == {
            name: {
                side: counts([one for one in some if one[column] == name])
                for side, some in (("before", stay), ("after", english))
            }
            for name in {one[column] for one in documents}
        }
    first = {
        (r["stage"], r["reason"]): r["first"]["before"] for r in found["reasons"] if r["first"]["before"]["documents"]
    }
    assert first == {key: a for key, a in reasons_of(documents).items() if not key[0].endswith("_duplicates")}
    short = next(r for r in found["reasons"] if r["reason"] == "gopher_short_doc")
    assert short["alone"] is None, "it does not change"
    short = next(r for r in compare_decisions(before, before)["reasons"] if r["reason"] == "gopher_short_doc")
    assert short["alone"]["before"] == short["alone"]["after"]
    assert short["alone"]["before"] == amount([one for one in documents if one["gopher_words"] < 50])


CHANGES = [
    {"rules": None, "corpus": {}},
    {"language": None},
    {"language": {"keep": ["en", "fr"], "min_score": 0.2}},
    {"rules": {"packs": ["gopher_quality", "c4"]}},
    {"rules": {"packs": ["c4", "fineweb", "gopher_quality", "gopher_repetition"]}},
    {"rules": {"gopher_quality": {"min_words": 5}}},
    {"rules": {"gopher_quality": {"min_words": 400, "min_stop_words": 0}, "c4": {"min_sentences": 0}}},
    {"rules": {"gopher_quality": {"min_words": 0}, "gopher_repetition": {"max_top_2_gram": 0.01}}, "language": None},
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_if_counts_the_same_from_verdicts_as_from_all_attributes(run, change):
    plain = {"kind": "curate", "name": "test"} | run.__dict__["config"]
    before, after = (CurateConfig.model_validate(plain | more) for more in ({}, change))
    reader = RunReader(Store(), run.uri)
    units = what_if._units(reader, reader.artifact(VERDICTS), None)
    short, long = (
        DecideAgain(Store(), before.filters, after.filters, known, every=False)(units) for known in (True, False)
    )
    assert +short == +long and long["total", "", "before", "documents"] == 21
    done = [decide(table, after.filters) for table in reader.attributes.tables()]
    assert long["total", "", "after", "documents"] == sum(int((~one.removed).sum()) for one in done)


def test_what_if_finds_the_next_check_that_a_document_fails(tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": story(1) + " #" * 90 + " ..." * 90}) + "\n")
    plain = {"kind": "curate", "name": "n", "inputs": [{"path": str(tmp_path / "in.jsonl")}], "language": None}
    plain |= {"output": str(tmp_path / "run"), "dedup": None, "rules": {"packs": ["gopher_quality"]}}
    curate_inline(plain, monkeypatch)
    more = {"rules": {"packs": ["gopher_quality"], "gopher_quality": {"max_hashes_per_word": 9}}}
    found = compare_decisions(*(CurateConfig.model_validate(plain | change) for change in ({}, more)))
    first = {r["reason"]: [r["first"][side]["documents"] for side in ("before", "after")] for r in found["reasons"]}
    assert {name: sides for name, sides in first.items() if any(sides)} == {
        "gopher_too_many_hashes": [1, 0],
        "gopher_too_many_ellipsis": [0, 1],
    }


def test_what_if_reads_only_the_columns_that_the_changed_settings_need(run, monkeypatch):
    plain = {"kind": "curate", "name": "test"} | run.__dict__["config"]
    asked: set[str] = set()
    read = pq.ParquetFile.read_row_group

    def read_row_group(self, group, columns=None, **more):
        if "uri" not in self.schema_arrow.names:  # the list of the inputs
            asked.update(columns or ["all"])
        return read(self, group, columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    always = {"row", "source", "language", "characters", "stage", "reason"}
    for bound, more in ((60, set()), (1, {"c4_sentences", "fineweb_lines", "top_2_gram"})):
        asked.clear()
        rules = {"gopher_quality": {"min_words": bound}}
        compare_decisions(*(CurateConfig.model_validate(plain | change) for change in ({}, {"rules": rules})))
        assert always | {"gopher_words"} <= asked and more <= asked
        assert more or asked == always | {"gopher_words"}, "a tighter bound"
        assert not {"signature", "language_score", "dup_para_frac" if not more else "all"} & asked


def test_what_if_without_deduplication_counts_the_whole_run(run, documents):
    plain = {"kind": "curate", "name": "test"} | run.__dict__["config"]
    for change in ({"dedup": None}, {"dedup": {"remove": False}}):
        found = compare_decisions(*(CurateConfig.model_validate(plain | more) for more in ({}, change)))
        stay = [one for one in documents if not one["ledger"]]
        copies = [one for one in documents if one["ledger"] and one["ledger"]["partner"]]
        for side, some in (("before", stay), ("after", [*stay, *copies])):
            counts = [found["total"][side], amount(some)]
            assert [one["documents"] for one in counts] == [len(some)] * 2
            assert counts[0]["characters"] == counts[1]["characters"]
            assert counts[0]["tokens_estimate"] == counts[1]["characters"] // 4
            for group, column in (("sources", "source"), ("languages", "language")):
                of_names = Counter(one[column] for one in some)
                assert {name: sides[side]["documents"] for name, sides in found[group].items()} == {
                    name: of_names[name] for name in found[group]
                }
        assert {r["stage"]: r["first"]["before"]["documents"] for r in found["reasons"][-2:]} == {
            stage: len(removed_by(documents, stage)) for stage in ("exact_duplicates", "near_duplicates")
        }
        assert table_text(found).startswith("stays  ")


@pytest.mark.parametrize("change", [{"rules": {"gopher_quality": {"min_words": 5}}}, {"dedup": None}])
def test_what_if_counts_the_same_before_deduplication_without_the_intermediate_artifacts(run, tmp_path, change):
    plain = {"kind": "curate", "name": "test"} | run.__dict__["config"]
    shutil.copytree(run.uri, tmp_path / "run", ignore=shutil.ignore_patterns("_work"))
    with_it, without = (
        compare_decisions(*(CurateConfig.model_validate(plain | more | {"output": uri}) for more in ({}, change)))
        for uri in (run.uri, str(tmp_path / "run"))
    )
    checked = {(r["stage"], r["reason"]): r["first"] for r in without["reasons"]}
    assert not without["deduplicated"] and checked
    assert checked.items() <= {(r["stage"], r["reason"]): r["first"] for r in with_it["reasons"]}.items()
    removed = sum(first["before"]["documents"] for first in checked.values())
    assert without["total"]["before"]["documents"] == without["documents"]["of"] - removed
    assert with_it["deduplicated"] == ("dedup" in change)


def test_what_if_of_a_sample_counts_some_units(run, documents):
    config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | run.__dict__["config"])
    for sample in (1, 6, 12, len(documents) - 1, len(documents), 1000):
        found = compare_decisions(config, config, sample=sample)
        decided = found["documents"]["decided"]
        assert found["documents"]["of"] == len(documents)
        assert abs(decided - min(sample, len(documents))) <= 5
        entries = sum(reason["first"]["after"]["documents"] for reason in found["reasons"])
        assert entries + found["total"]["after"]["documents"] == decided
        assert table_text(found).startswith("A sample: ") == (decided < len(documents))


def test_a_sample_meets_every_condition(run, documents):
    gone = [one for one in documents if one["ledger"]]
    for source in ("books", "pages"):
        for language in ("en", "de", "fr"):
            wanted = sorted(o["id"] for o in gone if (o["source"], o["language"]) == (source, language))
            if wanted:
                found = sample_rows(Store(), run.uri, 50, [f"source={source}", f"language={language}"], 1)
                assert sorted(row["id"] for row in found) == wanted
    for count in (1, 3, len(gone), len(gone) + 1):
        assert len(sample_rows(Store(), run.uri, count, [], 1)) == min(count, len(gone))
    samples = {tuple(row["id"] for row in sample_rows(Store(), run.uri, 3, [], seed)) for seed in range(6)}
    assert len(samples) > 3
