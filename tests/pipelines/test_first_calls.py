"""In which order the parts of a work are done by several processes."""

import os

import pytest

from pipelines import first_calls
from pipelines.first_calls import _lock, each


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A machine without kernels, and a process that has done nothing."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(first_calls, "_done", set())


def order() -> tuple[str, str]:
    """The names of the parts, in the order in which they were done, and in that of the results."""
    done: list[str] = []
    results = each({name: lambda name=name: done.append(name) or name.upper() for name in "abc"})
    assert all(result == name.upper() for name, result in results.items())
    return "".join(done), "".join(results)


def test_a_process_alone_does_the_parts_in_their_order():
    assert order() == ("abc", "abc")


def test_a_part_that_another_process_does_for_the_first_time_is_done_later():
    other = _lock("a")
    assert order() == ("bca", "abc")
    os.close(other)


def test_nobody_waits_when_others_do_all_parts():
    others = [_lock(name) for name in "abc"]
    assert order() == ("abc", "abc")
    for other in others:
        os.close(other)


def test_what_a_process_has_done_before_has_no_lock():
    order()
    other = _lock("a")
    assert order() == ("abc", "abc")
    os.close(other)


def test_a_part_that_fails_gives_its_lock_back_and_is_new_the_next_time():
    with pytest.raises(ZeroDivisionError):
        each({"a": lambda: 1 // 0})
    other = _lock("a")
    assert order() == ("bca", "abc")
    os.close(other)


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert order() == ("abc", "abc")
