"""A page of one file: its head forbids what it does not hold, its contents lead to its sections."""

import base64
import hashlib
import re

from cluster.page.document import document, header
from cluster.page.markup import Markup, Section, element


def test_a_page_names_its_style_and_its_script_by_hash_and_each_section_in_its_contents():
    sections = [
        Section("one", "First & <best>", Markup("<p>1</p>")),
        None,
        Section("two", "Second", Markup("<p>2</p>")),
    ]
    page = document("A <title>", Markup("<header>h</header>"), sections, style="/* own style */")
    style, script = (re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1] for tag in ("style", "script"))
    assert style.endswith("/* own style */") and len(style) > 1000 and script.strip()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#x27;", "'")
    for name, source in (("style", style), ("script", script)):
        hashed = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{hashed}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "<title>A &lt;title&gt;</title>" in page and page.startswith('<!doctype html>\n<html lang="en">')
    assert re.findall(r'<li><a href="#(\w+)">(.*?)</a>', page) == [
        ("one", "First &amp; &lt;best&gt;"),
        ("two", "Second"),
    ]
    assert re.findall(r'<section id="(\w+)"', page) == ["one", "two"] and page.endswith("</html>\n")
    assert page.index("<header>h</header>") < page.index("<nav") < page.index("<main>") < page.index("<script>")


def test_a_header_has_the_facts_of_the_run_each_in_its_place():
    made = header("a <run>", "Training", "2026-03-04T05:06:07+00:00", "1.2.3", "s3://b/o&1", element("p", "more"), None)
    assert made == (
        "<header><h1><bdi>a &lt;run&gt;</bdi></h1><p>Training. Finished "
        '<time datetime="2026-03-04T05:06:07+00:00">2026-03-04 05:06 UTC</time>, Raymill 1.2.3. Output: '
        "<code>s3://b/o&amp;1</code></p><p>more</p></header>"
    )
    assert '<time datetime="2026-03-04T17:06:07">2026-03-04 17:06</time>' in header(
        "x", "K", "2026-03-04T17:06:07", "1", "o"
    )
