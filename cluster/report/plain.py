"""Sections from facts alone: the report of a kind of run that lists no sections of its own.

Numbers become tiles, mappings of numbers and lists of records become tables, `warnings` and `config` have the sections
that all reports have. A name is the title: `skipped_files` is `Skipped files`.
"""

from collections.abc import Mapping
from typing import Any

from cluster.formats import count, decimal
from cluster.report.sections import (
    Content,
    DataTable,
    Section,
    Tiles,
    anchor,
    config_section,
    outside,
    table_section,
    warnings_section,
)


def plain_sections(facts: Mapping[str, Any]) -> list[Section | None]:
    """The sections of facts, in their order; warnings come first and the config comes last.

    facts: names to numbers, to mappings of numbers, or to lists of records with equal keys.
    """
    tiles = [(_title(name), _number(value), "") for name, value in facts.items() if isinstance(value, int | float)]
    found: list[Section | None] = [warnings_section(facts.get("warnings", ()))]
    found.append(Section("result", "Result", [Tiles(tiles)]) if tiles else None)
    for name, value in facts.items():
        if name in ("warnings", "config") or not isinstance(value, Mapping | list):
            continue
        rows = value if isinstance(value, list) else [{"name": key, "number": one} for key, one in value.items()]
        first = rows[0] if rows else {}
        columns = [f"{'>' if isinstance(one, int | float) else ''}{_title(key)}" for key, one in first.items()]
        table = DataTable(_title(name), columns, [[_cell(row[key]) for key in first] for row in rows])
        found.append(table_section(anchor(name), _title(name), table, none="None."))
    return [*found, config_section(facts["config"]) if "config" in facts else None]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def _number(value: float) -> str:
    return count(value) if isinstance(value, int) else decimal(value)


def _cell(value: Any) -> Content:
    return _number(value) if isinstance(value, int | float) else "" if value is None else outside(str(value))
