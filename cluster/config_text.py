"""Parses the text of a config, YAML or JSON, into plain values."""

import json
import re
from collections import Counter
from typing import Any, Literal

import yaml

from raymill.cluster.errors import ConfigError

_MOST_VALUES = 100_000
_MOST_DIGITS = 1000
_TOO_DEEP = "lists or mappings stand more than a hundred levels deep in each other. Write fewer brackets."
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Scalars as in YAML 1.2: `no` is text, `1e-4` is a number. A repeated key is an error."""


def _one_of_each(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == _MERGE:
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem=f"the key in line {line} is a list or a mapping: write a name")
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"`{key}` is given twice, in lines {seen[key]} and {line}: keep one")
        seen[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _one_of_each)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _integer_of_node(loader, node))
_Loader.yaml_implicit_resolvers = {}
for _tag, _regex, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?\d+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+.0123456789"),
    ("merge", r"<<", "<"),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_regex})$"), list(_first))


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits: write at most {_MOST_DIGITS:,}")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _integer_of_node(loader: _Loader, node: yaml.ScalarNode) -> int:
    try:
        return _integer(node.value)
    except ValueError as error:
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error


Format = Literal["yaml", "json"]


def format_of(path: str) -> Format:
    """The format of a config file, by its ending: `.json` is JSON, every other one YAML."""
    return "json" if path.lower().endswith(".json") else "yaml"


def parse(text: str, path: str, format: Format) -> Any:
    """The values in a text. path: where the text stands, for messages.

    Raises:
        ConfigError: it is not YAML, or not JSON.
    """
    if format == "json":
        try:
            return json.loads(text, object_pairs_hook=_no_repeats, parse_int=_integer)
        except ValueError as error:
            raise ConfigError(f"{path}: not valid JSON: {error}.") from error
        except RecursionError as error:
            raise ConfigError(f"{path}: {_TOO_DEEP}") from error
    try:
        value = yaml.load(text, _Loader)
        _refuse_endless(value, path)
        return value
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}, line {line}: not valid YAML: holds the control character U+{error.character:04X}. Remove it."
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: {_TOO_DEEP}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        fix = " Indent with spaces." if "'\\t'" in what else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {what}.{fix}") from error


def _refuse_endless(value: Any, path: str) -> None:
    """Count the values, each alias as often as it is used.

    Raises:
        ConfigError: there are too many, as with an alias inside its own anchor.
    """
    left, waiting = _MOST_VALUES, [value]
    while waiting:
        left -= 1
        if left < 0:
            raise ConfigError(
                f"{path}: more than {_MOST_VALUES:,} values. Does an alias (*name) stand inside its anchor (&name)? "
                "Write the values out."
            )
        found = waiting.pop()
        waiting += found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"`{repeated[0]}` is given twice: keep one")
    return dict(pairs)
