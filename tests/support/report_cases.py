"""Reports of curate to draw: a golden one, and one whose texts attack the page."""

import types
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args, get_origin

GOLDEN = Path(__file__).parents[1] / "golden" / "report.json"
HOSTILE = (
    "</script></style></title><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    "\"'><svg onload=window.hacked=1>&lt;b&gt;&amp;\x00\x08\x1b[31m\ud800\udfff\uffff\u202e\r\n]]>-->" + "w" * 10_000
)


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, and its text by section."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.tags_in: dict[str, list[str]] = {}
        self.section = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.section = dict(attributes)["id"] or ""
        self.tags_in.setdefault(self.section, []).append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        self.text[self.section] = self.text.get(self.section, "") + " " + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def hostile(value: Any, key: str = "") -> Any:
    """The report with every string of it replaced, but those that code reads."""
    if isinstance(value, dict):
        return {k: hostile(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v, key) for v in value]
    if isinstance(value, str) and key not in ("scale", "finished", "stage", "reason"):
        return HOSTILE
    return value


def faults(value: Any, shape: Any, where: str = "report") -> Iterator[str]:
    """Where a value differs from its shape in REPORT of gather.py. A key that ends with `?` may be missing."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no {shape}"
            return
        shapes = {key.removesuffix("?"): one for key, one in shape.items()}
        yield from (f"{where}.{key}: missing" for key in shape if not key.endswith("?") and key not in value)
        yield from (f"{where}.{key}: unknown" for key in value.keys() - shapes.keys())
        for key in value.keys() & shapes.keys():
            yield from faults(value[key], shapes[key], f"{where}.{key}")
    elif isinstance(shape, list):
        for place, item in enumerate(value):
            yield from faults(item, shape[0], f"{where}[{place}]")
    elif isinstance(shape, types.UnionType):
        if all(any(faults(value, option)) for option in get_args(shape)):
            yield f"{where}: {value!r} is no {shape}"
    elif get_origin(shape) is dict:
        for key, item in value.items():
            yield from faults(item, get_args(shape)[1], f"{where}.{key}")
    elif shape is not Any and not isinstance(value, int | float if shape is float else shape):
        yield f"{where}: {value!r} is no {shape}"
