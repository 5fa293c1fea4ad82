"""The progress that a program sees which calls a function: bars, text in a notebook, calls of its own, or nothing."""

import io
import sys
from types import ModuleType, SimpleNamespace

from raymill.cluster import progress_display
from raymill.cluster.progress import Progress, ProgressLines, ProgressUpdate
from raymill.cluster.progress_display import chosen_progress
from raymill.cluster.stage import CommitRecord
from raymill.cluster.sudden_end import command_process


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(progress: Progress) -> None:
    """What an engine does with a stage of three units, one of which was finished before."""

    def record(unit: int) -> CommitRecord:
        return CommitRecord(unit, "a", {}, {"documents": 10, "text_bytes": 1e6, "reason/too_short": 2}, 1.0)

    with progress.waiting("starting Ray"):
        pass
    progress.start("measure", 3, [record(0)])
    progress.advance(record(1))
    progress.advance(record(2))
    progress.finish()
    progress.say("a note [in brackets]")


def test_false_shows_nothing_and_a_progress_is_itself(capsys):
    show(chosen_progress(False))
    assert capsys.readouterr() == ("", "")
    mine = ProgressLines(io.StringIO())
    assert chosen_progress(mine) is mine


def test_a_function_is_called_with_numbers_and_text():
    updates: list[ProgressUpdate] = []
    show(chosen_progress(updates.append))
    last = next(one for one in reversed(updates) if one.stage)
    assert (last.stage, last.done, last.total) == ("measure", 3, 3) and last.documents_per_s > 0
    assert last.text.startswith("measure: 3/3 units, ") and last.text.endswith(" | too_short 6")
    assert updates[-1] == ProgressUpdate("a note [in brackets]")


def test_a_terminal_gets_a_bar_and_the_streams_stay_those_of_the_program(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    streams = sys.stdout, sys.stderr
    progress = chosen_progress(None)
    progress.start("measure", 2, [])
    assert (sys.stdout, sys.stderr) == streams
    show(progress)
    shown = terminal.getvalue()
    assert "measure" in shown and "3/3" in shown and "a note [in brackets]" in shown


def test_elsewhere_and_in_a_command_lines_are_written(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    show(chosen_progress(None))
    assert stream.getvalue().splitlines()[-2].startswith("measure: 3/3 units")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with command_process():
        assert type(chosen_progress(None).writer) is progress_display.LineWriter


def test_a_notebook_gets_text_that_is_redrawn(monkeypatch):
    shown: list[list[str]] = []

    def display(text, display_id=False):
        drawn = [repr(text)]
        shown.append(drawn)
        return SimpleNamespace(update=lambda text: drawn.append(repr(text)))

    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython, module.display = lambda: SimpleNamespace(kernel=object()), display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    show(chosen_progress(None))
    ray, measure, note = shown
    assert ray[-1].startswith("starting Ray: ") and note == ["a note [in brackets]"]
    assert measure[0] == "measure: 1 of 3 units was finished before" and measure[-1].startswith("measure: 3/3 units")
