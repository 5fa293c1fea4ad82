"""The data set of `raymill prepare` that a corpus is taken from."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from cluster.artifact import Artifact
from cluster.errors import DataError
from cluster.readers.formats.hub import is_hub_data
from cluster.run import RunFolder
from cluster.store import paths
from cluster.store.paths import RecordedUri
from cluster.store.store import Store


@dataclass(frozen=True)
class PreparedRun:
    """A finished run of `raymill prepare`. name: in its config. output: URI. digest: of its artifacts. version: of
    Raymill that made it.
    """

    name: str
    output: RecordedUri
    digest: str
    version: str

    @classmethod
    def of_manifest(cls, output: str, manifest: dict[str, Any]) -> Self:
        """From the manifest of the run at `output`."""
        name, version = str(manifest.get("name", "")), str(manifest.get("version", ""))
        return cls(name, RecordedUri(output), manifest["digest"], version)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The data set that `plain` described."""
        return cls(**plain | {"output": RecordedUri(plain["output"])})

    @property
    def report(self) -> str:
        """URI of the page of its report."""
        return paths.join(self.output, "report.html")

    def plain(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)


def prepared_output(store: Store, path: str) -> PreparedRun | None:
    """The data set whose output is at `path`; None if there is no finished run of `raymill prepare`."""
    root = paths.absolute(path)
    manifest = None if is_hub_data(root) else RunFolder(store, root).finished("prepare")
    return PreparedRun.of_manifest(root, manifest) if manifest is not None else None


def prepared_with(artifact: Artifact) -> PreparedRun | None:
    """The data set of which an artifact is a split; None if it is not one."""
    root, _, name = artifact.uri.rpartition("/")
    try:
        manifest = RunFolder(artifact.store, root).finished("prepare")
    except DataError:  # a file of another program has that name
        return None
    if manifest is None:
        return None
    same = manifest.get("artifacts", {}).get(name) == artifact.manifest.digest
    return PreparedRun.of_manifest(root, manifest) if same else None
