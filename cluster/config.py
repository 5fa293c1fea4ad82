"""Loads a config, YAML or JSON, into a frozen pydantic model. All mistakes are reported together.

    load("curate.yaml", ["rules.gopher_quality.min_words=30"])  ->  CurateConfig

A line of an error says: file, key: what was seen; what was wanted; what to do. `${NAME}` is replaced by an environment
variable only in settings that are secrets, so that a config means the same on every machine.
"""

import copy
import dataclasses
import difflib
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from raymill.cluster.config_text import format_of, parse
from raymill.cluster.errors import ConfigError, Problem
from raymill.cluster.frame.kinds import kind_of, names
from raymill.cluster.frame.run_name import NAME
from raymill.cluster.plugins import Plugin, context_for, context_of
from raymill.cluster.secret_values import VARIABLE, is_secret_name, take_out, without_secrets
from raymill.cluster.store.interface import SECRETS, StorageOptions
from raymill.cluster.store.store import Store

Loc = tuple[str | int, ...]
Config = TypeVar("Config", bound=BaseModel)

_IN_ENVIRONMENT = "env:"
_HIDDEN = "(a secret)"
_MISPLACED_SHOWN = 3
# Groups of settings of which a wrong value is not shown.
_WITH_SECRETS = ("auth", "headers", "key_env", "parameters", "pseudonym_key", "secrets", "variable")
_OUTSIDE = object()

# pydantic's type of error -> what was wanted, in the words of YAML.
_WANTED = {
    "model_type": "a group of settings, as in {{name: value}}",
    "model_attributes_type": "a group of settings, as in {{name: value}}",
    "dataclass_type": "a group of settings, as in {{name: value}}",
    "dict_type": "a group of settings, as in {{name: value}}",
    "tuple_type": "a list, as in [a, b]",
    "list_type": "a list, as in [a, b]",
    "string_type": "text (in quotes, if it looks like a number)",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "too_short": "at least {min_length} in the list",
    "too_long": "at most {max_length} in the list",
    "string_too_short": "at least {min_length} character",
    "string_too_long": "at most {max_length} characters",
    "finite_number": "a number that is not infinite",
    "date_type": "a date, as in 2026-11-23",
    "date_parsing": "a date, as in 2026-11-23",
    "date_from_datetime_parsing": "a date, as in 2026-11-23",
    "date_from_datetime_inexact": "a date without a time, as in 2026-11-23",
    "string_pattern_mismatch": "text that matches {pattern}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}

_COMPARISONS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")

# pydantic's name of an alternative that is no class: dict[str,str], function-after[check(), constrained-str], str.
_ALTERNATIVE = re.compile(r"[a-z-]+\[.*\]|constrained-[a-z]+|str|int|float|bool")

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")

# pydantic's types of error that mean: the value is of another type, and so of another alternative if there is one.
_OTHER_TYPE = {name for name in _WANTED if name.endswith(("_type", "_parsing"))} | {"int_from_float", "literal_error"}


def model_of(kind: str) -> type[BaseModel]:
    """The pydantic model of configs of a kind. Imports its module."""
    return kind_of(kind).config.load()  # type: ignore[return-value]


class Override(NamedTuple):
    """A setting that replaces the one of a config. key: `rules.c4.min_sentences`. shown: how messages name it."""

    key: str
    value: Any
    shown: str


def key_of(override: str | Override) -> str:
    """The setting that an override replaces."""
    return override.partition("=")[0] if isinstance(override, str) else override.key


def text_of(override: str | Override) -> str:
    """An override as text."""
    return override if isinstance(override, str) else f"{override.key}={override.value}"


def load(path: str, overrides: Sequence[str | Override] = ()) -> BaseModel:
    """The config in a file, with overrides (`key.sub=value`) applied.

    path: a file, a URI, or `env:NAME` for the JSON in an environment variable, which a submitted job has its config in.

    Raises:
        ConfigError: lists all mistakes of the file and the overrides.
    """
    return load_values(read_config(path), path, overrides)


def load_values(raw: dict[str, Any], path: str, overrides: Sequence[str | Override] = ()) -> BaseModel:
    """The config of these settings, with overrides applied. path: of the file they are from, for messages.

    Raises:
        ConfigError: lists all mistakes.
    """
    origins = _Origins(path, copy.deepcopy(raw), overrides, context_for(path))
    in_file = raw.get("kind")
    problems = origins.apply(raw, model_of(in_file) if in_file in names() else None)
    kind = raw.get("kind")
    if kind not in names():
        wanted = ", ".join(names())
        where = origins.where(("kind",), "")
        problems.append(Problem.of(where, f"{_show(kind)} given", f"one of: {wanted}", _nearest(str(kind), names())))
        raise ConfigError.about(*problems)
    return _validated(model_of(kind), raw, origins, problems)


def load_recorded(
    model: type[Config],
    record: Mapping[str, Any],
    at: str,
    store: Store,
    overrides: Sequence[str | Override] = (),
    plugins: Sequence[Plugin] = (),
) -> Config:
    """The config that the record of a run has, with overrides of the user applied.

    Anybody may have written a record. So no code that it names is imported, no variable of the environment is read for
    it, and none of its `storage` settings is used. The caller refuses files and models that only the record names.

    Args:
        record: the settings.
        at: URI of the record, for messages.
        store: the store of the run; its settings become the config's `storage`.
        plugins: those of a config that the user gave.

    Raises:
        ConfigError: lists all mistakes.
    """
    raw = copy.deepcopy(dict(record))
    inputs = raw.get("inputs")
    for group in (raw, *(inputs if isinstance(inputs, list) else ())):
        if isinstance(group, dict):
            group.pop("storage", None)
    origins = _Origins(at, copy.deepcopy(raw), overrides, context_of(plugins))
    found = _validated(model, raw, origins, origins.apply(raw, model))
    return found.model_copy(update={"storage": store.options})


def load_part(model: type[Config], raw: dict[str, Any], where: str, context: Mapping[str, Any] | None = None) -> Config:
    """Settings that stand in a file of their own, or in a setting of any form.

    where: for messages. context: pydantic's context of the config, which has plug-ins.

    Raises:
        ConfigError: lists all mistakes.
    """
    return _validated(model, raw, _Origins(where, copy.deepcopy(raw), (), dict(context or {})), [])


def load_storage(overrides: Sequence[str | Override]) -> StorageOptions:
    """The `storage` settings of overrides alone, for commands that read an existing run.

    Raises:
        ConfigError: an override is wrong, or not of `storage`.
    """
    raw: dict[str, Any] = {}
    origins = _Origins("-o", {}, overrides, {})
    return _validated(_StorageAlone, raw, origins, origins.apply(raw, _StorageAlone)).storage


class _StorageAlone(BaseModel):
    model_config = ConfigDict(extra="forbid")

    storage: StorageOptions = StorageOptions()  # type: ignore[call-arg]


def read_config(path: str) -> dict[str, Any]:
    """The settings in a file, as they are written. Raises ConfigError: it is not a mapping in YAML or JSON."""
    try:
        # A config on a store is read with the credentials of the environment: its own are inside.
        if path.startswith(_IN_ENVIRONMENT):
            name = path.removeprefix(_IN_ENVIRONMENT)
            if name not in os.environ:
                raise ConfigError(
                    f"{path}: the environment has no variable {name or '(no name given)'}. It is set for jobs that "
                    "`raymill submit` starts; elsewhere give a file."
                )
            raw = parse(os.environ[name], path, "json")
        else:
            raw = parse(Store().read_bytes(path).decode("utf-8-sig"), path, format_of(path))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    if not isinstance(raw, dict):
        seen, without = ("a list", "without `- ` before it, ") if isinstance(raw, list) else (_show(raw), "")
        raise ConfigError(
            f"{path}: {seen}; a config is a mapping of settings. Write each as `name: value` on a line of its own, "
            f"{without}as in `kind: curate`."
        )
    return raw


def _validated(model: type[Config], raw: dict[str, Any], origins: "_Origins", problems: list[Problem]) -> Config:
    # What follows sees no secret, so that no message can show one.
    raw, secrets = take_out(raw, _is_secret)
    problems += [
        Problem.of(
            origins.where(loc, ""),
            f"holds a secret ({what}), and settings are recorded, printed and sent with jobs",
            fix=_in_place_of_secret(model, loc),
        )
        for loc, what in secrets
    ]
    raw, unset = _expand(raw, (), origins)
    problems += unset
    try:
        config = model.model_validate(raw, context=origins.context)
    except ValidationError as error:
        entries = error.errors()
        origins.validate_file_alone(model)
        wrong_inside = {entry["loc"][:depth] for entry in entries for depth in range(len(entry["loc"]))}
        # A wrong entry makes its list one too short, which is not a second mistake.
        entries = [one for one in entries if not (one["type"] == "too_short" and one["loc"] in wrong_inside)]
        entries += _validator_errors(model, raw, entries, origins.context)
        lines = [_explain(origins, model, mistake) for mistake in _mistakes(model, entries)]
        problems += dict.fromkeys(lines)
    if problems:
        raise ConfigError.about(*problems)
    return config


def _validator_errors(
    model: type[BaseModel], raw: dict[str, Any], entries: Sequence[Any], context: dict[str, Any]
) -> list[Any]:
    """Errors of model validators, such as an empty range, which pydantic runs only on groups without wrong settings.

    The config is validated again without the wrong settings. An error that names one of these, or a setting of a
    similar name, may result from their absence and is left out.
    """
    left, names = copy.deepcopy(raw), set[str]()
    for entry in entries:
        node: Any = left
        loc = _real_loc(model, entry)[0]
        try:
            for step in loc[:-1]:
                node = node[step]
        except (KeyError, IndexError, TypeError):
            return []  # the file has the short form of a group
        if not loc or not isinstance(node, dict):
            return []
        parents, last = loc[:-1], loc[-1]
        node.pop(last, None)
        known = {name for one in _models_at(model, parents) for name in _field_types(one)}
        names |= {str(last), *difflib.get_close_matches(str(last), known)}
    try:
        model.model_validate(left, context=context)
    except ValidationError as error:
        seen = {(entry["loc"], entry["msg"]) for entry in entries}
        return [
            one
            for one in error.errors()
            if one["type"] == "value_error"
            and (one["loc"], one["msg"]) not in seen
            and not names & set(re.findall(r"\w+", one["msg"]))
        ]
    return []


def schema() -> dict[str, Any]:
    """The JSON schema of every kind of config, for editors."""
    models = tuple(dict.fromkeys(model_of(kind) for kind in names()))  # one for several kinds is there once
    one_of = Annotated[Union[models], Field(discriminator="kind")]  # type: ignore[valid-type]  # noqa: UP007
    return TypeAdapter(one_of).json_schema()


class _Origins:
    """The origin of each setting, file or -o, for error messages. context: pydantic's context, which has plug-ins."""

    def __init__(
        self, path: str, in_file: dict[str, Any], overrides: Sequence[str | Override], context: dict[str, Any]
    ) -> None:
        self.path, self.context = path, context
        self.overrides = overrides
        self._in_file = in_file
        self._wrong_in_file: set[tuple[Loc, str]] = set()
        self._applied: list[tuple[Loc, str]] = []  # key, and the override as shown in messages

    def apply(self, raw: dict[str, Any], model: type[BaseModel] | None) -> list[Problem]:
        """Apply the overrides to the raw settings in place. Returns the mistakes in the overrides.

        model: of the config, None if its kind is unknown.
        """
        return [found for override in self.overrides for found in self._apply_one(raw, override, model)]

    def validate_file_alone(self, model: type[BaseModel]) -> None:
        """Record the mistakes of the file without any override."""
        try:
            model.model_validate(_expand(self._in_file, (), self)[0], context=self.context)
        except ValidationError as error:
            self._wrong_in_file = {(_real_loc(model, entry)[0], entry["type"]) for entry in error.errors()}

    def where(self, loc: Loc, kind: str) -> str:
        """The beginning of a message about the setting at `loc`. kind: pydantic's type of error."""
        keys = tuple(map(str, loc))
        shown = _dotted(loc)
        blamed = [(key, text) for key, text in self._applied if keys[: len(key)] == key][-1:]
        if not blamed and (loc, kind) not in self._wrong_in_file:
            # A group of settings is wrong that would be right without the overrides.
            blamed = [(key, text) for key, text in self._applied if key[: len(keys)] == keys]
        if not blamed:
            return f"{self.path}, {shown}" if shown else self.path
        typed = " and ".join(text for _, text in blamed)
        return typed if not shown or blamed[-1][0] == keys else f"{typed}, {shown}"

    def _apply_one(self, raw: dict[str, Any], override: str | Override, model: type[BaseModel] | None) -> list[Problem]:
        """Apply one override. The value of a text is YAML. Returns its mistakes."""
        key, equals, value = override.partition("=") if isinstance(override, str) else (override.key, "=", "")
        *parents, last = key.split(".")
        shown = f"-o {shown_override(override)}" if isinstance(override, str) else override.shown
        if not equals or not all((*parents, last)):
            return [Problem.of(shown, "wanted key.sub=value, as in -o storage.retries=5")]
        for short, long in getattr(model, "short_names", {}).items():
            if long == (*parents, last)[0] and (short in raw or isinstance(raw.get(long), dict)):
                given = raw.pop(short if short in raw else long)
                raw[long] = given if isinstance(given, list) else [given]
            elif short == last and not parents:
                raw.pop(long, None)
        node: Any = raw
        for depth, name in enumerate(parents, start=1):
            if isinstance(node, dict) and node.get(name) is None:
                node[name] = {}
            inner = _inside(node, name)
            if isinstance(inner, str) and model is not None:
                inner = _written_out(inner, model, tuple(_key(one) for one in parents[:depth]))
                node[_key(name)] = inner
            node = inner
        try:
            parsed = parse(value, shown, "yaml") if isinstance(override, str) else override.value
        except ConfigError as error:
            return [Problem(str(error), shown)]
        if isinstance(node, dict):
            node[last] = parsed
        elif isinstance(node, list) and _inside(node, last) is not _OUTSIDE:
            node[int(last)] = parsed
        else:
            where = ".".join(parents)
            if node is not _OUTSIDE and not isinstance(node, list):
                seen = f"{where} is {_show(node)}, which has no settings"
                return [Problem.of(shown, seen, fix=f"Give {where} as a whole instead.")]
            return [
                Problem.of(
                    shown, f"there is no {where} that has a {last}", fix="Entries of a list are numbered from 0."
                )
            ]
        self._applied.append(((*parents, last), shown))
        return []


def _key(name: str) -> str | int:
    return int(name) if name.isascii() and name.isdigit() else name


def _written_out(value: str, model: type[BaseModel], loc: Loc) -> Any:
    """A group of settings, or a list of one, for which a text may stand: models name the setting as `short_form`."""
    for candidate in _models_at(model, loc):
        if short := getattr(candidate, "short_form", None):
            return {short: value}
        for entry in _step(candidate, 0):
            if short := getattr(entry, "short_form", None):
                return [{short: value}]
    return value


def _inside(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return node[name]
    if isinstance(node, list) and name.isascii() and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    return _OUTSIDE


def _expand(value: Any, loc: Loc, origins: _Origins) -> tuple[Any, list[Problem]]:
    if isinstance(value, dict):
        pairs = {key: _expand(inner, (*loc, key), origins) for key, inner in value.items()}
        return {key: inner for key, (inner, _) in pairs.items()}, [p for _, found in pairs.values() for p in found]
    if isinstance(value, list):
        items = [_expand(inner, (*loc, index), origins) for index, inner in enumerate(value)]
        return [inner for inner, _ in items], [p for _, found in items for p in found]
    names = re.findall(r"\$\{(\w+)\}", value) if isinstance(value, str) else []
    if not names:
        return value, []
    key = _dotted(loc)
    if loc[0] == "steps":  # in a run file, references to steps
        return value, []
    if not _is_secret(loc):
        read_in = ", ".join(f"storage.{name}" for name in SECRETS)
        seen = f"{_show(value)} uses an environment variable; those are read only in {read_in}"
        return value, [Problem.of(origins.where(loc, ""), seen, fix=f"Write the value itself, or pass -o {key}=...")]
    missing = [name for name in names if name not in os.environ]
    if missing:
        seen = f"the environment has no {', '.join(missing)}"
        return value, [Problem.of(origins.where(loc, ""), seen, fix=f"Set it, or use {_dotted(loc[:-1])}.profile.")]
    return re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], value), []


def _mistakes(model: type[BaseModel], entries: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """pydantic's errors by the mistake that they are about.

    Where a setting has alternatives (a number, or a group), pydantic reports each of them. If the value has the type
    of one, the errors of the others are left out; if of none, they are one mistake.
    """
    alternatives: dict[Loc, set[str]] = {}  # location of a setting with alternatives -> those whose type fits
    for entry in entries:
        _, at, label = _real_loc(model, entry)
        if at is not None:
            fitting = alternatives.setdefault(at, set())
            if entry["loc"][-1] != label or entry["type"] not in _OTHER_TYPE:
                fitting.add(label)
    mistakes: dict[Any, list[Mapping[str, Any]]] = {}
    for number, entry in enumerate(entries):
        _, at, label = _real_loc(model, entry)
        if at is None or label in alternatives[at]:
            mistakes[number] = [entry]
        elif not alternatives[at]:
            mistakes.setdefault(at, []).append(entry)
    return list(mistakes.values())


def _explain(origins: _Origins, model: type[BaseModel], mistake: Sequence[Mapping[str, Any]]) -> Problem:
    """mistake: one error of pydantic, or those of all alternatives of a setting."""
    entry = mistake[0]
    loc: Loc = tuple(entry["loc"])
    known = sorted({name for one in _models_at(model, loc[:-1]) for name in _field_types(one)})
    real = _real_loc(model, entry)[0]
    where = origins.where(real, entry["type"])
    context = entry.get("ctx", {})
    hidden = _may_be_secret(real) or _holds_secret(entry["input"]) or context.get("pattern") == VARIABLE
    seen = _HIDDEN if hidden else _show(entry["input"])
    if entry["type"] in (*_COMPARISONS, "finite_number") and str(entry["input"]).lower() == "nan":
        return Problem.of(where, f"{seen} given", "a number that is not NaN")
    match entry["type"]:
        case kind if kind in _UNKNOWN:
            parent = _dotted(real[:-1]) or "A config"
            names = ", ".join(known)
            meant = _named_elsewhere(model, loc) or _misplaced(model, loc[-1]) or _nearest(str(loc[-1]), known)
            return Problem.of(where, "no such setting", fix=f"{meant} {parent} has: {names}.".lstrip())
        case "invalid_key":
            return Problem.of(origins.path, f"{seen} is not the name of a setting; a name is text")
        case "missing" if isinstance(loc[-1], int):
            return Problem.of(origins.where(real[:-1], ""), f"{loc[-1]} given", f"at least {loc[-1] + 1} in the list")
        case "missing" | "missing_argument":
            return Problem.of(where, "missing, and it has no default", fix=f"Add `{loc[-1]}:` here.")
        case "value_error":
            said, meant, near = (
                str(context["error"]).removeprefix(f"{loc[-1]}: " if loc else "").partition(" Did you mean")
            )
            # The group names the setting that is wrong, as in `prices: ...` or `columns.text: ...`.
            name, colon, rest = said.partition(": ")
            of_group = {one for at in _models_at(model, loc) for one in _field_types(at)}
            is_of_group = name.partition(".")[0] in of_group
            if colon and is_of_group and where in (origins.path, f"{origins.path}, {_dotted(real)}"):
                where, said = f"{where}{'.' if real else ', '}{name}", rest
            return Problem.of(where, said, fix=f"Did you mean{near}" if meant else "")
        case "literal_error":
            choices = re.findall(r"'([^']+)'", context["expected"])
            return Problem.of(where, f"{seen} given", _wanted(mistake), _nearest(str(entry["input"]), choices))
        case "tuple_type" | "list_type" if isinstance(entry["input"], dict):
            return Problem.of(where, f"{seen} given", "a list", "For a list of one, put it in [ ].")
    return Problem.of(where, f"{seen} given", _wanted(mistake))


def _wanted(mistake: Sequence[Mapping[str, Any]]) -> str:
    found = []
    for entry in mistake:
        if entry.get("ctx", {}).get("pattern") == VARIABLE:
            found.append("the name of an environment variable, in capitals, as in MY_PASSWORD")
            continue
        if entry["type"] == "too_short" and isinstance(entry["input"], dict):
            found.append("at least {min_length} entry".format(**entry["ctx"]))
            continue
        if entry.get("ctx", {}).get("pattern") in (NAME, rf"^$|{NAME}"):
            found.append("letters, digits, `_`, `.` and `-`, of which the first is a letter or digit")
            continue
        said = entry["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        found.append(_WANTED.get(entry["type"], said).format(**entry.get("ctx", {})))
    return ", or ".join(dict.fromkeys(found))


def _real_loc(model: type[BaseModel], entry: Mapping[str, Any]) -> tuple[Loc, Loc | None, str]:
    """The location of an error without the names that pydantic gives to the alternatives of a setting.

    Also the location of the first setting with alternatives on the way, None if there is none, and the alternative's
    name.
    """
    loc: Loc = tuple(entry["loc"])
    real: list[str | int] = []
    reached: list[Any] = [model]
    at, label = None, ""
    follows_label = False
    for number, step in enumerate(loc):
        # A mapping takes any step for a key; what pydantic calls an alternative of another setting is none. A key
        # follows the name of its mapping, so `str` may be one.
        is_label = (
            len(reached) > 1
            and not follows_label
            and isinstance(step, str)
            and _ALTERNATIVE.fullmatch(step) is not None
        )
        follows_label = is_label
        inner = [] if is_label else [found for candidate in reached for found in _step(candidate, step)]
        if inner or (number == len(loc) - 1 and entry["type"] in _UNKNOWN):
            real.append(step)
            reached = inner
        elif at is None and isinstance(step, str):
            at, label = tuple(real), step
    return tuple(real), at, label


def types_at(model: type[BaseModel], loc: Loc) -> list[Any]:
    """The types that a setting can have, alternatives one by one; empty if there is no such setting."""
    reached: list[Any] = [model]
    for step in loc:
        reached = [found for candidate in reached for found in _step(candidate, step)]
    return reached


def _models_at(model: type[BaseModel], loc: Loc) -> list[Any]:
    reached: list[Any] = [model]
    for step in loc:
        reached = [found for candidate in reached for found in _step(candidate, step)] or reached
    return reached


def _named_elsewhere(model: type[BaseModel], loc: Loc) -> str:
    """A hint for a name that other programs use. Models list these in `other_names`: name -> setting of ours."""
    for candidate in _models_at(model, loc[:-1]):
        if meant := getattr(candidate, "other_names", {}).get(loc[-1]):
            return f" Did you mean {meant}?"
    return ""


def _misplaced(model: type[BaseModel], name: str | int) -> str:
    """For a name that is a setting of other groups: where it is, outer groups first."""
    level: list[tuple[tuple[str, ...], Any]] = [((), model)]
    seen: set[int] = set()
    found: list[str] = []
    while level:
        found += sorted({".".join((*keys, str(name))) for keys, kind in level if name in _field_types(kind)})
        seen |= {id(kind) for _, kind in level}
        level = [(inside, kind) for keys, kind in level for inside, kind in _inner(keys, kind) if id(kind) not in seen]
    return f" Did you mean {' or '.join(found[:_MISPLACED_SHOWN])}?" if found else ""


def _inner(keys: tuple[str, ...], kind: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The groups of settings inside a type, with the keys that lead to them; of a list, those of its first entry."""
    if get_origin(kind) in (list, tuple, Sequence):
        for member in _step(kind, 0):
            yield (*keys, "0"), member
    for name, annotation in _field_types(kind).items():
        for member in _members(annotation):
            yield (*keys, name), member


def _step(kind: Any, step: str | int) -> Iterator[Any]:
    """The possible types at one key or index below a type."""
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


def _is_secret(loc: Loc) -> bool:
    """Whether a setting is a secret key, in `storage` of the run or of one of its inputs."""
    return loc[-2:-1] == ("storage",) and loc[-1] in SECRETS


def _may_be_secret(loc: Loc) -> bool:
    """Whether a value that is wrong at this setting may be a secret that was meant to be somewhere else."""
    return _is_secret(loc) or any(is_secret_name(str(step)) or step in _WITH_SECRETS for step in loc)


def _holds_secret(value: Any) -> bool:
    """Whether a value, or the text of an override, names a key of a store."""
    return any(name in str(value) for name in SECRETS)


def shown_override(override: str, hidden: str = _HIDDEN) -> str:
    """The override `key.sub=value` for a message: with `hidden` as its value if that may have a secret."""
    key, equals, value = override.partition("=")
    try:
        plain = parse(value, "", "yaml")
        hides = _may_be_secret(tuple(key.split("."))) or _holds_secret(override) or without_secrets(plain) != plain
    except ConfigError:
        hides = any(map(is_secret_name, re.findall(r"[\w-]+", override)))
    return f"{key}{equals}{hidden}" if hides else override


def _in_place_of_secret(model: type[BaseModel], loc: Loc) -> str:
    """What to give in place of a secret. Models that have a setting for it say so as `for_secrets`."""
    for depth in range(len(loc), 0, -1):
        for candidate in _models_at(model, loc[:depth]):
            if said := getattr(candidate, "for_secrets", None):
                return said
    return (
        "Take it out. Keys of stores are found in `storage.profile`, in `storage.access_key_id: ${NAME}` and "
        "`storage.secret_access_key: ${NAME}`, or in the environment (AWS_ACCESS_KEY_ID, AZURE_STORAGE_SAS_TOKEN, "
        "GOOGLE_APPLICATION_CREDENTIALS); the token of the Hugging Face hub in HF_TOKEN."
    )


def _dotted(loc: Loc) -> str:
    return ".".join(str(step) for step in loc)


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(without_secrets(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint: the known name that is most like this one. Entries of a list are written as `list.0`."""
    if (entry := re.fullmatch(r"(\w+)\[(\d+)\]", name)) and entry[1] in known:
        return f" Write {entry[1]}.{entry[2]} for an entry of {entry[1]}."
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
