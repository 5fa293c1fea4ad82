"""Extractors of HTML: what each finds, and that no page takes any of them long or ends a worker."""

import time

import pyarrow.parquet as pq
import pytest

from raymill.cluster.readers.formats import extractors, html_bounds, web_pages
from raymill.cluster.readers.formats.extractors import LIBRARIES, extract, extractor_version, without_tail
from raymill.cluster.readers.formats.html_bounds import exceeded_bound
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.listing import list_inputs
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.store.store import Store
from tests.support.hostile_pages import PAGES, PROSE, random_page
from tests.support.input_rows import rows_of
from tests.support.sampled import sampled

SENTENCES = [
    f"Harbour {number} was built in the twelfth century, and boats of all kinds have been in it since then."
    for number in range(12)
]
MENU = "".join(f"<li><a href='/{number}'>Section {number}</a></li>" for number in range(20))
ITEMS = [f"<li>the {one} thing that a harbour needs</li>" for one in ("first", "second", "last")]
LIST = f"<ul>{''.join(ITEMS)}</ul>"
TABLE = "<table><tr><th>Year</th><th>Boats</th></tr><tr><td>1850</td><td>312</td></tr></table>"
PAGE = (
    "<!DOCTYPE html><html lang=en><head><title>Harbours</title><script>var hidden = 1</script></head><body>"
    f"<nav><ul>{MENU}</ul></nav><div id=page><main><article><div class=text><h1>Harbours of the north</h1>"
    + "".join(f"<p>{one} {one} {one}</p>" for one in SENTENCES[:6])
    + f"<h2>Numbers</h2>{TABLE}<pre><code>for boat in boats:\n    print(boat)</code></pre>{LIST}"
    + "".join(f"<p>{one} {one} {one}</p>" for one in SENTENCES[6:])
    + "</div></article></main></div><footer><p>Imprint</p><p>Terms of use</p></footer></body></html>"
)


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_extractor_finds_the_prose_and_leaves_the_menu_out(name):
    text, shown = extract(PAGE, name)
    assert [one for one in SENTENCES if one not in text] == [], text
    assert "Section 7" not in text and "Imprint" not in text and "hidden" not in text
    assert shown > sum(len("".join(one.split())) for one in SENTENCES)


@pytest.mark.parametrize("name", ["resiliparse", "router", "trafilatura", "trafilatura_fast"])
def test_headings_lists_tables_and_code_stay(name):
    text = extract(PAGE, name).text
    parts = ("Harbours of the north", "Numbers", "312", "the first thing that", "print(boat)")
    assert [one for one in parts if one not in text] == []
    if LIBRARIES[name][0] == "resiliparse":
        assert "for boat in boats:\n    print(boat)" in text, "lines of code keep their indentation"


def test_a_page_with_little_main_content_is_all_of_its_text():
    cards = "".join(f"<div class='sidebar'>{one}</div>" for one in SENTENCES)
    page = f"<body><main><p>We use cookies.</p></main>{cards}</body>"
    text = extract(page, "resiliparse").text
    assert "We use cookies." in text and SENTENCES[3] in text


def test_the_router_asks_the_other_library_where_most_text_is_outside(monkeypatch):
    asked = []
    monkeypatch.setattr(
        extractors, "_by_trafilatura", lambda page, _: asked.append(page) or extractors.Extracted("B", 9)
    )
    assert extract(PAGE, "router").text != "B" and not asked
    outside = "".join(f"<div class='sidebar'>{one * 5}</div>" for one in SENTENCES)
    page = f"<body><main><p>{SENTENCES[0] * 4}</p></main>{outside}</body>"
    assert extract(page, "router").text == "B" and asked == [page]


LINES = {
    "nothing to cut": ("One\n" + SENTENCES[0], "One\n" + SENTENCES[0]),
    "links after the prose": (SENTENCES[0] + "\nHome\nMay 2021", SENTENCES[0]),
    "a short sentence is prose": ("a\nIt is a house by a river.\nTags", "a\nIt is a house by a river."),
    "no prose at all": ("Home\nAbout", "Home\nAbout"),
    "prose without spaces": (f"{SENTENCES[0]}\n{'漢' * 30}。\n首页", f"{SENTENCES[0]}\n{'漢' * 30}。"),
    "Thai": (f"{SENTENCES[0]}\n{'ก' * 30}\nหน้า", f"{SENTENCES[0]}\n{'ก' * 30}"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize(("text", "expected"), LINES.values(), ids=LINES)
def test_what_follows_the_last_line_of_prose_is_cut(text, expected):
    assert without_tail(text) == expected


# ---- settings and fingerprints


def test_an_extractor_is_refused_for_a_format_without_one():
    with pytest.raises(ValueError, match="extractor: justext finds the main content of HTML pages"):
        Input(path="a", format="parquet", extractor="justext")
    assert Input(path="a", format="warc", extractor="justext").extractor == "justext"


def fingerprint(folder, **settings) -> str:
    return list_inputs(Store(), [Input(path=str(folder), **settings)]).fingerprint


def test_extractor_and_version_are_in_the_fingerprint_of_inputs_with_pages_alone(tmp_path, monkeypatch):
    for name in ("pages", "lines"):
        (tmp_path / name).mkdir()
    (tmp_path / "pages" / "a.html").write_text(PAGE)
    (tmp_path / "lines" / "a.jsonl").write_text('{"text": "a"}\n')
    one, other = ({name: fingerprint(tmp_path / name, extractor=extractor) for name in ("pages", "lines")}
                  for extractor in (None, "justext"))  # fmt: skip
    assert one["lines"] == other["lines"] and one["pages"] != other["pages"]
    assert fingerprint(tmp_path / "pages", extractor="resiliparse") == one["pages"], "the default"
    monkeypatch.setattr(extractors, "version", lambda library: "9.9")
    assert fingerprint(tmp_path / "pages") != one["pages"] and fingerprint(tmp_path / "lines") == one["lines"]
    assert extractor_version("router")[2:] == ["resiliparse 9.9", "trafilatura 9.9"]


# ---- charsets


DECLARATION = {
    "Korean": ("kor", "euc-kr"), "traditional Chinese": ("cmn_hant", "big5"), "Hong Kong": ("cmn_hant", "big5hkscs"),
    "simplified Chinese": ("cmn_hans", "gb18030"), "Japanese": ("jpn", "shift_jis"), "EUC-JP": ("jpn", "euc_jp"),
    "ISO-2022-JP": ("jpn", "iso2022_jp"), "Russian": ("rus", "windows-1251"), "KOI8-R": ("rus", "koi8-r"),
    "Ukrainian": ("ukr", "koi8-u"), "Thai": ("tha", "tis-620"), "Polish": ("pol", "windows-1250"),
    "Greek": ("ell_monotonic", "iso-8859-7"), "Hebrew": ("heb", "windows-1255"), "Arabic": ("arb", "windows-1256"),
    "French": ("fra", "windows-1252"), "Turkish": ("tur", "iso-8859-9"),
}  # fmt: skip


@pytest.fixture(scope="module")
def declarations(shared_data) -> dict[str, str]:
    table = pq.read_table(shared_data / "udhr.parquet")
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


@pytest.mark.parametrize("stated", ["header", "meta", "nowhere"])
@pytest.mark.parametrize("name", DECLARATION)
def test_a_page_in_a_legacy_charset_keeps_its_text(declarations, name, stated):
    language, charset = DECLARATION[name]
    text = declarations[next(one for one in sorted(declarations) if one.startswith(language))][500:3500]
    meta = f"<meta charset='{charset}'>" if stated == "meta" else ""
    content = f"<html><head>{meta}</head><body><p>{text}</p></body></html>".encode(charset, "ignore")
    found = web_pages.decoded(content, f"text/html; charset={charset}" if stated == "header" else "")
    assert found == content.decode(charset)


def test_a_byte_order_mark_is_before_every_declaration():
    page = "<meta charset=koi8-r><p>größe"
    for charset in ("utf-16-le", "utf-16-be", "utf-8"):
        marked = "\ufeff".encode(charset) + page.encode(charset)
        assert web_pages.decoded(marked, "text/html; charset=latin-1").lstrip("\ufeff") == page


# ---- hostile pages

BOUNDED = {"nested elements", "nested and ended in a wrong order", "unclosed bold and italic", "attributes",
           "attributes with >", "attributes with <", "options", "nested lists", "less-than signs",
           "nested forms of mathematics", "templates", "frames"}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_no_reader_needs_is_refused_before_it_is_parsed_and_others_are_not(name):
    began = time.process_time()
    found = exceeded_bound(PAGES[name].encode())
    assert time.process_time() - began < 5, "linear: 1 us a tag"
    assert (found is not None) == (name in BOUNDED | {"an open comment"}), found


def test_real_pages_are_far_below_the_bounds(monkeypatch):
    """Elements without end tags, tables in tables, lists in lists, scripts with tags, as old pages have them."""
    monkeypatch.setattr(html_bounds, "_FEW_TAGS", 0)
    rows = "<tr><td>a<td><table><tr><td><p>b<p>c</table>" * 3000
    items = "<ul><li>a<li>b<ul><li>c</ul></ul><dl><dt>a<dd>b</dl><p>a<p>b<br><b>c</b><font>d" * 300
    script = "<script>document.write('<div><div>' + (a<b))</script><!-- <div> --><textarea><div></textarea>" * 3000
    select = ("<select>" + "<option>a" * 250 + "</select>") * 100
    for page in (f"<table>{rows}</table>", items, script, select, PAGE, PROSE * 3000):
        assert exceeded_bound(page.encode()) is None


def refused(problem: str | None) -> bool:
    return problem in {"too_slow", "too_large", "bounded_extraction", "empty_extraction", "failed_extraction"}


@pytest.mark.parametrize("name", sampled(LIBRARIES, 2))
def test_a_hostile_page_costs_bounded_time_and_no_other_page(tmp_path, name):
    """Each of the most costly pages that we know of between two good ones, with every extractor."""
    (tmp_path / "0.html").write_text(PAGE)
    for number, page in enumerate(PAGES.values(), 1):
        (tmp_path / f"{number:02}.html").write_bytes(page.encode())
    (tmp_path / "99.html").write_text(PAGE)
    began = time.monotonic()
    rows = rows_of(tmp_path, Limits(document_s=1), extractor=name, columns=["path"])
    took = time.monotonic() - began
    assert len(rows) == len(PAGES) + 2
    assert SENTENCES[3] in rows[0]["text"] and SENTENCES[3] in rows[-1]["text"]
    for row in rows:
        assert (row["text"] is None) == (row["problem"] in PROBLEMS)
        assert row["text"] is not None or refused(row["problem"])
    # Processor time of each is at most 1 s and as much for each MB; the rest is of a busy machine.
    assert took < 30 * sum(2 + len(page) / 1e6 for page in PAGES.values())


def seeded(tmp_path, seeds, name) -> None:
    for seed in seeds:
        (tmp_path / f"{seed:03}.html").write_bytes(random_page(seed))
    rows = rows_of(tmp_path, Limits(document_s=1), extractor=name)
    assert len(rows) == len(seeds)
    assert all((row["text"] is not None) != refused(row["problem"]) for row in rows)
    # As another worker does, which has other pages before each.
    again = rows_of(tmp_path, Limits(document_s=4), extractor=name)
    pairs = [(row["text"], other["text"]) for row, other in zip(rows, again, strict=True) if row["text"]]
    assert pairs and all(one == other for one, other in pairs)


@pytest.mark.parametrize("name", LIBRARIES)
def test_seeded_mixtures_of_hostile_parts_are_texts_or_problems(tmp_path, name):
    seeded(tmp_path, range(12), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_500_seeded_mixtures_of_hostile_parts_are_texts_or_problems(tmp_path, name):
    seeded(tmp_path, range(500), name)
