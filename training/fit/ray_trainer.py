"""Ray Train with as few processes and imports as a group of torch workers needs; imported where Ray is in use.

TorchTrainer imports torch in the driver and in its controller, one after the other before a worker starts, and its
actors for datasets, placement groups and preemption import Ray Train once more each: 20 s of processor time in all.
"""

from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class SharedGpus(BackendConfig):
    """Every worker sees all GPUs of its machine that belong to the group, as NCCL wants it between them.

    The workers form their process group themselves, see `place.ray_group`.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        return _SharedGpus


class _SharedGpus(Backend):
    share_cuda_visible_devices = True


class Trainer(DataParallelTrainer):
    """Without Ray Train's actor for datasets, since workers read packed rows from the store."""

    unused: tuple[type[RayTrainCallback], ...] = (DatasetsCallback,)

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, self.unused)]


class EmbeddedTrainer(Trainer):
    """Without the remover of placement groups of dead controllers too: an embedded Ray ends with its driver."""

    unused = (DatasetsCallback, PlacementGroupCleanerCallback)
