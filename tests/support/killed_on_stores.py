"""curate, prepare and train with kills and lost requests at a bucket, compared with undisturbed runs on a local disk:

python -m tests.support.killed_on_stores SCHEME ADDRESS BUCKET SEED

Prints a line for each run, and what should not have happened; exits with 1 if there is any. A process of its own,
because it forks. The bucket's credentials are in the environment.
"""

import random
import shutil
import sys
import tempfile
from pathlib import Path

import torch

import raymill.training.tokenizer.load_tokenizer  # noqa: F401 - loaded before processes are forked
from raymill.cluster.store import object_store
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from tests.end_to_end.fault_matrix import Matrix
from tests.support.fault_case import Case
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.forked import Command, adopt_orphans
from tests.support.inline import NoRay, RoundsInline

_KILLS = 3
# Azurite and fake-gcs-server apply a put that comes twice, so this is of no use; a time-out takes long.
_FAULTS = [fault for fault in Fault if fault is not Fault.TIME_OUT]


class OnBucket(Case):
    """A case whose command does its units itself: an object store's client does not survive a fork.

    share: of the requests, which get a fault; 0: none.
    """

    share = 0.0

    def start(self, *_: object, **environment: str) -> Command:
        def run() -> None:
            storage = dict(self.more["storage"])
            if not self.share:
                self.work.run(self.output, RoundsInline, NoRay(), {"storage": storage})
                return
            object_store._FIRST_WAIT_S /= 10
            with FaultProxy(storage["endpoint_url"], _FAULTS, share=self.share, seed=len(self._commands)) as proxy:
                account = storage["endpoint_url"].partition("://")[2].partition("/")[2]
                storage |= {"endpoint_url": f"{proxy.url}/{account}".rstrip("/"), "timeout_s": 5.0}
                self.work.run(self.output, RoundsInline, NoRay(), {"storage": storage})
                (self.folder / "injected").write_text(str(proxy.injected.total()))

        return self.start_process(run, **environment)


def main(scheme: str, address: str, bucket: str, seed: int) -> int:
    """Disturb each work once by kills and once by lost requests. Returns the number of violations."""
    torch.set_num_threads(1)
    adopt_orphans()
    folder, chance = Path(tempfile.mkdtemp(prefix="stores-")), random.Random(seed)
    matrix = Matrix(folder, "", small=True)
    storage = {"endpoint_url": address} | ({"anonymous": True} if scheme == "gs" else {})
    violations = 0
    for name in ("curate", "prepare", "train"):
        work = matrix.works[name]
        content, passes = matrix.undisturbed(work)
        for what, share in (("killed", 0.0), ("loses requests", 0.05)):
            store = Store(StorageOptions.model_validate(storage))
            case = OnBucket(work, content, folder / f"{name}-{what}", what, store=store, more={"storage": storage})
            case.output, case.share = f"{scheme}://{bucket}/{name}-{what.replace(' ', '-')}", share
            case.usual.update(one.detail for one in passes if one.name == "unit_started")
            # A round of units fails, one after the other, where a store stays away.
            case.redone_by_a_fault = float("inf")
            if not share:
                case.plan(*(("any", at, "kill") for at in sorted(chance.sample(range(1, len(passes) + 1), _KILLS))))
            case.finish()
            case.judge()
            violations += len(case.violations)
            faults = len(case.fault_times) if not share else (case.folder / "injected").read_text()
            print(f"{name}, {what}: {faults} faults", *case.violations, sep="\n  VIOLATION ", flush=True)
    shutil.rmtree(folder)
    return violations


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4], int(sys.argv[4])) > 0)
