"""The command line: `raymill VERB ...`.

The module of a verb is imported when the verb is called, so `raymill --help` is fast and a machine that only curates
needs no torch. Exit codes: 0 done; 1 a defect of Raymill, or a machine failed; 2 the user can fix it, and the message
says how; 130 interrupted (finished units are kept).
"""

import atexit
import difflib
import functools
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from raymill import cluster
from raymill.cluster import logs
from raymill.cluster.entry import Entry, abandoned_calls_run, require_extra
from raymill.cluster.errors import RaymillError, is_panic
from raymill.cluster.frame import kinds
from raymill.cluster.frame.kind import Kind, Verb
from raymill.cluster.logs import printable_output
from raymill.cluster.sudden_end import command_process, interrupt_on_sigterm
from raymill.cluster.wording import of_the_command

VERBS = {
    "plan": Verb(
        Entry("raymill.cluster.plan.plan:plan"),
        "what a config takes before it runs: time, memory, cost; from a sample",
        call=Entry("raymill.cluster.plan.plan:plan_config"),
    ),
    "render": Verb(
        Entry("raymill.cluster.kuberay.rayjob:render"),
        "the Kubernetes objects of a config (KubeRay's RayJob), as YAML",
        call=Entry("raymill.cluster.kuberay.rayjob:render_config"),
    ),
    "submit": Verb(
        Entry("raymill.cluster.submit.commands:submit"),
        "run a config on a Ray cluster, on Kubernetes, or detached on this machine",
        call=Entry("raymill.cluster.submit.calls:submit"),
    ),
    "runs": Verb(
        Entry("raymill.cluster.submit.commands:runs"),
        "the runs that were submitted there",
        call=Entry("raymill.cluster.submit.calls:runs"),
    ),
    "status": Verb(
        Entry("raymill.cluster.submit.commands:status"),
        "one of them: state, times, output",
        call=Entry("raymill.cluster.submit.calls:status"),
    ),
    "logs": Verb(
        Entry("raymill.cluster.submit.commands:logs"),
        "its log; -f follows it, over lost connections",
        call=Entry("raymill.cluster.submit.calls:logs"),
    ),
    "cancel": Verb(
        Entry("raymill.cluster.submit.commands:cancel"),
        "stop one; submitting it again continues it",
        call=Entry("raymill.cluster.submit.calls:cancel"),
    ),
    "inspect": Verb(
        Entry("raymill.cluster.inspection:inspect"),
        "an artifact's manifest, schema, counts and first rows",
        call=Entry("raymill.cluster.inspection:describe"),
    ),
    "gc": Verb(
        Entry("raymill.cluster.garbage:gc"),
        "list what killed runs left at an output; --delete removes it",
        call=Entry("raymill.cluster.garbage:collect_garbage"),
    ),
    "config": Verb(
        Entry("raymill.cluster.inspection:config"),
        "`config settings KIND`: all settings, explained; `config check FILE`: is it right?; `config schema`",
    ),
}

_verb_of = Entry("raymill.cluster.frame.commands:verb_of")

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """The `raymill` command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, verbose = "--debug" in words, "--verbose" in words
    logs.setup(verbose)
    if not debug:
        os.environ["RUST_BACKTRACE"] = "0"  # a library's panic prints two lines, not its stack
    with printable_output(), command_process(), of_the_command():
        sys.exit(_run([word for word in words if word not in ("--debug", "--verbose")], debug))


def command() -> None:
    """The process `raymill`.

    After an interrupt (Ctrl-C or SIGTERM) it does not wait for threads of Ray. If a call that exceeded its time still
    runs, it ends without Python's own exit, which aborts when such a call returns during it.
    """
    interrupt_on_sigterm()
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code == INTERRUPTED or abandoned_calls_run():
            if code != INTERRUPTED:
                atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        raise


def _run(words: list[str], debug: bool) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"raymill {cluster.__version__}")
        return 0
    verb, *rest = words
    try:
        if (declared := find_verb(verb)) is None:
            near = difflib.get_close_matches(verb, verbs(), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            print(f"raymill {verb}: no such verb.{hint} The verbs are: {', '.join(verbs())}.", file=sys.stderr)
            return 2
        if isinstance(declared, Kind) and rest and rest[0] in declared.actions:
            declared, verb, rest = declared.actions[rest[0]], f"{verb} {rest[0]}", rest[1:]
        code = _call(verb, declared, rest)
        sys.stdout.flush()  # here, so that a closed pipe is handled below
        return code
    except RaymillError as error:
        if debug:
            traceback.print_exc()
        print(f"\n{error}" if debug else str(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted. Finished units are kept: run the same command again to continue.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed it. Prevents the interpreter's error message at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if debug:
            traceback.print_exc()
        print(
            f"raymill {verb}: unexpected error: {type(error).__name__}: {error}\n"
            "This is a defect of Raymill. Run it with --debug for the traceback; finished units are kept.",
            file=sys.stderr,
        )
        return 1


def _call(verb: str, declared: Verb | Kind, rest: list[str]) -> int:
    import typer  # `raymill --help` does without

    # The UsageError of the click that this typer uses; newer typers contain their own copy of click.
    wrong_usage: Any = typer.BadParameter.__mro__[2]
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(_past_typer(_function(verb, declared)))
    try:
        result = app(rest, prog_name=f"raymill {verb}", standalone_mode=False)
    except wrong_usage as error:
        error.show()
        return 2
    except _Carried as carried:
        raise carried.cause from None
    return result if isinstance(result, int) else 0


class _Carried(Exception):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


def _past_typer(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Carry Ctrl-C and a closed pipe past typer, which would turn them into its own exit codes."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> int | None:
        try:
            return function(*arguments, **options)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _Carried(error) from None

    return call


def verbs() -> dict[str, Verb | Kind]:
    """Every verb: those of the kinds of runs, then those for all of them."""
    return kinds.verbs() | VERBS


def commands() -> dict[str, Verb | Kind]:
    """Every verb, and each action of a kind after its verb, as `annotate finish`."""
    found: dict[str, Verb | Kind] = {}
    for name, verb in verbs().items():
        found[name] = verb
        if isinstance(verb, Kind):
            found |= {f"{name} {action}": one for action, one in verb.actions.items()}
    return found


def find_verb(name: str) -> Verb | Kind | None:
    """The verb with this name. Imports the declarations of other kinds only if none of these has it."""
    if name in VERBS:
        return VERBS[name]
    return kinds.kind_of(name) if name in kinds.names() else verbs().get(name)


def _function(verb: str, declared: Verb | Kind) -> Callable[..., int | None]:
    if declared.extra:
        require_extra(declared.extra, f"raymill {verb}")
    return _verb_of(declared) if isinstance(declared, Kind) else declared.function.load()


def shell_command(verb: str, *arguments: str) -> str:
    """The shell line `raymill VERB ARGUMENTS` to copy, with the program's path where its name is not on PATH."""
    called, program = sys.argv[0], "raymill"
    if os.path.basename(called) == "raymill" and os.path.isfile(called):
        found = shutil.which("raymill")
        program = "raymill" if found and os.path.samefile(found, called) else called
    return " ".join([shlex.quote(program), verb, *map(shlex.quote, arguments)])


def _help() -> str:
    width = max(map(len, verbs())) + 2
    lines = "\n".join(f"  {name:<{width}}{verb.text}" for name, verb in verbs().items())
    return (
        "usage: raymill VERB [arguments]\n\n"
        "Raw text on an object store to a training corpus, and the corpus to a fine-tuned model, on Ray.\n\n"
        f"{lines}\n\n"
        "  raymill VERB --help    what a verb takes\n"
        "  raymill --version\n"
        "  --verbose              with any verb: log every unit of work\n"
        "  --debug                with any verb: show tracebacks"
    )


if __name__ == "__main__":
    command()
