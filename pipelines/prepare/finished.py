"""A finished run of `raymill prepare`, by its manifest."""

from typing import Any

from cluster.artifact import require_files
from cluster.errors import DataError
from cluster.run import RunFolder
from cluster.store.store import Store


def prepared_run(store: Store, output: str) -> dict[str, Any]:
    """The manifest of the finished run at an output.

    Raises:
        DataError: there is none.
    """
    manifest = RunFolder(store, output).manifest_file.read()
    if manifest is not None and manifest.get("kind") == "prepare":
        return manifest
    require_files(store, output)
    seen = "no finished run" if manifest is None else f"a run of kind {manifest.get('kind')}"
    raise DataError(
        f"{output}: {seen}; wanted the output of `raymill prepare`. Point at one, or run it again: it continues."
    )
