"""A run made from Python: its settings as a file, a dict, a config object or keywords, its progress, its session."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from raymill.cluster.artifact import Artifact
from raymill.cluster.config import Override, load_values, read_config
from raymill.cluster.entry import require_extra
from raymill.cluster.errors import ConfigError, Problem
from raymill.cluster.frame.job import Run, RunJob
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.frame.run_name import run_name
from raymill.cluster.progress import Progress
from raymill.cluster.progress_display import OnProgress, chosen_progress
from raymill.cluster.session import opened

log = logging.getLogger(__name__)

# What a function takes as its config, and as changes of single settings: `{"rules.c4.min_sentences": 3}`, or as the
# command line does `["rules.c4.min_sentences=3"]`, whose values are YAML.
AnyConfig = str | os.PathLike[str] | Mapping[str, Any] | BaseModel | None
Changes = Mapping[str, Any] | Sequence[str | Override] | None
ShownProgress = bool | OnProgress | Progress | None

_SHOWN = 60  # characters of a value in a message


def config_of(
    config: AnyConfig, settings: Mapping[str, Any] | None = None, override: Changes = None, kind: str | None = None
) -> Any:
    """The config object of a file, a dict, a config object, or of settings alone.

    Args:
        settings: top-level settings, each of which replaces the config's.
        override: changes of single settings, applied last.
        kind: wanted kind; None: any.

    Raises:
        ConfigError: lists all mistakes; or it is of another kind.
    """
    settings = {name: plain(value) for name, value in (settings or {}).items()}
    other = None if kind is None else kind_of(kind).of
    if isinstance(config, BaseModel) and not settings and not override and config.kind != other:  # type: ignore[attr-defined]
        return _of_kind(config, kind, f"a {type(config).__name__}")
    changes: list[str | Override] = []
    if isinstance(config, str | os.PathLike):
        name = os.fspath(config)
        raw = read_config(name)
        changes = changes_of(settings)
    else:
        name = f"raymill.{kind or 'config'}"
        raw = plain({} if config is None else config) | settings
    if kind is not None:
        raw["kind"] = kind if raw.get("kind") in (None, other) else raw["kind"]
    made = raw | settings
    if "name" not in made and isinstance(output := made.get("output"), str):
        raw["name"] = run_name(output, "run")
    return _of_kind(load_values(raw, name, [*changes, *changes_of(override)]), kind, name)


def changes_of(override: Changes) -> list[str | Override]:
    """Changes of single settings as the loader of configs takes them."""
    if isinstance(override, Mapping):
        return [Override(key, plain(value), f"{key}={_short(value)}") for key, value in override.items()]
    return list(override or ())


def _of_kind(config: BaseModel, kind: str | None, name: str) -> BaseModel:
    found = config.kind  # type: ignore[attr-defined]
    if kind is not None and found != kind:
        fix = f"Give another config, or run `raymill {found}`."
        raise ConfigError.about(Problem.of(f"{name}, kind", f"{found} given", kind, fix))
    return config


def plain(value: Any) -> Any:
    """A setting as a config file would have it: a run or an artifact by its URI, a path as text, sets as lists."""
    if isinstance(value, Run | Artifact):
        return value.uri
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, BaseModel):
        # Values and not JSON: a key of a store would be hidden.
        return plain(value.model_dump(by_alias=True, exclude_unset=True))
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def shown_config(config: AnyConfig) -> str:
    """A config in a message: the path of its file, or `the config`."""
    return os.fspath(config) if isinstance(config, str | os.PathLike) else "the config"


def run_of(
    kind: str,
    config: AnyConfig = None,
    settings: Mapping[str, Any] | None = None,
    *,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> Any:
    """Make the run of a config, continue it where an earlier call stopped, or return it as it is if it is finished.

    Args:
        kind: `curate`, `prepare`, `train`, or one of an installed package.
        config, settings, override: as of `config_of`.
        address: of a Ray cluster; None: the Ray of this process, or an embedded one on this machine.
        replace: remove results of other settings or inputs at the output, and make them again.
        verify: compare the sha256 of a finished run's files, not only their sizes.
        progress: as of `chosen_progress`.

    Raises:
        UserError: a mistake the user can correct, or another run holds the output. Finished units are kept.
        ClusterError: machines failed. The same call continues.
    """
    declared = kind_of(kind)
    if declared.extra:
        require_extra(declared.extra, f"raymill {kind}")
    whole = config_of(config, settings, override, kind)
    job: RunJob[Any] = declared.job(whole)
    for warning in getattr(whole, "without_effect", ()):
        log.warning("%s", warning)
    with opened(address, whole.execution.cpus) as session:
        session.progress = shown = chosen_progress(progress, job.at_first() if session.embedded else "")
        run = job.run(session, shown, replace=replace, verify=verify)
        if run.fresh and session.embedded:
            job.after()
    return run
