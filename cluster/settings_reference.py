"""The settings of each kind of run, in words, from the JSON schema of its config."""

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from raymill.cluster.frame import kinds

Schema = dict[str, Any]
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_PLAIN = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


@dataclass(frozen=True)
class SettingsGroup:
    """The settings of a group.

    place: of the group, such as `optimizer`; empty: the settings of the kind itself. text: what the group is.
    rows: name, values, default, description.
    """

    place: str
    text: str
    rows: list[tuple[str, str, str, str]]


def setting_groups(kind: str, link: Callable[[str], str] = str) -> Iterator[SettingsGroup]:
    """The settings of a kind, then those of each group, where it is first named. link: the text that names a group."""
    schema: Schema = kinds.kind_of(kind).config.load().model_json_schema()  # type: ignore[attr-defined]
    groups: Schema = schema.get("$defs", {})
    places: dict[str, str] = {}
    _find_places(schema, "", groups, places)
    value_of = partial(_type, names={name: link(place) for name, place in places.items()})
    yield SettingsGroup("", "", _rows(schema, value_of))
    order = list(schema["properties"])
    for name, place in sorted(places.items(), key=lambda found: order.index(found[1].partition(".")[0])):
        text = groups[name].get("description", "").partition("\n\n")[0]
        yield SettingsGroup(place, text, _rows(groups[name], value_of))


def settings_text(kind: str) -> str:
    """All settings of a kind for a terminal: a line with the values and the default, then the description."""
    lines = [f"kind: {kind} ({kinds.kind_of(kind).text})"]
    for group in setting_groups(kind):
        for name, values, default, description in group.rows:
            lines += ["", f"{group.place}.{name}".lstrip(".") + f": {values}; {default}"]
            lines += textwrap.wrap(description, 96, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _find_places(group: Schema, prefix: str, groups: Schema, places: dict[str, str]) -> None:
    """Add to `places`, for each group of settings below this one: its name in the schema -> where it stands."""
    found = {
        name: f"{prefix}{setting}"
        for setting, schema in reversed(group["properties"].items())
        for name in _references(schema)
        if name not in places and "properties" in groups[name]
    }
    places.update(reversed(found.items()))
    for name, place in reversed(found.items()):
        _find_places(groups[name], f"{place}.", groups, places)


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for value in schema for name in _references(value)]
    if not isinstance(schema, dict):
        return []
    if "$ref" in schema:
        return [_name(schema)]
    return [name for key, value in schema.items() if key != "default" for name in _references(value)]


def _rows(group: Schema, value_of: Callable[[Schema], str]) -> list[tuple[str, str, str, str]]:
    required = group.get("required", [])
    return [
        (name, value_of(setting), "required" if name in required else _default(setting), setting.get("description", ""))
        for name, setting in group["properties"].items()
    ]


def _default(setting: Schema) -> str:
    """The default of a setting. The settings of a group have theirs in its own table."""
    value = setting.get("default")
    return "its defaults" if isinstance(value, dict) and value else f"default {json.dumps(value, ensure_ascii=False)}"


def _type(schema: Schema, names: dict[str, str]) -> str:
    """What a setting may be, in words. names: those of groups."""
    if "$ref" in schema:
        return names.get(_name(schema), "any value")
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(choice, names) for choice in choices))
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema['items'], names)}" if schema.get("items") else "list"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"by name: {_type(values, names)}" if isinstance(values, dict) and values else "values by name"
    bounds = [f"{word} {schema[bound]:,}" for bound, word in _BOUNDS.items() if bound in schema]
    return ", ".join([_PLAIN.get(str(kind), "any value"), *bounds])


def _name(schema: Schema) -> str:
    return schema["$ref"].rpartition("/")[2]
