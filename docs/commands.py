"""The reference of the command line, as Markdown: a section for each verb, from its function."""

from typing import Any

import typer

from docs.markdown import cell
from raymill.cluster import cli
from raymill.cluster.frame.commands import verb_of
from raymill.cluster.frame.kind import Kind, Verb


def commands_page() -> str:
    """Every verb with its arguments and options; those of kinds of runs first."""
    lines = ["# Commands", "", "`--verbose` (each unit is logged) and `--debug` (tracebacks) go with every verb.", ""]
    for name, verb in cli.commands().items():
        command = _command(verb)
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        words = [(one.metavar or one.name or "").upper() for one in arguments]
        lines += [f"## {name}", "", f"{verb.text[:1].upper()}{verb.text[1:]}.", ""]
        lines += [f"    raymill {' '.join([name, *words, '[options]' * bool(options)])}", ""]
        shown = [*zip(words, arguments, strict=True), *((", ".join(one.opts), one) for one in options)]
        if shown:
            lines += ["| | |", "|---|---|"]
            lines += [f"| `{word}` | {cell(getattr(one, 'help', '') or '')} |" for word, one in shown]
            lines.append("")
    return "\n".join(lines)


def _command(declared: Verb | Kind) -> Any:
    """The parsed form of a verb's function, which has its arguments and options."""
    app = typer.Typer(add_completion=False)
    app.command()(verb_of(declared) if isinstance(declared, Kind) else declared.function.load())
    return typer.main.get_command(app)
