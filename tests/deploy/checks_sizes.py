"""Checks of sizes and times of pods: equal requests and limits, local disk, what the head runs, how pods end."""

import re

from raymill.cluster.kuberay.profiles import CHECKPOINT_S
from raymill.training.driver.launch import STOP_WAIT_S
from tests.deploy.check import Broken, Check, Objects
from tests.deploy.manifests import (
    autoscaler_of,
    environment,
    head_of,
    main_of,
    pod_of,
    pod_templates,
    ray_clusters,
    ray_pods,
    workers_of,
)

_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "m": 0.001, "": 1}


def amount(text: str) -> float:
    """The number of a quantity such as 500m or 4Gi."""
    found = re.fullmatch(r"([\d.]+)(Ki|Mi|Gi|Ti|m|)", str(text))
    assert found, text
    return float(found[1]) * _UNITS[found[2]]


def guaranteed(objects: Objects) -> list[str]:
    found = []
    for name, template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            sizes = container.get("resources", {})
            for kind in ("cpu", "memory", "ephemeral-storage"):
                asked, limit = sizes.get("requests", {}).get(kind), sizes.get("limits", {}).get(kind)
                if asked is None or asked != limit:
                    found.append(f"{name}, {container['name']}: {kind} is requested as {asked} and limited to {limit}")
    for owner, spec in ray_clusters(objects):
        sizes = spec.get("autoscalerOptions", {}).get("resources", {})
        if spec.get("enableInTreeAutoscaling") and (not sizes or sizes.get("requests") != sizes.get("limits")):
            found.append(f"{owner['kind']} {owner['metadata']['name']}: the autoscaler's sizes are not equal")
    return found


def local_disk(objects: Objects) -> list[str]:
    found = []
    for name, template in pod_templates(objects):
        folders = [one for one in template["spec"].get("volumes", ()) if "emptyDir" in one]
        found += [
            f"{name}: volume {one['name']} has no sizeLimit" for one in folders if not one["emptyDir"].get("sizeLimit")
        ]
        total = sum(amount(one["emptyDir"].get("sizeLimit", 0)) for one in folders)
        limit = sum(
            amount(one["resources"]["limits"].get("ephemeral-storage", 0)) for one in template["spec"]["containers"]
        )
        if total > limit:
            found.append(f"{name}: volumes of {total / 2**30:.0f} GiB, but ephemeral-storage of {limit / 2**30:.0f}")
    return found


def head_without_work(objects: Objects) -> list[str]:
    found = []
    for name, group, _ in ray_pods(objects):
        sizes = {key: group["rayStartParams"].get(key) for key in ("num-cpus", "num-gpus")}
        if name.endswith(", head") and set(sizes.values()) != {"0"}:
            found.append(f"{name}: {sizes}; with 0 no task runs beside the driver")
        if not name.endswith(", head") and sizes["num-cpus"] is not None:
            found.append(f"{name}: num-cpus is given, beside the pod's own CPUs")
        if "object-store-memory" not in group["rayStartParams"]:
            found.append(f"{name}: without object-store-memory Ray takes 30% of the memory")
    return found


def ends(objects: Objects) -> list[str]:
    found = []
    for name, _, template in ray_pods(objects):
        spec = template["spec"]
        grace = spec.get("terminationGracePeriodSeconds", 30)
        drain = int(environment(spec["containers"][0]).get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30))
        if not grace - 5 >= drain > CHECKPOINT_S:
            found.append(
                f"{name}: grace {grace} s, drain {drain} s, checkpoint {CHECKPOINT_S} s; wanted each longer than "
                "the next"
            )
        stop = int(environment(spec["containers"][0]).get("RAY_JOB_STOP_WAIT_TIME_S", 3))
        if name.endswith(", head") and not grace - 10 >= stop >= STOP_WAIT_S + 20:
            found.append(f"{name}: a cancelled driver has {stop} s to commit what is done, of {grace} s of the pod")
        if any("preStop" in one.get("lifecycle", {}) for one in spec["containers"]):
            found.append(f"{name}: preStop hooks hang (kuberay#2724); Ray drains on SIGTERM by itself")
        if any({"livenessProbe", "readinessProbe"} & one.keys() for one in spec["containers"]):
            found.append(f"{name}: a probe replaces the one that KubeRay adds")
    return found


CHECKS = (
    Check(
        "requests equal limits for CPU, memory and local disk, so that pods are not evicted",
        guaranteed,
        (
            Broken(
                "less requested than allowed",
                lambda o: main_of(workers_of(o))["resources"]["requests"].update(memory="1Gi"),
                "memory is requested as 1Gi",
            ),
            Broken(
                "no size of local disk",
                lambda o: [
                    main_of(head_of(o))["resources"][one].pop("ephemeral-storage") for one in ("requests", "limits")
                ],
                "ephemeral-storage is requested as None",
            ),
            Broken("the autoscaler's default sizes", lambda o: autoscaler_of(o).pop("resources"), "autoscaler's sizes"),
        ),
    ),
    Check(
        "local disk has stated sizes, which volumes do not exceed together",
        local_disk,
        (
            Broken(
                "a volume without limit",
                lambda o: pod_of(workers_of(o))["volumes"][0].update(emptyDir={}),
                "no sizeLimit",
            ),
            Broken(
                "scratch larger than the disk",
                lambda o: pod_of(workers_of(o))["volumes"][0]["emptyDir"].update(sizeLimit="9Ti"),
                "but ephemeral-storage",
            ),
        ),
    ),
    Check(
        "the head runs no tasks; workers take their pod's CPUs; Ray's object store has a stated size",
        head_without_work,
        (
            Broken(
                "a head that runs tasks", lambda o: head_of(o)["rayStartParams"].pop("num-cpus"), "no task runs beside"
            ),
            Broken(
                "CPUs stated twice",
                lambda o: workers_of(o)["rayStartParams"].update({"num-cpus": "8"}),
                "num-cpus",
            ),
            Broken(
                "Ray's default object store",
                lambda o: workers_of(o)["rayStartParams"].pop("object-store-memory"),
                "30% of the memory",
            ),
        ),
    ),
    Check(
        "a pod's grace period is longer than Ray's drain, and that longer than a checkpoint; no preStop, no own probes",
        ends,
        (
            Broken(
                "Kubernetes' default of 30 s",
                lambda o: pod_of(workers_of(o)).pop("terminationGracePeriodSeconds"),
                "grace 30 s",
            ),
            Broken(
                "a drain as long as the grace",
                lambda o: pod_of(workers_of(o)).update(terminationGracePeriodSeconds=100),
                "drain 100",
            ),
            Broken(
                "a drain shorter than a checkpoint",
                lambda o: main_of(workers_of(o, "example-train"))["env"][2].update(value="5"),
                "drain 5 s",
            ),
            Broken(
                "Ray's default of 3 s to stop a driver", lambda o: main_of(head_of(o))["env"].pop(), "driver has 3 s"
            ),
            Broken(
                "a head with the grace of a spot node",
                lambda o: pod_of(head_of(o)).update(terminationGracePeriodSeconds=25),
                "of 25 s of the pod",
                world="gke",
            ),
            Broken("a preStop hook", lambda o: main_of(workers_of(o)).update(lifecycle={"preStop": {}}), "preStop"),
            Broken("a probe", lambda o: main_of(head_of(o)).update(livenessProbe={}), "probe replaces"),
        ),
    ),
)
