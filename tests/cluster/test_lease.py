"""One driver at a time at an output: who holds the lease, who waits, who takes over, and who stops."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster import lease as leases
from cluster.errors import BusyError
from cluster.lease import Holder, held
from cluster.store import paths
from cluster.store.store import Store


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"{request.getfixturevalue('s3_root')}/run"


@pytest.fixture
def store(root, request) -> Store:
    return request.getfixturevalue("s3_store") if paths.is_remote(root) else Store()


@pytest.fixture
def quick(monkeypatch):
    """The same protocol, a hundred times as fast."""
    for name in ("_REFRESH_S", "_EXPIRES_S", "_LOOK_S"):
        monkeypatch.setattr(leases, name, getattr(leases, name) / 50)


def write(store, root: str, number: int = 1, **changes) -> Holder:
    """A lease that another process left."""
    holder = dataclasses.replace(Holder.me(), **changes)
    store.write_bytes(leases._uri(root, number), leases._to_json(holder))
    return holder


def numbers(store, root: str) -> list[int]:
    return [leases._number(file.uri) for file in store.list_files(f"{root}/_lease")]


def test_a_second_driver_is_refused_at_once_with_who_and_since_when_and_a_third_after_the_release_is_not(root, store):
    with held(store, root) as first:
        began = time.monotonic()
        with pytest.raises(BusyError, match="another run is writing here") as refused, held(store, root):
            pass
        assert time.monotonic() - began < 2
        told = str(refused.value)
        assert f"process {os.getpid()} of " in told and first.holder.since in told and "choose another output" in told
        first.check()
    with held(store, root) as third:
        assert third.number == 2 and numbers(store, root) == [2]


def test_the_lease_of_a_process_that_was_killed_is_taken_over_at_once(root, store):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    write(store, root, process=int(child.stdout))
    began = time.monotonic()
    with held(store, root):
        assert time.monotonic() - began < 2
    write(store, root, 7, process_started="0")
    with held(store, root) as taken:
        assert taken.number == 8, "the process that has its id now is another one"


def test_a_holder_on_another_machine_that_refreshes_is_alive(root, quick, store):
    holder = write(store, root, machine="other", host="elsewhere")

    def refresh() -> None:
        time.sleep(0.1)
        write(store, root, machine="other", host="elsewhere", refreshed=holder.refreshed + 10)

    thread = threading.Thread(target=refresh)
    thread.start()
    with pytest.raises(BusyError, match="on elsewhere, since"), held(store, root):
        pass
    thread.join()


def test_a_holder_on_another_machine_that_is_silent_is_waited_for_and_then_replaced(root, quick, caplog, store):
    write(store, root, machine="other", host="elsewhere", refreshed=time.time() - 60)
    began = time.monotonic()
    with held(store, root) as taken:
        assert taken.number == 2
    assert time.monotonic() - began >= leases._EXPIRES_S and "waiting up to" in caplog.text


def test_a_lease_of_yesterday_is_not_waited_for(root, store):
    write(store, root, machine="other", refreshed=time.time() - 86_400)
    began = time.monotonic()
    with held(store, root):
        assert time.monotonic() - began < 2


def test_of_several_drivers_that_find_a_dead_one_exactly_one_takes_over(tmp_path):
    root, store, barrier = str(tmp_path), Store(), threading.Barrier(8)
    write(store, root, process_started="0")

    def take(_: int) -> bool:
        barrier.wait()
        try:
            lease = leases._acquire(store, root)
        except BusyError:
            return False
        taken.append(lease)
        return True

    taken: list[leases.Lease] = []
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1
    taken[0].release()


def test_a_driver_that_was_suspended_learns_that_another_took_over_and_leaves_its_lease_alone(root, quick, store):
    with held(store, root) as first:
        write(store, root, 2, host="elsewhere", machine="other")
        deadline = time.monotonic() + 20
        while first._lost is None and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(BusyError, match=r"another run took over here .* on elsewhere, .*This run stops"):
            first.check()
    assert json.loads(store.read_bytes(leases._uri(root, 2)))["released"] is False


def test_a_living_driver_refreshes(root, quick, store):
    with held(store, root) as mine:
        deadline = time.monotonic() + 20
        while leases._newest(store, root)[1].refreshed == mine.holder.refreshed and time.monotonic() < deadline:
            time.sleep(0.02)
        assert leases._newest(store, root)[1].refreshed > mine.holder.refreshed
        mine.check()
    assert leases._newest(store, root)[1].released
