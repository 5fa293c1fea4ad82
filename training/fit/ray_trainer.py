"""The Ray Train trainer of a fit. It is imported once Ray has started, and by Ray Train's own processes.

The workers are those of Ray's TorchTrainer. They form their process group themselves (fit/process_group.py), not by
Ray's backend for torch: a worker that does not arrive is named, as is one at which a collective fails; the error is
recorded like every other of a worker; after an error no worker waits for the others to take the group down; and the
group is the same under torchrun.
"""

import math
import os
from importlib import metadata
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer

from raymill.cluster.entry import Entry
from raymill.cluster.session import Session

_fit_in_worker = Entry("raymill.training.fit.__main__:fit_in_worker")

# The start of a group of workers is tried this often, each time for this long: a new GPU node takes minutes, and other
# runs of this process, with which Ray is shared, may take days.
_STARTS = 3
_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_START_TIMEOUTS_S = {False: "600", True: str(30 * 86_400)}
# Interval of Ray Train's health checks on this machine. They also delay the start, for which its default of 2 s is long
# in a short run; each asks every worker.
_HEALTH_EVERY_S = 0.5

# Classes derived from ray.train.UserCallback that installed packages name, to be called after each checkpoint.
CALLBACKS = "raymill.train_callbacks"


class _OwnProcessGroup(Backend):
    share_cuda_visible_devices = True


class OwnProcessGroup(TorchConfig):
    """No process group by Ray. Every worker sees all GPUs of its machine, for NCCL's transfers between them."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend that Ray Train starts with the workers."""
        return _OwnProcessGroup


def make_trainer(
    arguments: dict[str, Any], workers: Any, failures: Any, *, name: str, folder: str, session: Session
) -> TorchTrainer:
    """The trainer; its `fit` runs `fit_in_worker(**arguments)` in every worker.

    Args:
        workers: the config's `Workers`. failures: the config's `Failures`.
        name: of the Ray Train run. folder: Ray Train requires one; it is temporary.
        session: if its Ray was started on this machine for this command, there are no preemptions. If other runs use it
            too, the workers wait for room as long as these need.
    """
    if os.environ.get(_START_TIMEOUT) in (None, *_START_TIMEOUTS_S.values()):  # else the user has set it
        os.environ[_START_TIMEOUT] = _START_TIMEOUTS_S[session.shared]
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", str(workers.timeout_s))
    if session.embedded:
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(_HEALTH_EVERY_S))
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    least, most = workers.range
    gpus = workers.gpus_each
    memory = int(min(session.workers_memory, session.memory()) / least)
    return TorchTrainer(
        _call_worker,
        train_loop_config=arguments,
        torch_config=OwnProcessGroup(),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # its stub has the fields of an older version
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=math.inf,  # see driver/growth.py
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": workers.cpus_each}
            | ({"GPU": gpus} if gpus else {})
            | ({"memory": memory} if memory else {}),
            accelerator_type=workers.accelerator_type,
            label_selector=workers.labels or None,
            placement_strategy=workers.placement.upper(),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # the same
            name=name,
            storage_path=folder,
            callbacks=[found.load()() for found in metadata.entry_points(group=CALLBACKS)],
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=failures.max,
                max_preemption_failures=failures.max_preemptions,
                controller_failure_limit=_STARTS,
            ),
        ),
    )


def _call_worker(arguments: dict[str, Any]) -> None:
    _fit_in_worker(**arguments)
