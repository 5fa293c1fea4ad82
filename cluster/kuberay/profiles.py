"""The settings of a Kubernetes cluster that a RayJob depends on: `raymill render --overlay NAME|FILE`.

Every folder in k8s/overlays has a profile of the same name here. A file changes some of its fields:

    extends: eks
    train_image: 123456789012.dkr.ecr.eu-central-1.amazonaws.com/raymill-train@sha256:...
    gpus: 8
    gpu_nodes: {node.kubernetes.io/instance-type: p5.48xlarge}
"""

import dataclasses
import difflib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from raymill.cluster.config_text import format_of, parse
from raymill.cluster.errors import ConfigError
from raymill.cluster.secret_values import take_out
from raymill.cluster.store.store import Store

# Where pods have volumes of their own: scratch, Ray's logs, spilled objects, the config.
POD_FOLDERS = ("/tmp", "/tmp/ray", "/spill", "/etc/raymill")
# Folders of the image: a volume there would hide the programs.
_IMAGE_FOLDERS = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/raymill", "/proc", "/sbin", "/sys", "/usr")
# `claim-NAME` is the name of a volume, which has at most 63 characters.
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9]{0,55}[a-z0-9])?")
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LARGEST = (1 << 31) - 1  # whole numbers of Kubernetes
_Count = Annotated[int, Field(ge=1, le=_LARGEST)]
_Factor = Annotated[float, Field(ge=0.1, le=100)]

# Seconds within which a training ends its step and saves a checkpoint. curate saves nothing: its units are small.
CHECKPOINT_S = 10


@dataclass(frozen=True)
class Profile:
    """A Kubernetes cluster, as far as a RayJob depends on it. Lists of a file are tuples here."""

    name: Annotated[str, Field(description="Name of the overlay that the profile belongs to")]
    namespace: Annotated[str, Field(description="Kubernetes namespace of jobs")] = "raymill"
    image: Annotated[
        str,
        Field(
            description="Container image of curate and prepare jobs, REPOSITORY@sha256:DIGEST; empty: `--image` "
            "is required"
        ),
    ] = ""
    train_image: Annotated[
        str, Field(description="Container image of train jobs, REPOSITORY@sha256:DIGEST; empty: `--image` is required")
    ] = ""
    tags: Annotated[bool, Field(description="Whether images may be named by a tag, without a digest")] = False
    cpus: Annotated[
        _Count | None,
        Field(description="Maximum number of CPUs of a worker machine; null: as many as the config's work has"),
    ] = None
    gpus: Annotated[
        _Count | None,
        Field(description="Maximum number of GPUs of a worker machine; null: as many as the config's work has"),
    ] = None
    machines: Annotated[
        _Count | None,
        Field(
            description="Maximum number of worker machines of a curate or prepare job; null: as many as the "
            "config's work has"
        ),
    ] = None
    memory_factor: Annotated[
        _Factor, Field(description="Multiple of the memory that the config's work needs, for worker machines")
    ] = 1.0
    disk_factor: Annotated[
        _Factor, Field(description="Multiple of the disk space that the config's work needs, for worker machines")
    ] = 1.0
    head_cpus: Annotated[
        _Count | None, Field(description="Number of CPUs of the Ray head; null: as the config's work has it")
    ] = None
    head_memory_gib: Annotated[
        _Count | None, Field(description="Memory of the Ray head in GiB; null: as the config's work has it")
    ] = None
    head_nodes: Annotated[
        Mapping[str, str], Field(description="Labels of the nodes for the Ray head (nodeSelector)")
    ] = field(default_factory=dict)
    cpu_nodes: Annotated[
        Mapping[str, str], Field(description="Labels of the nodes for workers without GPUs (nodeSelector)")
    ] = field(default_factory=dict)
    gpu_nodes: Annotated[
        Mapping[str, str], Field(description="Labels of the nodes for workers with GPUs (nodeSelector)")
    ] = field(default_factory=dict)
    spot: Annotated[
        bool, Field(description="Whether workers without GPUs prefer spot nodes, by `spot_labels` and `spot_taints`")
    ] = False
    spot_labels: Annotated[Mapping[str, str], Field(description="Labels of spot nodes, of which a node has one")] = (
        field(default_factory=dict)
    )
    spot_taints: Annotated[Mapping[str, str], Field(description="Taints of spot nodes, which workers tolerate")] = (
        field(default_factory=dict)
    )
    grace_s: Annotated[
        int,
        Field(
            description="Seconds that a pod has to end, at most the notice of a spot node; Ray drains a node for "
            "10 s less"
        ),
    ] = 120
    autoscale: Annotated[
        bool,
        Field(description="Whether Ray's autoscaler changes the number of worker pods; false: all are started at once"),
    ] = True
    queue: Annotated[
        str | None, Field(description="Name of the LocalQueue of Kueue that admits jobs; null: no Kueue")
    ] = None
    scheduler: Annotated[
        Literal["volcano"] | None,
        Field(
            description="Scheduler that starts all pods of a job together (gang scheduling); null: the cluster's own"
        ),
    ] = None
    clean_up: Annotated[
        Literal["rules", "shutdown"],
        Field(
            description="Removal of a finished job's cluster: deletion rules of KubeRay (rules), or shutdown, "
            "which Kueue needs"
        ),
    ] = "rules"
    secret: Annotated[
        str | None,
        Field(
            description="Name of the Secret whose keys are environment variables of all pods, for stores without "
            "roles; null: none"
        ),
    ] = None
    claims: Annotated[
        Mapping[str, str], Field(description="PersistentVolumeClaims that all pods have, as {FOLDER: CLAIM}")
    ] = field(default_factory=dict)
    deadline_s: Annotated[
        int, Field(ge=1, le=_LARGEST, description="Maximum number of seconds of one attempt of a job")
    ] = 7 * 24 * 3600
    retries: Annotated[
        int,
        Field(ge=0, le=1000, description="Maximum number of attempts of a job after the first, each on a new cluster"),
    ] = 3

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigError(
                f"overlay {self.name}: {self.namespace!r} is not the name of a namespace; wanted lower-case letters, "
                "digits and hyphens, at most 63, as `kubectl get namespaces` prints it."
            )
        if self.queue and (self.autoscale or self.clean_up != "shutdown"):
            raise ConfigError(
                f"overlay {self.name}: queue {self.queue} needs autoscale: false (Kueue admits a job as a whole) and "
                "clean_up: shutdown (Kueue suspends jobs, which KubeRay allows with that alone). Set both."
            )
        if self.scheduler and self.autoscale:
            raise ConfigError(
                f"overlay {self.name}: scheduler {self.scheduler} starts all pods of a job together, so it needs "
                "autoscale: false."
            )
        if self.drain_s <= CHECKPOINT_S:
            raise ConfigError(
                f"overlay {self.name}: grace_s {self.grace_s} leaves Ray {self.drain_s} s to drain a node, and a "
                f"training takes up to {CHECKPOINT_S} s to save a checkpoint. Use {CHECKPOINT_S + 11} or more."
            )
        self._check_claims()

    def _check_claims(self) -> None:
        """
        Raises:
            ConfigError: pods cannot have a claim at its folder, or a claim's name is impossible.
        """
        for folder, claim in self.claims.items():
            where = f"overlay {self.name}, claims, {folder}"
            path = folder.rstrip("/")
            if not path.startswith("/") or posixpath.normpath(folder) != path:
                raise ConfigError(
                    f"{where}: not a folder that a volume can have; wanted an absolute path below /, without `.` and "
                    "`..`, such as /data."
                )
            if path in POD_FOLDERS or any(path == one or path.startswith(f"{one}/") for one in _IMAGE_FOLDERS):
                raise ConfigError(f"{where}: pods have other files there. Choose another folder, such as /data.")
            if not _CLAIM.fullmatch(claim):
                raise ConfigError(
                    f"{where}: {claim!r} is not the name of a PersistentVolumeClaim; wanted lower-case letters, digits "
                    "and hyphens, at most 57, as `kubectl get pvc` prints it."
                )
        folders = [folder.rstrip("/") for folder in self.claims]
        if twice := {folder for folder in folders if folders.count(folder) > 1}:
            raise ConfigError(f"overlay {self.name}, claims: {', '.join(twice)} is given twice. Remove one of them.")

    @property
    def drain_s(self) -> int:
        """Seconds that Ray waits for the tasks of a node that is taken away, less than the pod has."""
        return self.grace_s - 10

    def image_of(self, kind: str, *, trains: bool) -> str:
        """The image of a job. trains: whether it needs the libraries of a training.

        Raises:
            ConfigError: the profile has none, or one without a digest.
        """
        image = self.train_image if trains else self.image
        if not image:
            setting = "train_image" if trains else "image"
            raise ConfigError(
                f"overlay {self.name}: no image for kind {kind}. Give --image REPOSITORY@sha256:DIGEST, or set "
                f"`{setting}` in a file `extends: {self.name}` and give that as --overlay."
            )
        if not self.tags and not _DIGEST.fullmatch(image):
            if "@" in image:
                raise ConfigError(
                    f"image {image}: its digest is not sha256: and 64 hexadecimal digits. Give "
                    "REPOSITORY@sha256:DIGEST, as `docker buildx imagetools inspect IMAGE` prints it."
                )
            raise ConfigError(
                f"image {image}: has no digest, so pods that start later may get another one. Give "
                "REPOSITORY@sha256:DIGEST, as `docker buildx imagetools inspect IMAGE` prints it."
            )
        return image


_EKS_SPOT = {"karpenter.sh/capacity-type": "spot"}
_GKE_SPOT = {"cloud.google.com/gke-spot": "true"}

OVERLAYS = {
    profile.name: profile
    for profile in (
        Profile(
            "kind",
            tags=True,  # images are loaded into the nodes, not pulled
            cpus=2,
            machines=1,
            head_cpus=1,
            head_memory_gib=4,
            autoscale=False,
        ),
        Profile(
            "eks",
            # 16 vCPUs of a node, without what the kubelet and daemons reserve.
            cpus=15,
            head_nodes={"karpenter.sh/capacity-type": "on-demand"},
            spot=True,
            spot_labels=_EKS_SPOT,
            spot_taints=_EKS_SPOT,
            grace_s=110,  # AWS gives notice 120 s before it takes a node
        ),
        Profile(
            "gke",
            cpus=15,
            head_nodes={"cloud.google.com/gke-provisioning": "standard"},
            spot=True,
            spot_labels=_GKE_SPOT,
            spot_taints=_GKE_SPOT,
            grace_s=25,  # a node is taken after 30 s, some of which the kubelet keeps for system pods
        ),
        Profile(
            "onprem-kueue",
            cpus=15,
            autoscale=False,
            queue="raymill",
            clean_up="shutdown",
            secret="raymill-store",
        ),
    )
}


def profile_of(overlay: str, **changes: Any) -> Profile:
    """The profile of an overlay's name, or of a file that extends one; `changes` replace fields if they are not None.

    Raises:
        ConfigError: there is no such overlay or field, or a value has the wrong type.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if overlay in OVERLAYS:
        return dataclasses.replace(OVERLAYS[overlay], **given)
    if not overlay.endswith((".yaml", ".yml", ".json")):
        near = difflib.get_close_matches(overlay, OVERLAYS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"--overlay {overlay}: no such overlay.{hint} There are {', '.join(OVERLAYS)}; or give a YAML file with "
            "`extends: NAME` and the fields that differ."
        )
    raw = parse(Store().read_bytes(overlay).decode(), overlay, format_of(overlay))
    if not isinstance(raw, dict) or raw.get("extends") not in OVERLAYS:
        raise ConfigError(
            f"{overlay}: wanted `extends:` with one of {', '.join(OVERLAYS)}, and the fields that differ."
        )
    base = OVERLAYS[raw.pop("extends")]
    if found := take_out(raw)[1]:
        lines = [f"{overlay}, {'.'.join(map(str, at)) or 'a name'}: holds a secret ({what})." for at, what in found]
        raise ConfigError("\n".join(lines) + " Put it into a Secret of the namespace, and name that in `secret`.")
    known = {one.name: one for one in dataclasses.fields(Profile)}
    for name in raw:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ConfigError(
                f"{overlay}, {name}: no such field.{f' Did you mean {near[0]}?' if near else ''} An overlay has: "
                f"{', '.join(known)}."
            )
    try:
        return TypeAdapter(Profile).validate_python(dataclasses.asdict(base) | raw | given)
    except ValidationError as error:
        lines = [f"{overlay}, {'.'.join(map(str, one['loc']))}: {one['msg']}." for one in error.errors()]
        raise ConfigError("\n".join(lines)) from error
