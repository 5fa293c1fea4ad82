"""The Ray Train trainer of a fit. It is imported once Ray has started, and by Ray Train's own processes.

Ray's TorchTrainer imports torch in the driver and in its controller before a worker starts, and each of its actors for
datasets, placement groups and preemption imports Ray Train again: together 20 s of processor time. `Trainer` leaves out
the parts that this training does not use.
"""

import os
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster.entry import Entry

_fit_in_worker = Entry("training.fit.worker:fit_in_worker")

# The start of a group of workers is tried this often, each time for this long: a new GPU node takes minutes.
_STARTS = 3
_START_TIMEOUT_S = 600
# Interval of Ray Train's health checks, which also delays the start; its default of 2 s is long for a short run.
_HEALTH_EVERY_S = 0.5
# When workers are added, training restarts from the last checkpoint, so they are added at most this often.
_GROW_EVERY_S = 600.0


def make_trainer(
    arguments: dict[str, Any], workers: Any, failures: Any, *, name: str, folder: str, embedded: bool
) -> DataParallelTrainer:
    """The trainer; its `fit` runs `fit_in_worker(**arguments)` in every worker.

    Args:
        workers: the config's `Workers`. failures: the config's `Failures`.
        name: of the Ray Train run. folder: Ray Train requires one; it is temporary.
        embedded: Ray was started on this machine for this command, so there are no preemptions.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_START_TIMEOUT_S))
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(_HEALTH_EVERY_S))
    if embedded:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    least, most = workers.range
    gpus = workers.gpus_each
    return (EmbeddedTrainer if embedded else Trainer)(
        _call_worker,
        train_loop_config=arguments,
        backend_config=SharedGpus(),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # its stub has the fields of an older version
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=_GROW_EVERY_S,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": workers.cpus_each} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            failure_config=FailureConfig(  # type: ignore[call-arg]  # likewise
                max_failures=failures.max,
                max_preemption_failures=failures.max_preemptions,
                controller_failure_limit=_STARTS,
            ),
        ),
    )


def _call_worker(arguments: dict[str, Any]) -> None:
    _fit_in_worker(**arguments)


class SharedGpus(BackendConfig):
    """Every worker sees all GPUs of the group on its machine, which NCCL needs for transfers between them.

    The workers form their process group themselves, see `process_group.ray_group`.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend that Ray Train starts with the workers."""
        return _SharedGpus


class _SharedGpus(Backend):
    share_cuda_visible_devices = True


class Trainer(DataParallelTrainer):
    """A trainer without Ray Train's actor for datasets, because workers read packed rows from the store."""

    unused: tuple[type[RayTrainCallback], ...] = (DatasetsCallback,)

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, self.unused)]


class EmbeddedTrainer(Trainer):
    """A trainer also without the actor that removes placement groups of a dead controller: an embedded Ray ends too."""

    unused = (DatasetsCallback, PlacementGroupCleanerCallback)
