"""No regular expression of the packages takes time with the square of a text that comes from outside.

All are found in the sources, so that a new one cannot be forgotten. For each repeat of a pattern, the worst case is a
text that begins as the pattern does, then repeats what the repeat takes, and ends otherwise. `make patterns` measures
them; the tests that need no time are in `make test`.
"""

import ast
import gc
import importlib
import re
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FUNCTIONS = ("compile", "search", "match", "fullmatch", "findall", "finditer", "split", "sub", "subn")
AT_ONE_PLACE = {"match", "fullmatch"}
# A text of this length takes a pattern of linear time below 1 ms, and one of quadratic time 40 ms and more.
SHORT = 4_000
_NEGLIGIBLE_S = 0.01
_GIVE_UP_S = 2.0
_MOST_OF_10_MB_S = 120.0
# Twice the length takes twice the time where it is linear, four times where it is quadratic.
_MOST_GROWTH = 3.2

# What makes patterns of local values -> its arguments here.
MADE = {
    "raymill.training.evaluation.scores._patterns": (".",),
    "raymill.cluster.readers.formats.transcripts._beginning_with": (("Ann Lee", "Bob"),),
}
_OF_THE_USER = "settings and commands of the user"
_AT_A_PLACE = "matched at one place and never searched"
_HEADING = "headings, of which at most 1,000 characters are read, of at most 100 lines"
_LITERAL = "alternatives without any repeat, or one set of characters"
# Patterns of longer time, or of local values -> why they take none with the square of a text that comes from outside.
EXCEPTIONS = {
    "raymill.cluster.chain.config._problems_of_references": _LITERAL,
    "raymill.training.objectives._is_one": _OF_THE_USER,
    "raymill.training.rollouts.rewards._guarded": "an expression of the user, in a child process with a bound on time",
    "raymill.cluster.secret_values._SCHEME": "the 31 characters before ://",
    "raymill.cluster.secret_values._any_of": _LITERAL,
    "raymill.cluster.store.paths.glob_regex": _OF_THE_USER,
    "raymill.cluster.store.interface.first_line": "the first 20,000 characters of an error",
    "raymill.cluster.submit.submit.next_name": _OF_THE_USER,
    "raymill.pipelines.prepare.augment.entities._change_names": _LITERAL,
    "raymill.pipelines.prepare.augment.pieces._expressions": _OF_THE_USER,
    "raymill.pipelines.prepare.augment.settings._compile": _OF_THE_USER,
    "raymill.pipelines.prepare.fetch.settings._COMMENTS": _OF_THE_USER,
    "raymill.pipelines.prepare.records.clean._terms": _LITERAL,
    "raymill.pipelines.prepare.records.sections._ANCHOR": _HEADING,
    "raymill.pipelines.prepare.records.sections._EMPHASIS": _HEADING,
    "raymill.pipelines.prepare.records.sections._ROLE": _HEADING,
    "raymill.pipelines.prepare.records.sections._TAG": _HEADING,
    "raymill.pipelines.text.normalize.characters._automaton": _LITERAL,
    "raymill.pipelines.text.personal_data.spellings._ANY_LETTERS": "the 64 characters before an @",
    "raymill.training.gpus.peak_flops": "the name of a GPU",
    "raymill.training.model_folder.checks.check_template_variables": _LITERAL,
    "raymill.training.pack.chat._EMPTY_THOUGHT": _AT_A_PLACE,
    "raymill.training.pack.encode.__init__": _LITERAL,
    "raymill.training.pack.template.THOUGHT": _AT_A_PLACE,
}


class Found(NamedTuple):
    """A pattern of the sources. pattern: None if it is made of local values. searched: not only tried at one place."""

    name: str
    pattern: re.Pattern[Any] | None
    searched: bool


@pytest.fixture(scope="module", autouse=True)
def no_collection_of_trees() -> Iterator[None]:
    """Garbage collections would look at millions of nodes, again and again."""
    gc.disable()
    yield
    trees.cache_clear()
    gc.enable()


@cache
def trees() -> dict[str, ast.Module]:
    """The sources of the packages by the names of their modules."""
    paths = [path for package in ("cluster", "pipelines", "training") for path in (ROOT / package).rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(paths)}
    return {f"raymill.{name}": ast.parse(path.read_text()) for path, name in names.items()}


@cache
def uses() -> dict[tuple[str, str], set[bool]]:
    """(name, module) -> whether it is used there as `NAME.match(text)` or `NAME.fullmatch(text)`, of each use."""
    found: dict[tuple[str, str], set[bool]] = {}
    for module, tree in trees().items():
        at_one_place = {
            id(node.func.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in AT_ONE_PLACE
            and len(node.args) == 1
        }
        for node in ast.walk(tree):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name and isinstance(node.ctx, ast.Load):  # type: ignore[attr-defined]
                found.setdefault((name, module), set()).add(id(node) in at_one_place)
    return found


def is_searched(name: str, module: str) -> bool:
    """Whether a constant of the module is used in any other way than at one place of a text."""
    modules = [module] if name.startswith("_") else trees()
    return set().union(*(uses().get((name, one), set()) for one in modules)) != {True}


def found_patterns() -> Iterator[Found]:
    """Each pattern, compiled or given to a function of `re`. Modules are imported only for what is not literal."""
    for module, tree in trees().items():
        constants = {
            id(inner): target.id
            for node in tree.body
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
            for inner in ast.walk(node.value)
        }
        functions = {
            id(inner): node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "re"
                and node.func.attr in FUNCTIONS
            ):
                continue
            constant = constants.get(id(node))
            name = f"{module}.{constant or functions.get(id(node), '')}"
            searched = is_searched(constant, module) if constant else node.func.attr not in AT_ONE_PLACE
            flags = [one.value for one in node.keywords if one.arg == "flags"]
            if node.func.attr in ("compile", "search", "match", "fullmatch", "findall", "finditer"):
                flags += node.args[1 if node.func.attr == "compile" else 2 :]
            call = ast.Call(ast.parse("re.compile", mode="eval").body, [node.args[0], *flags], [])
            try:
                pattern = evaluated(call, module)
            except NameError:
                value = None
                if constant or name in MADE:
                    value = getattr(importlib.import_module(module), name.rpartition(".")[2])
                made = value(*MADE[name]) if name in MADE else value
                yield from (Found(name, one, searched) for one in [*patterns_in(made)] or [None])
            else:
                yield Found(name, pattern, searched)


def evaluated(expression: ast.expr, module: str) -> Any:
    """The value of an expression of the module's constants; NameError if there are local values in it."""
    code = compile(ast.fix_missing_locations(ast.Expression(expression)), module, "eval")
    try:
        return eval(code, {"re": re})
    except NameError:
        return eval(code, vars(importlib.import_module(module)))


def patterns_in(value: Any) -> Iterator[re.Pattern[Any]]:
    """The patterns within tuples, lists and dicts."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from patterns_in(one)


# ---- texts that begin as a pattern, repeat what it repeats, and end otherwise


@cache
def of_source(source: str) -> str:
    """A character that the source of a set matches."""
    one, points = re.compile(source), (*range(97, 123), *range(32, 127), 9, 10, *range(0x2E80))
    return next((chr(point) for point in points if one.match(chr(point))), "a")


def of_item(item: tuple[Any, Any]) -> str:
    """The source of a part of a set."""
    kind, value = item
    if kind is codes.NEGATE:
        return "^"
    if kind is codes.RANGE:
        return f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
    if kind is codes.CATEGORY:
        lower = str(value).rpartition("_")[2][0].lower()
        return "\\" + (lower.upper() if "NOT" in str(value) else lower)
    return re.escape(chr(value))


def beginning(tree: Any) -> str:
    """A text that the pattern matches, for the kinds of parts that sources have."""
    text = ""
    for kind, value in tree:
        if kind is codes.LITERAL:
            text += chr(value)
        elif kind is codes.NOT_LITERAL:
            text += "a" if value != ord("a") else "b"
        elif kind is codes.ANY:
            text += "a"
        elif kind is codes.IN:
            text += of_source("[" + "".join(map(of_item, value)) + "]")
        elif kind in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            text += beginning(value[2]) * max(value[0], 1)
        elif kind is codes.SUBPATTERN:
            text += beginning(value[3])
        elif kind is codes.ATOMIC_GROUP:
            text += beginning(value)
        elif kind is codes.BRANCH:
            text += beginning(value[1][0])
    return text


def repeats(tree: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """(what precedes, what is repeated) of each repeat of 30 times or more."""
    for at, (kind, value) in enumerate(tree):
        start = before + beginning(tree[:at])
        if kind in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            if value[1] >= 30:
                yield start, beginning(value[2]) or "a"
            yield from repeats(value[2], start)
        elif kind is codes.SUBPATTERN:
            yield from repeats(value[3], start)
        elif kind is codes.ATOMIC_GROUP:
            yield from repeats(value, start)
        elif kind in (codes.ASSERT, codes.ASSERT_NOT):
            yield from repeats(value[1], start)
        elif kind is codes.BRANCH:
            for branch in value[1]:
                yield from repeats(branch, start)


def pumps(pattern: re.Pattern[Any]) -> list[tuple[str, str]]:
    """(what a worst case begins with, what it repeats) of each repeat."""
    source = pattern.pattern.decode("latin-1") if isinstance(pattern.pattern, bytes) else pattern.pattern
    flags = pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags
    found = dict.fromkeys(repeats(parser.parse(source, flags)))
    texts = (one for start, part in found for one in ((start, part), ("", start + part), ("", start)))
    return [one for one in dict.fromkeys(texts) if one[1]]


def worst_case(pattern: re.Pattern[Any], start: str, part: str, length: int) -> Any:
    """A text of the length, of the pattern's type."""
    text = start + part * (length // len(part)) + "\0!"
    return text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text


def seconds(one: Found, text: Any, give_up_s: float) -> float:
    """Processor time of all matches, or of one at the beginning; at most `give_up_s`."""
    assert one.pattern

    def give_up(*_: object) -> None:
        raise TimeoutError

    old = signal.signal(signal.SIGPROF, give_up)
    began = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, give_up_s)
        if one.searched:
            for _ in one.pattern.finditer(text):
                pass
        else:
            one.pattern.match(text)
            one.pattern.fullmatch(text)
    except TimeoutError:
        return give_up_s
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    return time.process_time() - began


def grows_faster(one: Found) -> str | None:
    """The beginning of a text of which twice the length takes over 3.2 times as long; None without one."""
    assert one.pattern
    for start, part in pumps(one.pattern):
        length = max(SHORT, SHORT // 2 * len(part))
        text = worst_case(one.pattern, start, part, length)
        first = seconds(one, text, _GIVE_UP_S)
        if first >= _GIVE_UP_S:
            return repr(text[:60])
        if first < _NEGLIGIBLE_S:  # one set of characters is so fast that its square shows only in longer texts
            length *= 8
            text = worst_case(one.pattern, start, part, length)
            first = seconds(one, text, _GIVE_UP_S)
        if first < _NEGLIGIBLE_S:
            continue
        twice = worst_case(one.pattern, start, part, 2 * length)
        least = [min(seconds(one, text, _GIVE_UP_S) for _ in range(3)) for text in (text, twice)]
        if least[0] > _NEGLIGIBLE_S and (least[1] >= _GIVE_UP_S or least[1] > _MOST_GROWTH * least[0]):
            return repr(text[:60])
    return None


# ---- tests


@cache
def patterns() -> list[Found]:
    """All patterns but the exceptions."""
    return [one for one in found_patterns() if one.name not in EXCEPTIONS]


def test_every_pattern_is_tested_or_an_exception_with_its_reason():
    left = {one.name for one in patterns() if one.pattern is None}
    assert left == set(), "made of local values: give what makes it arguments in MADE, or a reason in EXCEPTIONS"
    assert len(patterns()) > 200
    assert sorted({*EXCEPTIONS, *MADE} - {one.name for one in found_patterns()}) == []


@pytest.mark.slow
def test_every_pattern_takes_linear_time():
    slow = {one.name: text for one in patterns() if (text := grows_faster(one))}
    assert slow == {}, "make each linear (possessive repeats help), or say in EXCEPTIONS what bounds its text"


@pytest.mark.slow
def test_the_worst_case_of_10_mb_of_every_pattern_ends():
    """The worst case of 40,000 characters that takes longest, made longer."""
    slow = {}
    for one in patterns():
        assert one.pattern
        took = {
            pump: seconds(one, worst_case(one.pattern, *pump, 10 * SHORT), _GIVE_UP_S) for pump in pumps(one.pattern)
        }
        if took:
            text = worst_case(one.pattern, *max(took, key=lambda pump: took[pump]), 10_000_000)
            if seconds(one, text, _MOST_OF_10_MB_S) >= _MOST_OF_10_MB_S:
                slow[one.name] = repr(text[:60])
    assert slow == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "is_searched", "is_slow"),
    [
        (r"a+$", True, True),
        (r"(a+)+$", True, True),
        (r"[ \t]*x", True, True),
        (r"[ \t]*x", False, False),
        (r"(?<!a)a++$", True, False),
        (r"ab*c", True, False),
        (rb"\s+x", True, True),
    ],
)
def test_patterns_of_known_growth_are_told_apart(pattern, is_searched, is_slow):
    assert (grows_faster(Found("", re.compile(pattern), is_searched)) is not None) == is_slow


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (r"a+$", [("", "a")]),
        (r"<([ \t]*)x", [("<", " "), ("", "< "), ("", "<")]),
        (r"(?:ab|[0-9]{30,})*c", [("", "ab"), ("", "0")]),
        (r"(?<!a)a{1,9}b", []),
    ],
)
def test_the_worst_cases_of_a_pattern_repeat_what_its_repeats_take(pattern, wanted):
    assert pumps(re.compile(pattern)) == wanted


def test_a_pattern_that_is_tried_at_one_place_is_not_searched():
    assert not is_searched("FENCE", "raymill.pipelines.prepare.records.sections")
    assert is_searched("_LINK", "raymill.pipelines.prepare.records.sections")
