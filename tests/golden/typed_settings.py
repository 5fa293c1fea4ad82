"""The text of raymill/typed_settings.py, made from the pydantic models of the configs: `make golden`."""

import dataclasses
import subprocess
import sys
import textwrap
import types
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from raymill.cluster.config import model_of
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.plugins import PluginUse
from raymill.cluster.store.paths import AbsolutePath

FILE = Path(__file__).parents[2] / "raymill" / "typed_settings.py"
KINDS = (
    *("curate", "prepare", "train", "generate", "distil", "prompt", "annotate", "errors", "compare", "promote", "run"),
)
_WIDTH = 120

_HEAD = '''\
"""The functions that make runs, with their settings as keywords, and the groups of settings as typed dicts.

Written by `make golden` from the models of the configs, for editors and type checkers: change these instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Required, TypeAlias, TypedDict

from raymill.cluster.entry import Entry
from raymill.cluster.keywords import NOT_GIVEN, given, with_known_keywords

if TYPE_CHECKING:
    import datetime

    from raymill.cluster.artifact import Artifact
    from raymill.cluster.chain.job import ChainRun
    from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress
    from raymill.cluster.frame.job import Run
    from raymill.pipelines.annotate.job import AnnotateRun
    from raymill.pipelines.compare.job import CompareRun
    from raymill.pipelines.curate.job import CurateRun
    from raymill.pipelines.distil.job import DistilRun
    from raymill.pipelines.errors.job import ErrorsRun
    from raymill.pipelines.generate.job import GenerateRun
    from raymill.pipelines.prepare.job import PrepareRun
    from raymill.pipelines.prompting.job import PromptRun
    from raymill.training.promote.job import PromoteRun
    from raymill.training.train_run import TrainRun

Place: TypeAlias = "str | os.PathLike[str] | Run | Artifact"
"""A path or URI, or what is there."""

_run_of = Entry("raymill.cluster.frame.calls:run_of")
'''

_PATH = get_args(AbsolutePath)[-1]  # the validator by which a setting is a path
_OPTIONS = {
    "config": "a file (YAML or JSON), a dict, or a config object; None: the keywords are all settings",
    "override": 'changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied last',
    "address": "HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine",
    "replace": "delete results made with other settings and make them again",
    "verify": "compare the sha256 of finished files, not only their sizes",
    "progress": "False: none; True or None: bars in a terminal, text in a notebook; or a function that is called with "
    "each ProgressUpdate",
}


def module_text() -> str:
    """The module, formatted."""
    groups: dict[str, type] = {}
    functions = [_function(kind, groups) for kind in KINDS]
    classes: dict[str, str] = {}
    while left := [name for name in groups if name not in classes]:
        for name in left:
            classes[name] = _class(name, groups[name], groups)
    text = "\n\n".join([_HEAD, *(classes[name] for name in sorted(classes)), *functions])
    formatter = [sys.executable, "-m", "ruff", "format", "--line-length", str(_WIDTH), "-"]
    return subprocess.run(formatter, input=text, capture_output=True, text=True, check=True).stdout


def settings_of(model: type) -> dict[str, tuple[Any, str, bool]]:
    """Name -> (type, description, whether it is required) of each setting of a model or dataclass."""
    if issubclass(model, BaseModel):
        fields = model.model_fields
        return {
            field.alias or name: (_annotated(field), field.description or "", field.is_required())
            for name, field in fields.items()
            if name != "kind"
        }
    hints = get_type_hints(model, include_extras=True)
    found = {}
    for field in dataclasses.fields(model):
        info = next((one for one in get_args(hints[field.name]) if isinstance(one, FieldInfo)), None)
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        found[field.name] = (hints[field.name], (info and info.description) or "", required)
    return found


def _annotated(field: FieldInfo) -> Any:
    """The type of a field, with the validators that pydantic takes off it."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _class(name: str, model: type, groups: dict[str, type]) -> str:
    lines = [f"class {name}(TypedDict, total=False):", _doc(_first_sentence(model), 4)]
    for setting, (kind, description, required) in settings_of(model).items():
        shown = _type(kind, groups)
        lines.append(f"    {setting}: {f'Required[{shown}]' if required else shown}")
        if description:
            lines.append(_doc(_sentence(description), 4))
    return "\n".join(lines)


def _function(kind: str, groups: dict[str, type]) -> str:
    settings, job = settings_of(model_of(kind)), kind_of(kind).job.load()
    parameters = []
    for name, (annotation, _, _) in settings.items():
        shown = "str | os.PathLike[str]" if name == "output" else _type(annotation, groups)
        if shown.startswith("Sequence[Place"):  # one may stand alone
            shown = f"Place | {shown}"
        parameters.append(f"    {name}: {shown} = NOT_GIVEN,")
    described = {name: description for name, (_, description, _) in settings.items()}
    described["name"] = f"{described['name']}; default: the last part of `output`"
    documented = {"config": _OPTIONS["config"]} | described | _OPTIONS
    lines = []
    for name, description in documented.items():
        group = next((one for one in groups if name in settings and one in _type(settings[name][0], groups)), "")
        described_by = f"{_first_sentence(groups[group])} See {group}" if group else name.replace("_", " ")
        text = f"{name}: {_sentence(description or described_by)}"
        lines += textwrap.wrap(text, _WIDTH - 8, initial_indent=" " * 8, subsequent_indent=" " * 12)
    doc = textwrap.dedent(f"    {job.__doc__}").strip()
    given = "".join(f"            {name!r}: {name},\n" for name in settings)
    shown_lines = "\n".join(lines).replace("\\", "\\\\")
    return f'''
@with_known_keywords
def {kind}(
    config: AnyConfig = None,
    *,
{chr(10).join(parameters)}
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> {job.run_type.__name__}:
    """{textwrap.indent(doc, "    ").strip()}

    Keywords replace the settings of `config`.

    Args:
{shown_lines}

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {{
{given}        }}
    )
    options = {{"address": address, "replace": replace, "verify": verify, "progress": progress}}
    return _run_of({kind!r}, config, settings, override=override, **options)
'''


def _first_sentence(model: type) -> str:
    return " ".join((model.__doc__ or f"{model.__name__}.").strip().partition("\n\n")[0].split())


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _doc(text: str, indent: int) -> str:
    """A docstring."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''")
    lines = textwrap.wrap(text, _WIDTH - indent - 6)
    lines[-1] += " " if lines[-1].endswith('"') else ""
    end = f"\n{' ' * indent}" if len(lines) > 1 else ""
    return textwrap.indent('"""' + "\n".join(lines), " " * indent) + end + '"""'


def _type(kind: Any, groups: dict[str, type]) -> str:
    """The annotation of a setting as text. Models are added to `groups` under the names of their typed dicts."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if _PATH in inner:
            return "Place"
        return _type(inner[0], groups)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_type(one, groups) for one in inner))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if origin in (tuple, list, Sequence):
        of = [_type(one, groups) for one in inner if one is not Ellipsis]
        return f"tuple[{', '.join(of)}]" if origin is tuple and Ellipsis not in inner else f"Sequence[{of[0]}]"
    if origin in (dict, Mapping):
        return f"Mapping[{_type(inner[0], groups)}, {_type(inner[1], groups)}]"
    if kind is SecretStr:
        return "str"
    if kind is date:
        return "datetime.date | str"
    if isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
        name = f"{kind.__name__}Settings"
        if groups.setdefault(name, kind) is not kind:  # as the split of prepare and the one of a training
            name = f"{kind.__module__.split('.')[1].capitalize()}{name}"
            assert groups.setdefault(name, kind) is kind, f"several groups of settings have the name {name}"
        if issubclass(kind, PluginUse):  # a class or function of the user
            return f"str | Callable[..., Any] | {name}"
        return f"Place | {name}" if hasattr(kind, "short_form") else name
    if kind in (str, int, float, bool) or kind is None or kind is type(None):
        return "None" if kind in (None, type(None)) else kind.__name__
    if isinstance(kind, type) and issubclass(kind, str):
        return "str"
    return "Any"
