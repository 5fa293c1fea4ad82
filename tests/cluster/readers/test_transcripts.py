"""Transcripts: what was said comes out as turns, once, whatever the captions look like."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import Source
from raymill.pipelines.prepare.sources import Fields, as_input


def read(path: Path, content: str | bytes) -> str:
    """The text of the only document, or its problem in <>."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    manifest = freeze(Store(), [Input(path=str(path), columns=("path",))], 1 << 20)
    tables = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits())]
    (row,) = [row for table in tables for row in table.to_pylist()]
    assert row["path"] == str(path)
    return row["text"] if row["problem"] is None else f"<{row['problem']}>"


VOICES = """\ufeffWEBVTT - a call
Kind: captions

STYLE
::cue { color: red }

NOTE
00:00 is the start

intro
00:01.000 --> 00:02.500 align:start
<v.loud Ann Lee>Hello, <i>how</i> can
I help?</v>

00:02.600 --> 00:04.000
<v Bob>My router &amp; phone <00:03.000>do not work.</v>

00:04.100 --> 00:05.000
<v Bob>Since Monday.</v> <v Ann Lee>Which one?</v>
"""

NAMES = """1
00:00:01,000 --> 00:00:02,000
Ann: Hello,
how can I help?

2
00:00:02,100 --> 00:00:03,000
{\\an8}<b>Bob:</b> My router is off.

One thing: it is old.

3
00:00:03,100 --> 00:00:04,000
Ann: At 10:30?
4
00:00:04,100 --> 00:00:05,000
Bob: 7
"""

ROLLING = """WEBVTT

00:00:00.000 --> 00:00:02.000
so today we

00:00:02.000 --> 00:00:02.010
so today we

00:00:02.010 --> 00:00:04.000
so today we
restart<00:00:03.000><c> the router</c>

00:00:04.000 --> 00:00:04.010
restart the router

00:00:04.010 --> 00:00:06.000
restart the router
and wait

00:00:09.000 --> 00:00:10.000
and wait
"""

CASES = {
    "voices": (
        "a.vtt", VOICES,
        "Ann Lee: Hello, how can I help?\nBob: My router & phone do not work. Since Monday.\nAnn Lee: Which one?",
    ),
    "names": (
        "a.srt", NAMES,
        "Ann: Hello, how can I help?\nBob: My router is off. One thing: it is old.\nAnn: At 10:30?\nBob: 7",
    ),
    "rolling captions": ("a.vtt", ROLLING, "so today we restart the router and wait\nand wait"),
    "a line that grows": (
        "a.vtt",
        "WEBVTT\n\n00:00.000 --> 00:01.000\nso\n\n00:01.000 --> 00:02.000\nso we\n\n00:02.000 --> 00:03.000\nso we go",
        "so we go",
    ),
    "dashes": ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\n- Ready?\n- Yes, well-known.\n", "Ready?\nYes, well-known."),
    "carriage returns": (
        "a.srt", "1\r00:00:01,000 --> 00:00:02,000\rHello\r\r2\r00:00:02,000 --> 00:00:03,000\ryou", "Hello you"
    ),
    "cut in a cue": ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n00:00:02,0", "Hello"),
    "a cue without text": ("a.vtt", "WEBVTT\n\n00:00.000 --> 00:01.000\n", ""),
    "a number of 5,000 digits": ("a.vtt", f"WEBVTT\n\n00:00.000 --> 00:01.000\nso &#{'9' * 5000}; we", "so \ufffd we"),
    "no cue": ("a.vtt", "WEBVTT\n\nNOTE nothing", "<no_cues>"),
    "another file": ("a.srt", "Dear Ann,\n\nhello", "<no_cues>"),
    "another encoding": ("a.srt", NAMES.replace("Hello", "Größe, Öl, Füße").encode("cp1252"), "<other_encoding>"),
    "UTF-16": ("a.srt", NAMES.encode("utf-16"), "<utf16>"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_transcript_is_the_turns_of_its_speakers(tmp_path, name):
    file, content, wanted = CASES[name]
    assert read(tmp_path / file, content) == wanted


def cues(*timed: tuple[str, str]) -> str:
    return "WEBVTT\n\n" + "\n\n".join(f"{times}\n{text}" for times, text in timed)


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (("00:01.000 --> 00:02.000", "00:04.000 --> 00:05.000"), "a\nb"),
        (("00:01.000 --> 00:02.000", "00:03.999 --> 00:05.000"), "a b"),
        (("00:01.000 --> 00:02.5", "00:04.500 --> 00:05.000"), "a\nb"),
        (("00:01.000 --> 00:02.5", "00:04.499 --> 00:05.000"), "a b"),
        (("1:59:59.000 --> 1:59:59.500", "2:00:01.500 --> 2:00:02.000"), "a\nb"),
        (("1:59:59.000 --> 1:59:59.500", "2:00:01.499 --> 2:00:02.000"), "a b"),
    ],
)
def test_where_nobody_is_named_a_pause_of_two_seconds_begins_a_line(tmp_path, times, text):
    assert read(tmp_path / "a.vtt", cues((times[0], "a"), (times[1], "b"))) == text
    named = cues((times[0], "<v Ann>a"), (times[1], "b"))
    assert read(tmp_path / "b.vtt", named) == "Ann: a b", "a speaker goes on until another one is named"


@pytest.mark.parametrize(
    ("start", "text"),
    [("02.100", "a b c d"), ("02.101", "a b c b c d"), ("01.900", "a b c d"), ("01.899", "a b c b c d")],
)
def test_lines_that_the_next_cue_repeats_within_a_tenth_of_a_second_are_read_once(tmp_path, start, text):
    rolling = cues(("00:01.000 --> 00:02.000", "a\nb\nc"), (f"00:{start} --> 00:03.000", "b\nc\nd"))
    assert read(tmp_path / "a.vtt", rolling) == text


def roles(path: Path, content: str) -> list[tuple[str, str]]:
    path.write_text(content)
    manifest = freeze(Store(), [Input(path=str(path), columns=("turns",))], 1 << 20)
    (table,) = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits())]
    return [(one["role"], one["content"]) for one in json.loads(table["turns"][0].as_py())]


def test_a_name_before_two_lines_is_a_speaker_and_one_before_a_single_line_is_text(tmp_path):
    times = [f"00:0{n}.000 --> 00:0{n}.900" for n in range(1, 5)]
    said = cues(*zip(times, ["Ann: one", "Note: two", "Ann: three\nfour", "5"], strict=True))
    assert roles(tmp_path / "a.vtt", said) == [("Ann", "one Note: two three four 5")]
    alone = cues(*zip(times, ["Ann: one", "Note: two"], strict=False))
    assert roles(tmp_path / "b.vtt", alone) == [("", "Ann: one Note: two")]


def test_the_number_of_a_cue_is_no_speech_but_a_number_that_ends_a_cue_is(tmp_path):
    times = "00:00:0{n},000 --> 00:00:0{n},900"
    together = "1\n" + "\n".join(f"{times.format(n=n)}\nsay {n}\n{n + 1}" for n in (1, 2))
    assert read(tmp_path / "a.srt", together) == "say 1 say 2 3"
    cut = f"1\n{times.format(n=1)}\nsay\n\n2"
    assert read(tmp_path / "b.srt", cut) == "say", "a file that ends after the number of a cue"


TURNS = st.lists(
    st.tuples(st.sampled_from(["Ann", "Bob Ray", "Dr. Čech"]), st.lists(st.text("abÖ7 ", min_size=1), min_size=1))
)


@given(TURNS.filter(lambda turns: any("".join(said).strip() for _, said in turns)))
def test_what_voices_say_is_found_whole_and_in_order(tmp_path_factory, turns):
    cues, wanted = ["WEBVTT"], []
    for speaker, said in turns:
        for text in said:
            at = len(cues)
            cues.append(f"{at:02}:00.000 --> {at:02}:30.000\n<v {speaker}>{text}" if at < 60 else "NOTE")
            if (words := text.split()) and at < 60:
                wanted += [(speaker, word) for word in words]
    found = read(tmp_path_factory.mktemp("vtt") / "a.vtt", "\n\n".join(cues))
    lines = [line.split(": ", 1) for line in found.split("\n")] if found else []
    assert [(speaker, word) for speaker, text in lines for word in text.split()] == wanted


@given(st.text("WEBVT\n\r \t0123456789:.,->Ann<v>{}\\&;", max_size=300))
def test_no_text_can_stop_the_reading(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("srt") / "a.srt"
    assert isinstance(read(path, f"1\n00:00:01,000 --> 00:00:02,000\n{text}"), str)


TURNS = [
    {"speaker": "A", "text": "Hello there."},
    {"speaker": "A", "text": "Yes?"},
    {"speaker": 1, "text": "My router."},
]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (TURNS, "A: Hello there. Yes?\n1: My router."),
        ({"id": 7, "utterances": TURNS, "text": "Hello there. Yes? My router."}, "A: Hello there. Yes?\n1: My router."),
        ({"segments": [{"id": 0, "text": " Hello"}, {"id": 1, "text": " there."}], "text": "All."}, "Hello there."),
        ({"results": {"channels": [{"alternatives": [{"transcript": "All of it."}]}],
                      "utterances": [{"speaker": 0, "transcript": "All"}, {"speaker": 1, "transcript": "of it."}]}},
         "0: All\n1: of it."),
        ({"a": [{"text": "no", "channel": None}], "b": {"c": [{"value": "late", "content": "yes", "role": "R"}]}},
         "R: yes"),
        ([{"text": "a", "speaker": ""}, {"speaker": "B"}], "<no_cues>"),
        ([{"text": "a", "speaker": "A"}, {"text": " ", "speaker": "B"}, {"text": "c", "speaker": "A"}], "A: a\nA: c"),
        ({"results": []}, "<no_cues>"),
        ({"words": [{"word": "a"}]}, "<no_cues>"),
    ],
)  # fmt: skip
def test_json_of_speech_recognition_is_read(tmp_path, value, text):
    assert read(tmp_path / "call.vtt", json.dumps(value)) == text
    assert read(tmp_path / "half.vtt", json.dumps(value)[:-1]) == "<no_cues>"


def test_turns_are_messages_with_the_speakers_as_roles(tmp_path):
    (tmp_path / "a.vtt").write_text(VOICES)
    manifest = freeze(Store(), [Input(path=str(tmp_path / "a.vtt"), columns=("turns",))], 1 << 20)
    (table,) = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits())]
    turns = json.loads(table["turns"][0].as_py())
    assert [one["role"] for one in turns] == ["Ann Lee", "Bob", "Ann Lee"]
    assert turns[0]["content"] == "Hello, how can I help?"


BROKEN = """WEBVTT

STYLE
::cue(a) { color: red }

::cue(b) { color: blue }

NOTE made by hand

00:01.000 --> 00:04.000
Customer: How do I cancel?

00:05.000 --> 00:06.000

Agent: Choose Cancel
in the settings.

NOTE
left alone

1
00:08.000 --> 00:09.000
Customer: Thanks
"""


def test_a_text_after_a_blank_line_belongs_to_its_cue_and_notes_are_kept_apart(tmp_path):
    (tmp_path / "a.vtt").write_text(BROKEN)
    speakers = {"Agent": "assistant", "Customer": "user"}
    source = Source(path=str(tmp_path / "a.vtt"), columns={"messages": "turns"}, speakers=speakers)
    given = as_input(source, Fields({"messages": "turns"}, "turns"))
    manifest = freeze(Store(), [given], 1 << 20)
    (row,) = [r for unit in manifest.units for t in read_unit(unit, manifest.reading, Limits()) for r in t.to_pylist()]
    assert [(one["role"], one["content"]) for one in json.loads(row["text"])] == [
        ("Customer", "How do I cancel?"), ("Agent", "Choose Cancel in the settings."), ("Customer", "Thanks"),
    ]  # fmt: skip
    assert [text.split("\n")[0] for _, text in json.loads(row["_cut"])] == [
        "STYLE", "::cue(b) { color: blue }", "NOTE made by hand", "NOTE"
    ]  # fmt: skip


def test_a_speaker_who_speaks_once_is_known_if_the_config_names_it(tmp_path):
    cues = "1\n00:00:01,000 --> 00:00:02,000\n{}\n\n2\n00:00:02,500 --> 00:00:03,000\nNote: it is red.\n"
    for name in ("Agent", "Agent #2 (Support)"):
        (tmp_path / "a.srt").write_text(cues.format(f"{name}: Hello"))
        source = Source(path=str(tmp_path / "a.srt"), columns={"messages": "turns"}, speakers={name: "assistant"})
        given = as_input(source, Fields({"messages": "turns"}, "turns"))
        manifest = freeze(Store(), [given], 1 << 20)
        (table,) = read_unit(manifest.units[0], manifest.reading, Limits())
        assert json.loads(table["text"][0].as_py()) == [{"role": name, "content": "Hello Note: it is red."}]


@pytest.mark.parametrize("first", ["AGENT: Press it.", "[Agent] Press it.", "(agent): Press it.", "Agent:\nPress it."])
def test_a_speaker_of_the_config_is_known_in_any_case_in_brackets_and_on_a_line_alone(tmp_path, first):
    (tmp_path / "a.srt").write_text(f"1\n00:00:01,000 --> 00:00:02,000\n{first}\n")
    source = Source(path=str(tmp_path / "a.srt"), columns={"messages": "turns"}, speakers={"Agent": "assistant"})
    manifest = freeze(Store(), [as_input(source, Fields({"messages": "turns"}, "turns"))], 1 << 20)
    (table,) = read_unit(manifest.units[0], manifest.reading, Limits())
    assert json.loads(table["text"][0].as_py()) == [{"role": "Agent", "content": "Press it."}]


def test_comparisons_and_other_text_between_angle_brackets_are_no_marks(tmp_path):
    said = "If a<b and c>d, use List<int> or <your name>."
    cue = f"1\n00:00:01,000 --> 00:00:02,000\n<i>{said}</i> <font color='#fff'>So</font><00:00:01.500><c.x> be it</c>\n"
    assert read(tmp_path / "a.srt", cue) == f"{said} So be it"


def test_monologues_of_words_are_turns(tmp_path):
    words = [{"type": "text", "value": "How"}, {"type": "punct", "value": " "}, {"type": "text", "value": "so?"}]
    given = {"monologues": [{"speaker": 0, "elements": words}, {"speaker": 1, "elements": words[:1]}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(given))
    manifest = freeze(Store(), [Input(path=str(path), format="transcript")], 1 << 20)
    (table,) = read_unit(manifest.units[0], manifest.reading, Limits())
    assert table["text"][0].as_py() == "0: How so?\n1: How"
