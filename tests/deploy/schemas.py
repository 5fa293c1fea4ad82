"""Strict validation of custom resources against the CRDs of their operators, as an API server does it.

Unknown fields are refused (the API server drops them with a warning, so a typo is lost silently), defaults are applied
before required fields are checked, and the CEL rules of a schema are evaluated. CRD_DIR names the folder of CRDs.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CRD_DIR = Path(os.environ.get("CRD_DIR") or Path(__file__).resolve().parents[3] / "shared" / "crds")
HOW_TO = (
    f"no CRDs at {CRD_DIR}. Get them and name the folder by CRD_DIR: the files config/crd/bases/*.yaml of "
    "github.com/ray-project/kuberay (v1.7.0, ray-operator/), kubernetes-sigs/kueue (v0.19.2), prometheus-operator "
    "(v0.93.0, example/prometheus-operator-crd/) and external-secrets (v2.9.0), in any folders below it."
)

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}

# CEL rules in Python. Rules about a change (oldSelf) hold for every new object.
_RULES: dict[str, Callable[[Any], bool]] = {
    "self in ['ray.io/kuberay-operator', 'kueue.x-k8s.io/multikueue']": lambda value: (
        value in ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
    ),
    "!((has(self.onSuccess) || has(self.onFailure)) && has(self.deletionRules))": lambda value: (
        not (("onSuccess" in value or "onFailure" in value) and "deletionRules" in value)
    ),
    "((has(self.onSuccess) && has(self.onFailure)) || has(self.deletionRules))": lambda value: (
        ("onSuccess" in value and "onFailure" in value) or "deletionRules" in value
    ),
    "!(has(self.jobStatus) && has(self.jobDeploymentStatus))": lambda value: (
        not ("jobStatus" in value and "jobDeploymentStatus" in value)
    ),
    "has(self.jobStatus) || has(self.jobDeploymentStatus)": lambda value: (
        "jobStatus" in value or "jobDeploymentStatus" in value
    ),
    "!(self.reclaimWithinCohort == 'Never' && has(self.borrowWithinCohort) && "
    " self.borrowWithinCohort.policy != 'Never')": lambda value: (
        not (
            value["reclaimWithinCohort"] == "Never"
            and value.get("borrowWithinCohort", {}).get("policy", "Never") != "Never"
        )
    ),
    "self.flavors.all(x, size(x.resources) == size(self.coveredResources))": lambda value: all(
        len(one["resources"]) == len(value["coveredResources"]) for one in value["flavors"]
    ),
    (
        "!has(self.preference) || (self.whenCanBorrow == 'TryNextFlavor' && self.whenCanPreempt == 'TryNextFlavor')"
    ): lambda value: "preference" not in value or value["whenCanBorrow"] == value["whenCanPreempt"] == "TryNextFlavor",
    "!has(self.cohortName) && has(self.resourceGroups) ? self.resourceGroups.all(rg, rg.flavors.all(f, "
    "f.resources.all(r, !has(r.borrowingLimit)))) : true": lambda value: (
        "cohortName" in value
        or not any(
            "borrowingLimit" in resource
            for group in value.get("resourceGroups", ())
            for flavor in group["flavors"]
            for resource in flavor["resources"]
        )
    ),
}


@cache
def crds() -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) -> schema, of every served version of every CRD. Empty without CRDs."""
    found = {}
    for path in sorted(CRD_DIR.rglob("*.yaml")):
        for document in yaml.load_all(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
                continue
            spec = document["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = version["schema"]["openAPIV3Schema"]
    return found


def problems_of(manifest: dict[str, Any]) -> list[str]:
    """What the API server would refuse or drop, one line each."""
    schema = crds()[manifest["apiVersion"], manifest["kind"]]
    without = {name: value for name, value in manifest.items() if name not in ("apiVersion", "kind", "metadata")}
    rest = {name: one for name, one in schema["properties"].items() if name not in ("apiVersion", "kind", "metadata")}
    return list(_validate(without, schema | {"properties": rest}, ""))


def _validate(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield f"{at}: {value!r} is no whole number or string"
        elif "pattern" in schema and not re.search(schema["pattern"], str(value)):
            yield f"{at}: {value!r} does not match {schema['pattern']}"
        return
    kind = schema.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        yield f"{at}: {value!r} is of type {type(value).__name__}; wanted {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, dict):
        value = value | {
            name: one["default"]
            for name, one in schema.get("properties", {}).items()
            if "default" in one and name not in value
        }
        yield from _members(value, schema, at)
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value)):
            yield f"{at}: {len(value)} entries"
        for number, one in enumerate(value):
            yield from _validate(one, schema.get("items", {}), f"{at}[{number}]")
    elif isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{at}: {value!r} does not match {schema['pattern']}"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{at}: {len(value)} characters"
    elif isinstance(value, int | float) and not (schema.get("minimum", value) <= value <= schema.get("maximum", value)):
        yield f"{at}: {value} is out of bounds"
    for rule in schema.get("x-kubernetes-validations", ()):
        yield from _cel(value, rule, at)


def _members(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{at}: {name} is missing"
    for name, one in value.items():
        if name in known:
            yield from _validate(one, known[name], f"{at}.{name}".lstrip("."))
        elif isinstance(more := schema.get("additionalProperties"), dict):
            yield from _validate(one, more, f"{at}.{name}".lstrip("."))
        elif not schema.get("x-kubernetes-preserve-unknown-fields") and more is not True:
            yield f"{at}: no such field: {name}"


def _cel(value: Any, rule: dict[str, Any], at: str) -> Iterator[str]:
    text = rule["rule"].strip()
    if "oldSelf" in text:
        return
    if text not in _RULES:
        yield f"{at}: the rule {text!r} has no translation in tests/deploy/schemas.py"
    elif not _RULES[text](value):
        yield f"{at}: {rule.get('message') or text}"
