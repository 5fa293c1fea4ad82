"""Careless changes of source code, each of the kind that a refactor makes, and a draw of them by seed.

A constant or a comparison off by one, a check or a statement dropped, `and` for `or`, arguments swapped, an argument
left out, a condition negated, `break` for `continue`. Texts for people (docstrings, errors, log lines), types and
imports stay as they are.
"""

import ast
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

_FOR_PEOPLE = {"description", "help", "title"}  # arguments
_MESSAGES = {"log", "logging", "warnings", "print"}
_OPPOSITE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Break: ast.Continue, ast.Continue: ast.Break,
}  # fmt: skip
Edit = tuple[int, int, int, str]  # the line, the first byte and the end of what is replaced, and what replaces it
_EXCHANGED = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "reversed": "list"}


@dataclass(frozen=True)
class Change:
    """One careless change: `source` is the whole file with it."""

    file: str
    line: int
    source: str


def changes(file: str, source: str) -> Iterator[Change]:
    """Every careless change of a file."""
    data = source.encode()
    return (change for edit in _edits(data) if (change := _changed(file, data, *edit)))


def draw(sources: dict[str, str], seed: int, count: int) -> Iterator[Change]:
    """`count` changes in as many lines. All lines that can be changed are equally probable."""
    lines: dict[tuple[str, int], list[Edit]] = {}
    for file in sorted(sources):
        for edit in _edits(sources[file].encode()):
            lines.setdefault((file, edit[0]), []).append(edit)
    chance = random.Random(seed)
    drawn = chance.sample(list(lines), len(lines))
    made = (_first(file, sources[file].encode(), chance, lines[file, line]) for file, line in drawn)
    return islice(filter(None, made), count)


def _first(file: str, data: bytes, chance: random.Random, edits: list[Edit]) -> Change | None:
    """One of these changes that Python can read."""
    return next((change for edit in chance.sample(edits, len(edits)) if (change := _changed(file, data, *edit))), None)


def _changed(file: str, data: bytes, line: int, begin: int, end: int, text: str) -> Change | None:
    """The file with an edit; None if Python cannot read it, such as a keyword before `=`."""
    source = (data[:begin] + text.encode() + data[end:]).decode()
    try:
        ast.parse(source)
    except SyntaxError:
        return None
    return Change(file, line, source)


def _edits(data: bytes) -> Iterator[Edit]:
    """The edits of a file."""
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for code in _code(ast.parse(data)):
        for node, variant in _variants(code):
            text = ast.unparse(variant)
            begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            yield node.lineno, begin, end, text if isinstance(node, ast.stmt | ast.Slice) else f"({text})"


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` without docstrings, annotations, decorators, log lines and texts of errors."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.Expr) and _MESSAGES & {getattr(inner, "id", "") for inner in ast.walk(node)}:
        return
    yield node
    for name, field in ast.iter_fields(node):
        for inner in field if isinstance(field, list) else [field]:
            texts = isinstance(inner, ast.keyword) and inner.arg in _FOR_PEOPLE
            if isinstance(inner, ast.AST) and not texts and name not in ("annotation", "returns", "decorator_list"):
                yield from _code(inner)


def _variants(node: Any) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Parts of a node, and what a careless change makes of each."""

    def other(**fields: object) -> tuple[ast.AST, ast.AST]:
        made = copy.copy(node)
        vars(made).update(fields)
        return node, made

    match node:
        case ast.Compare(ops=ops):
            yield from (other(ops=[*ops[:i], _OPPOSITE[type(op)](), *ops[i + 1 :]]) for i, op in enumerate(ops))
        case ast.BoolOp(op=op, values=values):
            yield other(op=_OPPOSITE[type(op)]())
            yield from (other(values=values[:i] + values[i + 1 :]) for i in range(len(values)))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, operand
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield from ((test, ast.UnaryOp(ast.Not(), test)), (node, body), (node, orelse))
        case ast.BinOp(left=left, op=op, right=right) if not _is_text(left) and not _is_text(right):
            yield node, left
            if type(op) in _OPPOSITE:
                yield other(op=_OPPOSITE[type(op)]())
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from ((node, ast.Constant(value + 1)), (node, ast.Constant(value - 1)))
        case ast.Constant(value=float(value)):
            yield node, ast.Constant(value * 2 or 1.0)
        case ast.Slice():
            yield from (other(**{side: None}) for side in ("lower", "upper") if getattr(node, side))
        case ast.Call(func=func, args=args, keywords=keywords):
            name = getattr(func, "id", "")
            if name in _EXCHANGED:
                new = _EXCHANGED[name]
                yield other(func=ast.Name(new), keywords=[] if new == "list" else keywords)
            elif len(args) > 1 and name not in ("isinstance", "issubclass"):
                yield other(args=[args[1], args[0], *args[2:]])
            yield from (other(keywords=[k for k in keywords if k is not one]) for one in keywords
                        if one.arg not in _FOR_PEOPLE)  # fmt: skip
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            yield from ((condition, ast.Constant(True)) for part in node.generators for condition in part.ifs)
        case ast.Return(value=ast.Tuple(elts=[first, second, *rest])):
            yield other(value=ast.Tuple([second, first, *rest]))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()
        case ast.If(test=test, body=[*_, last]):
            yield test, ast.UnaryOp(ast.Not(), test)
            if not node.orelse and isinstance(last, ast.Raise | ast.Return | ast.Continue | ast.Break):
                yield node, ast.Pass()
        case ast.Break() | ast.Continue():
            yield node, _OPPOSITE[type(node)]()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
