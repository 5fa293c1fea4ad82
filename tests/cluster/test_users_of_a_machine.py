"""What other users of a machine can reach of a run: nothing while it runs, and of its output what the umask lets them.

Another user is a process with another user id, which only root can start; without root the modes are compared.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from raymill.cluster import temporary
from raymill.cluster.session import Session, imported_ray
from raymill.cluster.store import local
from raymill.cluster.store.store import Store
from raymill.pipelines import kernel_cache

NOBODY = 65534
ALL = {"00000000", "0" * 32}  # the addresses of all interfaces, as /proc/net has them
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def reached_by_others(folder: Path) -> bool:
    """Whether another user can list the folder or write into it."""
    if os.getuid():
        return bool(folder.stat().st_mode & 0o077)
    code = (
        f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"for act in (lambda: os.listdir({str(folder)!r}), lambda: open({str(folder / 'x')!r}, 'w')):\n"
        "    try: act(); print('reached')\n"
        "    except PermissionError: pass"
    )
    return "reached" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


def listening(processes: set[int]) -> set[str]:
    """The addresses, as /proc/net has them, on which these processes wait for connections."""
    sockets = set()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").iterdir():
            try:
                sockets.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    lines = [
        line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[9] in sockets}


def holders(folder: Path) -> set[int]:
    """The processes that have a file open below a folder."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir()):
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.ray
def test_the_ray_of_a_run_is_reached_by_this_user_on_this_machine_alone(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with Session(cpus=1) as session:
        session.start()
        ray = imported_ray()

        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        folder = session._folder
        found = listening(holders(folder) | {os.getpid()})
        assert len(holders(folder)) > 3
        assert found and found <= LOOPBACK and not found & ALL
        assert not reached_by_others(folder)
        assert (folder / "r").is_dir()  # what Ray itself makes is below


def test_temporary_folders_copies_and_compiled_kernels_are_closed_to_others(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    os.umask(old := os.umask(0))
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & stat.S_IXOTH and parent.owner() == Path.home().owner():
            parent.chmod(0o711)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        os.umask(0)  # the least careful one
        kernels = tmp_path / f"raymill-kernels-{os.getuid()}"
        assert kernel_cache._make(kernels)
        copies = tmp_path / f"raymill-copies-{os.getuid()}"
        copies.mkdir(mode=0o777)
        assert local.own_folder() == copies
        with temporary.scratch_folder("test") as scratch:
            for folder in (scratch, copies, kernels):
                assert not reached_by_others(folder), folder
        (tmp_path / "output").mkdir()
        Store().write_bytes(f"{tmp_path}/output/manifest.json", b"{}")
        assert (tmp_path / "output" / "manifest.json").stat().st_mode & 0o777 == 0o666
        os.umask(0o077)
        Store().write_bytes(f"{tmp_path}/output/manifest.json", b"{}")
        assert (tmp_path / "output" / "manifest.json").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_compiled_kernels_are_not_taken_from_a_folder_into_which_others_can_write(tmp_path):
    folder = tmp_path / "kernels"
    folder.mkdir()
    assert kernel_cache._make(folder)
    folder.chmod(0o777)
    assert not kernel_cache._make(folder)


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="this system has no /proc")
def test_a_container_that_shares_host_name_and_temporary_folder_removes_no_folder_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1 << 30)  # no process here has this id
    folder = temporary.temporary_folder("x", str(tmp_path))
    assert temporary.abandoned("x", str(tmp_path)) == [folder]
    temporary._machine.cache_clear()
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")
    assert temporary.abandoned("x", str(tmp_path)) == []
    temporary._machine.cache_clear()
