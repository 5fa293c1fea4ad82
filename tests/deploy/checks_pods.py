"""Checks of pods: Pod Security "restricted" with what KubeRay injects, sizes, images, ends, devices and keys."""

import json
import re
from collections.abc import Iterator

from cluster.kuberay.profiles import CHECKPOINT_S
from tests.deploy.check import Broken, Check, Objects
from tests.deploy.manifests import Manifest, first, pod_templates, ray_clusters, ray_pods

_GPU = "nvidia.com/gpu"
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_KEY_NAME = re.compile(r"(?i)(secret|token(?!izers)|passw|credential|access_key|api_key)")
_KEY_TEXT = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|hf_[A-Za-z0-9]{30}|aws_secret_access_key")
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "m": 0.001, "": 1}


def amount(text: str) -> float:
    """The number of a quantity such as 500m or 4Gi."""
    found = re.fullmatch(r"([\d.]+)(Ki|Mi|Gi|Ti|m|)", str(text))
    assert found, text
    return float(found[1]) * _UNITS[found[2]]


def injected(owner: Manifest, spec: Manifest, group: Manifest, is_head: bool) -> Iterator[tuple[str, Manifest]]:
    """(pod, container) of what KubeRay 1.7 adds: a pod of the submitter too. Source: common/pod.go, common/job.go."""
    container = group["template"]["spec"]["containers"][0]
    if not is_head:
        yield "its pod", {"name": "wait-gcs-ready", "securityContext": container.get("securityContext")}
    if is_head and spec.get("enableInTreeAutoscaling"):
        context = spec.get("autoscalerOptions", {}).get("securityContext")
        yield "its pod", {"name": "autoscaler", "securityContext": context}
    if "historyServerOptions" in spec:
        yield "its pod", {"name": "collector"}
    if is_head and owner["kind"] == "RayJob":
        mode = owner["spec"].get("submissionMode", "K8sJobMode")
        if mode == "SidecarMode":
            yield "its pod", {"name": "ray-job-submitter"}
        if mode == "K8sJobMode" and "submitterPodTemplate" not in owner["spec"]:
            yield "a pod of its own", {"name": "ray-job-submitter"}


def restricted(objects: Objects) -> list[str]:
    found = []
    for name, template in pod_templates(objects):
        found += [f"{name}: {problem}" for problem in _restricted_pod(template["spec"])]
    for owner, spec in ray_clusters(objects):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            is_head = group is spec["headGroupSpec"]
            for where, container in injected(owner, spec, group, is_head):
                pod = group["template"]["spec"].get("securityContext", {}) if where == "its pod" else {}
                who = f"{owner['kind']} {owner['metadata']['name']}, {container['name']}, which KubeRay adds"
                found += [f"{who}: {problem}" for problem in _restricted_container(container, pod)]
    return found


def _restricted_pod(spec: Manifest) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is refused"
    for volume in spec.get("volumes", ()):
        if kinds := volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is {', '.join(kinds)}, which is refused"
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        for problem in _restricted_container(container, spec.get("securityContext", {})):
            yield f"container {container['name']}: {problem}"


def _restricted_container(container: Manifest, pod: Manifest) -> Iterator[str]:
    own = container.get("securityContext") or {}
    if own.get("privileged"):
        yield "privileged is refused"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "wanted allowPrivilegeEscalation: false"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "wanted capabilities: {drop: [ALL]}"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "wanted runAsNonRoot: true"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runAsUser 0 is refused"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "wanted seccompProfile: {type: RuntimeDefault}"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "hostPort is refused"


def read_only(objects: Objects) -> list[str]:
    found = []
    for name, template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
                found.append(f"{name}, {container['name']}: the root file system can be written")
    for name, group, template in ray_pods(objects):
        mounts = {one["mountPath"]: one["name"] for one in template["spec"]["containers"][0]["volumeMounts"]}
        spill = group["rayStartParams"].get("object-spilling-directory")
        found += [f"{name}: nothing is mounted at {path}" for path in ("/tmp", "/tmp/ray", spill) if path not in mounts]
        home = _environment(template["spec"]["containers"][0]).get("HOME", "")
        if not any(home == path or home.startswith(f"{path}/") for path in mounts):
            found.append(f"{name}: HOME {home or 'is not set and'} cannot be written")
    return found


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
        drain = int(_environment(spec["containers"][0]).get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30))
        if not grace - 5 >= drain > CHECKPOINT_S:
            found.append(
                f"{name}: grace {grace} s, drain {drain} s, checkpoint {CHECKPOINT_S} s; wanted each longer than "
                "the next"
            )
        if any("preStop" in one.get("lifecycle", {}) for one in spec["containers"]):
            found.append(f"{name}: preStop hooks hang (kuberay#2724); Ray drains on SIGTERM by itself")
        if any({"livenessProbe", "readinessProbe"} & one.keys() for one in spec["containers"]):
            found.append(f"{name}: a probe replaces the one that KubeRay adds")
    return found


def images(objects: Objects) -> list[str]:
    return [
        f"{name}, {container['name']}: image {container['image']} has no digest"
        for name, template in pod_templates(objects)
        for container in template["spec"]["containers"]
        if not re.fullmatch(r"[^@\s]+@sha256:[0-9a-f]{64}", container["image"])
    ]


def devices(objects: Objects) -> list[str]:
    found = []
    for name, template in pod_templates(objects):
        gpus = any(_GPU in one.get("resources", {}).get("limits", {}) for one in template["spec"]["containers"])
        tolerated = {one.get("key") for one in template["spec"].get("tolerations", ())}
        if gpus != (_GPU in tolerated):
            found.append(f"{name}: {'GPUs without' if gpus else 'no GPUs, but'} a toleration of {_GPU}")
        if None in tolerated:
            found.append(f"{name}: tolerates every taint")
        on_spot = tolerated - {_GPU} or "karpenter.sh/capacity-type" in json.dumps(template["spec"].get("affinity", {}))
        if on_spot and not name.endswith(", cpu"):
            found.append(f"{name}: may run on spot nodes; only CPU workers may")
        if name.endswith((", head", ", gpu")):
            kept = template["metadata"].get("annotations", {})
            if kept.get("karpenter.sh/do-not-disrupt") != "true" or (
                kept.get("cluster-autoscaler.kubernetes.io/safe-to-evict") != "false"
            ):
                found.append(f"{name}: tools that move pods may move it")
    return found


def no_keys(objects: Objects) -> list[str]:
    found = []
    for one in objects:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] == "Secret":
            found.append(f"{name}: a Secret in the repository; make it from a secret manager")
        if match := _KEY_TEXT.search(json.dumps(one)):
            found.append(f"{name}: looks like a key: {match[0][:8]}...")
        if one["kind"] == "ConfigMap":
            found += [f"{name}: {key} in a ConfigMap" for key in one.get("data", {}) if _KEY_NAME.search(key)]
    for name, template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            found += [
                f"{name}, {container['name']}: the value of {variable['name']} is readable; take it from a Secret"
                for variable in container.get("env", ())
                if "value" in variable and _KEY_NAME.search(variable["name"])
            ]
            words = " ".join((*container.get("command", ()), *container.get("args", ())))
            if re.search(r"--?\S*(token|secret|password)\S*[= ]\S", words):
                found.append(f"{name}, {container['name']}: a key among its arguments")
    return found


def _environment(container: Manifest) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container.get("env", ())}


def _group(objects, kind="RayJob", number=None):
    spec = first(objects, kind)["spec"]
    spec = spec.get("rayClusterSpec", spec)
    return spec["headGroupSpec"] if number is None else spec["workerGroupSpecs"][number]


def _head(objects):
    return _group(objects)["template"]["spec"]


def _worker(objects):
    return _group(objects, number=0)["template"]["spec"]


def _gpu(objects):
    return first(objects, "RayJob", "example-train")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"][
        "spec"
    ]


def _main(pod):
    return pod["containers"][0]


def _autoscaler(objects):
    return first(objects, "RayJob")["spec"]["rayClusterSpec"]["autoscalerOptions"]


CHECKS = (
    Check(
        'pods meet Pod Security "restricted", with the containers that KubeRay adds',
        restricted,
        (
            Broken("root", lambda o: _worker(o)["securityContext"].update(runAsUser=0), "runAsUser 0"),
            Broken("capabilities kept", lambda o: _main(_head(o))["securityContext"].update(capabilities={}), "drop"),
            Broken("no seccomp profile", lambda o: _head(o)["securityContext"].pop("seccompProfile"), "seccompProfile"),
            Broken(
                "a folder of the node",
                lambda o: _worker(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
                "hostPath, which is refused",
            ),
            Broken("the host's network", lambda o: _worker(o).update(hostNetwork=True), "hostNetwork"),
            Broken(
                "a privileged sidecar",
                lambda o: _head(o)["containers"][1].update(securityContext={"privileged": True}),
                "driver-log: privileged",
            ),
            Broken(
                "the autoscaler as KubeRay makes it",
                lambda o: _autoscaler(o).pop("securityContext"),
                "autoscaler, which KubeRay adds: wanted allowPrivilegeEscalation",
            ),
            Broken(
                "the submitter's pod of the default mode",
                lambda o: first(o, "RayJob")["spec"].pop("submissionMode"),
                "ray-job-submitter, which KubeRay adds",
            ),
            Broken(
                "the collector of the history server that KubeRay adds",
                lambda o: first(o, "RayCluster")["spec"].update(historyServerOptions={}),
                "collector, which KubeRay adds",
            ),
            Broken(
                "a CronJob without securityContext",
                lambda o: first(o, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"].pop("securityContext"),
                "CronJob raymill-nightly: .*runAsNonRoot",
            ),
        ),
    ),
    Check(
        "root file systems are read-only, and what Ray and Raymill write to is a volume",
        read_only,
        (
            Broken("a writable root", lambda o: _main(_worker(o)).update(securityContext={}), "can be written"),
            Broken(
                "no volume for scratch",
                lambda o: _main(_worker(o))["volumeMounts"].pop(0),
                "nothing is mounted at /tmp$",
            ),
            Broken(
                "no volume for spilled objects", lambda o: _main(_worker(o))["volumeMounts"].pop(2), "mounted at /spill"
            ),
            Broken("a home in the image", lambda o: _main(_head(o))["env"].pop(0), "HOME"),
        ),
    ),
    Check(
        "requests equal limits for CPU, memory and local disk, so that pods are not evicted",
        guaranteed,
        (
            Broken(
                "less requested than allowed",
                lambda o: _main(_worker(o))["resources"]["requests"].update(memory="1Gi"),
                "memory is requested as 1Gi",
            ),
            Broken(
                "no size of local disk",
                lambda o: [
                    _main(_head(o))["resources"][one].pop("ephemeral-storage") for one in ("requests", "limits")
                ],
                "ephemeral-storage is requested as None",
            ),
            Broken("the autoscaler's default sizes", lambda o: _autoscaler(o).pop("resources"), "autoscaler's sizes"),
        ),
    ),
    Check(
        "local disk has stated sizes, which volumes do not exceed together",
        local_disk,
        (
            Broken("a volume without limit", lambda o: _worker(o)["volumes"][0].update(emptyDir={}), "no sizeLimit"),
            Broken(
                "scratch larger than the disk",
                lambda o: _worker(o)["volumes"][0]["emptyDir"].update(sizeLimit="9Ti"),
                "but ephemeral-storage",
            ),
        ),
    ),
    Check(
        "the head runs no tasks; workers take their pod's CPUs; Ray's object store has a stated size",
        head_without_work,
        (
            Broken(
                "a head that runs tasks", lambda o: _group(o)["rayStartParams"].pop("num-cpus"), "no task runs beside"
            ),
            Broken(
                "CPUs stated twice",
                lambda o: _group(o, number=0)["rayStartParams"].update({"num-cpus": "8"}),
                "num-cpus",
            ),
            Broken(
                "Ray's default object store",
                lambda o: _group(o, number=0)["rayStartParams"].pop("object-store-memory"),
                "30% of the memory",
            ),
        ),
    ),
    Check(
        "a pod's grace period is longer than Ray's drain, and that longer than a checkpoint; no preStop, no own probes",
        ends,
        (
            Broken(
                "Kubernetes' default of 30 s", lambda o: _worker(o).pop("terminationGracePeriodSeconds"), "grace 30 s"
            ),
            Broken(
                "a drain as long as the grace",
                lambda o: _worker(o).update(terminationGracePeriodSeconds=100),
                "drain 100",
            ),
            Broken(
                "a drain shorter than a checkpoint", lambda o: _main(_gpu(o))["env"][2].update(value="5"), "drain 5 s"
            ),
            Broken("a preStop hook", lambda o: _main(_worker(o)).update(lifecycle={"preStop": {}}), "preStop"),
            Broken("a probe", lambda o: _main(_head(o)).update(livenessProbe={}), "probe replaces"),
        ),
    ),
    Check(
        "images are pinned by digest",
        images,
        (Broken("a tag", lambda o: _main(_worker(o)).update(image="raymill:latest"), "has no digest"),),
    ),
    Check(
        "exactly pods with GPUs tolerate GPU nodes, only CPU workers spot nodes; heads and GPU workers stay",
        devices,
        (
            Broken("GPUs without toleration", lambda o: _gpu(o).pop("tolerations"), "GPUs without a toleration"),
            Broken(
                "CPU workers on GPU nodes", lambda o: _worker(o)["tolerations"].append({"key": _GPU}), "no GPUs, but"
            ),
            Broken(
                "a pod that tolerates everything",
                lambda o: _worker(o)["tolerations"].append({"operator": "Exists"}),
                "every taint",
            ),
            Broken(
                "a head on spot nodes",
                lambda o: _head(o).update(tolerations=_worker(o)["tolerations"]),
                "only CPU workers",
            ),
            Broken(
                "a head that may be moved",
                lambda o: _group(o)["template"]["metadata"].pop("annotations"),
                "may move it",
            ),
        ),
    ),
    Check(
        "no keys: no Secret, no key in a value, an argument, a ConfigMap or the environment",
        no_keys,
        (
            Broken(
                "a Secret",
                lambda o: o.append({"kind": "Secret", "metadata": {"name": "x"}}),
                "a Secret in the repository",
            ),
            Broken(
                "a key in the environment",
                lambda o: _main(_worker(o))["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
                "is readable",
            ),
            Broken(
                "a key in a ConfigMap",
                lambda o: first(o, "ConfigMap", "raymill-env")["data"].update(HF_TOKEN="x"),
                "HF_TOKEN in a ConfigMap",
            ),
            Broken(
                "a key in a config",
                lambda o: first(o, "ConfigMap", "example-")["data"].update(x="AKIA" + "A" * 16),
                "looks like a key",
            ),
            Broken(
                "a token among arguments",
                lambda o: _main(_head(o)).update(command=["x", "--token=abc"]),
                "among its arguments",
            ),
        ),
    ),
)
