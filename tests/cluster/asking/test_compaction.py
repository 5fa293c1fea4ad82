"""Joining the files of an answer store: no try is lost or counted twice, whatever is killed or reads meanwhile."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raymill.cluster.asking import answers as of_answers
from raymill.cluster.asking.answer_index import AnswerIndex
from raymill.cluster.asking.answers import AnswerRange, Answers, Try
from raymill.cluster.asking.compaction import compact, stores_below, summary
from raymill.cluster.asking.money import TokenCounts
from raymill.cluster.asking.requests import boundaries, range_of
from raymill.cluster.failpoints import failpoint
from raymill.cluster.store.store import Store
from tests.support.sampled import sampled
from tests.support.stored_answers import ALL, tries_in

RUNS = ("run-1", "run-2")


@pytest.fixture
def answers(tmp_path):
    return Answers(Store(), str(tmp_path / "answers"), "run-1")


def some_try(draw, number, run) -> Try:
    outcome = draw.choice(["answered"] * 6 + ["refused", "again"])
    key = f"{draw.getrandbits(128):032x}"
    body = b'{"a": %d, "b": "%s"}' % (number, b"x" * 300)
    at, tokens = f"2026-11-26T10:{number % 60:02}", {"input_tokens": 9, "output_tokens": 5, "most_input": 1}
    return Try(key, f"{run}-{number}", run, at, outcome, status=200, seconds=0.5, body=body, **tokens)


def fill(answers, ranges=8, calls=4, seed=0) -> list[Try]:
    """Two runs write tries: by ranges of keys, and by calls with keys anywhere."""
    draw, made, firsts = random.Random(seed), list[Try](), boundaries(ranges)
    for run in RUNS:
        store = replace(answers, run=run)
        tries = [some_try(draw, number, run) for number in range(400)]
        made += tries
        for place in range(ranges):
            keys = AnswerRange(firsts[place], firsts[place + 1] if place + 1 < ranges else "")
            write(store, keys, [one for one in tries if range_of(one.key, firsts) == place])
        for call in range(calls):
            tries = [some_try(draw, 1000 + 10 * call + number, run) for number in range(10)]
            made += tries
            write(store, AnswerRange("", "", f"{run[-1]}c{call:02}"), tries, settle_call=True)
        store.close()
    return made


def write(store, keys, tries, settle_call=False):
    with store.journal(keys) as journal:
        for one in tries:
            journal.sending(one.key, one.id, '{"model":"m"}', TokenCounts(5, 0, 7))
            journal.add(one)
    (store.settle_call if settle_call else store.settle)(keys)


def files(answers) -> list[str]:
    return sorted(path.name for path in Path(answers.uri).glob("*.parquet"))


def view(answers, made):
    """All that a reader can see of a store."""
    firsts = boundaries(8)
    ranges = [AnswerRange(*pair) for pair in zip(firsts, [*firsts[1:], ""], strict=True)]
    wanted = [one.key for one in made]
    return (
        tries_in(answers),
        [answers.finals(keys, [key for key in wanted if key in keys], 10_000) for keys in ranges],
        [replace(answers, run=run).spending() for run in RUNS],
        AnswerIndex(answers).answered(wanted, 10_000),
        summary(answers.store, answers.uri),
    )


def test_joined_files_hold_the_same_tries_for_every_reader(answers):
    made = fill(answers)
    before, count = view(answers, made), len(files(answers))
    assert count == 2 * (8 + 4) and len(before[0]) == len(made)
    assert compact(answers.store, answers.uri) == (count, 1) and len(files(answers)) == 1
    assert view(answers, made) == before
    assert compact(answers.store, answers.uri) == (0, 0), "one file is not joined again"


def test_a_range_and_a_call_read_their_own_row_groups_alone(answers, monkeypatch):
    monkeypatch.setattr("raymill.cluster.asking.compaction._GROUP_BYTES", 20_000)
    made = fill(answers)
    keys = AnswerRange("40000000", "48000000")
    wanted = [one.key for one in made if one.key in keys]
    read = rows_read(monkeypatch)
    answers.finals(keys, wanted, 10_000)
    before = read[0]
    compact(answers.store, answers.uri)
    read[0] = 0
    answers.finals(keys, wanted, 10_000)
    groups = pq.ParquetFile(next(Path(answers.uri).glob("*.parquet"))).num_row_groups
    # Beside the calls, whose keys are anywhere, the row groups with keys of the range.
    assert groups > 10 and 80 < before < 300 and read[0] < 300 < len(made)
    index = AnswerIndex(answers)
    of_call = [one.key for one in made if one.id.startswith("run-1-101")]
    index.answered([], 10_000)
    read[0] = 0
    assert len(index.answered(of_call, 10_000)) > 4 and read[0] < 0.2 * len(made)


def rows_read(monkeypatch) -> list[int]:
    count, plain = [0], of_answers.read_tables

    def counted(*given):
        for table in plain(*given):
            count[0] += table.num_rows
            yield table

    monkeypatch.setattr(of_answers, "read_tables", counted)
    return count


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", sampled(["before_upload", "after_upload", "answers_joined", "half deleted"], 2))
def test_a_process_that_is_killed_while_it_joins_loses_and_doubles_nothing(answers, monkeypatch, after):
    made = fill(answers)
    before = view(answers, made)

    def die(name, *about):
        if name == after:
            raise Killed

    for module in ("cluster.asking.compaction", "cluster.store.store"):
        monkeypatch.setattr(f"raymill.{module}.failpoint", die if after != "half deleted" else failpoint)
    if after == "half deleted":
        plain = Store.delete_listed

        def half(store, folder, uris):
            plain(store, folder, list(uris)[::2])
            raise Killed

        monkeypatch.setattr(Store, "delete_listed", half)
    with pytest.raises(Killed):
        compact(answers.store, answers.uri)
    assert len(files(answers)) > 10
    found = view(answers, made)
    assert found[:4] == before[:4]
    monkeypatch.undo()
    compact(answers.store, answers.uri, fewest=2)
    assert len(files(answers)) <= 2 and view(answers, made)[:4] == before[:4]
    there = sum(pq.ParquetFile(path).metadata.num_rows for path in Path(answers.uri).glob("*.parquet"))
    assert there == len(made) if len(files(answers)) == 1 else there >= len(made), "no try is written twice"


def test_a_reader_whose_files_are_joined_meanwhile_lists_the_store_again(answers, monkeypatch):
    made = fill(answers)
    before, plain, listed = view(answers, made), Answers._files, []

    def joined_after_the_listing(self, keys):
        found = plain(self, keys)
        if not listed:
            listed.append(keys)
            compact(answers.store, answers.uri)
        return found

    wanted = [one.key for one in made]
    index = AnswerIndex(answers)
    index.answered(wanted, 10_000)
    monkeypatch.setattr(Answers, "_files", joined_after_the_listing)
    assert answers.finals(ALL, wanted, 10_000) == finals_of(before)
    assert len(files(answers)) == 1
    assert index.answered(wanted, 10_000) == before[3], "its files are gone"


def finals_of(seen):
    answered, refused = {}, {}
    for some, others in seen[1]:
        answered |= some
        refused |= others
    return answered, refused


def test_a_damaged_file_stays_where_it_is(answers):
    fill(answers)
    name = files(answers)[3]
    damaged = Path(answers.uri, name)
    damaged.write_bytes(damaged.read_bytes()[:-300])
    joined, made = compact(answers.store, answers.uri)
    assert (joined, made) == (23, 1) and name in files(answers) and len(files(answers)) == 2


def test_large_files_and_few_ones_are_left_alone(answers, monkeypatch):
    fill(answers, ranges=4, calls=2)
    assert compact(answers.store, answers.uri) == (0, 0)
    monkeypatch.setattr("raymill.cluster.asking.compaction._SMALL", 10)
    assert compact(answers.store, answers.uri, fewest=2) == (0, 0)


def test_what_a_store_holds_is_counted(answers):
    made = fill(answers, ranges=3, calls=2)
    nested = Answers(answers.store, f"{answers.uri}/embeddings", "run-3")
    fill(nested, ranges=2, calls=1)
    with nested.journal(ALL):
        pass
    found = stores_below(answers.store, answers.uri)
    assert (found[""].files, found[""].small, found[""].journals) == (10, 10, 0)
    assert (found["embeddings"].files, found["embeddings"].journals) == (6, 1)
    assert "10 files, " in found[""].text and "1 journal of runs that have not ended" in found["embeddings"].text
    counts = summary(answers.store, answers.uri)
    for run in RUNS:
        of_run = [one for one in made if one.run == run]
        assert counts[run]["tries"] == len(of_run) and counts[run]["input_tokens"] == 9 * len(of_run)
        assert {name: counts[run].get(name, 0) for name in ("answered", "refused", "again")} == {
            name: Counter(one.outcome for one in of_run)[name] for name in ("answered", "refused", "again")
        }


def test_a_call_reads_its_own_files_alone():
    one, other, all_keys = AnswerRange("", "", "1c00"), AnswerRange("", "", "1c01"), AnswerRange("", "")
    assert one.meets(one) and not one.meets(other) and not one.meets(all_keys)
    assert all_keys.meets(one) and AnswerRange("4", "5").meets(one), "its keys may be anywhere"
    assert AnswerRange.named(f"{one.name}.a.parquet") == one and AnswerRange.named("x.parquet") is None
