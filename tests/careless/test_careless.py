"""Careless changes are of the promised kinds, spare texts, and are the same for the same seed."""

import ast

import pytest

from tests.careless import __main__ as careless
from tests.careless.__main__ import imported
from tests.careless.changes import changes, draw


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("x = a < b", {"x = (a <= b)"}),
        ("x = a in b", {"x = (a not in b)"}),
        ("x = a < b <= c", {"x = (a <= b <= c)", "x = (a < b < c)"}),
        ("x = a and b", {"x = (a or b)", "x = (a)", "x = (b)"}),
        ("x = not a", {"x = (a)"}),
        ("x = a if b else c", {"x = a if (not b) else c", "x = (a)", "x = (c)"}),
        ("x = a + b", {"x = (a - b)", "x = (a)"}),
        ("x = a // b", {"x = (a)"}),
        ("x = 'a' + b", set()),
        ("x = 7", {"x = (8)", "x = (6)"}),
        ("x = 0.5", {"x = (1.0)"}),
        ("x = True", {"x = (False)"}),
        ("x = a[b:c]", {"x = a[:c]", "x = a[b:]"}),
        ("x = f(a, b)", {"x = (f(b, a))"}),
        ("x = f(a, key=b)", {"x = (f(a))"}),
        ("x = min(a)", {"x = (max(a))"}),
        ("x = sorted(a, key=b)", {"x = (list(a))", "x = (sorted(a))"}),
        ("x = [a for a in b if a]", {"x = [a for a in b if (True)]"}),
        ("def f(): return a, b", {"def f(): return (b, a)"}),
        ("f(a)", {"pass"}),
        ("x += a", {"pass"}),
        ("x.y = a", {"pass"}),
        ("x[y] = a", {"pass"}),
        ("if a: b", {"if (not a): b"}),
        ("for a in b: break", {"for a in b: continue"}),
        ("for a in b:\n    if c: continue", {
            "for a in b:\n    pass", "for a in b:\n    if (not c): continue", "for a in b:\n    if c: break",
        }),
        ("if a: b\nelif c: raise d", {
            "if (not a): b\nelif c: raise d", "if a: b\nelif (not c): raise d", "if a: b\npass",
        }),
        ("x = 'é', 1", {"x = 'é', (2)", "x = 'é', (0)"}),
    ],
)  # fmt: skip
def test_each_kind_of_change_is_made(source, changed):
    assert {change.source for change in changes("a.py", source)} == changed


def test_texts_types_and_imports_are_not_changed():
    source = '''"""Text 1."""
import a
@decorated(1)
def f(x: Literal[1]) -> Literal[2]:
    """Text 2."""
    log.info("%d", 1)
    print(f(1))
    y: Literal[3] = x
    assert x == 1
    raise ValueError(f"{x + 1}" + g(1))
class C:
    z = Field(description=1)
    """Text 3."""
'''
    assert list(changes("a.py", source)) == []


def test_a_draw_is_the_same_for_its_seed_and_takes_each_line_once():
    sources = {f"{name}.py": "".join(f"x{n} = {n} + {name}\n" for n in range(20)) for name in "ab"}
    drawn = list(draw(sources, 1, 15))
    assert drawn == list(draw(dict(reversed(sources.items())), 1, 15))
    assert drawn != list(draw(sources, 2, 15))
    assert len({(change.file, change.line) for change in drawn}) == 15
    for change in drawn:
        before, after = sources[change.file].splitlines(), change.source.splitlines()
        assert [n for n, line in enumerate(before, 1) if line != after[n - 1]] == [change.line]
        ast.parse(change.source)
    assert len(list(draw(sources, 1, 1000))) == 40


def test_the_tests_of_a_file_are_those_that_import_it_then_its_neighbours():
    sources = {
        "cluster/engine.py": "",
        "cluster/run.py": "from raymill.cluster.engine import Engine",
        "cluster/verbs.py": "VERB = 'raymill.cluster.engine:start'",
        "pipelines/job.py": "import raymill.cluster.run",
        "tests/support/inline.py": "from raymill.cluster import engine",
        "tests/cluster/test_engine.py": "from raymill.cluster.engine import Engine",
        "tests/cluster/test_cli.py": "import raymill.cluster.verbs",
        "tests/cluster/test_alone.py": "",
        "tests/end_to_end/test_golden.py": "",
        "tests/pipelines/test_curate.py": "from tests.support import inline",
        "tests/pipelines/test_far.py": "import raymill.pipelines.job",
        "tests/pipelines/test_use.py": "def test(): import raymill.cluster.engine",
    }
    imports = {name: imported(source) for name, source in sources.items()}
    direct, distant = careless.tests_of("cluster/engine.py", imports)
    assert direct == ["tests/cluster/test_engine.py", "tests/pipelines/test_use.py"]
    assert distant == [
        "tests/cluster/test_alone.py", "tests/cluster/test_cli.py", "tests/pipelines/test_curate.py",
        "tests/end_to_end/test_golden.py",
    ]  # fmt: skip
    assert careless.tests_of("pipelines/curate/job.py", imports)[1][:1] == ["tests/pipelines/test_curate.py"]
