"""What `raymill prepare --dry-run` prints about the settings of a run."""

from collections.abc import Iterator, Mapping

from cluster.examples.splits import SPLITS
from cluster.formats import plural
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.stages.collect import CollectSettings


def about(config: PrepareConfig, settings: CollectSettings) -> Iterator[tuple[str, str]]:
    """(word, line) of what the settings do."""
    for line in _fields(config, settings):
        yield "fields", line
    yield "records", _records(config)
    yield "split", _split(config)


def _fields(config: PrepareConfig, settings: CollectSettings) -> list[str]:
    """Which field of a record comes from which column, a line for each source."""
    lines = []
    for source, fields in zip(config.inputs, settings.fields, strict=True):
        if source.table:
            lines.append(f"{source.source}: a template of {_named(source.table.types)}")
        else:
            lines.append(f"{source.source}: {_named(fields.columns)}")
    return lines


def _named(columns: Mapping[str, str]) -> str:
    return ", ".join(name if name == value else f"{name} ({value})" for name, value in columns.items())


def _records(config: PrepareConfig) -> str:
    words = f"of shape {config.records.shape}, by rules"
    if config.clean.redact:
        words += f", without {', '.join(config.clean.redact)}"
    if config.dedup is None:
        words += "; duplicates stay"
    return words + (f"; {config.curriculum.stages} stages from easy to hard" if config.curriculum else "")


def _split(config: PrepareConfig) -> str:
    split = config.split
    words = ", ".join(f"{name} {part:.0%}" for name, part in zip(SPLITS, split.shares, strict=True))
    for what, names in (("by strata of", split.stratify), ("groups of", split.group)):
        words += f"; {what} {', '.join(names)}" if names else ""
    words += f"; oldest first, by {split.by_time}" if split.by_time else ""
    return words + (f"; records of {plural(len(split.keep), 'earlier run')} stay where they are" if split.keep else "")
