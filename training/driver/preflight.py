"""Checks before training starts: trackers are installed, and the machine or cluster has room for the workers."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from cluster.entry import Entry
from cluster.errors import ConfigError
from cluster.formats import plural
from cluster.session import Session
from training.config_parts import Track, Workers

# Loaded once Ray has started.
can_add = Entry("cluster.autoscaler:can_add")

_TOLERANCE = 1e-6  # Ray counts ten-thousandths of a CPU


def check_trackers(track: Track) -> None:
    """Verify that the configured trackers are installed.

    Raises:
        ConfigError: one is not.
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
    """Number of workers for which these nodes have room. A worker is on one node."""
    wanted = {"CPU": workers.cpus_each, "GPU": float(workers.gpus_each)}
    return sum(
        min(math.floor(node.get(kind, 0) / amount + _TOLERANCE) for kind, amount in wanted.items() if amount)
        for node in nodes
    )


def check_fits(workers: Workers, nodes: Sequence[Mapping[str, float]], machine: str) -> None:
    """Verify that these nodes have room for the minimum of workers.

    Args:
        nodes: resources of each node, by Ray's name. machine: name of the nodes in the message.

    Raises:
        ConfigError: they have not; the message has both numbers and a setting that fits.
    """
    most = fitting(workers, nodes)
    least = workers.range[0]
    if most >= least:
        return
    cpus = f"{workers.cpus_each:g} {'CPU' if workers.cpus_each == 1 else 'CPUs'}"
    gpus = f" and {workers.gpus_each} GPU" if workers.gpus_each else ""
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    has = f"{total['CPU']:g} CPUs" + (f" and {total['GPU']:g} GPUs" if workers.gpus_each else "")
    on = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    mend = f"Set workers.count to {most} or fewer" if most else "No worker fits: give each fewer resources"
    lower = "workers.gpus_each: 0" if workers.gpus_each and not total["GPU"] else "workers.cpus_each lower"
    raise ConfigError(
        f"workers: {plural(least, 'worker')} with {cpus}{gpus} each {'was' if least == 1 else 'were'} requested; "
        f"{machine} has {has}{on}, enough for {most}. {mend}, set {lower}, or use a larger cluster (--address)."
    )


def check_machine(workers: Workers, session: Session) -> None:
    """Compare the workers with this machine's resources, before an embedded Ray is started.

    Raises:
        ConfigError: see `check_fits`.
    """
    if session.embedded and not session.started:
        machine = session.own_resources(gpus=workers.gpus_each > 0)
        check_fits(workers, [machine], "this machine")


def check_cluster(workers: Workers, session: Session) -> None:
    """Compare the workers with the resources of the session's Ray, which is started, and of nodes that its autoscaler
    can add.

    Without this check Ray Train would wait half an hour for workers that cannot be placed.

    Raises:
        ConfigError: see `check_fits`.
    """
    import ray  # reads the environment that the session sets when it starts

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if session.embedded:
        check_fits(workers, nodes, "this machine's Ray")
        return
    least = workers.range[0]
    wanted = {"CPU": workers.cpus_each, "GPU": float(workers.gpus_each)}
    worker = {kind: amount for kind, amount in wanted.items() if amount}
    if fitting(workers, nodes) < least and can_add([worker] * least) is False:
        check_fits(workers, nodes, "the cluster")
