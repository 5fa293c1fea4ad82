"""Code for the model card that loads an exported folder. A test runs every line of it."""

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from raymill.cluster.store import paths


@dataclass(frozen=True)
class Base:
    """The base model of an adapter or a classification head: a folder, a URI, or a hub name with a revision.

    shown: the path that the card's code has instead of `name`, relative to the card's folder.
    """

    name: str
    revision: str | None = None
    shown: str | None = None


def loading(folder: str, base: Base, chat: bool, scores: bool = False) -> str:
    """Python that loads the model and tokenizer of the current folder and runs them once.

    A URI cannot be loaded, so the code names a copy of it in the working directory.

    Args:
        folder: one of `methods.FOLDERS`. chat: whether the model was trained with the tokenizer's chat template.
        scores: whether it gives rewards of answers and no text.
    """
    name = base.shown or base.name
    remote = paths.is_remote(name)
    shown = name.rstrip("/").rpartition("/")[2] if remote else name
    values = {"folder": folder, "chat": chat, "scores": scores, "name": name, "remote": remote, "shown": shown}
    values |= {"revision": base.revision}
    return _TEMPLATES.get_template("loading.jinja").render(values).rstrip()


def literal(value: str) -> str:
    """A Python literal of a text without line ends and backticks, so that it is safe in a fenced code block."""
    escaped = ascii(value).replace("`", "\\x60")
    # `ascii` prefers apostrophes; the generated code uses double quotes.
    return f'"{escaped[1:-1]}"' if escaped[0] == "'" and '"' not in escaped else escaped


_TEMPLATES = Environment(
    loader=PackageLoader(__package__, "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.filters["literal"] = literal
