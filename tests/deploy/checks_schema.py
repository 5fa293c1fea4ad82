"""Checks of manifests against schemas: of custom resources by their CRDs, of Kubernetes' own kinds."""

import json
from functools import cache

import kubernetes_validate

from tests.deploy.check import Broken, Check, Objects
from tests.deploy.manifests import first, of_kind
from tests.deploy.schemas import crds, problems_of

KUBERNETES = "1.33"
# Kinds of operators whose CRDs are not among CRD_DIR's.
WITHOUT_SCHEMA = {("scheduling.volcano.sh/v1beta1", "Queue")}


def _key(one):
    return one["apiVersion"], one["kind"]


def custom_resources(objects: Objects) -> list[str]:
    found = []
    for one in objects:
        if _key(one) in crds():
            found += [f"{one['kind']} {one['metadata']['name']}: {problem}" for problem in problems_of(one)]
    return found


def core_objects(objects: Objects) -> list[str]:
    found = []
    for one in objects:
        if _key(one) in crds() or _key(one) in WITHOUT_SCHEMA:
            continue
        if _is_custom(one["apiVersion"]):
            if crds():
                found.append(f"{one['kind']} of {one['apiVersion']}: no schema for it")
            continue
        if problem := _core_problem(json.dumps(one)):
            found.append(problem)
    return found


@cache
def _core_problem(text: str) -> str | None:
    """What is wrong with an object. Most stand in every overlay, and each validation parses all schemas again."""
    one = json.loads(text)
    try:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{one['kind']} {one['metadata']['name']}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"{one['kind']} of {one['apiVersion']}: Kubernetes {KUBERNETES} has no such kind"
    return None


def _is_custom(version: str) -> bool:
    group = version.partition("/")[0]
    return "." in group and group not in (
        "networking.k8s.io",
        "rbac.authorization.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
    )


def names_are_unique(objects: Objects) -> list[str]:
    seen = [(*_key(one), one["metadata"]["name"]) for one in objects]
    return [f"{' '.join(one)}: there are several" for one in {one for one in seen if seen.count(one) > 1}]


def in_namespace(objects: Objects) -> list[str]:
    cluster_wide = {"Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor", "Queue"}
    (name,) = [one["metadata"]["name"] for one in of_kind(objects, "Namespace")]
    return [
        f"{one['kind']} {one['metadata']['name']}: namespace {one['metadata'].get('namespace')}, wanted {name}"
        for one in objects
        if one["kind"] not in cluster_wide and one["metadata"].get("namespace") != name
    ]


def _head(objects: Objects):
    return first(objects, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]


def _cluster(objects: Objects):
    return first(objects, "RayJob")["spec"]["rayClusterSpec"]


CHECKS = (
    Check(
        "custom resources have no unknown field, no wrong type, and meet the rules of their CRDs",
        custom_resources,
        (
            Broken(
                "rayStartParams misspelt", lambda o: _head(o).update(rayStartParam={}), "no such field: rayStartParam"
            ),
            Broken(
                "rayVersion: 2.60, which YAML reads as a number",
                lambda o: _cluster(o).update(rayVersion=2.60),
                r"rayVersion: 2\.6 is of type float; wanted string",
            ),
            Broken(
                "a number in rayStartParams",
                lambda o: _head(o)["rayStartParams"].update({"num-cpus": 0}),
                "num-cpus: 0 is of type int; wanted string",
            ),
            Broken(
                "an unknown field deep in a pod",
                lambda o: _head(o)["template"]["spec"]["containers"][0].update(imagePullpolicy="Always"),
                "no such field: imagePullpolicy",
            ),
            Broken(
                "a group without template",
                lambda o: _cluster(o)["workerGroupSpecs"][0].pop("template"),
                "template is missing",
            ),
            Broken(
                "deletion rules and the old policies together",
                lambda o: first(o, "RayJob")["spec"]["deletionStrategy"].update(onSuccess={"policy": "DeleteNone"}),
                "cannot be used together",
            ),
            Broken(
                "a quota of a ClusterQueue for fewer resources than it covers",
                lambda o: first(o, "ClusterQueue")["spec"]["resourceGroups"][0]["coveredResources"].pop(),
                "flavors must have the same number|size",
                world="onprem-kueue",
            ),
        ),
        needs_crds=True,
    ),
    Check(
        f"Kubernetes' own kinds have no unknown field and no wrong type (schemas of {KUBERNETES})",
        core_objects,
        (
            Broken(
                "maxUnavailable misspelt",
                lambda o: first(o, "PodDisruptionBudget")["spec"].update(maxUnavailible=0),
                "maxUnavailible",
            ),
            Broken(
                "a port of a policy as text with a unit",
                lambda o: first(o, "NetworkPolicy", "operator")["spec"]["ingress"][0].update(ports="8265"),
                "8265",
            ),
            Broken(
                "an apiVersion that is gone",
                lambda o: first(o, "PodDisruptionBudget").update(apiVersion="policy/v1beta1"),
                "no such kind",
            ),
        ),
    ),
    Check(
        "every object exists once",
        names_are_unique,
        (Broken("the same account twice", lambda o: o.append(first(o, "ServiceAccount")), "there are several"),),
    ),
    Check(
        "every object is in the namespace",
        in_namespace,
        (
            Broken(
                "a budget without namespace",
                lambda o: first(o, "PodDisruptionBudget")["metadata"].pop("namespace"),
                "namespace None, wanted raymill",
            ),
        ),
    ),
)
