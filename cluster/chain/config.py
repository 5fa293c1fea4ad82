"""The settings of a `kind: run` config, a run file: named steps, each the config of a run of another kind.

    ${STEP.output}     output of a step: OUTPUT/STEP
    ${STEP.outputs}    outputs of all runs of a step that has a matrix, as a list
    ${STEP.digest}     digest of the finished run
    ${STEP.FIELD}      value of its report.json, such as `passed`, `scores.accuracy` or `fits.0.after.test.loss`

Outputs and digests are computed here. Anybody may have written a report, so its values are used only in conditions and
in settings that are numbers, true or false, or fixed words; never in a path, an address, a variable or code.

A step is made after the steps that it refers to. Digests and fields have values when the step is finished, so a setting
with one is validated then.
"""

import difflib
import itertools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from raymill.cluster.artifact import fingerprint
from raymill.cluster.config import Loc, load_part, model_of, types_at
from raymill.cluster.errors import ConfigError, DataError, Problem
from raymill.cluster.formats import plural
from raymill.cluster.frame.execution import Execution
from raymill.cluster.frame.kinds import kind_of, names
from raymill.cluster.frame.run_name import RunName, named_after_output
from raymill.cluster.store import paths
from raymill.cluster.store.interface import SECRETS, StorageOptions
from raymill.cluster.store.store import Store

KIND = "run"
_MOST_RUNS = 100  # per matrix
_MOST_CHARACTERS = 200  # in a text of a report
_NAMES_SHOWN = 20  # names in a report, listed in an error
_NEAR = 0.75  # similarity of a name that is suggested
_COMPUTED = ("output", "outputs", "digest")  # fields that are not in the report
_PLAIN = (int, float, bool, NoneType)
_WORD = re.compile(r"[A-Za-z0-9][\w-]{0,59}\Z", re.ASCII)
_REFERENCE = re.compile(r"\$\{([A-Za-z0-9][\w-]*)\.([\w.-]+)\}")
_NAME_ONLY = re.compile(r"\$\{([\w-]+)\}")
_CONDITION = re.compile(rf"({_REFERENCE.pattern})(?:\s*(==|!=|<=|>=|<|>)\s*(\S.*))?")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
# Settings that decide what of others is reached: no value of a report fills them.
_GUARDS = frozenset(["storage", "follow_links", "allow_private"])
_OF_RUN_FILE = {  # settings that a step cannot have -> why
    "output": "the output of a step is OUTPUT/STEP",
    "storage": "all steps use the `storage` of the run file",
}

StepName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
ValueOf = Callable[[str, str], Any]  # (step, field) -> value


class ChainExecution(Execution):
    """Also how many steps are made at once."""

    steps_at_once: int | None = Field(
        None,
        ge=1,
        le=_MOST_RUNS,
        description="Maximum number of independent steps that are made at the same time; null: as many as the machines "
        "have the CPUs and GPUs for that the steps reserve, and this machine's own Ray the memory",
    )


class ChainConfig(BaseModel, extra="forbid", frozen=True):
    """A run file: steps, each a run of another kind, in the order of their references."""

    kind: Literal["run"] = Field(description="Kind of run: run")
    name: RunName = ""
    output: str = Field(min_length=1, description="Folder or URI; each step has the folder of its name in it")
    steps: dict[StepName, dict[str, Any]] = Field(
        min_length=1,
        max_length=1000,
        description="Name of each step -> its config, without `output`; also `if`, a condition, and `matrix`, setting "
        "-> list of values: a run of each combination. `${STEP.output}` and `${STEP.FIELD}` refer to others",
    )
    until: str | None = Field(None, description="Make only this step and the steps that it needs; null: all steps")
    execution: ChainExecution = Field(
        ChainExecution(),
        description="Its `steps_at_once`, and on one machine `cpus`, are used; each step has its own `execution`",
    )  # type: ignore[call-arg]
    storage: StorageOptions = Field(StorageOptions(), description="Access to the object store, for all steps")  # type: ignore[call-arg]

    _context: dict[str, Any] = PrivateAttr(default_factory=dict)
    _in_file: frozenset[str] = PrivateAttr(frozenset())  # the steps before those of matrices were made of them

    @model_validator(mode="before")
    @classmethod
    def _named(cls, settings: Any) -> Any:
        return named_after_output(settings, KIND)

    @model_validator(mode="wrap")
    @classmethod
    def _keeping_names(cls, settings: Any, validated: ModelWrapValidatorHandler[Self]) -> Self:
        made = validated(settings)
        made._in_file = frozenset(settings["steps"])
        return made

    @field_validator("steps", mode="after")
    @classmethod
    def _expanded(cls, steps: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return without_matrices(steps)

    @model_validator(mode="after")
    def _checked(self, info: ValidationInfo) -> Self:
        self._context.update(info.context or {})
        of_steps = {name: [*self._problems_of_references(name)] for name in self.steps}
        problems = [problem for found in of_steps.values() for problem in found] or self._circle()
        problems += [*self._of_run_file()]
        for name, found in of_steps.items():
            problems += [] if found else self._problems_of_settings(name)
        if self.until is not None and self.until not in self.steps:
            problems.append(Problem.of("until", f"{self.until!r} given", f"one of: {', '.join(self.steps)}"))
        if problems:
            raise ConfigError.about(*problems)
        return self

    @property
    def store(self) -> Store:
        return Store(self.storage)

    @property
    def root(self) -> str:
        """The output as an absolute path or URI."""
        return paths.absolute(self.output)

    def name_in_file(self, step: str) -> str:
        """The name under which the file has the settings of a step: those of STEP-2 of a matrix are STEP's."""
        return step if step in self._in_file else step.rpartition("-")[0]

    @property
    def order(self) -> list[str]:
        """The steps, each after those that it needs; else as in the file. With `until`, that step and its needs."""
        found: list[str] = []
        while ready := [name for name in self.steps if name not in found and self.needs(name) <= {*found}]:
            found.append(ready[0])
        if self.until is None:
            return found
        wanted, more = set[str](), {self.until}
        while more:
            wanted |= more
            more = set().union(*map(self.needs, more)) - wanted
        return [name for name in found if name in wanted]

    def needs(self, name: str) -> set[str]:
        """The steps that a step refers to."""
        return {step for step, _ in references(self.steps[name])}

    def output_of(self, name: str) -> str:
        """The output of a step."""
        return paths.join(self.root, name)

    def fields(self, name: str) -> list[tuple[str, str]]:
        """(step, field) of the references, without those of `if`, that have a value when their step is finished."""
        return [(step, field) for step, field in references(_settings(self.steps[name])) if field != "output"]

    def step_config(self, name: str, value_of: ValueOf) -> Any:
        """The validated config of a step. value_of: values of the fields that it refers to.

        Raises:
            ConfigError: lists all mistakes; or a value of a report is neither a number nor a word.
        """

        def checked(step: str, field: str) -> Any:
            found = value_of(step, field)
            if field in _COMPUTED or isinstance(found, int | float) or (isinstance(found, str) and _WORD.match(found)):
                return found
            seen = f"{json.dumps(found)} given, of the report of step {step}"
            raise ConfigError.about(Problem.of(f"step {name}, ${{{step}.{field}}}", seen, "a number or a word"))

        return self._step_config(name, checked)

    def _step_config(self, name: str, value_of: ValueOf) -> Any:
        given = _settings(self.steps[name])
        found = filled(given, lambda step, field: self.output_of(step) if field == "output" else value_of(step, field))
        settings = {"name": f"{self.name}-{name}"[:100]} | found | {"output": self.output_of(name)}
        config = load_part(model_of(given["kind"]), settings, f"step {name}", self._context)
        return config.model_copy(update={"storage": self.storage})

    def condition(self, name: str, value_of: ValueOf) -> str | None:
        """The reason if a step is not made because of its `if`; None if it is made.

        Raises:
            ConfigError: the value is not true or false, or cannot be compared. `<` and `>` compare numbers alone.
        """
        if (text := self.steps[name].get("if")) is None:
            return None
        reference, step, field, sign, wanted = _CONDITION.fullmatch(text.strip()).groups()  # type: ignore[union-attr]
        value = value_of(step, field)
        seen = f"{step}.{field} is {json.dumps(value)}"
        if sign is None:
            if not isinstance(value, bool):
                raise ConfigError(f"if: {seen}; wanted true or false. Compare it, as in `{reference} >= 1`.")
            return None if value else seen
        other = _value(wanted)
        numbers = [type(one) in (int, float) and math.isfinite(one) for one in (value, other)]
        alike = sign in ("==", "!=") and isinstance(value, bool) == isinstance(other, bool)  # in Python true equals 1
        if not (all(numbers) or alike):
            raise ConfigError(f"if: {seen}, which cannot be compared with {wanted} by `{sign}`.")
        return None if _OPERATORS[sign](value, other) else f"{seen}, and {sign} {wanted} was wanted"

    def _of_run_file(self) -> Iterator[Problem]:
        """Settings that no step can have."""
        for name, given in self.steps.items():
            for setting in _OF_RUN_FILE.keys() & given.keys():
                yield Problem.of(f"step {name}, {setting}", _OF_RUN_FILE[setting], fix="Leave it out.")

    def _problems_of_references(self, name: str) -> Iterator[Problem]:
        given, at = self.steps[name], f"step {name}"
        if given.get("kind") not in {*names()} - {KIND}:
            wanted = ", ".join(one for one in names() if one != KIND)
            yield Problem.of(f"{at}, kind", f"{given.get('kind')!r:.60} given", f"one of: {wanted}")
        if any(key in SECRETS for key in _keys(given)):
            fix = "Use `storage.profile`, or the environment."
            yield Problem.of(at, "the key of a store is given, and steps are recorded", fix=fix)
        condition = given.get("if")
        if condition is not None and not (isinstance(condition, str) and _CONDITION.fullmatch(condition.strip())):
            wanted = "a field of a step, as in `${judged.passed}` or `${judged.items} > 99`"
            yield Problem.of(f"{at}, if", f"{condition!r:.80} given", wanted)
        for step, field in dict.fromkeys(references(given)):
            if field == "outputs":  # those of a step with a matrix are replaced already
                yield Problem.of(at, f"${{{step}.outputs}} given, and {step} is no step with a matrix")
            elif step not in self.steps:
                runs = [one for one in self.steps if re.fullmatch(rf"{re.escape(step)}-\d+", one)]
                fix = f"It has a matrix: refer to ${{{step}.outputs}} or to {runs[0]}." if runs else ""
                there = "" if runs else f"one of: {', '.join(one for one in self.steps if one != name)}"
                yield Problem.of(at, f"${{{step}.{field}}} refers to no step", there, fix)
            elif (known := self._known_fields(step)) and (first := field.partition(".")[0]) not in known:
                near = difflib.get_close_matches(first, known, 1, _NEAR)
                seen = f"${{{step}.{field}}} given, and the report of a {self.steps[step]['kind']} has no {first}"
                fix = f"Did you mean ${{{step}.{near[0]}}}?" if near else ""
                yield Problem.of(at, seen, "" if near else f"one of: {', '.join(known)}", fix)
        for loc, text in texts(_settings(given)):
            for named in _NAME_ONLY.findall(text):
                where = f"{at}, {'.'.join(map(str, loc))}"
                seen = f"${{{named}}} names no field of a step, and variables of the environment are not read in steps"
                fix = f"Did you mean ${{{named}.output}}?" if named in self.steps else ""
                yield Problem.of(where, seen, "" if fix else "the value itself", fix)
        if given.get("kind") in names():
            yield from self._problems_of_fields(name)

    def _known_fields(self, step: str) -> tuple[str, ...]:
        """The names at which a reference to a step can begin; empty if they are not known."""
        kind = self.steps.get(step, {}).get("kind")
        report = kind_of(kind).report if kind in names() else ()
        return (*_COMPUTED, *report) if report else ()

    def _problems_of_fields(self, name: str) -> Iterator[Problem]:
        model = model_of(self.steps[name]["kind"])
        for loc, text in texts(_settings(self.steps[name])):
            fields = [
                (step, field)
                for step, field in _REFERENCE.findall(text)
                if field not in _COMPUTED and field.partition(".")[0] in (self._known_fields(step) or field.split("."))
            ]
            kinds = types_at(model, loc)
            takes = bool(kinds) and all(one in _PLAIN or get_origin(one) is Literal for one in kinds)
            if fields and not (takes and _GUARDS.isdisjoint(loc) and _REFERENCE.fullmatch(text)):
                where = f"step {name}, {'.'.join(map(str, loc))}"
                step, field = fields[0]
                if near := difflib.get_close_matches(field, _COMPUTED, 1, _NEAR):
                    yield Problem.of(where, f"{text!r:.80} given", fix=f"Did you mean ${{{step}.{near[0]}}}?")
                    continue
                wanted = "such a value only as the whole of a setting that is a number, true or false, or a fixed word"
                yield Problem.of(where, f"{text!r:.80} given, a value of a report, which anybody may write", wanted)

    def _circle(self) -> list[Problem]:
        left = [name for name in self.steps if name not in self.model_copy(update={"until": None}).order]
        seen = f"{' and '.join(left)} refer to each other, or to themselves, so none can be the first"
        return [Problem.of("steps", seen, fix="Take out one of their references.")] if left else []

    def _problems_of_settings(self, name: str) -> list[Problem]:
        try:
            self._step_config(name, lambda step, field: f"${{{step}.{field}}}")
        except ConfigError as error:
            # The value of a setting that refers to a field exists when the step of the field is finished.
            is_open = bool(self.fields(name))
            return [one for one in error.problems if not (is_open and "${" in one.message)]
        return []


def _settings(step: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a step without `if`."""
    return {key: value for key, value in step.items() if key != "if"}


def texts(value: Any, at: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """(keys that lead to it, text) of each text in settings."""
    if isinstance(value, Mapping | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from texts(inner, (*at, key))
    elif isinstance(value, str):
        yield at, value


def references(value: Any) -> Iterator[tuple[str, str]]:
    """(step, field) of each reference in settings."""
    for _, text in texts(value):
        yield from _REFERENCE.findall(text)


def filled(value: Any, value_of: ValueOf) -> Any:
    """Settings with values in place of references. A text that is one reference becomes the value with its type."""

    def filled_text(text: str) -> Any:
        if whole := _REFERENCE.fullmatch(text):
            return value_of(whole[1], whole[2])
        return _REFERENCE.sub(lambda found: str(value_of(found[1], found[2])), text)

    return with_texts(value, filled_text)


def with_texts(value: Any, change: Callable[[str], Any]) -> Any:
    """Settings with `change(text)` in place of each text."""
    if isinstance(value, Mapping):
        return {key: with_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_texts(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def field_value(field: str, manifest: Mapping[str, Any], report: Any, uri: str) -> Any:
    """The value of `${STEP.FIELD}` of a finished run: a number, true, false or null, or text of one line.

    Raises:
        DataError: its report has no such value.
    """
    if field == "digest":
        return fingerprint(manifest["artifacts"])
    found: Any = report
    for number, key in enumerate(keys := field.split(".")):
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list) and re.fullmatch(r"-?\d+", key) and -len(found) <= int(key) < len(found):
            found = found[int(key)]
        else:
            at = ".".join(keys[:number]) or "It"
            raise DataError(f"{uri}: its report has no {field}. {at} has: {_names_in(found)}.")
    if isinstance(found, Mapping | list):
        raise DataError(f"{uri}: {field} of its report is no single value. It has: {_names_in(found)}.")
    if isinstance(found, str) and not (len(found) <= _MOST_CHARACTERS and found.isprintable()):
        raise DataError(f"{uri}: {field} of its report is no text of one line: {found[:_MOST_CHARACTERS]!a}.")
    if isinstance(found, float) and not math.isfinite(found):
        raise DataError(f"{uri}: {field} of its report is {found}, no finite number.")
    return found


def _names_in(value: Any) -> str:
    """The first names in a group, or positions in a list, of a report."""
    there = [*value] if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ()
    shown = [f"{one!s:.60}" for one in there[:_NAMES_SHOWN]]
    return ", ".join([*shown, *["..."] * (len(there) > _NAMES_SHOWN)]) or "nothing"


def without_matrices(steps: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The steps, with STEP-1, STEP-2 and so on in place of a STEP with a `matrix`, the last setting changing fastest.

    `${STEP.outputs}`, alone or in a list, becomes the list of their outputs.

    Raises:
        ConfigError: a matrix is no mapping of settings to lists, or a name is taken.
    """
    runs: dict[str, list[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, given in steps.items():
        if (matrix := given.get("matrix")) is None:
            found[name] = given
            continue
        if not (isinstance(matrix, dict) and matrix and all(isinstance(one, list) and one for one in matrix.values())):
            raise ConfigError(
                f"step {name}, matrix: {matrix!r:.80} given; wanted lists of values of settings, as in {{seed: [1]}}."
            )
        combinations = list(itertools.product(*matrix.values()))
        if len(combinations) > _MOST_RUNS:
            raise ConfigError(
                f"step {name}, matrix: {plural(len(combinations), 'combination')}; at most {_MOST_RUNS} are made."
            )
        runs[name] = [f"{name}-{number}" for number in range(1, len(combinations) + 1)]
        for run, values in zip(runs[name], combinations, strict=True):
            if run in steps:
                raise ConfigError(f"step {run}: also the name of a run of the matrix of {name}. Choose another name.")
            found[run] = json.loads(json.dumps({key: value for key, value in given.items() if key != "matrix"}))
            for key, value in zip(matrix, values, strict=True):
                _set(found[run], key, value, name)
    outputs = {f"${{{name}.outputs}}": [f"${{{run}.output}}" for run in of] for name, of in runs.items()}
    return {name: _with_lists(given, outputs) for name, given in found.items()}


def _set(settings: dict[str, Any], key: str, value: Any, step: str) -> None:
    *groups, last = key.split(".")
    for group in groups:
        settings = settings.setdefault(group, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"step {step}, matrix: {key}: {group} is no group of settings.")
    settings[last] = value


def _with_lists(value: Any, lists: Mapping[str, list[str]]) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(inner, lists) for key, inner in value.items()}
    if isinstance(value, list):
        pieces = [lists[one] if isinstance(one, str) and one in lists else [_with_lists(one, lists)] for one in value]
        return [one for piece in pieces for one in piece]
    return lists.get(value, value) if isinstance(value, str) else value


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(inner)


def _value(text: str) -> Any:
    """A value to compare with: JSON, or text."""
    try:
        return json.loads(text)
    except ValueError:
        return text.strip("'\"")
