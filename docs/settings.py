"""The reference of settings, as Markdown: a page for each kind of run."""

from docs.markdown import cell
from raymill.cluster.frame import kinds
from raymill.cluster.settings_reference import setting_groups


def settings_page(kind: str) -> str:
    """The page of a kind: a table of its own settings, then one for each group."""
    lines = [f"# Settings of {kind}", "", f"`kind: {kind}`: {kinds.kind_of(kind).text}."]
    for group in setting_groups(kind, lambda place: f"[{place}](#{_anchor(place)})"):
        if group.place:
            lines += ["", f"## {group.place} {{ #{_anchor(group.place)} }}"]
        if group.text:
            lines += ["", cell(group.text)]
        lines += ["", "| setting | value | default | |", "|---|---|---|---|"]
        for name, values, default, description in group.rows:
            value = default.removeprefix("default ")
            shown = value if value == default else cell(f"`{value}`")
            lines.append(f"| `{name}` | {values} | {shown} | {cell(description)} |")
    return "\n".join(lines) + "\n"


def _anchor(place: str) -> str:
    return place.replace(".", "-")
