"""Lines of documents and white space at their ends, compared with str.split and str.strip."""

from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.text.lines import split_lines, strip_each
from pipelines.text.texts import Texts

# Short and long runs of few characters: equal lines at different places, and line feeds at every place of eight bytes.
PIECES = ["\n", "\n\n", "a", "ab", "é", "漢", "😀", "\x0b", "\r", "eight by", "seven b", "sixteen bytes..."]
documents = st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), max_size=6)


@given(documents)
@example(["eight by\neight by", "eight by"])
@example(["", "\n", "seven b\nseven b"])
def test_lines_are_those_of_str_split_and_equal_lines_have_equal_hashes(strings: list[str]) -> None:
    texts = Texts.from_strings(strings)
    lines = split_lines(texts)
    data = texts.data.tobytes()
    found = [data[begin:end].decode() for begin, end in zip(lines.begins, lines.ends, strict=True)]
    assert [found[a:b] for a, b in zip(lines.starts, lines.starts[1:], strict=False)] == [
        string.split("\n") for string in strings
    ]
    assert lines.characters.tolist() == [len(line) for line in found]
    hashes = dict(zip(found, lines.hashes.tolist(), strict=True))
    assert [hashes[line] for line in found] == lines.hashes.tolist()
    assert len(set(hashes.values())) == len(hashes)


# Every character that str.strip() removes, and neighbours that it does not: zero-width space, word joiner, BOM.
SPACES = [chr(point) for point in range(0x10000) if chr(point).isspace()]
ENDS = st.text(st.sampled_from([*SPACES, "\u200b", "\u2060", "\ufeff", "a", "é", "漢", "😀"]), max_size=8)


@given(st.lists(ENDS, max_size=6))
@example([f"{space}é{space}" for space in SPACES])
@example([*SPACES, "", "a", " a", "a ", "漢\u3000", "\u3000漢"])
def test_what_is_stripped_is_what_str_strip_removes(strings: list[str]) -> None:
    stripped = strip_each(Texts.from_strings(strings))
    assert stripped.to_arrow().to_pylist() == [string.strip() for string in strings]
