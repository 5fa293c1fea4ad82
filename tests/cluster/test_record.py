"""Records: without one a result is unfinished, the first writer's counts, and a damaged one is named with the fix."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from raymill.cluster import record as record_module
from raymill.cluster.errors import DataError, Problem, StorageError
from raymill.cluster.record import RecordFile, json_bytes, json_with
from raymill.cluster.store.store import Store


def record(folder) -> RecordFile[dict]:
    return RecordFile(Store(), f"{folder}/made.json", "the record of a test", json_with("settings"), "Delete it.")


def test_a_result_without_a_record_is_unfinished_and_the_first_record_counts(tmp_path):
    made = record(tmp_path)
    assert made.read() is None
    made.discard()  # nothing there is no error
    assert made.create(b'{"settings": 1}') == {"settings": 1}
    assert made.create(b'{"settings": 2}') == {"settings": 1} == made.read()


def test_of_two_writers_at_once_both_return_the_record_of_one(tmp_path):
    for turn in range(20):
        made, together = record(tmp_path / str(turn)), Barrier(2)

        def write(writer, made=made, together=together):
            together.wait()
            return made.create(json_bytes({"settings": writer}))

        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(write, range(2))
        assert one == other == made.read()


def test_of_a_record_over_the_bound_no_more_is_read(tmp_path):
    bounded = dataclasses.replace(record(tmp_path), largest=20)
    (tmp_path / "made.json").write_bytes(b'{"settings": 1}')
    assert bounded.read() == {"settings": 1}
    (tmp_path / "made.json").write_bytes(b'{"settings": 1234567}')
    with pytest.raises((DataError, StorageError), match=r"made\.json"):
        bounded.read()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"settings"', b"{}", b"\x00", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_record_is_named_with_the_fix(tmp_path, content):
    (tmp_path / "made.json").write_bytes(content)
    with pytest.raises(DataError, match=r"made\.json: not the record of a test \(.+\)\. Delete it\.$"):
        record(tmp_path).read()
    with pytest.raises(DataError, match=r"made\.json: not the record of a test \(.+\)\. Delete it\.$"):
        record(tmp_path).create(b'{"settings": 1}')  # another program, or a damaged disk, was first


def test_a_record_that_another_driver_removes_at_once_is_created_again(tmp_path, monkeypatch):
    made, exists = record(tmp_path), [True, True]
    monkeypatch.setattr(record_module.time, "sleep", lambda seconds: None)
    create = Store.create
    monkeypatch.setattr(Store, "create", lambda *words: not exists.pop() if exists else create(*words))
    assert made.create(b'{"settings": 1}') == {"settings": 1} == made.read()
    monkeypatch.setattr(Store, "create", lambda *words: False)
    made.discard()
    with pytest.raises(StorageError, match=r"missing when it is read \(5 tries\)\. Check that no other program"):
        made.create(b'{"settings": 1}')


def test_a_record_of_other_settings_is_refused_or_discarded(tmp_path):
    made = record(tmp_path)
    wanted = {"settings": 1}

    def refusal(found):
        return None if found == wanted else Problem("made with other settings")

    assert made.find_or_discard(refusal, replace=False) is None
    made.create(json_bytes(wanted))
    for replace in (False, True):
        assert made.find_or_discard(refusal, replace) == wanted
    wanted = {"settings": 2}
    with pytest.raises(DataError, match="made with other settings"):
        made.find_or_discard(refusal, replace=False)
    assert made.read() == {"settings": 1}
    assert made.find_or_discard(refusal, replace=True) is None and made.read() is None


def test_text_that_is_not_unicode_stays_json():
    value = {"path": "caf\u00e9 \udce9", "😀": 1}
    assert json.loads(json_bytes(value)) == value
    assert "café" in json_bytes(value).decode()
