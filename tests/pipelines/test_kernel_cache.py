"""The cache of compiled kernels changes its folder when a source that a kernel is compiled from changes."""

import ast
import os
import subprocess
import sys

from pipelines.kernel_cache import _HERE, kernel_sources, kernels_are_compiled


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


def test_a_cache_without_a_compiled_kernel_is_a_first_run(tmp_path, monkeypatch):
    """numba makes its folders when kernels are imported, long before it compiles one."""
    code = (
        "import pipelines.text.byte_scan\n"
        "from pipelines.kernel_cache import kernels_are_compiled\n"
        "print(kernels_are_compiled())\n"
    )
    cache = tmp_path / "cache"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    (folder,) = cache.iterdir()
    assert done.stdout == "False\n"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    assert not kernels_are_compiled()
    (folder / "byte_scan.next_non_ascii-19.py311.nbi").touch()
    assert kernels_are_compiled()
