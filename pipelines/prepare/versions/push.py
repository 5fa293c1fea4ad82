"""A version to a data set of the Hugging Face hub: the files of `export` with the card, in one commit."""

import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars

from cluster.errors import ConfigError, StorageError
from cluster.store.store import Store
from pipelines.prepare.versions.export import export
from pipelines.prepare.versions.registry import Version

TOKEN = "HF_TOKEN"

_PLACE = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")


@dataclass(frozen=True)
class Pushed:
    """What was pushed. place: ORG/NAME. commit: URL. files, bytes: of the version, whether or not the hub had them."""

    place: str
    commit: str
    files: int
    bytes: int


def push(store: Store, version: Version, place: str, *, public: bool = False) -> Pushed:
    """Make `hf://ORG/NAME` hold a version and nothing else but files outside `data/`.

    Creates the data set if it is not there. The token is that of the environment variable HF_TOKEN. Writes the files to
    a temporary folder first.

    Args:
        public: of a data set that is created; one that is there stays public or private.

    Raises:
        ConfigError: the place is not of that form, or there is no token.
        StorageError: the hub refuses the token or the request, or cannot be reached.
        DataError: the run is gone, or was made again.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ConfigError(f"{place}: wanted hf://ORG/NAME, a data set of the Hugging Face hub.")
    name, token = found[1], os.environ.get(TOKEN)
    if not token:
        raise ConfigError(
            f"{TOKEN} is not set. Make a token with the right to write at https://huggingface.co/settings/tokens, and "
            f"set the environment variable {TOKEN} to it."
        )
    if not sys.stderr.isatty():
        disable_progress_bars()
    hub = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="raymill-push-") as folder:
        files = [Path(one) for one in export(store, version, folder, "hf")]
        size = sum(file.stat().st_size for file in files)
        try:
            hub.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=name,
                repo_type="dataset",
                folder_path=folder,
                commit_message=f"{version.name}:{version.version}",
                commit_description=f"Raymill, digest {version.digest}",
                delete_patterns="data/*",  # an earlier version may have had more files
            )
        except HfHubHTTPError as error:
            raise StorageError(_refusal(name, error)) from error
        except (httpx2.HTTPError, OSError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StorageError(
                f"hf://{name}: {hub.endpoint} cannot be reached ({reason[:200]}). Nothing was committed. Check the "
                "network and HF_ENDPOINT, and run the same command again."
            ) from error
    return Pushed(name, str(commit.commit_url), len(files), size)


def _refusal(name: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    reason = (error.server_message or str(error)).strip().splitlines()[0][:200]
    match status:
        case 401:
            mend = f"The token of {TOKEN} is wrong or has ended: make another one"
        case 403 | 404:
            mend = f"The token of {TOKEN} has no right to write there: check ORG and NAME, or give it that right"
        case 429 | 500 | 502 | 503 | 504:
            mend = "Run the same command again later"
        case _:
            mend = "Check ORG and NAME, and run the same command again"
    return f"hf://{name}: the hub answered {status} ({reason}). Nothing was committed. {mend}."
