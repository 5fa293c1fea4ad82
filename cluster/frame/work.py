"""The work of a config file, which `raymill submit` and `raymill render` turn into a job."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from raymill.cluster.entry import require_extra
from raymill.cluster.frame.calls import AnyConfig, Changes, config_of, shown_config
from raymill.cluster.frame.job import RunJob
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.submit.work import Work, seconds_of


def work_of(
    config: AnyConfig,
    override: Changes,
    name: str | None,
    within: str | None,
    replace: bool = False,
    runs_here: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Work:
    """The work of a config. Reads listings and manifests, and no data.

    Args:
        config, override, settings: as of `config_of`. name: replaces the config's name. within: wanted duration,
            such as 8h. replace: the job runs with `--replace`. runs_here: the job runs on this machine.

    Raises:
        ConfigError: the config is wrong or holds secrets, a package that its kind needs is not installed, or one that
            its settings need where the job runs here, or `within` is no duration.
    """
    seconds = None if within is None else seconds_of(within)
    whole = config_of(config, settings, override)
    kind = kind_of(whole.kind)
    if kind.extra:
        require_extra(
            kind.extra, f"{shown_config(config)}, kind: {kind.name}", "It is needed here to check the config."
        )
    job: RunJob[Any] = kind.job(whole)
    if runs_here:
        job.require_extras()
    work = job.work(seconds, replace=replace)
    return work if name is None else dataclasses.replace(work, name=name)
