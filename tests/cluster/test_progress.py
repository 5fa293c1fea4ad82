"""What a person sees of a stage, and what a log says."""

import io
import logging

import pytest

from raymill.cluster import logs
from raymill.cluster import progress as progresses
from raymill.cluster.progress import LineWriter, ProgressLines
from raymill.cluster.progress import clock as clock_text
from raymill.cluster.stage import CommitRecord


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progresses.time, "monotonic", lambda: now[0])
    return now


def record(unit: int, **counters: float) -> CommitRecord:
    return CommitRecord(unit, "a", {}, counters, 1.0)


def test_a_log_gets_plain_lines_at_a_steady_pace(clock):
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines.start("measure", 40, [])
    for unit in range(40):
        clock[0] += 1
        lines.advance(record(unit, documents=1000, text_bytes=5e6, **{"reason/too_short": 10, "reason/bad": 1}))
    lines.finish()
    shown = stream.getvalue().splitlines()
    assert shown[0] == "measure: 0/40 units"
    assert shown[1] == "measure: 10/40 units, 1,000 documents/s, 5.0 MB/s, 30 s left | too_short 100, bad 10"
    assert shown[-1] == "measure: 40/40 units, 1,000 documents/s, 5.0 MB/s, took 40 s | too_short 400, bad 40"
    assert len(shown) == len(set(shown)) == 5, "a line is not said twice"


def test_a_terminal_gets_one_line_drawn_anew(clock):
    stream = Terminal()
    lines = ProgressLines(stream)
    lines.start("measure", 2, [])
    clock[0] += 1
    lines.advance(record(0, documents=1, text_bytes=1e6))
    lines.finish()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().split("\r\033[K")[2:] == ["measure: 1/2 units, 1 documents/s, 1.0 MB/s\n"]


def test_work_of_an_earlier_run_counts_as_done_but_not_towards_the_pace(clock):
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines.start("measure", 4, [record(0, documents=9000, text_bytes=9e9), record(1, documents=9000, text_bytes=9e9)])
    clock[0] += 10
    lines.advance(record(2, documents=100, text_bytes=1e6))
    assert stream.getvalue().splitlines() == [
        "measure: 2 of 4 units were finished before",
        "measure: 2/4 units",
        "measure: 3/4 units, 10 documents/s, 0.1 MB/s",
    ]


def test_until_the_first_unit_the_line_says_what_the_workers_do(clock):
    stream = io.StringIO()
    lines = ProgressLines(stream, at_first="compiling kernels, once on this machine")
    lines.start("measure", 2, [])
    clock[0] += 20
    lines.advance(record(0, documents=1000))
    lines.start("select", 2, [])
    assert stream.getvalue().splitlines() == [
        "measure: 0/2 units, compiling kernels, once on this machine",
        "measure: 1/2 units, 50 documents/s",
        "select: 0/2 units",
    ]


@pytest.mark.parametrize(
    ("documents", "text_bytes", "rate"),
    [
        (4, 100, ""),
        (30, 100, ", 0.3 documents/s"),
        (250, 4e6, ", 2.5 documents/s"),
        (5000, 1e7, ", 50 documents/s, 0.1 MB/s"),
        (4.9, 4.9e6, ""),
        (5.1, 5.1e6, ", 0.1 documents/s, 0.1 MB/s"),
        (200, 0, ", 2 documents/s"),
        (990, 0, ", 9.9 documents/s"),
        (1010, 1e9, ", 10 documents/s, 10.0 MB/s"),
        (123_456, 1.2e10, ", 1,235 documents/s, 120.0 MB/s"),
    ],
)
def test_a_rate_is_shown_once_it_is_not_nothing(clock, documents, text_bytes, rate):
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines.start("measure", 3, [])
    clock[0] += 100
    lines.advance(record(0, documents=documents, text_bytes=text_bytes))
    assert stream.getvalue().splitlines()[-1] == f"measure: 1/3 units{rate}"


def test_the_three_most_frequent_reasons_are_shown_in_the_order_of_their_counts(clock):
    counts = {"reason/a": 5, "reason/b": 1200, "other": 9999, "reason/c": 7, "reason/d": 6, "areason/e": 99}
    lines = ProgressLines(io.StringIO())
    lines.start("measure", 2, [record(0, **counts), record(1, **{"reason/a": 1.5, "reason/c": 1})])
    assert lines.writer.stream.getvalue().splitlines() == [
        "measure: 2 of 2 units were finished before",
        "measure: 2/2 units | b 1,200, c 8, a 6",
    ]


def test_of_one_unit_and_of_no_reason_the_line_is_in_the_singular(clock):
    lines = ProgressLines(io.StringIO())
    lines.start("measure", 1, [record(0)])
    lines.finish()
    assert lines.writer.stream.getvalue() == "measure: 1 of 1 unit was finished before\nmeasure: 1/1 unit\n"


@pytest.mark.parametrize(("stream", "every_s"), [(io.StringIO(), 10.0), (Terminal(), 0.2)])
def test_a_line_is_drawn_when_the_time_has_passed_and_not_before(clock, stream, every_s):
    lines = ProgressLines(stream)
    lines.start("measure", 9, [])
    clock[0] += every_s - 0.01
    lines.advance(record(0))
    assert "1/9" not in stream.getvalue()
    clock[0] += 0.02
    lines.advance(record(1))
    assert "2/9" in stream.getvalue()
    clock[0] += every_s - 0.01
    lines.advance(record(2))
    assert "3/9" not in stream.getvalue()
    lines.finish()
    assert stream.getvalue().count("3/9") == 1
    assert stream.getvalue().endswith("\n")


def test_on_a_terminal_the_redrawn_line_is_cut_and_gives_way_to_a_line_that_stays():
    writer = LineWriter(Terminal())
    writer.end()
    writer.write("first")
    writer.update("x" * 161)
    writer.write("y" * 161)
    writer.write("second")
    writer.update("third")
    writer.end()
    writer.end()
    writer.write("last")
    drawn = "\r\033[K"
    assert writer.stream.getvalue() == (f"first\n{drawn}{'x' * 160}{drawn}{'y' * 161}\nsecond\n{drawn}third\nlast\n")


def test_in_a_log_every_line_is_whole_and_stays():
    writer = LineWriter(io.StringIO())
    writer.update("x" * 161)
    writer.write("y")
    writer.update("z")
    writer.end()
    assert writer.stream.getvalue() == f"{'x' * 161}\ny\nz\n"


def test_what_is_said_between_stages_is_a_line_of_its_own(clock):
    lines = ProgressLines(Terminal())
    lines.start("a", 1, [])
    lines.say("note")
    assert lines.writer.stream.getvalue() == "\r\033[Ka: 0/1 unit\r\033[Knote\n"


@pytest.mark.parametrize("workers", [1, 2, 64])
@pytest.mark.parametrize("unit_s", [0.5, 30])
def test_time_left_is_shown_only_when_it_is_nearly_right(clock, monkeypatch, workers, unit_s):
    """Workers take 20 s to start and compile, then each does one unit after the other."""
    monkeypatch.setattr(progresses, "_EVERY_S", {True: 0, False: 0})
    units, begin = 20 * workers, 120.0
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines.start("measure", units, [])
    ends = sorted(begin + unit_s * (turn + 1) + worker / 1000 for turn in range(20) for worker in range(workers))
    shown = []
    for unit, clock[0] in enumerate(ends):
        lines.advance(CommitRecord(unit, "a", {}, {}, unit_s))
        last = stream.getvalue().splitlines()[-1]
        truth = ends[-1] - clock[0]
        if " left" in last:
            shown.append(truth)
            assert truth / 2 - unit_s <= lines._left() <= 1.5 * truth + 1.1 * unit_s, last
    assert (shown and shown[0] > 0.3 * (ends[-1] - begin)) or unit_s < 1, "and while it is still of use"


def test_what_is_waited_for_is_a_line_with_its_seconds(clock):
    for stream, expected in (
        (io.StringIO(), "starting Ray: 6.2 s\n"),
        (Terminal(), "\r\033[Kstarting Ray ...\r\033[Kstarting Ray: 6.2 s\n"),
    ):
        with ProgressLines(stream).waiting("starting Ray"):
            clock[0] += 6.2
        assert stream.getvalue() == expected


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (61, "1 min 01 s"),
        (7384, "2 h 03 min"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_times_are_written_as_people_do(seconds, shown):
    assert clock_text(seconds) == shown


# --- logs


@pytest.fixture
def logged(capsys):
    """A logger, and what came out on standard error since."""
    logs.setup(verbose=True)
    yield logging.getLogger("raymill.test"), lambda: capsys.readouterr().err
    logs.setup()


def test_a_log_line_says_when_how_bad_and_about_what(logged):
    logger, written = logged
    with logs.about(run="peps", stage="measure"), logs.about(unit=17):
        logger.warning("attempt %d", 2)
    logger.info("free")
    first, second = written().splitlines()
    assert first[10] == "T" and first[19:] == "Z warning run=peps stage=measure unit=17 raymill.test: attempt 2"
    assert second.endswith("Z info raymill.test: free")


@pytest.mark.parametrize("tree", ["cluster", "pipelines", "training"])
@pytest.mark.parametrize("verbose", [False, True])
def test_every_tree_logs_warnings_and_with_verbose_what_is_below_them(capsys, tree, verbose):
    logs.setup(verbose)
    assert logs.is_verbose() is verbose
    logger = logging.getLogger(f"raymill.{tree}.test")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "seen")
    seen = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert seen == (["info"] if verbose else []) + ["warning", "error"]
    logs.setup()


def test_a_log_line_has_the_time_of_its_record_in_utc_and_the_ids_of_the_innermost_about(logged):
    logger, written = logged
    made = logger.makeRecord("raymill.x", logging.ERROR, "", 0, "a\n b %s", ("c",), None)
    made.created = 86_400 * 365 + 3_723.9
    with logs.about(run="a", unit=1), logs.about(unit=2, stage="s"):
        logger.handle(made)
    logger.handle(made)
    one, other = written().splitlines()
    assert one == "1971-01-01T01:02:03Z error run=a unit=2 stage=s raymill.x: a  b c"
    assert other == "1971-01-01T01:02:03Z error raymill.x: a  b c"


def test_a_log_record_is_one_line_and_an_exception_only_its_kind(logged):
    logger, written = logged
    try:
        raise ValueError("words of a document")
    except ValueError:
        logger.exception("unit failed\nreally")
    assert written().endswith("raymill.test: unit failed really (ValueError)\n")


def test_setting_up_twice_changes_the_level_and_adds_no_second_line(logged):
    logger, written = logged
    logs.setup()
    logger.info("quiet")
    logger.warning("loud")
    assert len(written().splitlines()) == 1


def test_what_running_units_have_done_is_shown_until_the_stage_ends(clock):
    stream = io.StringIO()
    lines = ProgressLines(stream, at_first="starting")
    lines.start("ask", 2, [])
    clock[0] += 1
    lines.within("5/20 requests")
    assert "requests" not in stream.getvalue(), "at the pace of the other lines"
    clock[0] += 10
    lines.within("9/20 requests, spent 0.1")
    clock[0] += 10
    lines.within("")
    lines.advance(record(0))
    clock[0] += 10
    lines.within("15/20 requests, spent 0.2")
    lines.advance(record(1))
    lines.finish()
    shown = stream.getvalue().splitlines()
    assert shown[0] == "ask: 0/2 units, starting"
    assert shown[1] == "ask: 0/2 units, 9/20 requests, spent 0.1", "the start is over"
    assert any(line.startswith("ask: 1/2 units") and line.endswith("15/20 requests, spent 0.2") for line in shown)
    assert "requests" not in shown[-1] and shown[-1].startswith("ask: 2/2 units")
