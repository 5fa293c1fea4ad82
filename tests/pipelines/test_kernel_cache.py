"""The cache of compiled kernels changes its folder when a source that a kernel is compiled from changes."""

import ast

from pipelines.kernel_cache import _HERE, kernel_sources


def test_every_kernel_and_every_module_it_imports_is_part_of_the_digest():
    """A kernel outside the digest would stay compiled from the old source of another file."""
    needed = set()
    for path in _HERE.rglob("*.py"):
        source = path.read_text("utf-8")
        if "from numba import" not in source:
            continue
        needed.add(path)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipelines."):
                parts = node.module.split(".")[1:]
                modules = [parts, *([*parts, alias.name] for alias in node.names)]
                needed |= {file for module in modules if (file := _HERE.joinpath(*module).with_suffix(".py")).is_file()}
    assert len(needed) > 20
    assert needed - set(kernel_sources()) == set()
