"""Merging what units left for the report: any division into files gives what a plain loop over all rows gives."""

from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact
from raymill.cluster.stage import Output, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages import tallies as merge
from raymill.pipelines.curate.stages.measure import QUARANTINE_SCHEMA
from raymill.pipelines.curate.stages.samples import SAMPLES_SCHEMA
from raymill.pipelines.curate.stages.tallies import (
    DUPLICATES_SCHEMA,
    SIMILARITY_BINS,
    TALLIES_SCHEMA,
    add_problems,
    best_samples,
    count_duplicates,
    merge_stage,
    merged,
    sum_of_units,
    tally,
)
from raymill.pipelines.dedup.compare import EXACT, GROUPS_SCHEMA, NEAR
from tests.support.stages import run_inline

NAMES, REASONS = st.sampled_from(["a", "b/c"]), st.sampled_from([None, EXACT, NEAR])


def in_parts(rows: list[dict], schema: pa.Schema, cuts: list[int]) -> list[pa.Table]:
    """The rows as tables, cut at these rows."""
    cuts = sorted({0, *(min(cut, len(rows)) for cut in cuts), len(rows)})
    parts = [rows[start:end] for start, end in pairwise(cuts)]
    return [pa.Table.from_pylist(part, schema) for part in parts]


def tree(tables: list[pa.Table], fold, width: int) -> list[dict]:
    """The tables folded level by level, `width` at a time, at least once."""
    tables = [fold([table]) for table in tables]
    while len(tables) > 1:
        tables = [fold(tables[at : at + width]) for at in range(0, len(tables), width)]
    return (tables[0] if tables else fold([])).to_pylist()


CUTS, WIDTH = st.lists(st.integers(0, 40), max_size=6), st.integers(2, 4)


@given(
    st.lists(st.tuples(NAMES, NAMES, st.integers(0, 5), NAMES, st.booleans()), max_size=40),
    st.integers(0, 3),
    CUTS,
    WIDTH,
)
def test_the_samples_are_those_with_the_smallest_ranks_of_each_reason_and_all_pairs(rows, most, cuts, width):
    samples = [
        {
            "stage": stage,
            "reason": reason,
            "rank": rank,
            "id": id,
            "group_id": 7 if pair else None,
            "excerpt": str(number),
        }
        for number, (stage, reason, rank, id, pair) in enumerate(rows)
    ]
    found = tree(in_parts(samples, SAMPLES_SCHEMA, cuts), lambda tables: best_samples(tables, most), width)
    by_reason: dict[tuple, list[dict]] = {}
    for row in sorted(samples, key=lambda row: (row["rank"], row["id"])):
        if row["group_id"] is None:
            by_reason.setdefault((row["stage"], row["reason"]), []).append(row)
    expected = {row["excerpt"] for same in by_reason.values() for row in same[:most]}
    assert {row["excerpt"] for row in found if row["group_id"] is None} == expected
    assert [row["excerpt"] for row in found if row["group_id"]] == [
        row["excerpt"] for row in samples if row["group_id"]
    ]


@given(st.lists(st.tuples(NAMES, NAMES), max_size=40), CUTS, WIDTH)
def test_problems_are_counted_by_source_with_their_first_places(rows, cuts, width):
    quarantine = [{"source": s, "problem": p, "where": str(number), "row": 0} for number, (s, p) in enumerate(rows)]
    found = tree(in_parts(quarantine, QUARANTINE_SCHEMA, cuts), add_problems, width)
    documents: Counter = Counter()
    for row in found:
        documents[row["source"], row["problem"]] += row["documents"]
    assert documents == Counter(rows)
    places = {kind: [str(number) for number, row in enumerate(rows) if row == kind][: merge.PLACES] for kind in rows}
    assert {k: [r["where"] for r in found if (r["source"], r["problem"]) == k] for k in documents} == places


@given(
    st.lists(
        st.tuples(st.integers(0, 3), NAMES, NAMES, REASONS, st.floats(0, 1), st.integers(0, 9)),
        max_size=40,
    ),
    CUTS,
)  # fmt: skip
def test_duplicates_are_counted_by_unit_and_near_ones_by_similarity(rows, cuts):
    names = ("unit", "source", "language", "reason", "similarity", "characters")
    groups = [dict(zip(names, row, strict=True)) for row in rows]
    count, duplicates, similarity = count_duplicates(in_parts(groups, GROUPS_SCHEMA, cuts))
    documents: Counter = Counter()
    characters: Counter = Counter()
    bins: Counter = Counter()
    for unit, source, language, reason, similar, length in rows:
        if reason:
            documents[unit, source, language, reason] += 1
            characters[unit, source, language, reason] += length
        if reason == NEAR:
            bins[min(int(similar * SIMILARITY_BINS), SIMILARITY_BINS - 1)] += 1
    found = [tuple(row.values()) for row in duplicates.to_pylist()]
    assert count == len(rows) and sorted(found) == sorted((*k, documents[k], characters[k]) for k in documents)
    assert {row["bin"]: row["documents"] for row in similarity.to_pylist()} == bins
    total = sum_of_units(in_parts(duplicates.to_pylist(), DUPLICATES_SCHEMA, cuts))
    assert (pc.sum(total["documents"]).as_py() or 0) == documents.total()
    assert len({tuple(row.values())[:3] for row in total.to_pylist()}) == total.num_rows


def test_the_files_of_many_units_become_few(tmp_path, monkeypatch):
    """A unit merges 3 files of one kind; what is merged has all rows' counts."""
    monkeypatch.setattr(merge, "FILES_OF_A_UNIT", 3)
    made = {
        name: artifact(tmp_path, name, [table] * 7)
        for name, table in {
            "tallies": tally("input", "web", "en", "", [2], [30]),
            "kept": tally("kept", "web", "en", "", [1], [10]),
            "samples": pa.Table.from_pylist([{"stage": "corpus", "reason": "kept", "rank": 1}], SAMPLES_SCHEMA),
            "quarantine": pa.Table.from_pylist([{"source": "web", "problem": "p", "where": "w"}], QUARANTINE_SCHEMA),
        }.items()
    }  # fmt: skip
    stage = merge_stage([made["tallies"], made["kept"]], made["samples"], made["quarantine"], most=2)
    assert [len(uris) for _, uris in stage.units] == [3, 3, 3, 3, 2, 3, 3, 1, 3, 3, 1]
    done = run_inline(stage, str(tmp_path))
    sums = merged(Store(), done[merge.TALLY_SUMS].file_uris, merge.add_tallies)
    assert sums.select(["table", "documents", "characters"]).to_pylist() == [
        {"table": "input", "documents": 14, "characters": 210}, {"table": "kept", "documents": 7, "characters": 70}
    ]  # fmt: skip
    assert sums.schema == TALLIES_SCHEMA
    assert [file.rows for file in done[merge.BEST_SAMPLES].manifest.files] == [2, 2, 1]
    assert [row["documents"] for row in done[merge.PROBLEMS].table().to_pylist()] == [3, 0, 0, 3, 0, 0, 1]
    assert stage.small


def artifact(folder, name: str, tables: list[pa.Table]) -> Artifact:
    """A finished artifact with a file for each of the tables."""

    def work(unit, scratch):
        scratch.write(name, tables[unit])
        return {}

    stage = Stage(name, (Output(name, tables[0].schema),), range(len(tables)), work, name * 8, Store())
    return run_inline(stage, str(folder))[name]


def test_of_what_is_cut_twenty_are_shown_however_few_samples_are_asked_for():
    kinds = [("cut", "repeats"), ("cut", "boilerplate"), ("empty", "c4")]
    rows = [{"reason": why, "stage": stage, "rank": at, "id": str(at)} for why, stage in kinds for at in range(30)]
    for most in (0, 2):
        shown = best_samples([pa.Table.from_pylist(rows, SAMPLES_SCHEMA)], most).to_pylist()
        counts = Counter((row["reason"], row["stage"]) for row in shown)
        assert +counts == +Counter({("cut", "repeats"): 20, ("cut", "boilerplate"): 20, ("empty", "c4"): most})
