"""The objects of each overlay, as `kubectl` would apply them: namespace, RayCluster for development, and jobs."""

import copy
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from raymill.cluster.kuberay.profiles import OVERLAYS

K8S = Path(__file__).resolve().parents[2] / "k8s"
JOBS = ("curate", "train")
# Built beside the overlays' own, so that every component is built once.
OTHERS = ("history-server", "monitoring", "rocksdb-ft", "volcano")
OTHERS = tuple(name for name in OTHERS if (K8S / "components" / name / "kustomization.yaml").exists())

Manifest = dict[str, Any]


class NoKubectl(Exception):
    """There is no kubectl."""


def parsed(text: str) -> Iterator[Manifest]:
    """The objects of a YAML file, by the parser in C where there is one: it takes a tenth of the time."""
    return yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def kustomize(folder: Path) -> list[Manifest]:
    """The objects of a kustomization.

    Raises:
        NoKubectl: with what to do.
        AssertionError: kustomize refuses it.
    """
    if shutil.which("kubectl") is None:
        raise NoKubectl(
            "kubectl is not installed; the tests of k8s/ need it (1.30 or later): install it from dl.k8s.io"
        )
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return list(parsed(done.stdout))


def job_file(overlay: str, kind: str) -> Path:
    return K8S / "overlays" / overlay / "jobs" / f"{kind}.yaml"


@cache
def _built() -> dict[str, list[Manifest]]:
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(4) as pool:
        shutil.copytree(K8S, Path(temporary, "k8s"))
        folders = {}
        for name in OVERLAYS:
            folders[name] = [K8S / "overlays" / name, K8S / "overlays" / name / "development"]
        folders["eks"].append(K8S / "nightly")
        for name in OTHERS:
            (folder := Path(temporary, "k8s", "overlays", f"with-{name}")).mkdir()
            (folder / "kustomization.yaml").write_text(
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: raymill\n"
                f"resources: [../../base, ../../development]\ncomponents: [../../components/{name}]\n"
            )
            folders[f"with {name}"] = [folder]
        built = {name: [pool.submit(kustomize, one) for one in listed] for name, listed in folders.items()}
        found = {name: [one for future in futures for one in future.result()] for name, futures in built.items()}
    for name in OVERLAYS:
        for kind in JOBS:
            found[name] += parsed(job_file(name, kind).read_text())
    return {name: _each_once(objects) for name, objects in found.items()}


def _each_once(objects: list[Manifest]) -> list[Manifest]:
    """Objects of a component that stands in two kustomizations are the same ones."""
    by_name = {(one["apiVersion"], one["kind"], one["metadata"]["name"]): one for one in objects}
    return list(by_name.values())


def worlds() -> dict[str, list[Manifest]]:
    """Overlay, or `with COMPONENT` -> its objects. The caller may change them."""
    return copy.deepcopy(_built())


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in objects if one["kind"] in kinds]


def ray_clusters(objects: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """(object, RayCluster spec) of every RayCluster and RayJob."""
    for one in of_kind(objects, "RayCluster", "RayJob"):
        yield one, one["spec"]["rayClusterSpec"] if one["kind"] == "RayJob" else one["spec"]


def ray_pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """(name, group, pod template) of the head and of each group of every Ray cluster."""
    for owner, spec in ray_clusters(objects):
        head = spec["headGroupSpec"]
        yield f"{owner['kind']} {owner['metadata']['name']}, head", head, head["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"{owner['kind']} {owner['metadata']['name']}, {group['groupName']}", group, group["template"]


def pod_templates(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """(name, pod template) of everything that makes pods."""
    for name, _, template in ray_pods(objects):
        yield name, template
    for one in of_kind(objects, "Deployment"):
        yield f"Deployment {one['metadata']['name']}", one["spec"]["template"]
    for one in of_kind(objects, "CronJob"):
        yield f"CronJob {one['metadata']['name']}", one["spec"]["jobTemplate"]["spec"]["template"]


def first(objects: list[Manifest], kind: str, prefix: str = "") -> Manifest:
    """The first object of a kind whose name begins so: for broken manifests."""
    return next(one for one in of_kind(objects, kind) if one["metadata"]["name"].startswith(prefix))


def head_of(objects: list[Manifest]) -> Manifest:
    """The head group of the first job."""
    return first(objects, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]


def workers_of(objects: list[Manifest], job: str = "example-curate") -> Manifest:
    """The first group of workers of a job."""
    return first(objects, "RayJob", job)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


def autoscaler_of(objects: list[Manifest]) -> Manifest:
    """The autoscaler's options of the job."""
    return first(objects, "RayJob")["spec"]["rayClusterSpec"]["autoscalerOptions"]


def pod_of(group: Manifest) -> Manifest:
    """The pod's spec of a group."""
    return group["template"]["spec"]


def main_of(group: Manifest) -> Manifest:
    """The container that Ray runs in."""
    return group["template"]["spec"]["containers"][0]


def environment(container: Manifest) -> dict[str, str]:
    """Variables with their values; without those that come from elsewhere."""
    return {one["name"]: one.get("value", "") for one in container.get("env", ())}
