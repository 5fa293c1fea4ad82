"""Every name of Ray that Ray does not publish and Raymill uses, each with what it is for.

A release of Ray may change them without notice, so this is where to look when Ray is updated: `make versions` tries the
next one. tests/cluster/test_ray_private.py checks that the installed Ray has all of them, and that no other file of the
product names one.
"""

import importlib
from importlib.metadata import version
from typing import Any

from raymill.cluster.errors import ClusterError

# Name -> (module that has it, what it is for).
NAMES = {
    "get_accelerator_manager_for_resource": (
        "ray._private.accelerators",
        "counts the GPUs of this machine as Ray does, before Ray is started: `ray.cluster_resources` is for afterwards",
    ),
    "available_resources_per_node": (
        "ray._private.state",
        "finds whether a node has room for a unit: `ray.available_resources` gives the sum over all nodes",
    ),
    "_global_node": (
        "ray._private.worker",
        "finds whether a process of the embedded Ray has died, a minute before Ray ends this one without an error",
    ),
    "print_to_stdstream": (
        "ray._private.worker",
        "is replaced: errors of the raylet go to standard output even with `log_to_driver=False`",
    ),
    "ENABLE_RAY_CLUSTER": (
        "ray._private.ray_constants",
        "has the embedded Ray listen on 127.0.0.1 alone, also if Ray was imported before the session set the variable",
    ),
    "AuthenticationTokenLoader": (
        "ray._raylet",
        "makes Ray read its token again: otherwise it keeps the first one for every Ray of this process",
    ),
    "enable_auto_connect": (
        "ray._private.auto_init_hook",
        "is switched off for a session: a thread that still waits for its Ray would start another one",
    ),
    "DEBUG_AUTOSCALING_STATUS": ("ray._private.ray_constants", "key of the report of version 1 of the autoscaler"),
    "_internal_kv_get": ("ray.experimental.internal_kv", "reads that report"),
    "format_readonly_node_type": (
        "ray.autoscaler._private.util",
        "tells nodes that the autoscaler only watches from those that it can add",
    ),
    "is_autoscaler_v2": ("ray.autoscaler.v2.utils", "finds which version of the autoscaler a cluster has"),
    "internal_kv_get_gcs_client": (
        "ray.experimental.internal_kv",
        "reads what the autoscaler can add: its published limits are empty outside of Anyscale",
    ),
    "autoscaler_pb2": ("ray.core.generated", "is the form of that answer"),
    "create_package": (
        "ray._private.runtime_env.packaging",
        "packs the checkout for `submit --ship-code`, by .gitignore and .rayignore, as Ray packs a working_dir",
    ),
    "get_uri_for_directory": ("ray._private.runtime_env.packaging", "names that package by its content"),
}

# The class that an application of Ray Serve LLM names to copy a folder to its node, as Ray's documentation writes it.
# Without vLLM it cannot be imported.
CLOUD_DOWNLOADER = "ray.llm._internal.common.callbacks.cloud_downloader.CloudDownloader"

# Variables of the environment, and an argument of `ray.init`, of which the same holds.
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "is ENABLE_RAY_CLUSTER for the processes that Ray starts",
    "RAY_task_oom_retries": "bounds how often a task is started again after its worker was killed for memory",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "gives a new GPU node the minutes that it takes to start",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "shortens the wait for the start and the end of the workers",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "bounds the wait of a report for the other workers",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "spares an embedded Ray, which has no preemptions, the process for them",
    "_temp_dir": "puts the files of the embedded Ray into a folder that other users cannot write to",
}


def private(name: str) -> Any:
    """What Ray has by a name of NAMES at this moment.

    Raises:
        ClusterError: the installed Ray does not have it.
    """
    module, purpose = NAMES[name]
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        raise ClusterError(
            f"Ray {version('ray')} has no {module}.{name}. Raymill needs it: it {purpose}. Install the Ray that "
            "pyproject.toml names, or find the new way and change cluster/ray_private.py."
        ) from error


def replace_private(name: str, value: Any) -> None:
    """Give a name of NAMES another value.

    Raises:
        ClusterError: as `private`.
    """
    private(name)
    setattr(importlib.import_module(NAMES[name][0]), name, value)
