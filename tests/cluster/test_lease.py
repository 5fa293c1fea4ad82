"""One driver at a time at an output: who holds the lease, who waits, who takes over, and who stops."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import SimpleNamespace

import psutil
import pytest

from raymill.cluster import lease as leases
from raymill.cluster.errors import BusyError, DataError, StorageError
from raymill.cluster.lease import Holder, held
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from tests.support.emulators import EMULATED
from tests.support.processes import wait_until


@pytest.fixture(params=["local", "s3", *EMULATED])
def root(request, tmp_path) -> str:
    scheme = request.param
    return str(tmp_path / "run") if scheme == "local" else f"{request.getfixturevalue(f'{scheme}_root')}/run"


@pytest.fixture
def store(root, request) -> Store:
    return request.getfixturevalue(f"{paths.scheme(root)}_store") if paths.is_remote(root) else Store()


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


def test_a_store_that_is_away_at_the_end_does_not_hide_why_the_run_ended(tmp_path, monkeypatch, caplog):
    def away(*_: object) -> None:
        raise StorageError("no answer")

    with pytest.raises(ValueError, match="the cause"), held(Store(), str(tmp_path)):
        monkeypatch.setattr(Store, "write_bytes", away)
        raise ValueError("the cause")
    assert "the lease was not released: no answer" in caplog.text


@pytest.mark.parametrize(
    "error",
    [StorageError("no such file"), AssertionError(), KeyError("unit"), IndexError(3), FileNotFoundError("x.parquet")],
    ids=lambda error: type(error).__name__,
)
def test_work_that_fails_in_any_way_after_another_run_took_over_says_so(tmp_path, error):
    """As of a driver that slept: the other run has replaced or removed what it reads."""
    with pytest.raises(BusyError, match="another run took over here") as lost, held(Store(), str(tmp_path)):
        write(Store(), str(tmp_path), 2)
        raise error
    assert lost.value.exit_code == 2 and lost.value.__cause__ is error
    with pytest.raises(type(error)) as kept, held(Store(), str(tmp_path / "other")):
        raise error
    assert kept.value is error


def test_an_interrupt_stays_one_after_another_run_took_over(tmp_path):
    with pytest.raises(KeyboardInterrupt), held(Store(), str(tmp_path)):
        write(Store(), str(tmp_path), 2)
        raise KeyboardInterrupt


def test_a_file_that_is_no_lease_is_left_alone_and_a_damaged_lease_is_named_with_the_fix(tmp_path):
    root, store = str(tmp_path), Store()
    for name in (".DS_Store", "00000009.json.bak", "notes.txt"):
        store.write_bytes(f"{root}/_lease/{name}", b"{}")
    with held(store, root) as mine:
        assert mine.number == 1
    assert len(store.list_files(f"{root}/_lease")) == 4
    store.write_bytes(leases._uri(root, 2), json.dumps({"user": "of another version"}).encode())
    with (
        pytest.raises(DataError, match=r"00000002\.json: not a lease \(.*\)\. Make sure that no run"),
        held(store, root),
    ):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"refreshed": "yesterday"},
        {"refreshed": None},
        {"refreshed": float("nan")},
        {"process": "first"},
        {"process": -1},
        {"process": 2**70},
    ],
    ids=str,
)
def test_a_lease_with_a_value_that_no_driver_writes_is_damaged(tmp_path, changes):
    root, store = str(tmp_path), Store()
    lease = dataclasses.asdict(Holder.me()) | {"machine": "elsewhere"} | changes
    store.write_bytes(leases._uri(root, 1), json.dumps(lease).encode())
    named = rf"not a lease \({next(iter(changes))}: .*\)\. Make sure that no run is writing to this output"
    with pytest.raises(DataError, match=named), held(store, root):
        pass


def test_a_lease_with_keys_of_a_later_version_is_a_lease(tmp_path):
    root, store = str(tmp_path), Store()
    store.write_bytes(leases._uri(root, 1), json.dumps(dataclasses.asdict(Holder.me()) | {"later": 1}).encode())
    with pytest.raises(BusyError, match=f"another run is writing here: process {os.getpid()}"), held(store, root):
        pass


def test_a_lease_that_cannot_be_read_takes_over_too_and_ones_own_is_written_again(tmp_path):
    root, store = str(tmp_path), Store()
    with pytest.raises(BusyError, match=r"took over here \(its lease cannot be read\)"), held(store, root) as mine:
        store.write_bytes(leases._uri(root, 1), b"")
        mine.refresh()
        mine.check()
        assert leases._newest(store, root)[1].process == os.getpid()
        store.write_bytes(leases._uri(root, 2), b"")
        mine.refresh()
        mine.check()


def test_a_folder_with_the_name_of_a_lease_is_an_error_and_no_endless_loop(tmp_path):
    (tmp_path / "_lease" / "00000001.json").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"00000001\.json: exists .* Is it a folder"), held(Store(), str(tmp_path)):
        pass


def test_an_output_that_is_removed_while_its_lease_is_taken_is_leased_again(tmp_path, monkeypatch):
    root, store, create = str(tmp_path / "run"), Store(), Store.create

    def and_remove(self: Store, uri: str, data: bytes) -> bool:
        created = create(self, uri, data)
        monkeypatch.setattr(Store, "create", create)
        shutil.rmtree(root)
        return created

    monkeypatch.setattr(Store, "create", and_remove)
    with held(store, root) as mine:
        assert mine.number == 1 and numbers(store, root) == [1]


def test_the_lease_of_a_process_that_was_killed_is_taken_over_at_once(root, store):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    write(store, root, process=int(child.stdout))
    began = time.monotonic()
    with held(store, root):
        assert time.monotonic() - began < 2
    write(store, root, 7, process_started="0")
    with held(store, root) as taken:
        assert taken.number == 8, "the process that has its id now is another one"


def test_a_holder_on_another_machine_that_refreshes_is_alive(root, quick, store, caplog):
    holder = write(store, root, machine="other", host="elsewhere")

    def refresh() -> None:
        wait_until(lambda: "waiting up to" in caplog.text, 20)
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


def test_a_lease_that_is_replaced_while_it_is_looked_up_is_looked_up_again(root, store, monkeypatch):
    write(store, root, process_started="0")
    list_files = Store.list_files

    def overtaken(self: Store, uri: str, **more: bool) -> list:
        files = list(list_files(self, uri, **more))
        monkeypatch.setattr(Store, "list_files", list_files)
        write(store, root, 2)
        store.delete([leases._uri(root, 1)])
        return files

    monkeypatch.setattr(Store, "list_files", overtaken)
    with pytest.raises(BusyError, match="another run is writing here"), held(store, root):
        pass


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


def test_a_lease_that_the_listing_missed_is_not_taken_over(root, store, monkeypatch):
    """A listing may miss a file that is created during it, and the one before, which is removed meanwhile."""
    write(store, root, 2)  # of this process, which is alive
    real, missed = Store.list_files, [[]]
    monkeypatch.setattr(Store, "list_files", lambda *words, **more: missed.pop() if missed else real(*words, **more))
    with pytest.raises(BusyError, match="another run is writing here"):
        leases._acquire(store, root)
    assert not missed and numbers(store, root) == [2]


def test_a_driver_that_was_suspended_learns_that_another_took_over_and_leaves_its_lease_alone(root, quick, store):
    with held(store, root) as first:
        write(store, root, 2, host="elsewhere", machine="other")
        assert wait_until(lambda: first._lost is not None, 20)
        with pytest.raises(BusyError, match=r"another run took over here .* on elsewhere, .*This run stops"):
            first.check()
    assert json.loads(store.read_bytes(leases._uri(root, 2)))["released"] is False


def test_a_living_driver_refreshes(root, quick, store):
    with held(store, root) as mine:
        began = mine.holder.refreshed
        assert wait_until(lambda: leases._newest(store, root)[1].refreshed != began, 20)
        assert leases._newest(store, root)[1].refreshed > mine.holder.refreshed
        mine.check()
    assert leases._newest(store, root)[1].released


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"released": True}, True),
        ({"machine": "other", "released": True}, True),
        ({}, False),  # this process, alive
        ({"refreshed": -895.0}, False),  # it is alive, however long it did not refresh
        ({"refreshed": -905.0}, True),  # unless that is longer than any two clocks differ
        ({"machine": "other", "refreshed": -905.0}, True),
        ({"process_started": "1"}, True),
    ],
)
def test_a_lease_is_taken_at_once_from_a_holder_that_is_gone_for_certain_and_from_no_other(tmp_path, changes, taken):
    root, store = str(tmp_path / "run"), Store()
    write(store, root, 4, **(changes | {"refreshed": time.time() + changes.get("refreshed", 0.0)}))
    if not taken:
        with pytest.raises(BusyError, match=f"^{root}: another run is writing here: process {os.getpid()} of "):
            leases._acquire(store, root)
        assert numbers(store, root) == [4]
        return
    with held(store, root) as mine:
        assert (mine.number, numbers(store, root)) == (5, [5])


@pytest.fixture
def waiting(monkeypatch):
    """A clock that only sleeping moves, and what happens during each second of sleep."""
    clock = SimpleNamespace(now=1000.0, events={})

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if event := clock.events.pop(round(clock.now - 1000), None):
            event()

    monkeypatch.setattr(leases, "time", SimpleNamespace(time=time.time, monotonic=lambda: clock.now, sleep=sleep))
    return clock


def test_a_silent_holder_elsewhere_is_waited_for_as_long_as_a_lease_lasts(tmp_path, waiting, caplog):
    root, store = str(tmp_path), Store()
    holder = write(store, root, machine="other", host="elsewhere", user="ann", process=77, since="noon")
    with held(store, root) as mine:
        assert mine.number == 2 and leases._EXPIRES_S <= waiting.now - 1000 <= leases._EXPIRES_S + leases._LOOK_S
    assert (
        f"{root}: another run was writing here (process 77 of ann on elsewhere, since noon); waiting up to 45 s"
        in caplog.text
    )
    assert str(holder) == "process 77 of ann on elsewhere, since noon"


@pytest.mark.parametrize("event", ["refreshed", "released", "gone", "taken"])
def test_while_a_holder_is_waited_for_each_look_counts(tmp_path, waiting, event):
    root, store = str(tmp_path), Store()
    holder = write(store, root, machine="other", host="elsewhere")
    waiting.events[20] = {
        "refreshed": lambda: write(store, root, machine="other", host="elsewhere", refreshed=holder.refreshed + 1),
        "released": lambda: write(store, root, machine="other", released=True),
        "gone": lambda: store.delete([leases._uri(root, 1)]),
        "taken": lambda: write(store, root, 2, machine="third", host="third host", refreshed=holder.refreshed),
    }[event]
    if event in ("refreshed", "taken"):
        with pytest.raises(BusyError, match="elsewhere" if event == "refreshed" else "third host"):
            leases._acquire(store, root)
    else:
        leases._acquire(store, root).release()
    assert waiting.now - 1000 == 20


def test_the_newest_lease_is_the_one_of_the_highest_number(tmp_path):
    root, store = str(tmp_path), Store()
    assert leases._newest(store, root) is None
    for number in (9, 100_000_000, 99_999_999, 10):
        write(store, root, number, user=f"user {number}")
    number, holder = leases._newest(store, root)
    assert (number, holder.user) == (100_000_000, "user 100000000")


def test_a_holder_is_this_process_as_the_system_has_it():
    before, me = time.time(), Holder.me()
    assert (me.process, me.host, me.released) == (os.getpid(), socket.gethostname(), False)
    assert before <= me.refreshed <= time.time() and me.here and me.alive
    assert abs(datetime.fromisoformat(me.since).timestamp() - before) < 2
    ticks = float(me.process_started) / os.sysconf("SC_CLK_TCK")
    assert ticks == pytest.approx(psutil.Process().create_time() - psutil.boot_time(), abs=2)
    assert not dataclasses.replace(me, machine="other").here
    assert not dataclasses.replace(me, process_started="1").alive
    init = dataclasses.replace(me, process=1, process_started=leases._started(1))
    assert init.alive


def test_a_refresh_that_the_store_refuses_is_logged_and_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(leases, "_REFRESH_S", 0.01)
    tried = threading.Semaphore(0)

    def refuse(self, uri, data):
        tried.release()
        raise StorageError("no answer")

    with held(Store(), str(tmp_path)) as mine:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "write_bytes", refuse)
            assert tried.acquire(timeout=20) and tried.acquire(timeout=20)
        mine.check()
    assert "the lease was not refreshed: no answer" in caplog.text
    assert leases._newest(Store(), str(tmp_path))[1].released
