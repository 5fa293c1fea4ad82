"""Checks of pods: Pod Security "restricted" with what KubeRay injects, sizes, images, ends, devices and keys."""

import json
import re
from collections.abc import Iterator

from tests.deploy.check import Broken, Check, Objects
from tests.deploy.manifests import (
    Manifest,
    autoscaler_of,
    environment,
    first,
    head_of,
    main_of,
    pod_of,
    pod_templates,
    ray_clusters,
    ray_pods,
    workers_of,
)

_GPU = "nvidia.com/gpu"
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_KEY_NAME = re.compile(r"(?i)(secret|token(?!izers)|passw|credential|access_key|api_key)")
_KEY_TEXT = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|hf_[A-Za-z0-9]{30}|aws_secret_access_key")


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
        home = environment(template["spec"]["containers"][0]).get("HOME", "")
        if not any(home == path or home.startswith(f"{path}/") for path in mounts):
            found.append(f"{name}: HOME {home or 'is not set and'} cannot be written")
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


CHECKS = (
    Check(
        'pods meet Pod Security "restricted", with the containers that KubeRay adds',
        restricted,
        (
            Broken("root", lambda o: pod_of(workers_of(o))["securityContext"].update(runAsUser=0), "runAsUser 0"),
            Broken(
                "capabilities kept", lambda o: main_of(head_of(o))["securityContext"].update(capabilities={}), "drop"
            ),
            Broken(
                "no seccomp profile",
                lambda o: pod_of(head_of(o))["securityContext"].pop("seccompProfile"),
                "seccompProfile",
            ),
            Broken(
                "a folder of the node",
                lambda o: pod_of(workers_of(o))["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
                "hostPath, which is refused",
            ),
            Broken("the host's network", lambda o: pod_of(workers_of(o)).update(hostNetwork=True), "hostNetwork"),
            Broken(
                "a privileged sidecar",
                lambda o: pod_of(head_of(o))["containers"][1].update(securityContext={"privileged": True}),
                "driver-log: privileged",
            ),
            Broken(
                "the autoscaler as KubeRay makes it",
                lambda o: autoscaler_of(o).pop("securityContext"),
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
            Broken("a writable root", lambda o: main_of(workers_of(o)).update(securityContext={}), "can be written"),
            Broken(
                "no volume for scratch",
                lambda o: main_of(workers_of(o))["volumeMounts"].pop(0),
                "nothing is mounted at /tmp$",
            ),
            Broken(
                "no volume for spilled objects",
                lambda o: main_of(workers_of(o))["volumeMounts"].pop(2),
                "mounted at /spill",
            ),
            Broken("a home in the image", lambda o: main_of(head_of(o))["env"].pop(0), "HOME"),
        ),
    ),
    Check(
        "images are pinned by digest",
        images,
        (Broken("a tag", lambda o: main_of(workers_of(o)).update(image="raymill:latest"), "has no digest"),),
    ),
    Check(
        "exactly pods with GPUs tolerate GPU nodes, only CPU workers spot nodes; heads and GPU workers stay",
        devices,
        (
            Broken(
                "GPUs without toleration",
                lambda o: pod_of(workers_of(o, "example-train")).pop("tolerations"),
                "GPUs without a toleration",
            ),
            Broken(
                "CPU workers on GPU nodes",
                lambda o: pod_of(workers_of(o))["tolerations"].append({"key": _GPU}),
                "no GPUs, but",
            ),
            Broken(
                "a pod that tolerates everything",
                lambda o: pod_of(workers_of(o))["tolerations"].append({"operator": "Exists"}),
                "every taint",
            ),
            Broken(
                "a head on spot nodes",
                lambda o: pod_of(head_of(o)).update(tolerations=pod_of(workers_of(o))["tolerations"]),
                "only CPU workers",
            ),
            Broken(
                "a head that may be moved",
                lambda o: head_of(o)["template"]["metadata"].pop("annotations"),
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
                lambda o: main_of(workers_of(o))["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
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
                lambda o: main_of(head_of(o)).update(command=["x", "--token=abc"]),
                "among its arguments",
            ),
        ),
    ),
)
