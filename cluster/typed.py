"""Raymill commands as shell text, for messages that print a command to be copied."""

import os
import shlex
import shutil
import sys


def command(verb: str, *arguments: str) -> str:
    """The shell line `raymill VERB ARGUMENTS`, with the program's path instead of its name where it is not on PATH."""
    return " ".join([shlex.quote(_program()), verb, *map(shlex.quote, arguments)])


def _program() -> str:
    called = sys.argv[0]
    if os.path.basename(called) != "raymill" or not os.path.isfile(called):
        return "raymill"
    found = shutil.which("raymill")
    return "raymill" if found and os.path.samefile(found, called) else called
