"""What would make training fail after minutes of waiting, found before it begins. Pure but for `check_cluster`."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from cluster.errors import ConfigError
from cluster.session import Session
from training.config import TrainConfig
from training.config_parts import Track, Workers

_TOLERANCE = 1e-6  # Ray counts in ten-thousandths of a CPU


def check_trackers(track: Track) -> None:
    """
    Raises:
        ConfigError: a tracker is asked for that is not installed here.
    """
    wanted = {"mlflow": track.mlflow, "wandb": track.wandb}
    missing = [name for name, setting in wanted.items() if setting and find_spec(name) is None]
    if track.tensorboard and find_spec("tensorboard") is None:
        missing.append("tensorboard")
    if missing:
        raise ConfigError(
            f"track: {', '.join(missing)} not installed. "
            f"Use pip install 'raymill[train,track]', or leave {' and '.join(f'track.{name}' for name in missing)} out."
        )


def fitting(workers: Workers, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers these nodes hold at once; a worker stays on one node."""
    wanted = {"CPU": workers.cpus_each, "GPU": float(workers.gpus_each)}
    return sum(
        min(math.floor(node.get(kind, 0) / amount + _TOLERANCE) for kind, amount in wanted.items() if amount)
        for node in nodes
    )


def check_fits(workers: Workers, nodes: Sequence[Mapping[str, float]], machine: str) -> None:
    """
    Args:
        nodes: resources by name of each living node. machine: what they are called in the message.

    Raises:
        ConfigError: fewer than the least number of workers fit, with what was asked, what is there, and what would fit.
    """
    most = fitting(workers, nodes)
    least = workers.range[0]
    if most >= least:
        return
    gpus = f" and {workers.gpus_each} GPU" if workers.gpus_each else ""
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    has = f"{total['CPU']:g} CPUs" + (f" and {total['GPU']:g} GPUs" if workers.gpus_each else "")
    on = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    mend = f"Set workers.count to {most} or fewer" if most else "No worker fits: ask less of each"
    lower = "workers.gpus_each: 0" if workers.gpus_each and not total["GPU"] else "workers.cpus_each lower"
    raise ConfigError(
        f"workers: {least} of {workers.cpus_each:g} CPUs{gpus} each are asked for; {machine} has {has}{on}, "
        f"enough for {most}. {mend}, set {lower}, or use a larger cluster (--address)."
    )


def check_machine(config: TrainConfig, session: Session) -> None:
    """Compare what is asked with what this machine has, before an embedded Ray is started.

    Raises:
        ConfigError: see `check_fits`.
    """
    if session.embedded and not session.started:
        machine = session.own_resources(gpus=config.workers.gpus_each > 0)
        check_fits(config.workers, [machine], "this machine")


def check_cluster(config: TrainConfig, session: Session) -> None:
    """Compare what is asked with what the session's Ray has. A cluster that grows by itself is not held to its size.

    Ray Train would ask for ever for what can never be had.

    Raises:
        ConfigError: see `check_fits`.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if session.embedded:
        check_fits(config.workers, nodes, "this machine's Ray")
    elif not _grows():
        check_fits(config.workers, nodes, "the cluster")


def _grows() -> bool:
    """Whether an autoscaler has ever reported to this cluster."""
    from ray._private import ray_constants
    from ray.experimental.internal_kv import _internal_kv_get

    return bool(_internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS))
