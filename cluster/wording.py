"""The words of the command line in messages, as Python has them.

Messages name options, changes of settings and commands as the command line does, and are shown so where the command
runs. Elsewhere they are shown as arguments and calls:

    add --replace                              add replace=True
    with -o dedup.threshold=0.9                with override={"dedup.threshold": 0.9}
    `raymill gc runs/web --older-than 7d`      `raymill.gc("runs/web", older_than="7d")`
    run the same command again                 make the same call again

Those of a step of a run file name the command and the settings of the run file, of step `data` as:

    `raymill prepare CONFIG --replace`         `raymill run CONFIG --replace`
    with -o dedup.threshold=0.9                with -o steps.data.dedup.threshold=0.9
"""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Options of the command line: those without a value, and the others. What they are called in Python, if otherwise.
FLAGS = frozenset(
    {"all", "check", "delete", "detach", "dry-run", "follow", "gate", "insecure-http", "json", "log-content", "merged",
     "open", "predictions", "public", "replace", "rollback", "ship-code", "text", "verify"}
)  # fmt: skip
OPTIONS = FLAGS | {
    "adapter", "address", "alias", "annotator", "as", "base", "batch", "bounds", "concurrent", "config",
    "consensus", "context", "cores", "cpu", "documents", "duplicates", "extrinsic", "folder", "folds", "format",
    "gpu", "gpu-memory-gib", "host", "image", "into", "job", "languages", "max-context", "max-tokens", "mfu",
    "name", "namespace", "note", "older-than", "on", "output", "overlay", "peak-tflops", "port", "posterior",
    "preview", "price-per-gpu-hour", "prices", "registry", "repeated-pages", "revision", "rows", "sample", "seed",
    "step", "timeout-s", "to", "token", "token-file", "where", "width", "within",
}  # fmt: skip
_NAMES = {"adapter": "adapters", "as": "version", "consensus": "method", "token": "tokens"}
_SHORT = {"-f": "--follow", "-n": "--rows"}
_ACTIONS = ("config", "dataset")  # verbs whose first word is an action
# Verbs whose first word may be an action on a run, and the methods of the open run that do the same.
_METHODS = {"annotate": {"export": "export", "finish": "finish", "import": "import_labels", "label": "label"}}

_option = "|".join(sorted(OPTIONS, key=len, reverse=True))
_COMMAND = re.compile(r"`(?:[\w./-]*/)?raymill ([a-z][a-z-]*)((?: [^`]*)?)`")
_BEGINS_COMMAND = re.compile(r"^raymill ([a-z][a-z-]*)((?: [^:]*)?)(?=: |$)")
_CHANGE = re.compile(
    r"(?<![^\s(`])-o ([a-z][\w.]*)="
    r"(\[[^\]\n]{0,500}\]|\{[^{}\n]{0,500}\}|\(a secret\)|[^\s`,;]{0,500}?)(?=[.,;:]{0,3}(?:[\s`)]|$))"
)
# The value of an option is found by a placeholder (--config CONFIG), after `--to`, and where a message begins with it.
_BEGINS = re.compile(rf"^--({_option}) (\S{{1,1000}}?)(?=: )")
_PLACE = re.compile(r"--to (jobs|kuberay|local)\b")
_BEGINS_CHANGE = re.compile(r"^-o (\S*)(?=[:,] |$)")
# Not within a path, such as runs/--replace or --text.jsonl.
_OPTION = re.compile(rf"(?<![^\s(`])--({_option})(?![\w/=-]|\.\w)(?: ([A-Z][A-Z_]+[\w@:/=]*))?")
# Other programs have options of these names, too.
OF_OTHERS = re.compile(r"`(?:ray|kubectl|helm|pip|torchrun)\b[^`]*`")
# Commands of others, our own, and values of the user in quotes.
_SPANS = re.compile(
    rf"{OF_OTHERS.pattern}|(?P<ours>`[^`]*`|{_CHANGE.pattern})|(?<![\w=])(?:'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")(?!\w)"
)

_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\.\.\.")

_PHRASES = {
    "run the same command": "make the same call",
    "Run the same command": "Make the same call",
    "The same command": "The same call",
    "the same command": "the same call",
    "This command continued": "This call continued",
    "; --debug shows the traceback": "",
    " (--debug)": "",
    " (--verbose shows all)": "",
}

_runs_command = 0

# A changed setting, but for those that a run file has for all steps.
_CHANGE_OF_STEP = re.compile(r"(?<![^\s(])-o ('?)(?!output=|storage\.|steps\.)(?=[a-z])")
_step: ContextVar[tuple[str, str] | None] = ContextVar("step", default=None)  # its name in the run file, its kind


@contextmanager
def of_the_step(name: str, kind: str) -> Iterator[None]:
    """Inside, in this thread, `in_the_run_file` has the words of this step."""
    before = _step.set((name, kind))
    try:
        yield
    finally:
        _step.reset(before)


def in_the_run_file(message: str) -> str:
    """A message of a step in the words of its run file; the same message outside of `of_the_step`."""
    if (step := _step.get()) is None:
        return message
    (name, kind), shown = step, list[str]()
    own = f"raymill {kind} CONFIG"
    for at, part in enumerate(message.split("`")):
        if at % 2 and part.startswith(own):
            part = "raymill run CONFIG" + part.removeprefix(own)
        elif part.startswith("raymill "):  # another command
            shown.append(part)
            continue
        shown.append(_CHANGE_OF_STEP.sub(rf"-o \1steps.{name}.", part))
    return "`".join(shown)


@contextmanager
def of_the_command() -> Iterator[None]:
    """Inside, messages are shown in the words of the command line, as they are written.

    Used by the command, and by workers, since a message that quotes another one is shown by the driver.
    """
    global _runs_command
    _runs_command += 1
    try:
        yield
    finally:
        _runs_command -= 1


def for_the_caller(message: str) -> str:
    """A message in the words of who sees it: the command line, or Python."""
    return message if _runs_command else in_python(message)


def in_python(message: str) -> str:
    """A message for the command line in the words of Python. Commands of other programs and quoted values stay."""
    message = _BEGINS_COMMAND.sub(lambda found: _call(found[1], found[2]), message)
    if not _CHANGE.match(message):
        message = _BEGINS_CHANGE.sub(lambda found: f"override=[{json.dumps(found[1])}]", message)
    message = _BEGINS.sub(lambda found: f"{_name(found[1])}={_value(found[2])}", message)
    shown, at = [], 0
    for span in _SPANS.finditer(message):
        if not span["ours"]:
            shown += [_in_python(message[at : span.start()]), span[0]]
            at = span.end()
    return "".join([*shown, _in_python(message[at:])])


def _in_python(text: str) -> str:
    text = _COMMAND.sub(lambda found: f"`{_call(found[1], found[2])}`", text)
    text = _CHANGE.sub(lambda found: f'override={{"{found[1]}": {_value(found[2])}}}', text)
    text = _PLACE.sub(r'to="\1"', text)
    parts = text.split("`")
    for at, part in enumerate(parts):
        mark = "" if at % 2 else "`"  # every other one is code already
        parts[at] = _OPTION.sub(lambda found, mark=mark: _argument(found, mark), part)  # type: ignore[misc]
    text = "`".join(parts)
    for words, in_stead in _PHRASES.items():
        text = text.replace(words, in_stead)
    return text


def _name(option: str) -> str:
    return _NAMES.get(option, option).replace("-", "_")


def _argument(found: re.Match[str], mark: str) -> str:
    """An option as an argument. mark: before and after a name alone, unless the message begins with it."""
    option, placeholder = found.groups()
    name = "raymill.dry_run" if option == "dry-run" else _name(option)
    if option in FLAGS - {"dry-run"}:
        return f"{name}=True" + (f" {placeholder}" if placeholder else "")
    return f"{name}={placeholder}" if placeholder else f"{mark}{name}{mark}" if found.start() else name


def _call(verb: str, words: str) -> str:
    """The call of the function that a command calls, with its words as arguments; without words its name."""
    name = verb.replace("-", "_")
    try:
        rest = shlex.split(words)
    except ValueError:
        return f"raymill.{name}"
    if len(rest) > 1 and (method := _METHODS.get(verb, {}).get(rest[0])):
        name = f"open({_placed(rest[1])}).{method}"
        rest = rest[2:]
    elif verb in _ACTIONS and rest:
        name = f"{name}.{rest.pop(0)}"
    elif not rest:
        return f"raymill.{name}"
    placed: list[str] = []
    named: dict[str, str] = {}
    changes: list[str] = []
    while rest:
        word = rest.pop(0)
        word = _SHORT.get(word, word)
        if word == "-o" and rest:
            key, _, value = rest.pop(0).partition("=")
            changes.append(f'"{key}": {_value(value)}')
        elif word.startswith("--"):
            option, _, value = word[2:].partition("=")
            if option in FLAGS:
                named[_name(option)] = "True"
            else:
                named[_name(option)] = _value(value or (rest.pop(0) if rest else "..."))
        else:
            placed.append(_placed(word))
    if changes:
        named["override"] = f"{{{', '.join(changes)}}}"
    # Two options are functions of their own.
    if named.pop("dry_run", None):
        name = "dry_run"
    if verb == "pack" and "preview" in named:
        name, named["examples"] = "preview", named.pop("preview")
    return f"raymill.{name}({', '.join([*placed, *(f'{one}={value}' for one, value in named.items())])})"


def _placed(word: str) -> str:
    """An argument of the command line as Python writes it."""
    return word if _PLACEHOLDER.fullmatch(word) else json.dumps(word, ensure_ascii=False)


def _value(text: str) -> str:
    """A value of the command line as Python writes it. A placeholder, such as CONFIG, stays."""
    if _PLACEHOLDER.fullmatch(text):
        return text
    if re.fullmatch(r"\[[^\[\]{}]*\]", text):
        return f"[{', '.join(_value(one.strip()) for one in text[1:-1].split(',') if one.strip())}]"
    if re.fullmatch(r"\{[^\[\]{}]*\}", text):
        pairs = (one.partition(":") for one in text[1:-1].split(",") if one.strip())
        return f"{{{', '.join(f'{json.dumps(key.strip())}: {_value(value.strip())}' for key, _, value in pairs)}}}"
    try:
        return repr(json.loads(text))
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
