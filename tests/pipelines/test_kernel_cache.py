"""The cache of compiled kernels changes its folder when a source that a kernel is compiled from changes."""

import ast
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from numba.core.caching import IndexDataCacheFile

from raymill.cluster.errors import ConfigError, UserError
from raymill.cluster.session import Session
from raymill.pipelines import kernel_cache, warm
from raymill.pipelines.all_kernels import Kernels, compile_kernels, kernels
from raymill.pipelines.kernel_cache import _HERE, each_in_turn, kernel_sources, kernels_are_compiled
from raymill.pipelines.warm import use_folder

V3 = "processor: 0\nmodel name: A new one\nflags: " + " ".join(sorted(kernel_cache.CPU_LEVELS["x86-64-v3"])) + "\n"
V2 = "processor: 0\nmodel name: An old one\nflags: " + " ".join(sorted(kernel_cache.CPU_LEVELS["x86-64-v2"])) + "\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Sets the CPU of this machine, and a package that cannot be written."""
    for name in ("NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "RAYMILL_KERNELS"):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back, too
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_cache, "_CPU_INFO", tmp_path / "cpuinfo")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != _HERE and access(path, mode))

    def be(cpu: str) -> None:
        (tmp_path / "cpuinfo").write_text(cpu)

    return be


def test_every_kernel_and_every_module_it_imports_is_part_of_the_digest():
    """A kernel outside the digest would stay compiled from the old source of another file."""
    needed = set()
    for path in _HERE.rglob("*.py"):
        source = path.read_text("utf-8")
        if not re.search(r"^@(inner_)?kernel$", source, re.MULTILINE):
            continue
        needed.add(path)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raymill.pipelines."):
                parts = node.module.split(".")[2:]
                modules = [parts, *([*parts, alias.name] for alias in node.names)]
                needed |= {file for module in modules if (file := _HERE.joinpath(*module).with_suffix(".py")).is_file()}
    assert len(needed) > 20
    assert needed - set(kernel_sources()) == set()


def test_a_cache_with_some_kernels_is_a_first_run_until_a_run_has_finished(tmp_path, monkeypatch):
    """numba makes its folders when kernels are imported, and a run that is ended leaves some of its kernels."""
    code = (
        "import raymill.pipelines.text.lines\n"
        "from raymill.pipelines.kernel_cache import kernels_are_compiled\n"
        "print(kernels_are_compiled())\n"
    )
    cache = tmp_path / "cache"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    (folder,) = cache.iterdir()
    assert done.stdout == "False\n"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))
    assert not kernels_are_compiled()
    (folder / "lines._count_newlines-19.py311.nbi").touch()
    assert not kernels_are_compiled()
    for name in (kernel_cache.USED, kernel_cache.COMPLETE):
        kernel_cache.mark_cache(name)
        assert kernels_are_compiled()
        (cache / name).unlink()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "absent" / "folder"))
    kernel_cache.mark_cache(kernel_cache.USED)  # as on a read-only file system
    assert not kernels_are_compiled()


# --- the CPU


def test_two_processes_that_store_a_kernel_at_once_can_leave_machine_code_of_the_other_cpu(tmp_path):
    """Why the folder is named by the CPU: numba's index has the CPU in its key, its files are only numbered."""
    old, new = (IndexDataCacheFile(str(tmp_path), "kernel", "stamp") for _ in range(2))
    seen_by_new = new._load_index()  # both see an empty index
    old.save("old CPU", "code for the old CPU")
    new._load_index = lambda: dict(seen_by_new)
    save = new._save_data
    new._save_data = lambda name, data: (save(name, data), old._save_data(name, "code for the old CPU"))
    new.save("new CPU", "code for the new CPU")
    assert IndexDataCacheFile(str(tmp_path), "kernel", "stamp").load("new CPU") == "code for the old CPU"


def test_each_kind_of_cpu_has_a_folder_of_its_own(machine, monkeypatch):
    machine(V3)
    names = {kernel_cache.folder_name()}
    machine(V2)
    names.add(kernel_cache.folder_name())
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64-v2")
    names.add(kernel_cache.folder_name())
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx")
    names.add(kernel_cache.folder_name())
    assert len(names) == 4
    assert len({name.rpartition("-")[0].split("-")[1] for name in names}) == 1, "the digest of the sources is the same"


def test_kernels_for_a_named_cpu_do_not_get_the_features_of_this_machine(machine, monkeypatch):
    machine(V3)
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64-v3")
    kernel_cache.use()
    assert os.environ["NUMBA_CPU_FEATURES"] == ""
    assert os.environ["NUMBA_CACHE_DIR"].endswith("-x86-64-v3")


def test_a_machine_without_the_instructions_of_the_named_cpu_compiles_for_itself(machine, monkeypatch, caplog):
    machine(V2)
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64-v3")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    kernel_cache.use()
    assert "NUMBA_CPU_NAME" not in os.environ and "NUMBA_CPU_FEATURES" not in os.environ
    assert "avx2" in caplog.text and not os.environ["NUMBA_CACHE_DIR"].endswith("v3")
    with pytest.raises(ConfigError, match=r"cpu=\"x86-64-v3\".*lacks.*x86-64-v2"):
        use_folder(None, "x86-64-v3")


# --- read-only packages


@pytest.fixture
def warmed(machine, tmp_path, monkeypatch) -> Path:
    """What `raymill warm --into` leaves for an image: two kernels, locks and `complete`."""
    machine(V3)
    folder = tmp_path / "image" / kernel_cache.folder_name()
    (folder / "text_0a").mkdir(parents=True)
    for name in ("lines.count-1.py311", "words.split-2.py311"):
        (folder / "text_0a" / f"{name}.nbi").write_bytes(b"index")
        (folder / "text_0a" / f"{name}.1.nbc").write_bytes(b"code")
        (folder / "text_0a" / f"{name}.lock").touch()
    (folder / "first-rules.lock").touch()
    (folder / kernel_cache.COMPLETE).touch()
    for path in folder.rglob("*.nb?"):
        path.chmod(0o444)
    monkeypatch.setenv("RAYMILL_KERNELS", str(tmp_path / "image"))
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file()}


def test_a_read_only_package_gets_a_copy_of_the_warmed_kernels(warmed, tmp_path, monkeypatch):
    kernel_cache.use()
    folder = tmp_path / "cache" / "raymill" / kernel_cache.folder_name()
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder) and kernels_are_compiled()
    assert names_in(folder) == names_in(warmed), "nothing half-copied is left"
    copied = folder / "text_0a" / "lines.count-1.py311.nbi"
    assert copied.read_bytes() == b"index" and copied.stat().st_mode & 0o200, "numba replaces it"
    copied.write_bytes(b"newer")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    kernel_cache.use()
    assert copied.read_bytes() == b"newer", "a kernel that exists is not replaced"


def test_a_half_filled_cache_is_completed_from_the_warmed_kernels(warmed, tmp_path, monkeypatch):
    """As a run leaves it that was ended, or that was made without the warmed kernels."""
    folder = tmp_path / "cache" / "raymill" / kernel_cache.folder_name()
    (folder / "text_0a").mkdir(parents=True)
    own = folder / "text_0a" / "lines.count-1.py311.nbi"
    own.write_bytes(b"own")
    with (folder / "text_0a" / "words.split-2.py311.lock").open("w") as compiling:
        fcntl.flock(compiling, fcntl.LOCK_EX)
        kernel_cache.use()
        assert names_in(folder) == {own.name} and not kernels_are_compiled(), "another process compiles the other one"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    kernel_cache.use()
    assert own.read_bytes() == b"own" and kernels_are_compiled()
    assert names_in(folder) == names_in(warmed) - {"lines.count-1.py311.1.nbc"}


def test_an_image_that_lacks_kernels_gives_those_it_has_and_the_cache_stays_incomplete(warmed, tmp_path):
    (warmed / kernel_cache.COMPLETE).unlink()
    kernel_cache.use()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert names_in(folder) == names_in(warmed) and not kernels_are_compiled()


def test_warmed_kernels_of_other_sources_are_not_copied(machine, tmp_path, monkeypatch):
    machine(V3)
    (tmp_path / "image" / "numba-0000000000000000-x86-64-v3").mkdir(parents=True)
    monkeypatch.setenv("RAYMILL_KERNELS", str(tmp_path / "image"))
    kernel_cache.use()
    assert not Path(os.environ["NUMBA_CACHE_DIR"]).exists()


def test_a_cache_folder_of_another_user_is_not_used(machine, tmp_path, monkeypatch):
    """It holds machine code: whoever can write it could run anything as this user."""
    machine(V3)
    (tmp_path / "cache" / "raymill").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    (tmp_path / "tmp").mkdir()
    kernel_cache.use()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.parent.parent == tmp_path / "tmp" and folder.parent.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "cache" / "raymill" / folder.name).exists()


def test_a_check_names_the_kernels_that_are_not_compiled_and_stores_none(tmp_path, monkeypatch, capsys):
    """Compiling is replaced by storing one file where numba would: the real one takes 20 s."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache))

    def compile_kernels() -> Kernels:
        (stored := Path(os.environ["NUMBA_CACHE_DIR"]) / "text_0a" / "kernel.nbi").parent.mkdir(exist_ok=True)
        compiled = () if stored.exists() else ("text.kernel",)
        stored.touch()
        return Kernels(("text.kernel", "text.other"), compiled)

    monkeypatch.setattr(warm, "_compile_kernels", compile_kernels)
    for _ in range(2):
        with pytest.raises(
            UserError, match=rf"1 of 2 kernels are not compiled yet in {cache}: text\.kernel\. Run `ray"
        ):
            warm.warm(check=True)
        assert not cache.exists() and os.environ["NUMBA_CACHE_DIR"] == str(cache)
    warm.warm()
    warm.warm(check=True)
    assert "all compiled" in capsys.readouterr().out


def test_every_kernel_is_in_the_list_that_warm_compiles():
    written = sum(path.read_text().count("@kernel\n") for path in kernel_sources())
    assert len(kernels()) == written > 40


def test_warm_calls_every_kernel_without_ray_and_the_next_process_finds_all_compiled(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Session, "start", lambda _: pytest.fail("the image that is built has no Ray to start"))
    made = compile_kernels()
    assert (Path(os.environ["NUMBA_CACHE_DIR"]) / kernel_cache.COMPLETE).exists()
    assert not list(tmp_path.iterdir()), "what it writes is elsewhere, and removed"
    assert set(made.kernels) == set(kernels()) >= set(made.compiled)
    check = [sys.executable, "-m", "raymill.cluster.cli", "warm", "--check"]
    found = subprocess.run(check, env=os.environ, capture_output=True, text=True)
    assert f"{len(made.kernels)} kernels in {os.environ['NUMBA_CACHE_DIR']}: all compiled" in found.stdout, found.stderr


# --- several processes

FOUR_WORKERS = """
import os, sys
import numpy as np
from raymill.pipelines.text.lines import _count_newlines
print("ready", flush=True)
sys.stdin.readline()
counts = np.zeros(1, np.int64)
_count_newlines(np.full(100, 10, np.uint8), np.array([0, 100]), counts)
assert counts.tolist() == [100]
print(sum(_count_newlines.stats.cache_misses.values()), os.environ["NUMBA_CACHE_DIR"])
"""


def run_workers(count: int, package: Path, environment: dict[str, str]) -> list[list[str]]:
    """[kernels compiled, cache folder] of processes that call one kernel at the same time."""
    command = [sys.executable, "-c", FOUR_WORKERS]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, env=environment, cwd=package, **piped) for _ in range(count)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * count
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    return [worker.communicate()[0].split() for worker in workers]


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the packages without compiled kernels."""
    for name in ("cluster", "pipelines"):
        to = tmp_path / "site" / "raymill" / name
        shutil.copytree(_HERE.parent / name, to, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "site" / "raymill" / "__init__.py").touch()
    return tmp_path / "site"


def test_kernels_are_stored_there_too_if_numba_was_imported_first(package):
    code = (
        "import numba, numpy as np; from raymill.pipelines.text.lines import _count_newlines as count; "
        "count(np.full(9, 10, np.uint8), np.array([0, 9]), np.zeros(1, np.int64))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), "HOME": str(package)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=package, check=True)
    stored = list(package.rglob("*.nbi"))
    assert len(stored) == 1 and stored[0].parents[1].name.startswith("numba-"), stored


def test_four_processes_that_need_a_kernel_at_once_compile_it_once(package):
    found = run_workers(4, package, {})
    assert sorted(compiled for compiled, _ in found) == ["0", "0", "0", "1"]
    (stored,) = (package / "raymill" / "pipelines" / "__pycache__").glob("numba-*")
    assert {folder for _, folder in found} == {str(stored)}


@pytest.mark.slow
def test_machines_with_two_kinds_of_cpu_and_other_sources_share_a_package_but_no_kernel(package):
    other_cpu = {"NUMBA_CPU_NAME": "x86-64"}
    mine, other = (run_workers(1, package, environment)[0] for environment in ({}, other_cpu))
    assert mine[0] == other[0] == "1" and mine[1] != other[1]
    assert [run_workers(1, package, environment)[0] for environment in ({}, other_cpu)] == [
        ["0", mine[1]],
        ["0", other[1]],
    ]
    with (package / "raymill" / "pipelines" / "text" / "characters.py").open("a") as called_by_kernels:
        called_by_kernels.write("# changed\n")
    compiled, folder = run_workers(1, package, {})[0]
    assert compiled == "1" and folder not in (mine[1], other[1])


def test_a_package_and_a_home_in_which_nothing_can_be_written(package, tmp_path):
    (tmp_path / "tmp").mkdir()
    (package / "raymill" / "pipelines" / "__pycache__").touch()  # a file: root, too, cannot make the folder
    found = run_workers(2, package, {"HOME": "/dev/null", "TMPDIR": str(tmp_path / "tmp")})
    assert sorted(compiled for compiled, _ in found) == ["0", "1"]
    assert all(folder.startswith(f"{tmp_path}/tmp/raymill-kernels-") for _, folder in found)


# The order in which several processes do the parts of a work


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A machine without kernels, and a process that has done nothing."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(kernel_cache, "_done", set())


FRESH = pytest.mark.usefixtures("fresh")


def order() -> tuple[str, str]:
    """The names of the parts, in the order in which they were done, and in the order of the results."""
    done: list[str] = []
    results = each_in_turn({name: lambda name=name: done.append(name) or name.upper() for name in "abc"})
    assert all(result == name.upper() for name, result in results.items())
    return "".join(done), "".join(results)


@FRESH
def test_a_process_alone_does_the_parts_in_their_order():
    assert order() == ("abc", "abc")


@FRESH
def test_a_part_that_another_process_does_for_the_first_time_is_done_later():
    other = kernel_cache._lock("a")
    assert order() == ("bca", "abc")
    os.close(other)


@FRESH
def test_nobody_waits_when_others_do_all_parts():
    others = [kernel_cache._lock(name) for name in "abc"]
    assert order() == ("abc", "abc")
    for other in others:
        os.close(other)


@FRESH
def test_what_a_process_has_done_before_has_no_lock():
    order()
    other = kernel_cache._lock("a")
    assert order() == ("abc", "abc")
    os.close(other)


@FRESH
def test_a_part_that_fails_gives_its_lock_back_and_is_new_the_next_time():
    with pytest.raises(ZeroDivisionError):
        each_in_turn({"a": lambda: 1 // 0})
    other = kernel_cache._lock("a")
    assert order() == ("bca", "abc")
    os.close(other)


@FRESH
def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert order() == ("abc", "abc")
