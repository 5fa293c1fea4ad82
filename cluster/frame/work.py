"""The work of a config file, which `raymill submit` and `raymill render` turn into a job."""

import dataclasses
from typing import Any

from raymill.cluster.config import load
from raymill.cluster.entry import require_extra
from raymill.cluster.frame.job import RunJob
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.submit.work import Work, seconds_of


def work_of(
    config: str,
    override: list[str],
    name: str | None,
    within: str | None,
    replace: bool = False,
    runs_here: bool = False,
) -> Work:
    """The work of a config file. Reads listings and manifests, and no data.

    Args:
        override: settings to change, as `key.sub=value`. name: replaces the config's name. within: wanted duration,
            such as 8h. replace: the job runs with `--replace`. runs_here: the job runs on this machine.

    Raises:
        ConfigError: the config is wrong or holds secrets, a package that its kind needs is not installed, or one that
            its settings need where the job runs here, or `within` is no duration.
    """
    seconds = None if within is None else seconds_of(within)
    settings: Any = load(config, override)
    kind = kind_of(settings.kind)
    if kind.extra:
        require_extra(kind.extra, f"{config}, kind: {kind.name}", "It is needed here to check the config.")
    job: RunJob[Any] = kind.job(settings)
    if runs_here:
        job.require_extras()
    work = job.work(seconds, replace=replace)
    return work if name is None else dataclasses.replace(work, name=name)
