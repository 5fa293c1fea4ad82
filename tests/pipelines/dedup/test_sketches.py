"""Sketches: the shingle set of a short document, the signature of any other; and the stage `group` that compares them.

Signatures here have 8 columns, so documents with fewer, as many and more shingles are easy to make.
"""

import os
import shutil
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact, DataFile, Manifest, describe_schema
from raymill.cluster.engine import RetryLimits
from raymill.cluster.errors import DataError
from raymill.cluster.progress import Progress
from raymill.cluster.readers.inputs import Input
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages.measure import text_hashes
from raymill.pipelines.dedup.documents import EarlierRun
from raymill.pipelines.dedup.group import GROUPS, Sizes, group_stage
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.signatures import Sketches, permutations
from raymill.pipelines.text.texts import Texts
from tests.support.dedup_loops import signatures
from tests.support.inline import InlineEngine, NoRay
from tests.support.sampled import sampled
from tests.support.shingles import shingle_hashes
from tests.support.sketch_cases import BANDS, COLUMNS, KEEPERS, ROWS, SOURCES, write_parquet

A, B = permutations(COLUMNS, 1)
BASES = ([f"a{n}" for n in range(20)], [f"b{n}" for n in range(20)], ["c0", "c1", "c2"] * 20)

# The beginning of one of three texts, one of them three words again and again, with some words in front.
documents = st.builds(
    lambda base, words, extra: " ".join([*extra, *base[:words]]),
    st.sampled_from(BASES),
    st.integers(0, 20),
    st.lists(st.sampled_from(["x", "y", "z"]), max_size=3),
)


def sketches_of(texts: list[str], ngram_words: int = 1, exact_short: bool = True) -> Sketches:
    return Sketches.of(Texts.from_strings(texts), ngram_words, A, B, exact_short=exact_short)[0]


def split(sketches: Sketches) -> list[list[int]]:
    return (
        [part.tolist() for part in np.split(sketches.words, sketches.starts[1:-1])] if len(sketches.starts) > 1 else []
    )


@given(st.lists(documents, min_size=1, max_size=8), st.integers(1, 3))
@settings(max_examples=200)
def test_a_sketch_is_the_sorted_shingle_set_of_a_short_document_and_the_signature_of_another(texts, ngram_words):
    found, _ = signatures(Texts.from_strings(texts), ngram_words, A, B)
    sets = [np.unique(shingle_hashes(text, ngram_words)).tolist() for text in texts]
    wanted = [one if len(one) < COLUMNS else row.tolist() for one, row in zip(sets, found, strict=True)]
    sketches = sketches_of(texts, ngram_words)
    assert split(sketches) == wanted
    assert (sketches.signatures(A, B) == found).all()
    assert split(Sketches(*sketches.sets(COLUMNS))) == [one if len(one) < COLUMNS else [] for one in sets]
    all_signed = [row.tolist() if one else [] for one, row in zip(sets, found, strict=True)]
    assert split(sketches_of(texts, ngram_words, exact_short=False)) == all_signed


@pytest.mark.parametrize(
    ("words", "kind"),
    [(0, "none"), (1, "set"), (COLUMNS - 1, "set"), (COLUMNS, "signature"), (COLUMNS + 1, "signature")],
)
def test_fewer_shingles_than_columns_make_a_set(words, kind):
    text = " ".join(BASES[0][:words])
    (sketch,) = split(sketches_of([text]))
    shingles = np.unique(shingle_hashes(text, 1)).tolist()
    signature = signatures(Texts.from_strings([text]), 1, A, B)[0][0].tolist()
    assert sketch == {"none": [], "set": shingles, "signature": signature}[kind]


def test_a_long_document_of_few_distinct_shingles_is_short():
    assert split(sketches_of(["again " * 1000])) == [shingle_hashes("again", 1).tolist()]


@pytest.mark.parametrize("columns", [1, 2, 112, 4096])
def test_sets_of_every_size_are_sorted_and_distinct(columns):
    a, b = permutations(columns, 1)
    text = " ".join(f"w{n % (columns - 1)}" for n in range(3 * columns)) if columns > 1 else "w"
    sketches, _ = Sketches.of(Texts.from_strings([text, text + " and more"]), 1, a, b, exact_short=True)
    assert np.diff(sketches.starts).tolist() == [max(columns - 1, 1), columns]
    if columns > 1:
        assert sketches.words[: sketches.starts[1]].tolist() == np.unique(shingle_hashes(text, 1)).tolist()


@given(st.lists(documents, max_size=8), st.integers(0, 8), st.booleans())
def test_the_column_in_the_attributes_holds_the_sketches(texts, cut, exact_short):
    sketches = sketches_of(texts, exact_short=exact_short)
    column = sketches.to_column()
    assert column.null_count == sum(not text for text in texts)
    for chunks in (pa.chunked_array([column]), pa.chunked_array([column.slice(0, cut), column.slice(cut)])):
        read = Sketches.from_column(chunks, COLUMNS)
        assert (split(read), read.starts.tolist()) == (split(sketches), sketches.starts.tolist())


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([bytes(4 * COLUMNS), bytes(4 * COLUMNS + 4)], pa.large_binary()), "at most 8 numbers of 4 bytes"),
        (pa.array([bytes(6)], pa.large_binary()), "at most 8 numbers of 4 bytes"),
        (pa.array([bytes(4)], pa.binary()), "the type binary; wanted large_binary"),
        (pa.array([1 << 40], pa.int64()), "the type int64; wanted large_binary"),
    ],
)
def test_a_sketch_that_the_kernels_would_read_beyond_its_end_is_refused(column, said):
    with pytest.raises(DataError, match=said):
        Sketches.from_column(pa.chunked_array([column]), COLUMNS)


SCOPES = {"all": lambda source: "", "source": lambda source: source, "snapshot": SOURCES.__getitem__}
Rows = list[tuple[str, str, float]]  # text, source and score of each document


def groups_by_loop(rows: Rows, dedup: Dedup, kept_before: int = 0) -> dict[int, tuple[str, int, float]]:
    """removed -> (reason, kept document, similarity), by plain loops over sets and datasketch.

    kept_before: number of documents of earlier runs, which come before all others and are kept.
    """
    rank, scope_of = KEEPERS[dedup.keeper][1], SCOPES[dedup.scope]
    hashes = [shingle_hashes(text, 1) for text, _, _ in rows]
    sets = [set(one.tolist()) for one in hashes]
    sketch = []
    for one in hashes:
        sketch.append(MinHash(COLUMNS, seed=1, hashfunc=int, scheme="affine32"))
        sketch[-1].update_batch(one.tolist())

    def similarity(one: int, other: int) -> float:
        if dedup.exact_short and len(sets[one]) < COLUMNS and len(sets[other]) < COLUMNS:
            return len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        return sketch[one].jaccard(sketch[other])

    first: dict[tuple[str, str], int] = {}
    indexes: dict[str, MinHashLSH] = {}
    place: dict[int, int] = {}
    near: dict[int, tuple[float, int]] = {}
    new = sorted(range(kept_before, len(rows)), key=lambda at: (rank(*rows[at]), at))
    for at in [*range(kept_before), *new]:
        scope = scope_of(rows[at][1])
        place[at] = len(place)
        if first.setdefault((scope, rows[at][0]), at) != at or not sets[at]:
            continue
        index = indexes.setdefault(scope, MinHashLSH(num_perm=COLUMNS, params=(BANDS, ROWS)))
        found = [(similarity(at, other), -place[other], other) for other in index.query(sketch[at])]
        best = max((entry for entry in found if entry[0] >= dedup.threshold), default=None)
        if best and at >= kept_before:
            near[at] = (best[0], best[2])
        else:
            index.insert(at, sketch[at])
    removed = {}
    for at, (text, source, _) in enumerate(rows[kept_before:], kept_before):
        copied = first[scope_of(source), text]
        reason = "near_duplicate" if copied == at else "exact_duplicate"
        if copied in near:
            removed[at] = (reason, near[copied][1], near[copied][0])
        elif copied != at:
            removed[at] = (reason, copied, 1.0)
    return removed


def attributes_of(
    rows: Rows, dedup: Dedup, folder: str, cuts: list[int], without: AbstractSet[str] = frozenset()
) -> Artifact:
    """The attributes of these documents, but for those of `without`. cuts: ends of the units but the last."""
    texts = Texts.from_strings([text for text, _, _ in rows])
    sketches, _ = Sketches.of(texts, 1, A, B, exact_short=dedup.exact_short)
    columns = {
        "row": pa.array(range(len(rows)), pa.int64()),
        "id": pa.array([text for text, _, _ in rows], pa.string()),
        "source": pa.array([source for _, source, _ in rows], pa.string()),
        "text_hash": pa.array(text_hashes(texts), pa.binary(16)),
        "characters": pa.array([len(text) for text, _, _ in rows], pa.int64()),
        "quality": pa.array([score for _, _, score in rows], pa.float64()),
        "newest_by": pa.array([-score for _, _, score in rows], pa.float64()),
        "signature": sketches.to_column(),
    }
    columns = {name: values for name, values in columns.items() if name not in without}
    return write_parquet(columns, f"{folder}/attributes", cuts, "row")


def earlier_run(rows: Rows, removed: list[int], dedup: Dedup, folder: str) -> EarlierRun:
    """A run that removed some of its documents; its ledger has two of them in a file. It was made by position."""
    os.makedirs(f"{folder}/removed")
    files = []
    for number, some in enumerate([removed[at : at + 2] for at in range(0, len(removed), 2)]):
        file = f"{folder}/removed/{number}.parquet"
        pq.write_table(pa.table({"position": pa.array(some, pa.int64())}), file)
        files.append(DataFile(f"{number}.parquet", number, len(some), os.path.getsize(file), ""))
    described = describe_schema(pa.schema({"position": pa.int64()}))
    manifest = Manifest("", "", **described, files=files, counters={}, seconds=0, made="", version="")
    attributes = attributes_of(rows, dedup, folder, [], {"quality", "newest_by"})
    return EarlierRun(folder, folder, tuple(SOURCES), attributes, Artifact(Store(), f"{folder}/removed", manifest))


def groups_by_stage(
    rows: Rows,
    removed: list[int],
    dedup: Dedup,
    folder: str,
    cuts: list[int],
    sizes: Sizes,
    earlier: Sequence[tuple[Rows, list[int]]] = (),
) -> tuple[list[dict], dict[int, tuple[str, tuple[int, int], float]]]:
    """(the rows of GROUPS; removed -> (reason, (run, position) of the kept document, similarity)) by the stage `group`.

    removed: documents that failed a rule. cuts: ends of the units but the last. earlier: documents and removed ones of
    earlier runs, which are run 0, 1, ..
    """
    shutil.rmtree(folder, ignore_errors=True)
    attributes = attributes_of(rows, dedup, folder, cuts)
    ends = [0, *cuts, len(rows)]
    files = []
    os.makedirs(f"{folder}/verdicts")
    for unit, (start, end) in enumerate(pairwise(ends)):
        here = [at - start for at in removed if start <= at < end]
        file = f"{folder}/verdicts/{unit}.parquet"
        pq.write_table(pa.table({"row": pa.array(here, pa.int64())}), file)
        files.append(DataFile(f"{unit}.parquet", unit, len(here), os.path.getsize(file), ""))
    described, counters = describe_schema(pa.schema({"row": pa.int64()})), {"passed": len(rows) - len(removed)}
    verdicts = Artifact(
        Store(),
        f"{folder}/verdicts",
        Manifest("", "", **described, files=files, counters=counters, seconds=0, made="", version=""),
    )
    inputs = [Input(source=source, path=source, snapshot=snapshot) for source, snapshot in SOURCES.items()]
    runs = [earlier_run(*one, dedup, f"{folder}/{number}") for number, one in enumerate(earlier)]
    stage = group_stage(dedup, inputs, attributes, verdicts, len(ends) - 1, sizes, runs)
    engine = InlineEngine(folder, NoRay(), Progress(), RetryLimits(1, 900, 0), replace=False)
    written = engine.run(stage)[GROUPS].table().to_pylist()
    assert not list(Path(folder, "_work/group").rglob("*.slices")), "what prepared the stage is removed"
    texts = [*(rows for rows, _ in earlier), rows]
    found = {}
    for row in written:
        assert (row["reason"] is None) == (row["partner_position"] is None)
        if row["reason"]:
            run = len(earlier) if row["partner_run"] is None else int(Path(row["partner_run"]).name)
            partner = run, row["partner_position"]
            assert row["partner"] == texts[run][partner[1]][0]
            found[ends[row["unit"]] + row["row"]] = (row["reason"], partner, row["similarity"])
    return written, found


def of_run(found: dict[int, tuple[str, int, float]], run: int = 0) -> dict[int, tuple[str, tuple[int, int], float]]:
    """The result of groups_by_loop as groups_by_stage gives it, without earlier runs."""
    return {at: (reason, (run, kept), alike) for at, (reason, kept, alike) in found.items()}


def rows_of(texts: st.SearchStrategy[str], least: int = 0) -> st.SearchStrategy[Rows]:
    return st.lists(st.tuples(texts, st.sampled_from("abc"), st.sampled_from([0.1, 0.5])), min_size=least, max_size=25)


# In the second kind nine of ten documents are copies.
ROWS_OF_SOURCES = rows_of(documents) | st.lists(documents, min_size=1, max_size=3).flatmap(
    lambda few: rows_of(st.sampled_from(few), 10)
)
THRESHOLDS = st.sampled_from([0.6, 0.75, 0.9])
SIZES = st.builds(
    Sizes, st.integers(1, 12), st.sampled_from([8, 50, 1000]), st.integers(1, 6), st.sampled_from([1, 2, 5, 100])
)


@pytest.mark.parametrize(
    ("keeper", "scope", "exact_short"), sampled(product(KEEPERS, SCOPES, [True, False]), 8, seed=10)
)
@given(rows=ROWS_OF_SOURCES, threshold=THRESHOLDS)
@settings(max_examples=10, deadline=None)
def test_the_stage_removes_what_plain_loops_remove(tmp_path_factory, rows, threshold, keeper, scope, exact_short):
    """With every keeper and scope, over documents of no, one, fewer, as many and more shingles than columns."""
    dedup = Dedup(
        threshold=threshold, ngram_words=1, bands=BANDS, rows_per_band=ROWS, keeper=keeper, scope=scope,
        exact_short=exact_short, **KEEPERS[keeper][0],
    )  # fmt: skip
    folder = str(tmp_path_factory.getbasetemp() / "one-range")
    assert groups_by_stage(rows, [], dedup, folder, [], Sizes())[1] == of_run(groups_by_loop(rows, dedup))


@given(
    rows=ROWS_OF_SOURCES,
    threshold=THRESHOLDS,
    keeper=st.sampled_from(list(KEEPERS)),
    scope=st.sampled_from(list(SCOPES)),
    removed=st.sets(st.integers(0, 24)),
    cuts=st.sets(st.integers(0, 25)),
    sizes=SIZES,
    component_documents=st.sampled_from([1, 3, 100]),
)
@settings(max_examples=10, deadline=None)
def test_the_result_is_the_same_for_any_units_ranges_slices_and_batches(
    tmp_path_factory, rows, threshold, keeper, scope, removed, cuts, sizes, component_documents
):
    dedup = Dedup(
        threshold=threshold, ngram_words=1, bands=BANDS, rows_per_band=ROWS, keeper=keeper, scope=scope,
        component_documents=component_documents, **KEEPERS[keeper][0],
    )  # fmt: skip
    gone = sorted(at for at in removed if at < len(rows))
    ends = sorted(at for at in cuts if at <= len(rows))
    base = tmp_path_factory.getbasetemp()
    whole, near = groups_by_stage(rows, gone, dedup, str(base / "whole"), ends, Sizes())
    passed = [at for at in range(len(rows)) if at not in gone]
    by_loop = groups_by_loop([rows[at] for at in passed], dedup)
    assert near == {passed[at]: (why, (0, passed[kept]), alike) for at, (why, kept, alike) in by_loop.items()}
    assert groups_by_stage(rows, gone, dedup, str(base / "cut"), ends, sizes)[0] == whole


@pytest.mark.parametrize("component_documents", sampled([1, 3, 100], 2))
@given(
    rows=ROWS_OF_SOURCES,
    earlier=st.lists(st.tuples(ROWS_OF_SOURCES, st.sets(st.integers(0, 24))), min_size=1, max_size=2),
    threshold=THRESHOLDS,
    keeper=st.sampled_from(list(KEEPERS)),
    scope=st.sampled_from(["all", "source"]),
    sizes=SIZES,
)
@settings(max_examples=5, deadline=None)
def test_documents_like_those_that_earlier_runs_kept_are_removed(
    tmp_path_factory, rows, earlier, threshold, keeper, scope, sizes, component_documents
):
    """The documents of earlier runs come first under every keeper, and are never removed."""
    dedup = Dedup(
        threshold=threshold, ngram_words=1, bands=BANDS, rows_per_band=ROWS, keeper=keeper, scope=scope,
        component_documents=component_documents, **KEEPERS[keeper][0],
    )  # fmt: skip
    runs = [(there, sorted(at for at in removed if at < len(there))) for there, removed in earlier]
    kept = [(run, at) for run, (there, gone) in enumerate(runs) for at in range(len(there)) if at not in gone]
    documents_of = [
        *((run, at, runs[run][0][at]) for run, at in kept),
        *((len(runs), at, one) for at, one in enumerate(rows)),
    ]
    by_loop = groups_by_loop([document for _, _, document in documents_of], dedup, len(kept))
    wanted = {at - len(kept): (why, documents_of[to][:2], alike) for at, (why, to, alike) in by_loop.items()}
    folder = str(tmp_path_factory.getbasetemp() / "against")
    assert groups_by_stage(rows, [], dedup, folder, [], sizes, runs)[1] == wanted


@pytest.mark.parametrize("keeper", ["score", "newest"])
def test_earlier_runs_need_no_column_of_the_keeper(tmp_path, keeper):
    """Two similar documents that an earlier run kept are a batch without a new document."""
    dedup = Dedup(
        threshold=0.6, ngram_words=1, bands=BANDS, rows_per_band=ROWS, keeper=keeper, **KEEPERS[keeper][0]
    )  # fmt: skip
    earlier = [("c0 c1 c2", "a", 0.1), ("c0 c1 c2 x", "a", 0.1)]
    new = [(" ".join(BASES[0]), "a", 0.1), (" ".join(BASES[0]), "a", 0.5)]
    _, found = groups_by_stage(new, [], dedup, str(tmp_path / "run"), [], Sizes(2, 50, 1), [(earlier, [])])
    kept = 1 if keeper == "score" else 0
    assert found == {1 - kept: ("exact_duplicate", (1, kept), 1.0)}


def test_texts_that_differ_in_symbols_alone_are_equal_only_without_symbols():
    texts = Texts.from_strings(
        ["a = b + c; d = e * f", "a = b - c; d = e / f", "A=b+c;  d=e*f", "a b c d e f", "x_1 < 2"]
    )

    def sets(symbols: bool) -> tuple[list[list[int]], list[int]]:
        sketches, tokens = Sketches.of(texts, 3, A, B, exact_short=True, symbols=symbols)
        return split(sketches), tokens.tolist()

    plain, counts = sets(symbols=False)
    assert plain[0] == plain[1] == plain[2] == plain[3] and counts == [6, 6, 6, 6, 3]
    kept, counts = sets(symbols=True)
    assert kept[0] == kept[2] != kept[1] and kept[3] == plain[3] and counts == [11, 11, 11, 6, 5]
    both, either = set(kept[0]) & set(kept[1]), set(kept[0]) | set(kept[1])
    assert len(both) / len(either) < 0.5
