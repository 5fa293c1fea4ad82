"""Messages name options and commands as the command line does, and are shown to Python as arguments and calls."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import typer

import raymill
from raymill.cluster import cli
from raymill.cluster.answer import Answer
from raymill.cluster.engine import _RunUnit
from raymill.cluster.errors import DataError, Problem, as_record, from_record
from raymill.cluster.readers.reader import what_to_correct
from raymill.cluster.wording import FLAGS, OF_OTHERS, OPTIONS, in_python, in_the_run_file, of_the_command, of_the_step
from tests.support.stages import counting_stage

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "python"),
    [
        ("or add --replace to make it again.", "or add replace=True to make it again."),
        ("more with -o execution.max_bad_files=0.05.", 'more with override={"execution.max_bad_files": 0.05}.'),
        ("`-o output=FOLDER`; `-o split.keep=[s3://a/b]` keeps",
         '`override={"output": FOLDER}`; `override={"split.keep": ["s3://a/b"]}` keeps'),
        ("`raymill gc runs/web --older-than 7d --delete`", '`raymill.gc("runs/web", older_than="7d", delete=True)`'),
        ("`raymill prepare CONFIG -o 'validate.require=[queue,team]' -o mixture.fill=false --replace`.",
         '`raymill.prepare(CONFIG, replace=True, override={"validate.require": ["queue", "team"], '
         '"mixture.fill": False})`.'),
        ("by `raymill pack CONFIG --preview 3`.", "by `raymill.preview(CONFIG, examples=3)`."),
        ("see `raymill train x.yaml --dry-run`", 'see `raymill.dry_run("x.yaml")`'),
        ("`raymill cross-validate`, `raymill config schema`, `raymill dataset tag help OUTPUT`",
         '`raymill.cross_validate`, `raymill.config.schema()`, `raymill.dataset.tag("help", OUTPUT)`'),
        ("`/opt/bin/raymill logs web-1 -f --address http://h:1`",
         '`raymill.logs("web-1", follow=True, address="http://h:1")`'),
        ("--overlay eksi: no such overlay.", 'overlay="eksi": no such overlay.'),
        ("--address h:1: no Ray there. Give --config CONFIG.", 'address="h:1": no Ray there. Give config=CONFIG.'),
        ("-o name.x=3: name is a text.", 'override={"name.x": 3}: name is a text.'),
        ("-o workers.count={min: 3, max: 1}: 3 > 1", 'override={"workers.count": {"min": 3, "max": 1}}: 3 > 1'),
        ("-o storage=(a secret): wrong", 'override={"storage": "(a secret)"}: wrong'),
        ("-o dedup: wanted key=value", 'override=["dedup"]: wanted key=value'),
        ("--note: holds a secret", "note: holds a secret"),
        ("for --to kuberay alone", 'for to="kuberay" alone'),
        ("give --address, or `--output`; --dry-run names", "give `address`, or `output`; `raymill.dry_run` names"),
        ("raymill warm --check: 3 of 7 kernels", "raymill.warm(check=True): 3 of 7 kernels"),
        ("fix it and run the same command again; --debug shows the traceback.", "fix it and make the same call again."),
        ("`ray start --address H:1`, `helm pull x --version 1`, by `--long`, a - b",
         "`ray start --address H:1`, `helm pull x --version 1`, by `--long`, a - b"),
    ],
)  # fmt: skip
def test_a_message_for_the_command_line_in_the_words_of_python(command, python):
    assert in_python(command) == python == in_python(python)


def test_a_message_of_a_step_has_the_command_and_the_settings_of_its_run_file():
    message = (
        "`raymill prepare CONFIG -o duplicates.questions=remove -o 'clean.labels.x=[a b]' --replace`; `-o output=F`; "
        "`-o split.keep=[s3://a/b]`; or -o execution.max_bad_files=0.05. See `raymill assess runs/x -o assess.a=b` or "
        "`raymill train CONFIG --replace`, -o storage.endpoint_url=URL"
    )
    with of_the_step("data", "prepare"):
        found = in_the_run_file(message)
        assert in_the_run_file(found) == found
    assert found == (
        "`raymill run CONFIG -o steps.data.duplicates.questions=remove -o 'steps.data.clean.labels.x=[a b]' "
        "--replace`; `-o output=F`; `-o steps.data.split.keep=[s3://a/b]`; or "
        "-o steps.data.execution.max_bad_files=0.05. See `raymill assess runs/x -o assess.a=b` or "
        "`raymill train CONFIG --replace`, -o storage.endpoint_url=URL"
    )
    assert in_the_run_file(message) == message


@pytest.mark.parametrize(
    "of_the_user",
    [
        "runs/--replace/corpus: is gone", "/data/--text.jsonl: no such file", "name: '--replace' given; wanted a name",
        'command: "gcc -o out.x=1 --text" given', r"text: 'it\'s the same command' given",
        "prompt: 'run the same command again' given",
    ],
)  # fmt: skip
def test_paths_and_quoted_values_of_the_user_stay(of_the_user):
    assert in_python(f"{of_the_user}. Add --replace.") == f"{of_the_user}. Add replace=True."


def test_arguments_without_a_name_are_texts():
    assert in_python("`raymill explain 2024 true --rows 3`") == '`raymill.explain("2024", "true", rows=3)`'


def test_an_error_and_an_answer_have_the_words_of_their_caller():
    error = DataError.about(Problem.of("runs/web", "made by other settings", fix="Add --replace."))
    answer = Answer({}, "Run `raymill gc runs/web --delete`.")
    assert str(error) == "runs/web: made by other settings. Add replace=True." and error.fix == "Add replace=True."
    assert repr(answer) == 'Run `raymill.gc("runs/web", delete=True)`.'
    with of_the_command():
        assert str(error) == "runs/web: made by other settings. Add --replace." and error.fix == "Add --replace."
        assert repr(answer) == answer.text
        assert str(from_record(as_record(error))) == str(error), "it crosses a process as it is written"
    assert as_record(error)["message"].endswith("Add --replace.")


def test_a_message_of_a_worker_that_quotes_another_one_is_shown_by_the_driver(tmp_path):
    def work(unit, scratch):
        raise DataError(f"split.keep: {DataError('runs/web: made by other settings. Add --replace.')}")

    error = from_record(_RunUnit(counting_stage(1, work), str(tmp_path)).answer(0, 1)["final"])
    assert str(error).endswith("Add replace=True.")
    with of_the_command():
        assert str(error).endswith("Add --replace.")


def test_the_table_has_every_option_of_the_command():
    options, flags = set(), set()
    for name, verb in cli.commands().items():
        app = typer.Typer(add_completion=False)
        app.command()(cli._function(name, verb))
        for parameter in typer.main.get_command(app).params:
            names = {one.removeprefix("--") for one in parameter.opts if one.startswith("--")}
            options |= names
            flags |= names if getattr(parameter, "is_flag", False) else set()
    assert (options, flags) == (OPTIONS, FLAGS)


# An option that may stand in a message, or a command with this program's name.
_COMMAND_LINE = re.compile(
    rf"(?<![\w-])--(?:{'|'.join(OPTIONS)})(?![\w-])|(?<![\w-])-o [a-z]\w*[.=]|\braymill (?:{'|'.join(cli.verbs())})\b"
)
# Texts of the command itself, which nobody sees in Python.
_OF_THE_COMMAND = ("cluster/cli.py", "cluster/frame/commands.py", "cluster/submit/commands.py", "deploy/smoke.py")


@cache
def texts(path: Path) -> list[tuple[int, str]]:
    """The strings of a file that are no docstrings, with their lines; what an f-string inserts is `X`."""
    tree = ast.parse(path.read_text())
    ours = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            ours |= {id(one) for one in node.values}
            whole = "".join(one.value if isinstance(one, ast.Constant) else "X" for one in node.values)
            found.append((node.lineno, whole))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in ours:
            found.append((node.lineno, node.value))
    return found


def test_no_message_of_the_packages_has_words_of_the_command_line_left_in_python():
    left = [
        f"{name}:{line}: {shown}"
        for package in ("cluster", "pipelines", "training")
        for path in sorted((ROOT / package).rglob("*.py"))
        if (name := path.relative_to(ROOT).as_posix()) not in _OF_THE_COMMAND
        for line, text in texts(path)
        if " " in text and _COMMAND_LINE.search(shown := OF_OTHERS.sub("", in_python(text)))
    ]
    assert not left, "put a command into backquotes, or name the option alone:\n" + "\n".join(left)


def test_the_calls_in_messages_are_functions():
    named = {
        name
        for package in ("cluster", "pipelines", "training")
        for path in (ROOT / package).rglob("*.py")
        for _, text in texts(path)
        for name in re.findall(r"`raymill\.([a-z_.]+)[`(]", in_python(text))
    }
    assert len(named) > 15
    for name in named:
        found = raymill
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)


def test_what_raised_is_corrected_in_the_code_and_what_cannot_be_read_in_the_input():
    assert what_to_correct(["plugin_error"]) == "Correct the code of the rule, reader or form"
    assert (
        what_to_correct(["truncated", "plugin_error"]) == "Correct the input, and the code of the rule, reader or form"
    )
    assert what_to_correct(["truncated", "bad_utf8"]) == "Fix the input"
