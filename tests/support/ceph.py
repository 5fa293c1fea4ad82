"""A real S3 server on this machine: Ceph's monitor, one store daemon in memory, and its S3 gateway."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.support.servers import CREDENTIALS, wait_for_port

_PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool")

_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
osd crush chooseleaf type = 0
mon data avail crit = 0
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
mon data = {folder}/mon
osd data = {folder}/osd

[osd]
osd objectstore = memstore
memstore device bytes = 2147483648

[client]
ms mon client mode = crc
keyring = {folder}/keyring
"""


class CephS3:
    """Use in a `with`: about half a minute to start, 170 MB, no root needed. `url` is its address."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        # The path of a daemon's socket must stay short.
        self.folder = Path("/tmp", f"ceph-{uuid.uuid4().hex[:8]}") if len(str(folder)) > 60 else folder
        self.ports = [free_port() for _ in range(3)]
        self.url = f"http://127.0.0.1:{self.ports[2]}"
        self.servers: list[subprocess.Popen] = []

    @staticmethod
    def missing() -> str:
        return ", ".join(program for program in _PROGRAMS if shutil.which(program) is None)

    def __enter__(self) -> Self:
        for name in ("mon", "osd"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "keyring").touch()
        fsid, disk = str(uuid.uuid4()), str(uuid.uuid4())
        self.config = self.folder / "ceph.conf"
        self.config.write_text(_CONFIG.format(fsid=fsid, folder=self.folder, v2=self.ports[0], v1=self.ports[1]))
        try:
            addresses = f"[v2:127.0.0.1:{self.ports[0]},v1:127.0.0.1:{self.ports[1]}]"
            self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, str(self.folder / "monmap"))
            self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(self.folder / "monmap"))
            self._serve("ceph-mon", "-f", "-i", "a")
            self._run("ceph", "osd", "new", disk, "0")
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
            self._serve("ceph-osd", "-f", "-i", "0")
            key, secret = CREDENTIALS.values()
            user = ["--uid=t", "--display-name=t", f"--access-key={key}", f"--secret-key={secret}"]
            self._run("radosgw-admin", "user", "create", *user)
            gateway = f"beast endpoint=127.0.0.1:{self.ports[2]}"
            self._serve("radosgw", "-f", "-n", "client.admin", "--no-mon-config", "--rgw-frontends", gateway)
            wait_for_port(self.ports[2], self.servers[-1], wait_s=60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def add_user(self, name: str, key: str, secret: str) -> None:
        """Add a user with these keys, who sees no bucket of the others."""
        self._run(
            "radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}",
            f"--access-key={key}", f"--secret-key={secret}",
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        for server in reversed(self.servers):
            server.kill()
            server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, program: str, *words: str) -> list[str]:
        config = [] if program == "monmaptool" else ["-c", str(self.config)]
        return [program, *config, *words]

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(self._command(program, *words), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{program}: {done.stderr[-2000:]}"

    def _serve(self, program: str, *words: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": dict(os.environ)}
        self.servers.append(subprocess.Popen(self._command(program, *words), **quiet))
