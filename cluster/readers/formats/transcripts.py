"""Transcripts of calls and films, WebVTT, SubRip and JSON: a file is one document, the turn of a speaker one line.

Times, numbers and names of cues, notes, styles and marks are removed; so are lines that rolling captions repeat in the
next cue. Text after a blank line within a cue belongs to it. A speaker is named by `<v Name>`, or by `Name:` at the
beginning of two or more lines; one that the input's settings name, in any case, by one line, also as `[Name]`. A line
that begins with a dash or `>>` is another speaker's, without a name. Where nobody is named, a pause of two seconds
begins a line.

JSON is as programs for speech recognition write it: the first list, however deep, whose objects have a text and a
speaker, else a text alone. Keys: see _SPEAKERS and _TEXTS.

Source: https://www.w3.org/TR/webvtt1/; SubRip has no specification.
"""

import json
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from raymill.cluster.character_references import unescaped
from raymill.cluster.guard import Guard
from raymill.cluster.readers.formats.text_files import PlainText
from raymill.cluster.readers.inputs import Cut, Input
from raymill.cluster.readers.reader import Rows
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

_TIME = r"(?:([0-9]{1,4}):)?([0-5]?[0-9]):([0-5]?[0-9])[.,]([0-9]{1,3})"
_TIMES = re.compile(rf"[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}(?:[ \t].*)?")
_CUT_CUE = re.compile(r"[0-9]+(?:\n[0-9:,.> -]*)?")  # the end of a file that was cut between two cues
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)*\n")
_NOTE = re.compile(r"(?:NOTE(?![^ \t\n])|STYLE[ \t]*\n|REGION[ \t]*\n)")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*+)?[ \t]++([^<>]*+)>")
# Marks of WebVTT and SubRip alone: `if a<b and c>d` is spoken text.
_MARK = re.compile(
    r"</?(?:c|i|b|u|s|v|lang|ruby|rt|font)(?:\.[^\s<>]*)?>|<(?:lang|font)\s[^<>]*>|<(?:[0-9]+:)?[0-9]+:[0-9]+\.[0-9]+>|\{\\[^{}]*\}",
    re.IGNORECASE,
)
_NAME = re.compile(r"(\w[\w.'’()-]*(?: [\w.'’()-]+){0,3}):[ \t]+(?=\S)")
_OTHER_SPEAKER = re.compile(r"(?:[-–—][ \t]|>>)[ \t]*")

# Keys of a turn, of AWS Transcribe, AssemblyAI, Deepgram, Gladia, WhisperX, Teams and others.
_SPEAKERS = ("speaker", "speaker_label", "speakerName", "speaker_name", "participant", "role", "channel")
_TEXTS = ("text", "transcript", "content", "utterance", "value", "message")

_MIN_NAMED = 2
_CONTIGUOUS_MS = 100  # between cues of rolling captions
_PAUSE_MS = 2000


class CueLine(NamedTuple):
    """A line of a cue. speaker: None if none is named; empty for another one than before."""

    speaker: str | None
    text: str


class Cue(NamedTuple):
    """Lines that are shown together, from `start` to `end` in milliseconds."""

    start: int
    end: int
    lines: list[CueLine]


class Transcript(PlainText):
    """The turns of the speakers, one a line: `Name: what was said`; as `turns`, a list of {role, content}."""

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """`path`, and `turns` as messages whose roles are the speakers; empty where nobody is named."""
        return ("path", "turns")

    def add_text(self, rows: Rows, text: str, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the turns."""
        turns, cut = _texts((text, rows.input.named_speakers), rows.limits.of_parser(uri, len(text)))
        if turns is None:
            rows.refuse("no_cues", uri, id, carried, text)
            return
        as_json = json.dumps([{"role": speaker, "content": what} for speaker, what in turns], ensure_ascii=False)
        lines = "\n".join(f"{speaker}: {what}" if speaker else what for speaker, what in turns)
        named = zip(rows.input.columns, carried, strict=True)
        values = [as_json if name == "turns" else value for name, value in named]
        rows.add(as_json if rows.input.text == "turns" else lines, uri, id, values, cut=cut)


def _spoken(file: tuple[str, Sequence[str]]) -> tuple[list[tuple[str, str]] | None, list[Cut]]:
    """(turns, None of a file without cues; what was cut). file: its text, and the speakers that are known."""
    text, speakers = file
    cut: list[Cut] = []
    is_json = text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[")
    cues = _cues_of_json(text) if is_json else list(_cues(text, speakers, cut))
    return _turns(cues) if cues else None, cut


_texts = Guard(_spoken)


def _cues_of_json(text: str) -> list[Cue]:
    """The turns of a JSON value, as cues without times; empty if it has none."""
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return []
    with_text: list[Cue] = []
    waiting: deque[Any] = deque([value])
    while waiting:
        found = waiting.popleft()
        if isinstance(found, list):
            cues = [_cue(one) for one in found]
            if cues and all(cue is not None for cue in cues):
                valid = [cue for cue in cues if cue is not None]
                if any(cue.lines[0].speaker for cue in valid):
                    return valid
                with_text = with_text or valid
        waiting.extend(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ())
    return with_text


def _cue(turn: Any) -> Cue | None:
    if not isinstance(turn, dict):
        return None
    text = next((turn[key] for key in _TEXTS if isinstance(turn.get(key), str)), None)
    if text is None and isinstance(elements := turn.get("elements"), list):  # Rev: words and marks, with spaces
        values = [one.get("value") if isinstance(one, dict) else None for one in elements]
        text = "".join(one for one in values if isinstance(one, str)) if values else None
    speaker = next((turn[key] for key in _SPEAKERS if isinstance(turn.get(key), str | int)), None)
    line = CueLine(None if speaker is None else str(speaker), (text or "").strip())
    return None if text is None else Cue(0, _CONTIGUOUS_MS + 1, [line])


def _cues(text: str, speakers: Sequence[str], cut: list[Cut]) -> Iterator[Cue]:
    """The cues of a file. After an empty line a cue goes on if neither times nor a note of WebVTT follow.

    Args:
        speakers: stated names of speakers; names that begin two lines are speakers too.
        cut: list that notes and style sheets are added to.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    has_notes = text.removeprefix("\ufeff").startswith("WEBVTT")
    in_note = False
    found: list[tuple[int, int, list[str]]] = []
    for block in _BLANK.split(text):
        lines = block.split("\n")
        timed = [(position, match) for position, line in enumerate(lines) if (match := _TIMES.fullmatch(line))]
        # In WebVTT a blank line ends a cue; what follows is kept all the same, because it was spoken.
        in_note = has_notes and not timed and (in_note or bool(_NOTE.match(block)))
        if in_note:
            cut.append(("cue_note", block))
        elif not timed and found and not _CUT_CUE.fullmatch(block):
            found[-1][2].extend(lines)
        for (position, match), (end, _) in pairwise([*timed, (len(lines), None)]):
            payload = lines[position + 1 : end]
            if end < len(lines) and payload and payload[-1].strip().isdigit():
                payload.pop()  # the number of the next cue, which no empty line precedes
            times = match.groups() if match else ()
            found.append((_milliseconds(times[:4]), _milliseconds(times[4:]), payload))
    named = Counter(match[1] for _, _, lines in found for line in lines if (match := _NAME.match(_plain(line))))
    names = {name for name, count in named.items() if count >= _MIN_NAMED}
    stated = _beginning_with(speakers) if speakers else None
    spelling = {name.lower(): name for name in reversed(speakers)}
    for start, end, payload in found:
        yield Cue(
            start,
            end,
            [one for line in payload for one in _lines(line, names, stated, spelling) if one.text or one.speaker],
        )


def _milliseconds(parts: tuple[str | None, ...]) -> int:
    hours, minutes, seconds, fraction = parts
    whole = 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)
    return 1000 * whole + int((fraction or "").ljust(3, "0"))


def _plain(text: str) -> str:
    """The text without marks."""
    return " ".join(unescaped(_MARK.sub("", text)).split())


def _beginning_with(speakers: Sequence[str]) -> re.Pattern[str]:
    """A pattern of a line that begins with one of these names."""
    names = "|".join(map(re.escape, sorted(speakers, key=len, reverse=True)))
    return re.compile(rf"(?:({names})[ ]?:|[\[(]({names})[\])][ ]?:?)[ \t]*", re.IGNORECASE)


def _lines(line: str, names: set[str], stated: re.Pattern[str] | None, spelling: dict[str, str]) -> Iterator[CueLine]:
    """The text of each speaker in a line.

    Args:
        names: speakers found in the file.
        stated: pattern of `_beginning_with` for the stated speakers.
        spelling: stated name in lower case -> as stated.
    """
    first, *voices = _VOICE.split(line)
    text = _plain(first)
    if mark := _OTHER_SPEAKER.match(text):
        text = text[mark.end() :]
    if stated and (named := stated.match(text)):
        yield CueLine(spelling[(named[1] or named[2]).lower()], text[named.end() :])
    elif (named := _NAME.match(text)) and named[1] in names:
        yield CueLine(named[1], text[named.end() :])
    else:
        yield CueLine("" if mark else None, text)
    for name, spoken in zip(voices[::2], voices[1::2], strict=True):
        yield CueLine(_plain(name) or None, _plain(spoken))


def _turns(cues: list[Cue]) -> list[tuple[str, str]]:
    """(speaker, what was said without interruption), in order. speaker: empty if nobody is named."""
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
    joined = [(speaker, " ".join(filter(None, texts))) for speaker, texts in turns]
    return [(speaker, text) for speaker, text in joined if text]


def _repeated(before: list[CueLine], lines: list[CueLine]) -> int:
    """How many of the first lines are the last ones of the cue before."""
    most = min(len(before), len(lines))
    return next((count for count in range(most, 0, -1) if before[-count:] == lines[:count]), 0)


def _goes_on(before: CueLine, line: CueLine) -> bool:
    return before.speaker == line.speaker and line.text.startswith(f"{before.text} ") and bool(before.text)
