"""Find damaged or missing files of a finished training, and remove them so that they are made again."""

import json
import logging
from typing import Any

from cluster.run import RunFolder
from cluster.store import paths
from cluster.store.interface import NotFound
from training.records.finished import EVALUATION, EXPORT, export_damage, export_file

REPORT_JSON, REPORT_HTML = "report.json", "report.html"

log = logging.getLogger(__name__)


def run_damage(folder: RunFolder, manifest: dict[str, Any], compare_sha256: bool = False) -> dict[str, str]:
    """The files of a finished run that are missing or damaged: URI -> what is wrong.

    Exported files, evaluation.json, report.json and report.html are checked. Checkpoints are not, since they are needed
    only if an export is made again.

    Args:
        manifest: of the run. A run of several phases has no export of its own.
        compare_sha256: read every exported file and compare its sha256; else compare only sizes, from one listing.
    """
    store, root = folder.store, folder.uri
    found: dict[str, str] = {}
    names = [REPORT_JSON]
    if exported := manifest.get("export"):
        found |= export_damage(store, paths.join(root, EXPORT), exported, compare_sha256=compare_sha256)
        names.append(EVALUATION)
    for name in names:
        uri = paths.join(root, name)
        try:
            json.loads(store.read_bytes(uri))
        except NotFound:
            found[uri] = "is gone"
        except (ValueError, RecursionError):
            found[uri] = "is not valid JSON"
    if not store.exists(page := paths.join(root, REPORT_HTML)):
        found[page] = "is gone"
    return found


def discard_damaged(folder: RunFolder, compare_sha256: bool = False) -> None:
    """Remove the run's manifest and its damaged files, with a warning; do nothing if no file is damaged."""
    store, root = folder.store, folder.uri
    manifest = folder.manifest_file.read()
    if manifest is None or not (damage := run_damage(folder, manifest, compare_sha256)):
        return
    first, seen = next(iter(damage.items()))
    others = f" ({len(damage) - 1} more files are damaged or gone)" if len(damage) > 1 else ""
    log.warning("%s: %s%s. Damaged and missing files are made again from the best checkpoint.", first, seen, others)
    export = paths.join(root, EXPORT)
    folder.manifest_file.discard()
    if any(one.startswith(f"{export}/") for one in damage):
        export_file(store, export).discard()
    store.delete_listed(root, damage)
