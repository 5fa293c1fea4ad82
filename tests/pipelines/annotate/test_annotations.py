"""Labels in files, and merging of the files of the page."""

import contextlib
import json
import random
import threading
import tracemalloc
from dataclasses import asdict, replace

import pytest

from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.store.store import Store
from raymill.pipelines.annotate import annotations
from raymill.pipelines.annotate.annotations import Annotation, Annotations
from raymill.pipelines.annotate.labelling import Labelling
from tests.support.labelling_page import TASKS, make_round


def answer(number: int, **more) -> Annotation:
    at = f"2026-11-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}"
    return Annotation(f"r{number:06d}", "ada", "labelled", "login", at=at, **more)


def names(stored: Annotations) -> list[str]:
    return [one.uri.rpartition("/")[2] for one in stored.files()]


def test_many_files_of_the_page_become_one_and_imports_stay(tmp_path):
    stored = Annotations(Store(), str(tmp_path))
    stored.add([answer(5000)], origin="import-0123456789abcdef")
    for number in range(annotations.MANY - 1):
        stored.add([answer(number)])
    stored.merge()
    assert len(names(stored)) == annotations.MANY
    stored.add([answer(annotations.MANY - 1)])
    before = stored.read()
    stored.merge()
    assert sorted(one[:7] for one in names(stored)) == ["import-", "merged-"]
    assert stored.read() == before and len(before) == annotations.MANY + 1
    assert stored.add([answer(3)])  # sent again after it was merged
    assert stored.read() == before


def test_merged_files_have_a_bound_and_files_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "MANY", 10)
    monkeypatch.setattr(annotations, "_MERGED_BYTES", 1000)
    stored = Annotations(Store(), str(tmp_path))
    for number in range(40):
        stored.add([answer(number)])
    damaged = tmp_path / "answers" / ("page-" + "0" * 32 + ".jsonl")
    damaged.write_text("cut o")
    (tmp_path / "answers" / "page-notes.jsonl").write_text("")
    stored.merge()
    assert len([one for one in names(stored) if one.startswith("merged-")]) > 3
    assert damaged.read_text() == "cut o"
    damaged.unlink()
    assert len(stored.read()) == 40 and "page-notes.jsonl" in names(stored)


@pytest.mark.parametrize("seed", range(5))
def test_a_merge_that_is_killed_loses_and_doubles_nothing(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(annotations, "MANY", 5)
    chosen, stored = random.Random(seed), Annotations(Store(), str(tmp_path))
    real_delete, real_create = Store.delete, Store.create

    def dying_delete(self, uris):
        some = list(uris)
        real_delete(self, chosen.sample(some, chosen.randint(0, len(some))))
        raise KeyboardInterrupt

    def dying_create(self, uri, data):
        if chosen.random() < 0.5:
            real_create(self, uri, data)
        raise KeyboardInterrupt

    for number in range(60):
        stored.add([answer(number)])
        if chosen.random() < 0.4:
            with monkeypatch.context() as within:
                within.setattr(Store, *chosen.choice([("delete", dying_delete), ("create", dying_create)]))
                with contextlib.suppress(KeyboardInterrupt):
                    stored.merge()
        assert [one.task for one in stored.read()] == [f"r{one:06d}" for one in range(number + 1)]


def test_readers_see_every_label_while_others_merge(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "MANY", 8)
    stored, done = Annotations(Store(), str(tmp_path)), threading.Event()
    added = 0
    problems: list[Exception] = []

    def merging():
        try:
            while not done.is_set():
                stored.merge()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=merging) for _ in range(2)]
    for one in threads:
        one.start()
    try:
        for number in range(300):
            stored.add([answer(number)])
            added += 1
            if number % 3 == 0:
                assert len(stored.read()) == added
    finally:
        done.set()
        for one in threads:
            one.join()
    assert problems == [] and len(stored.read()) == 300


def test_a_file_that_is_merged_between_the_listing_and_the_reading_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "MANY", 5)
    stored, listed = Annotations(Store(), str(tmp_path)), Annotations.files
    for number in range(10):
        stored.add([answer(number)])
    begun = []

    def stale(self):
        """The first listing has half of the files, as if the others had been deleted before it came to them."""
        found = listed(self)
        if not begun:
            begun.append(True)
            stored.merge()
            return found[:5]
        return found

    half = [one.uri for one in listed(stored)[:5]]
    contents = {uri: stored.store.read_bytes(uri) for uri in half}
    real = Annotations._contents
    with monkeypatch.context() as within:
        within.setattr(Annotations, "files", stale)
        within.setattr(Annotations, "_contents", lambda self, uris: [contents[uri] for uri in uris]
                       if set(uris) <= contents.keys() else real(self, uris))  # fmt: skip
        assert len(stored.read()) == 10


def test_of_labels_of_one_moment_the_same_one_counts_whatever_file_came_first(tmp_path):
    both = [replace(answer(1), value=value, at="2026-01-01T00:00:00+00:00") for value in ("login", "refund")]
    found = []
    for folder, order in (("a", both), ("b", both[::-1])):
        stored = Annotations(Store(), str(tmp_path / folder))
        for number, one in enumerate(order):
            path = tmp_path / folder / "answers" / f"import-{number:016x}-0.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(one)) + "\n")
        found.append([one.value for one in stored.read()])
    assert found[0] == found[1] and len(found[0]) == 2


def test_the_labels_of_a_round_have_a_bound_on_their_bytes_and_their_number(tmp_path, monkeypatch):
    stored = Annotations(Store(), str(tmp_path))
    for number in range(4):
        stored.add([answer(number)])
    size = sum(one.size for one in stored.files())
    monkeypatch.setattr(annotations, "_LARGEST", size)
    monkeypatch.setattr(annotations, "MOST", 4)
    assert len(stored.read()) == 4
    monkeypatch.setattr(annotations, "MOST", 3)
    with pytest.raises(DataError, match="answers: has more than 3 labels"):
        stored.read()
    monkeypatch.setattr(annotations, "_LARGEST", size - 1)
    with pytest.raises(DataError, match=f"answers: has {size:,} bytes of labels"):
        stored.read()


def test_equal_labels_of_many_lines_and_files_take_the_memory_of_some_files(tmp_path, monkeypatch):
    stored = Annotations(Store(), str(tmp_path))
    for number in range(8):
        stored.add([answer(number)] * 5_000)
    size = stored.files()[0].size
    monkeypatch.setattr(annotations, "_READ_BYTES", 2 * size)
    tracemalloc.start()
    assert len(stored.read()) == 8
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * size


def test_a_line_of_millions_of_values_is_damage(tmp_path):
    stored = Annotations(Store(), str(tmp_path))
    stored.add([replace(answer(0), value=[[]] * 2_100_000)])
    with pytest.raises(DataError, match="millions of values"):
        stored.read()


def test_the_page_merges_at_its_start_and_while_labels_come_in(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "MANY", 5)
    monkeypatch.setattr("raymill.pipelines.annotate.labelling.MANY", 5)
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], [f"text {at}" for at in range(20)])
    for number in range(7):
        round.answers.add([answer(number)])
    page = Labelling(round)
    assert page.progress("ada")["labelled"] == 7 and len(names(round.answers)) == 1
    for number in range(7, 12):
        at = f"2026-11-02T00:00:{number:02d}+00:00"
        page.add("ada", [{"task": f"r{number:06d}", "status": "labelled", "value": "login", "at": at}])
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.current_thread() and "_merge" in thread.name:
            thread.join(10)
    assert len(names(round.answers)) == 2 and len(round.answers.read()) == 12


def test_without_the_right_to_delete_the_page_serves_all_labels(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(annotations, "MANY", 5)
    round = make_round(tmp_path, monkeypatch, TASKS["classify"], [f"text {at}" for at in range(8)])
    for number in range(6):
        round.answers.add([answer(number)])

    def refused(self, uris):
        raise StorageError("no right to delete")

    monkeypatch.setattr(Store, "delete", refused)
    assert Labelling(round).progress("ada")["labelled"] == 6
    assert "not merged, which loses none: no right to delete" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, "\ud800") for name in ("value", "at", "guideline", "origin", "reason", "task")),
        *(("seconds", value) for value in (10**400, -1, float("nan"), float("inf"), "3")),
    ],
)
def test_a_label_of_others_that_cannot_be_printed_or_counted_is_damage(tmp_path, field, value):
    round = Annotations(Store(), str(tmp_path))
    plain = asdict(Annotation("t1", "a1", "labelled", "billing"))
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers/page-1.jsonl").write_text(json.dumps(plain | {field: value}) + "\n")
    with pytest.raises(DataError, match="is damaged"):
        round.read()


def test_half_of_a_surrogate_pair_in_an_import_is_stored_as_a_question_mark(tmp_path):
    round = Annotations(Store(), str(tmp_path))
    round.add([Annotation("t1", "a1", "labelled", "a\ud800b")], "import")
    assert [one.value for one in round.read()] == ["a?b"]
