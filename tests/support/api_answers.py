"""Requests whose answers a real Kubernetes API server and the one in this process have in common.

`tests/golden/kubernetes_answers.json` has the answers of a real one (1.20.2).
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import K8S
from tests.support.kubernetes_server import Object, Status

_JOBS, _MAPS, _PODS = (
    "/apis/ray.io/v1/namespaces/raymill/rayjobs",
    "/api/v1/namespaces/raymill/configmaps",
    "/api/v1/namespaces/raymill/pods",
)
_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1"}, "immutable": True}
RECORDED = Path(__file__).resolve().parents[1] / "golden" / "kubernetes_answers.json"

# As in the two servers' `request`: (method, path, body) -> the JSON of the answer. Raises Status.
Request = Callable[..., Object]


def answers(request: Request, job: Object) -> dict[str, Any]:
    """What was asked -> the error's code, reason and message, or what of the object counts. job: a RayJob."""
    request("POST", _MAPS, _MAP)
    request("POST", _JOBS, job)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": {"containers": [
        {"name": "main", "image": "x"}]}}  # fmt: skip
    request("POST", _PODS, pod)
    try:
        return {what: _told(request, *asked) for what, *asked in _asked(job)}
    finally:
        for path in (f"{_MAPS}/one", f"{_JOBS}/{job['metadata']['name']}", f"{_PODS}/pod"):
            request("DELETE", path)


def example_job() -> Object:
    """A RayJob with a name that does not change with the settings of its config."""
    documents = yaml.safe_load_all((K8S / "overlays" / "kind" / "jobs" / "curate.yaml").read_text())
    job = next(one for one in documents if one["kind"] == "RayJob")
    return job | {"metadata": job["metadata"] | {"name": "example"}}


def _asked(job: Object) -> Iterator[tuple[Any, ...]]:
    name = job["metadata"]["name"]
    yield "a RayJob that is not there", "GET", f"{_JOBS}/none"
    yield "a ConfigMap that is not there", "GET", f"{_MAPS}/none"
    yield "a pod that is not there", "GET", f"{_PODS}/none"
    yield "a RayJob of a name that is taken", "POST", _JOBS, job
    yield "a ConfigMap of a name that is taken", "POST", _MAPS, _MAP
    yield "a namespace that is not there", "POST", _MAPS.replace("raymill", "nowhere"), _MAP
    yield "a ConfigMap that cannot be changed", "PATCH", f"{_MAPS}/one", {"data": {"a": "2"}}
    yield "annotations of the same", "PATCH", f"{_MAPS}/one", {"metadata": {"annotations": {"x": "y"}}}
    yield "no deletion of another ConfigMap", "DELETE", f"{_MAPS}/one", {"preconditions": {"uid": "0"}}
    yield "the log of no container", "GET", f"{_PODS}/pod/log?container=none"
    yield "a RayJob", "GET", f"{_JOBS}/{name}"


def _told(request: Request, *asked: Any) -> Any:
    try:
        found = request(*asked)
    except Status as error:
        message = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UID", str(error))
        return {"code": error.code, "reason": error.body["reason"], "message": message}
    return {"kind": found["kind"], "metadata": sorted(set(found["metadata"]) - {"managedFields", "generation"})}
