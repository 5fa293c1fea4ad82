"""The fields of Kubernetes objects that are read, with their types.

An API server, and whoever may write objects in the namespace, can answer with anything. So each object is compared with
these types when it is received, and what has them is used as plain JSON. Fields that are not named here are not read.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

_Count = Annotated[int, Field(ge=0, le=1 << 31)] | None
# A value of a label, which requests have in a selector: one of another form is an error of every such request.
_LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")] | None


class _Fields(BaseModel, strict=True):
    pass


class Metadata(_Fields):
    """Metadata of an object."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]*$", max_length=253)]
    uid: str
    creationTimestamp: str
    resourceVersion: str | None = None
    deletionTimestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class ConfigMap(_Fields):
    """A ConfigMap; its data are parsed where they are used."""

    metadata: Metadata


class _PodSpec(_Fields):
    terminationGracePeriodSeconds: _Count = None


class _PodTemplate(_Fields):
    spec: _PodSpec | None = None


class _HeadGroup(_Fields):
    template: _PodTemplate | None = None


class _ClusterSpec(_Fields):
    headGroupSpec: _HeadGroup | None = None


class _RayJobSpec(_Fields):
    suspend: bool | None = None
    backoffLimit: _Count = None
    rayClusterSpec: _ClusterSpec | None = None


class _RayJobStatus(_Fields):
    """The times of it are parsed, and a wrong one is named, where they are used."""

    jobDeploymentStatus: str | None = None
    jobStatus: str | None = None
    rayClusterName: _LabelValue = None
    message: str | None = None
    reason: str | None = None
    failed: _Count = None
    rayJobInfo: dict[str, Any] | None = None


class RayJob(_Fields):
    """A RayJob of KubeRay."""

    metadata: Metadata
    spec: _RayJobSpec
    status: _RayJobStatus | None = None


class _Reason(_Fields):
    reason: str | None = None
    message: str | None = None
    exitCode: int | None = None


class _ContainerState(_Fields):
    waiting: _Reason | None = None
    terminated: _Reason | None = None


class _Container(_Fields):
    name: str
    state: _ContainerState | None = None


class _Condition(_Fields):
    type: str
    status: str
    message: str | None = None


class _PodStatus(_Fields):
    phase: str | None = None
    initContainerStatuses: list[_Container] | None = None
    containerStatuses: list[_Container] | None = None
    conditions: list[_Condition] | None = None


class Pod(_Fields):
    """A pod."""

    metadata: Metadata
    status: _PodStatus | None = None


class _InvolvedObject(_Fields):
    name: str | None = None


class Event(_Fields):
    """An event; the times are compared as text."""

    type: str | None = None
    reason: str | None = None
    message: str | None = None
    involvedObject: _InvolvedObject | None = None


class ServerVersion(_Fields):
    """The version of an API server."""

    gitVersion: Annotated[str, Field(max_length=100)]


class _ReviewStatus(_Fields):
    allowed: bool


class Review(_Fields):
    """The answer to a review of access."""

    status: _ReviewStatus


def problem_of(kind: type[BaseModel], found: Any) -> str | None:
    """The first field that is missing or of another type, with what is wrong; None if there is none."""
    try:
        kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
    return None


def name_of(found: Any) -> str:
    """The name of an object for messages, whatever the object is."""
    metadata = found.get("metadata") if isinstance(found, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name[:100] if isinstance(name, str) else "one without a name"
