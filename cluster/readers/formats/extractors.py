"""Extractors: from a decoded HTML page to its main content, as plain text.

    resiliparse       main content by rules on elements and class names, with comments and the author and date of posts.
                      All text of the page if the main content is short (a cookie notice, a form). The default
    trafilatura       slower, and better on news, because it leaves out more of what surrounds the text
    trafilatura_fast  trafilatura without its fallbacks, which find content that its rules miss
    justext           paragraphs by link density and stop words, without tables and code
    router            resiliparse, and trafilatura for a page with most of its text outside the main content

Quality and cost on pages with known text are measured by tests/benchmarks/bench_extract.py, numbers in docs/numbers.md.
A library is imported when the first page is read.
"""

import logging
import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

from lxml import etree

from raymill.cluster.entry import Entry
from raymill.cluster.readers.inputs import Extractor
from raymill.cluster.readers.reader import count_characters

_html_tree = Entry("resiliparse.parse.html:HTMLTree")
_plain_text = Entry("resiliparse.extract.html2text:extract_plain_text")
_paragraphs = Entry("justext:justext")
_stop_lists, _stop_list = Entry("justext:get_stoplists"), Entry("justext:get_stoplist")

_VERSION = 1  # of this module; a new version extracts other texts
LIBRARIES: dict[Extractor, tuple[str, ...]] = {
    "resiliparse": ("resiliparse",),
    "trafilatura": ("trafilatura",),
    "trafilatura_fast": ("trafilatura",),
    "justext": ("justext",),
    "router": ("resiliparse", "trafilatura"),
}

_LEAST_CHARACTERS = 300  # of main content; of a page with less, all text is taken. 7% to 9% of WCXB's pages have less
_ROUTED_FRACTION = 0.2  # of all text that is main content, below which the router takes trafilatura
# Elements whose text is not shown.
_NOT_SHOWN = frozenset(("script", "style", "title", "noscript", "template", "textarea", "option"))
_WORD = re.compile(r"\w")
_PROSE_WORDS, _SENTENCE_WORDS = 10, 6
_SENTENCE_END = re.compile(r"""[.!?:…。！？؟।]["'”’»)\]]*$""")
# Scripts without spaces between words: two of their characters count as a word.
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


class Extracted(NamedTuple):
    """text: the main content; empty if there is none. shown: number of shown characters besides white space.

    shown is None if it was not asked for.
    """

    text: str
    shown: int | None


def extractor_version(name: Extractor) -> list[Any]:
    """The name of an extractor and the versions of its libraries, for fingerprints."""
    return [name, _VERSION, *(f"{library} {version(library)}" for library in LIBRARIES[name])]


def extract(page: str, name: Extractor, count_shown: bool = True) -> Extracted:
    """The main content of a page. count_shown: whether to count the shown characters; a sixth of resiliparse's time."""
    found = _EXTRACTORS[name](page, count_shown)
    return found if _WORD.search(found.text) else found._replace(text="")


def load(name: Extractor) -> None:
    """Import the libraries of an extractor. Called before the child process is forked, so that the child has them."""
    for library in LIBRARIES[name]:
        _LOADERS[library]()


# ---- resiliparse


@cache
def _resiliparse() -> tuple[Callable[[str], Any], Callable[..., str]]:
    """(from a page to its tree, from a tree to text)."""
    return _html_tree.load().parse, _plain_text.load()  # type: ignore[attr-defined]


def _by_resiliparse(page: str, count_shown: bool) -> Extracted:
    parse, text_of = _resiliparse()
    text, all_text = _main_and_all(parse(page), text_of, count_shown)
    return Extracted(text, count_characters(all_text) if count_shown else None)


def _main_and_all(tree: Any, text_of: Callable[..., str], needs_all: bool) -> tuple[str, str]:
    """(the main content, or all text if it is short; all text, empty if it is not needed)."""
    plain = {"list_bullets": False, "alt_texts": False}
    main = text_of(tree, preserve_formatting=True, main_content=True, comments=True, post_meta=True, **plain)
    is_short = len(main) < _LEAST_CHARACTERS
    if not (is_short or needs_all):
        return without_tail(main), ""
    # With formatting, which takes longer, only if this is the result.
    all_text = text_of(tree, preserve_formatting=is_short, main_content=False, **plain)
    return without_tail(all_text if is_short else main), all_text


def without_tail(text: str) -> str:
    """The text up to its last line of prose; the whole text if it has none.

    The lines after it are links, dates and section names. Cutting them adds 1.8 points of F1 on trafilatura's pages.
    """
    lines = text.split("\n")
    for at in range(len(lines) - 1, -1, -1):
        if _is_prose(lines[at]):
            return "\n".join(lines[: at + 1])
    return text


def _is_prose(line: str) -> bool:
    words = len(line.split())
    if words < _PROSE_WORDS and not line.isascii():
        words += len(_WITHOUT_SPACES.findall(line)) // 2
    return words >= _PROSE_WORDS or (words >= _SENTENCE_WORDS and _SENTENCE_END.search(line.rstrip()) is not None)


def _routed(page: str, count_shown: bool) -> Extracted:
    parse, text_of = _resiliparse()
    text, all_text = _main_and_all(parse(page), text_of, needs_all=True)
    shown = count_characters(all_text)
    if count_characters(text) < _ROUTED_FRACTION * shown and (other := _by_trafilatura(page, count_shown)).text:
        return other
    return Extracted(text, shown)


# ---- trafilatura


@cache
def _trafilatura() -> tuple[Callable[..., Any], Callable[..., str | None]]:
    """(from a page to its tree, from a tree to its main content)."""
    import trafilatura.main_extractor  # it takes 0.4 s

    # It logs an error for every page without content, which has a row in quarantine.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    trafilatura.htmlprocessing.strip_tags = trafilatura.main_extractor.strip_tags = strip_tags
    return trafilatura.load_html, trafilatura.extract


def _by_trafilatura(page: str, count_shown: bool, fast: bool = False) -> Extracted:
    parse, extract = _trafilatura()
    tree = parse(page)
    shown = 0 if count_shown else None
    if count_shown and tree is not None:
        shown = sum(
            count_characters(element.text) * (element.tag not in _NOT_SHOWN) + count_characters(element.tail)
            for element in tree.iter(etree.Element)
        )
    return Extracted(extract(tree, fast=fast, include_comments=False) or "", shown)


def strip_tags(tree: etree._Element, *names: str) -> None:
    """Replace the elements of these names by what they contain, as lxml does, and join the texts side by side.

    lxml leaves a text node for each piece. For every one, trafilatura's queries walk back over those before it, so its
    time grew with the square of the number of words in bold, of spans or links of a paragraph: a minute for 50,000.
    """
    etree.strip_tags(tree, *names)
    for element in tree.iter():
        # Reading joins the nodes side by side, writing makes them one.
        if element.text:
            element.text = element.text
        if element.tail:
            element.tail = element.tail


# ---- jusText


@cache
def _justext() -> tuple[Callable[..., Any], frozenset[str]]:
    """(from a page to its paragraphs, the stop words of all languages)."""
    words = frozenset(word for name in sorted(_stop_lists()) for word in _stop_list(name))
    return _paragraphs.load(), words


def _by_justext(page: str, count_shown: bool) -> Extracted:
    paragraphs_of, stop_words = _justext()
    # Bytes, because a text with an XML declaration is refused by its parser.
    paragraphs = paragraphs_of(page.encode("utf-8", "replace"), stop_words, encoding="utf-8")
    text = "\n".join(one.text for one in paragraphs if not one.is_boilerplate)
    return Extracted(text, sum(count_characters(one.text) for one in paragraphs) if count_shown else None)


_LOADERS: dict[str, Callable[[], Any]] = {
    "resiliparse": _resiliparse,
    "trafilatura": _trafilatura,
    "justext": _justext,
}
_EXTRACTORS: dict[Extractor, Callable[[str, bool], Extracted]] = {
    "resiliparse": _by_resiliparse,
    "trafilatura": _by_trafilatura,
    "trafilatura_fast": lambda page, count_shown: _by_trafilatura(page, count_shown, fast=True),
    "justext": _by_justext,
    "router": _routed,
}
