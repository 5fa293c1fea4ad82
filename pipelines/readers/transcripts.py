"""Transcripts of calls and films, WebVTT and SubRip: a file is one document, the turn of a speaker one line.

Times, numbers and names of cues, notes, styles and marks are removed; so are lines that rolling captions repeat in the
next cue. A speaker is named by `<v Name>`, or by `Name:` at the beginning of two or more lines. A line that begins with
a dash or `>>` is another speaker's, without a name. Where nobody is named, a pause of two seconds begins a line.

Source: https://www.w3.org/TR/webvtt1/; SubRip has no specification.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from pipelines.readers.reader import Rows
from pipelines.readers.text_files import PlainText

_TIME = r"(?:([0-9]{1,4}):)?([0-5]?[0-9]):([0-5]?[0-9])[.,]([0-9]{1,3})"
_TIMES = re.compile(rf"[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}(?:[ \t].*)?")
_CUT_CUE = re.compile(r"[0-9]+(?:\n[0-9:,.> -]*)?")  # the end of a file that was cut between two cues
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)*\n")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?[ \t]+([^<>]*)>")
_MARK = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_NAME = re.compile(r"(\w[\w.'’()-]*(?: [\w.'’()-]+){0,3}):[ \t]+(?=\S)")
_OTHER_SPEAKER = re.compile(r"(?:[-–—][ \t]|>>)[ \t]*")

_MIN_NAMED = 2
_CONTIGUOUS_MS = 100  # between cues of rolling captions
_PAUSE_MS = 2000


class Line(NamedTuple):
    """A line of a cue. speaker: None if none is named; empty for another one than before."""

    speaker: str | None
    text: str


class Cue(NamedTuple):
    """Lines that are shown together, from `start` to `end` in milliseconds."""

    start: int
    end: int
    lines: list[Line]


class Transcript(PlainText):
    """The turns of the speakers, one a line: `Name: what was said`."""

    def add_text(self, rows: Rows, text: str, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the turns."""
        cues = list(_cues(text))
        if cues:
            rows.add("\n".join(_turns(cues)), uri, id, carried)
        else:
            rows.refuse("no_cues", uri, id, carried)


def _cues(text: str) -> Iterator[Cue]:
    """The cues of a file. After an empty line a cue goes on if neither times nor a note of WebVTT follow."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    has_notes = text.startswith("WEBVTT")
    found: list[tuple[int, int, list[str]]] = []
    for block in _BLANK.split(text):
        lines = block.split("\n")
        timed = [(position, match) for position, line in enumerate(lines) if (match := _TIMES.fullmatch(line))]
        if not timed and found and not has_notes and not _CUT_CUE.fullmatch(block):
            found[-1][2].extend(lines)
        for (position, match), (end, _) in pairwise([*timed, (len(lines), None)]):
            payload = lines[position + 1 : end]
            if end < len(lines) and payload and payload[-1].strip().isdigit():
                payload.pop()  # the number of the next cue, which no empty line precedes
            times = match.groups() if match else ()
            found.append((_milliseconds(times[:4]), _milliseconds(times[4:]), payload))
    named = Counter(match[1] for _, _, lines in found for line in lines if (match := _NAME.match(_plain(line))))
    names = {name for name, count in named.items() if count >= _MIN_NAMED}
    for start, end, payload in found:
        yield Cue(start, end, [one for line in payload for one in _lines(line, names) if one.text or one.speaker])


def _milliseconds(parts: tuple[str | None, ...]) -> int:
    hours, minutes, seconds, fraction = parts
    whole = 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)
    return 1000 * whole + int((fraction or "").ljust(3, "0"))


def _plain(text: str) -> str:
    """The text without marks."""
    return " ".join(html.unescape(_MARK.sub("", text)).split())


def _lines(line: str, names: set[str]) -> Iterator[Line]:
    """What each speaker says in a line."""
    first, *voices = _VOICE.split(line)
    text = _plain(first)
    if mark := _OTHER_SPEAKER.match(text):
        text = text[mark.end() :]
    if (named := _NAME.match(text)) and named[1] in names:
        yield Line(named[1], text[named.end() :])
    else:
        yield Line("" if mark else None, text)
    for name, said in zip(voices[::2], voices[1::2], strict=True):
        yield Line(_plain(name) or None, _plain(said))


def _turns(cues: list[Cue]) -> list[str]:
    """What each speaker says without interruption."""
    turns: list[tuple[str, list[str]]] = []
    before: Cue | None = None
    for cue in cues:
        pause = cue.start - before.end if before else 0
        lines = cue.lines
        if before and abs(pause) <= _CONTIGUOUS_MS:
            lines = lines[_repeated(before.lines, lines) :]
            if lines and before.lines and turns and _goes_on(before.lines[-1], lines[0]):
                turns[-1][1][-1] = lines[0].text  # a line that grows by a word with each cue
                lines = lines[1:]
        for speaker, text in lines:
            is_new = not turns or speaker == "" or (speaker is not None and speaker != turns[-1][0])
            if is_new or (pause >= _PAUSE_MS and not turns[-1][0]):
                turns.append((speaker or "", [text]))
            else:
                turns[-1][1].append(text)
            pause = 0
        before = cue
    said = [(speaker, " ".join(filter(None, texts))) for speaker, texts in turns]
    return [f"{speaker}: {text}" if speaker else text for speaker, text in said if text]


def _repeated(before: list[Line], lines: list[Line]) -> int:
    """How many of the first lines are the last ones of the cue before."""
    most = min(len(before), len(lines))
    return next((count for count in range(most, 0, -1) if before[-count:] == lines[:count]), 0)


def _goes_on(before: Line, line: Line) -> bool:
    return before.speaker == line.speaker and line.text.startswith(f"{before.text} ") and bool(before.text)
