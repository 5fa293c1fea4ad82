"""Lines of a pod's log: each once, whatever the connections that they come over."""

import random
import time

import pytest

from raymill.cluster.submit.kuberay_log import PodLog


def line(seconds: int, text: str, nanoseconds: int = 0) -> bytes:
    return f"2026-11-22T10:00:{seconds:02}.{nanoseconds:09}Z {text}\n".encode()


def test_a_new_connection_continues_after_the_last_line():
    log = PodLog()
    log.connected()
    assert log.add(line(1, "one") + line(2, "two")[:-6]) == ["one"]
    log.connected()
    assert log.add(line(1, "one") + line(2, "two") + line(3, "three")) == ["two", "three"]
    log.connected()
    assert log.add(line(3, "three") + line(4, "four")) == ["four"], "Kubernetes no longer has the first lines"
    log.connected()
    assert log.add(line(5, "five")) == ["five"], "nor the last one that was seen"


def test_equal_lines_of_one_moment_are_counted():
    log = PodLog()
    log.connected()
    assert log.add(line(1, "same") * 2) == ["same", "same"]
    log.connected()
    assert log.add(line(1, "same") * 3) == ["same"]
    log.connected()
    assert log.add(line(1, "same") * 3 + line(1, "other")) == ["other"]


def test_a_server_that_lies_about_times_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr("raymill.cluster.submit.kuberay_log._MOST_OF_ONE_TIME", 10)
    log = PodLog()
    log.connected()
    lines = [f"line {number}" for number in range(100)]
    assert log.add(b"".join(line(1, one) for one in lines)) == lines
    assert len(log._counts) <= 10
    assert log.add(b"2026-11-22T10:00:02." + b"1" * 5000 + b"Z last\n") == ["last"]


def test_lines_of_one_moment_are_distinguished():
    log = PodLog()
    log.connected()
    assert log.add(line(1, "a") + line(1, "b")) == ["a", "b"]
    log.connected()
    assert log.add(line(1, "a") + line(1, "b") + line(1, "c")) == ["c"]


def test_a_clock_that_was_set_back_loses_no_line():
    log = PodLog()
    log.connected()
    assert log.add(line(9, "nine")) == ["nine"]
    log.connected()
    assert log.add(line(9, "nine") + line(3, "three")) == ["three"]


def test_bytes_that_are_no_text_empty_lines_and_messages_of_kubernetes():
    log = PodLog()
    log.connected()
    text = b"2026-11-22T10:00:01.5Z \xff\n2026-11-22T11:00:02+01:00 \nunable to retrieve container logs\n"
    assert log.add(text) == ["\ufffd", ""]
    assert log.add(line(3, "last")[:-1]) == [] and log.end() == ["last"]


def test_the_next_connection_begins_before_the_last_line():
    log = PodLog()
    assert log.since_s() is None
    log.connected()
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 100))
    log.add(f"{moment} text\n".encode())
    assert 690 <= log.since_s() <= 710


@pytest.mark.parametrize("seed", range(30))
def test_any_cuts_give_each_line_once(seed):
    rng = random.Random(seed)
    lines, moment = [], 0
    for number in range(60):
        moment += rng.choice([0, 0, 1, 1_000_000])
        lines.append(line(1, rng.choice([f"line {number}", "same"]), moment))
    log, seen, kept = PodLog(), [], 0
    for _ in range(500):
        if len(seen) >= len(lines):
            break
        log.connected()
        wanted = rng.randint(kept, max(kept, len(seen) - 1))  # Kubernetes drops older ones
        kept = wanted if wanted == 0 or lines[wanted][:30] != lines[wanted - 1][:30] else kept
        text = b"".join(lines[kept:])
        text = text[: rng.randint(0, len(text))] if rng.random() < 0.8 else text
        while text:
            size = rng.randint(1, 400)
            seen += log.add(text[:size])
            text = text[size:]
    assert seen == [one.split(b" ", 1)[1].decode().rstrip("\n") for one in lines]
