"""YAML (or JSON) into frozen pydantic models, with every mistake named at once.

    load("curate.yaml", ["rules.gopher_quality.min_words=30"])  ->  CurateConfig

An error line says: file, key: what was seen; what was wanted; what to do. `${NAME}` stands for an environment variable
only where a secret may legitimately stand, so a config never changes its meaning with the machine it runs on.
"""

import dataclasses
import difflib
import importlib
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from cluster import storage
from cluster.errors import ConfigError

# What `kind:` may say, and the model that reads it. A trade is imported only when its kind is asked for.
KINDS = {
    "curate": "pipelines.config:CurateConfig",
}

SECRETS = ("storage.access_key_id", "storage.secret_access_key", "storage.session_token")

Loc = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of scalars: `no` is Norwegian, `1e-4` is a number, and a key given twice is a mistake."""


def _one_of_each(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"`{key}` is given twice, in lines {seen[key]} and {line}: keep one")
        seen[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _one_of_each)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float",
                                                                    "tag:yaml.org,2002:timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}  # fmt: skip
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"),
    "-+.0123456789",
)


def model_of(kind: str) -> type[BaseModel]:
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def load(path: str, overrides: Sequence[str] = ()) -> BaseModel:
    """
    Raises:
        ConfigError: listing everything that is wrong with the file and the overrides.
    """
    try:
        raw = _parse(storage.read_bytes(path).decode(), path)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a config is a mapping of settings; this file holds {_show(raw)}.")
    problems: list[str] = []
    for override in overrides:
        problems += _override(raw, override)
    kind = raw.get("kind")
    if kind not in KINDS:
        wanted = ", ".join(KINDS)
        problems.append(f"{path}, kind: {_show(kind)} given; wanted one of: {wanted}.{_nearest(str(kind), KINDS)}")
        raise ConfigError("\n".join(problems))
    raw, unset = _expand(raw, (), path)
    problems += unset
    model = model_of(kind)
    try:
        config = model.model_validate(raw)
    except ValidationError as error:
        seen = set()
        for entry in error.errors():
            line = _explain(path, model, entry)
            if line not in seen:
                seen.add(line)
                problems.append(line)
    except ConfigError as error:
        problems.append(f"{path}, {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def schema() -> dict[str, Any]:
    """The JSON schema of every kind of config, for editors."""
    models = tuple(model_of(kind) for kind in KINDS)
    adapter: TypeAdapter[Any] = TypeAdapter(Union[models])  # type: ignore[arg-type]  # noqa: UP007
    return adapter.json_schema()


def _parse(text: str, path: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{place}: not valid YAML: {what}.") from error


def _override(raw: dict[str, Any], override: str) -> list[str]:
    """Apply `key.sub=value` to the raw mapping; the value is read as YAML."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        return [f"-o {override}: wanted key.sub=value, as in -o dedup.threshold=0.7."]
    *parents, last = key.split(".")
    place: Any = raw
    for name in parents:
        if isinstance(place, list) and name.isdigit() and int(name) < len(place):
            place = place[int(name)]
        elif isinstance(place, dict):
            if place.get(name) is None:
                place[name] = {}
            place = place[name]
        else:
            return [f"-o {override}: {name} is not a group of settings."]
    parsed = _parse(value, f"-o {override}")
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = parsed
    elif isinstance(place, dict):
        place[last] = parsed
    else:
        return [f"-o {override}: {'.'.join(parents)} is not a group of settings."]
    return []


def _expand(value: Any, loc: Loc, path: str) -> tuple[Any, list[str]]:
    if isinstance(value, dict):
        pairs = {key: _expand(inner, (*loc, key), path) for key, inner in value.items()}
        return {key: inner for key, (inner, _) in pairs.items()}, [p for _, found in pairs.values() for p in found]
    if isinstance(value, list):
        items = [_expand(inner, (*loc, index), path) for index, inner in enumerate(value)]
        return [inner for inner, _ in items], [p for _, found in items for p in found]
    names = re.findall(r"\$\{(\w+)\}", value) if isinstance(value, str) else []
    if not names:
        return value, []
    key = _dotted(loc)
    if key not in SECRETS:
        return value, [
            f"{path}, {key}: {value!r} uses an environment variable; those are read only in {', '.join(SECRETS)}. "
            f"Write the value itself, or pass -o {key}=..."
        ]
    missing = [name for name in names if name not in os.environ]
    if missing:
        return value, [f"{path}, {key}: the environment has no {', '.join(missing)}. Set it, or use storage.profile."]
    return re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], value), []


def _explain(path: str, model: type[BaseModel], entry: Mapping[str, Any]) -> str:
    loc: Loc = tuple(entry["loc"])
    known = _fields_at(model, loc[:-1])
    # pydantic adds the tags of union members to a location; a person knows only the keys.
    shown = _dotted(_real_loc(model, loc))
    where = f"{path}, {shown or 'the whole'}"
    match entry["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            parent = _dotted(_real_loc(model, loc[:-1])) or "a config"
            names = ", ".join(known)
            return f"{where}: no such setting. {parent} knows: {names}.{_nearest(str(loc[-1]), known)}"
        case "missing" | "missing_argument":
            return f"{where}: missing, and it has no default. Add `{loc[-1]}:` here."
        case "value_error":
            return f"{where}: {str(entry['ctx']['error']).rstrip('.')}."
        case "literal_error":
            wanted = entry["ctx"]["expected"]
            choices = re.findall(r"'([^']+)'", wanted)
            return f"{where}: {_show(entry['input'])} given; wanted {wanted}.{_nearest(str(entry['input']), choices)}"
    wanted = entry["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{where}: {_show(entry['input'])} given; wanted {wanted}."


def _real_loc(model: type[BaseModel], loc: Loc) -> Loc:
    """The location without the names pydantic gives to union members."""
    real: list[str | int] = []
    place: list[Any] = [model]
    for step in loc:
        inner = [found for candidate in place for found in _step(candidate, step)]
        if inner:
            real.append(step)
            place = inner
        elif step == loc[-1] and isinstance(step, str) and "[" not in step and step not in ("str", "int", "float"):
            real.append(step)
    return tuple(real)


def _fields_at(model: type[BaseModel], loc: Loc) -> list[str]:
    place: list[Any] = [model]
    for step in loc:
        place = [found for candidate in place for found in _step(candidate, step)] or place
    return sorted({name for candidate in place for name in _field_types(candidate)})


def _step(kind: Any, step: str | int) -> Iterator[Any]:
    """The types that may stand at one key or index below a type."""
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(step, int):
        if origin in (list, tuple, Sequence):
            yield from _members(inner[0])
    elif step in (fields := _field_types(kind)):
        yield from _members(fields[step])
    elif origin in (dict, Mapping):
        yield from _members(inner[1])


def _members(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [member for arg in get_args(kind) for member in _members(arg)]
    return [kind]


def _field_types(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    if dataclasses.is_dataclass(kind):
        return {field.name: field.type for field in dataclasses.fields(kind)}
    return {}


def _dotted(loc: Loc) -> str:
    return ".".join(str(step) for step in loc)


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
