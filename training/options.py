"""Options that the training verbs share, and the loading of a training config."""

from typing import Annotated

import typer

from cluster.config import load
from cluster.errors import ConfigError
from training.config import TrainConfig

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="settings, YAML or JSON")]
Overrides = Annotated[list[str] | None, typer.Option("-o", help="change one setting: key.sub=value; may be repeated")]
Address = Annotated[str | None, typer.Option(help="a Ray cluster; default: an embedded one on this machine")]
Replace = Annotated[bool, typer.Option("--replace", help="delete results made with other settings and make them again")]

Verify = Annotated[bool, typer.Option("--verify", help="compare the sha256 of finished files, not only their sizes")]


def load_train(config: str, override: list[str] | None) -> TrainConfig:
    """The training config of a file, with `key.sub=value` overrides.

    Raises:
        ConfigError: the file is not a config, or one of another kind.
    """
    settings = load(config, override or [])
    if not isinstance(settings, TrainConfig):
        kind = settings.kind  # type: ignore[attr-defined]
        raise ConfigError(f"{config}, kind: {kind} given; wanted train. Give another config, or run `raymill {kind}`.")
    return settings
