"""A page of one file: its head forbids what it does not hold, its contents lead to its sections."""

import base64
import hashlib
import re

from markupsafe import Markup

from raymill.cluster.report.page import page
from raymill.cluster.report.sections import Section

RUN = ("a <run>", "2026-03-04T05:06:07+00:00", "1.2.3", "s3://b/o&1")


def test_a_page_names_its_style_and_its_script_by_hash_and_each_section_in_its_contents():
    sections = [
        Section("one", "First & <best>", [Markup("<p>1</p>")]),
        None,
        Section("two", "Second", [Markup("<p>2</p>")]),
    ]
    made = page("Training report", *RUN, sections)
    style, script = (re.search(rf"<{tag}>(.*?)</{tag}>", made, re.DOTALL)[1] for tag in ("style", "script"))
    assert len(style) > 1000 and script.strip()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', made)[1]
    for name, source in (("style", style), ("script", script)):
        hashed = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{hashed}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "<title>a &lt;run&gt;: training report</title>" in made
    assert made.startswith('<!doctype html>\n<html lang="en">')
    assert re.findall(r'<li><a href="#(\w+)">(.*?)</a>', made) == [
        ("one", "First &amp; &lt;best&gt;"),
        ("two", "Second"),
    ]
    assert re.findall(r'<section id="(\w+)"', made) == ["one", "two"] and made.endswith("</html>\n")
    assert made.index("<header>") < made.index("<nav") < made.index("<main>") < made.index("<script>")


def header(made: str) -> str:
    return re.search(r"<header>.*?</header>", made, re.DOTALL)[0]


def test_a_header_has_the_facts_of_the_run_each_in_its_place():
    made = page("Training", *RUN, [], ["more<", Markup("<b>x</b>")])
    assert header(made) == (
        "<header><h1><bdi>a &lt;run&gt;</bdi></h1><p>Training. Finished "
        '<time datetime="2026-03-04T05:06:07+00:00">2026-03-04 05:06 UTC</time>, Raymill 1.2.3. Output: '
        "<code>s3://b/o&amp;1</code></p><p>more&lt;</p><p><b>x</b></p></header>"
    )
    local = page("K", "x", "2026-03-04T17:06:07", "1", "o", [])
    assert '<time datetime="2026-03-04T17:06:07">2026-03-04 17:06</time>' in header(local)


def test_a_page_is_valid_utf_8_whatever_its_texts_contain():
    made = page("K", "a\ud800\x00b\r\nc", *RUN[1:], [Section("a", "\x1b[31m", ["\uffff"])])
    made.encode()
    assert "a\ufffd\ufffdb\nc" in made and "\ufffd[31m" in made and "\r" not in made and "\x00" not in made
