"""What a person would type to call this program: for commands that are printed to be copied."""

import os
import shlex
import shutil
import sys


def command(verb: str, *arguments: str) -> str:
    """A line for a shell. The program's name, or its path as it was called where a shell would not find it by name."""
    return " ".join([shlex.quote(_program()), verb, *map(shlex.quote, arguments)])


def _program() -> str:
    called = sys.argv[0]
    if os.path.basename(called) != "raymill" or not os.path.isfile(called):
        return "raymill"
    found = shutil.which("raymill")
    return "raymill" if found and os.path.samefile(found, called) else called
