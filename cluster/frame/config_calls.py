"""Configs from Python: `raymill.config.check("curate.yaml")`, `.settings("curate")`, `.schema()`."""

from typing import Any

from raymill.cluster.config import schema
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame import kinds
from raymill.cluster.frame.calls import AnyConfig, Changes, config_of
from raymill.cluster.settings_reference import settings_text

__all__ = ["check", "schema", "settings"]


def check(config: AnyConfig = None, override: Changes = None, **settings: Any) -> Any:
    """The config object with all defaults, a frozen pydantic model. `without_effect`, if its kind has it: warnings.

    Args:
        config: a file, a dict, or a config object, of any kind.
        override: changes of single settings, as in {"rules.gopher_quality.min_words": 30}.
        settings: settings that replace those of the config.

    Raises:
        ConfigError: its `problems` are all mistakes.
    """
    return config_of(config, settings, override)


def settings(kind: str) -> str:
    """All settings of a kind with their values, defaults and meanings, as text.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in (known := [one.name for one in kinds.kinds() if one.of is None]):
        raise ConfigError(f"{kind}: no such kind. The kinds are: {', '.join(known)}.")
    return settings_text(kind)
