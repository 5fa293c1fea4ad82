"""What the command line prints and logs: no control characters, no secrets."""

import io
import json
import logging
import sys

import pytest

from raymill.cluster import cli, logs
from raymill.cluster.entry import Entry
from raymill.cluster.errors import DataError
from raymill.cluster.frame.kind import Verb
from raymill.cluster.logs import PrintableStream, printable, printable_output
from raymill.cluster.progress import LineWriter

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u202efdp.exe\u2066\u2028\x00\x7f\udc80"
SHOWN = r"\u001b]0;title\u0007\u001b[2J\u009b31m\u000d\u202efdp.exe\u2066\u2028\u0000\u007f\udc80"


def test_control_characters_are_shown_as_escapes():
    assert printable(HOSTILE) == SHOWN
    assert json.loads(f'"{printable(HOSTILE)}"') == HOSTILE  # so JSON that is printed stays JSON of the same text


@pytest.mark.parametrize(
    "text", ["line\n\tindented\n", "שלום", "عربى", "می\u200cخواهم", "👩\u200d🔬", "e\u0301", "日本"]
)
def test_text_without_control_characters_is_printed_as_it_is(text):
    assert printable(text) == text


def test_both_outputs_are_printable_inside_and_as_before_outside(capsys):
    before = sys.stdout, sys.stderr
    with printable_output():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        assert sys.stdout.isatty() is before[0].isatty()
    assert (sys.stdout, sys.stderr) == before
    assert tuple(capsys.readouterr()) == (SHOWN + "\n", SHOWN + "\n")


def test_a_verb_prints_results_errors_and_log_lines_without_control_characters(monkeypatch, capsys):
    def explain() -> None:
        print(HOSTILE)
        logging.getLogger("raymill.test").warning("%s", HOSTILE)
        raise DataError(HOSTILE)

    monkeypatch.setitem(cli.VERBS, "explain", Verb(Entry(f"{__name__}:{explain.__name__}"), ""))
    monkeypatch.setattr(sys.modules[__name__], "explain", explain, raising=False)
    # pytest-xdist cannot send a captured record that is no UTF-8.
    monkeypatch.setattr(logging.getLogger("raymill"), "propagate", False)
    logs.setup()
    with pytest.raises(SystemExit):
        cli.main(["explain"])
    out, err = capsys.readouterr()
    assert out == SHOWN + "\n"
    assert err.count(r"\u001b]0;title\u0007") == 2
    assert err.endswith(SHOWN + "\n")
    assert not set("\x1b\x07\x9b\r\u202e") & set(out + err)


def test_the_redrawn_line_obeys_its_own_control_characters_alone():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    writer = LineWriter(PrintableStream(terminal))
    writer.update("12 units | reason\x1b[2J\nsecond line")
    writer.write("said\x1b[2J")
    assert terminal.getvalue() == "\r\x1b[K12 units | reason\\u001b[2J second line\r\x1b[Ksaid\\u001b[2J\n"
