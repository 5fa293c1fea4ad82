"""Configs from Python: `raymill.config.check("curate.yaml")`, `raymill.config.schema()`."""

from typing import Any

from raymill.cluster.config import schema
from raymill.cluster.frame.calls import AnyConfig, Changes, config_of

__all__ = ["check", "schema"]


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
