"""The reference of settings, as Markdown: a page for each kind of run, from the JSON schema of its config."""

import json
from typing import Any

from docs.markdown import cell
from raymill.cluster.frame import kinds

Schema = dict[str, Any]
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_PLAIN = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


def settings_page(kind: str) -> str:
    """The page of a kind: a table of its own settings, then one for each group, where it is first named."""
    declared = kinds.kind_of(kind)
    schema: Schema = declared.config.load().model_json_schema()  # type: ignore[attr-defined]
    groups: Schema = schema.get("$defs", {})
    places: dict[str, str] = {}
    _find_places(schema, "", groups, places)
    lines = [f"# Settings of {kind}", "", f"`kind: {kind}`: {declared.text}.", "", *_table(schema, places)]
    order = list(schema["properties"])
    for name, place in sorted(places.items(), key=lambda found: order.index(found[1].partition(".")[0])):
        lines += ["", f"## {place} {{ #{_anchor(place)} }}", ""]
        if text := groups[name].get("description", "").partition("\n\n")[0]:
            lines += [cell(text), ""]
        lines += _table(groups[name], places)
    return "\n".join(lines) + "\n"


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


def _table(group: Schema, places: dict[str, str]) -> list[str]:
    required = group.get("required", [])
    lines = ["| setting | value | default | |", "|---|---|---|---|"]
    for name, setting in group["properties"].items():
        default = "required" if name in required else _default(setting)
        lines.append(f"| `{name}` | {_type(setting, places)} | {default} | {cell(setting.get('description', ''))} |")
    return lines


def _default(setting: Schema) -> str:
    """The default of a setting. The settings of a group have theirs in its own table."""
    value = setting.get("default")
    return "its defaults" if isinstance(value, dict) and value else cell(f"`{json.dumps(value, ensure_ascii=False)}`")


def _type(schema: Schema, places: dict[str, str]) -> str:
    """What a setting may be, in words."""
    if "$ref" in schema:
        place = places.get(_name(schema))
        return f"[{place}](#{_anchor(place)})" if place else "any value"
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(choice, places) for choice in choices))
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema['items'], places)}" if schema.get("items") else "list"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"by name: {_type(values, places)}" if isinstance(values, dict) and values else "values by name"
    bounds = [f"{word} {schema[bound]:,}" for bound, word in _BOUNDS.items() if bound in schema]
    return ", ".join([_PLAIN.get(str(kind), "any value"), *bounds])


def _name(schema: Schema) -> str:
    return schema["$ref"].rpartition("/")[2]


def _anchor(place: str) -> str:
    return place.replace(".", "-")
