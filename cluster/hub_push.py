"""Push a folder to a repository of the Hugging Face hub, in one commit: data sets and exported models."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars

from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.formats import plural
from raymill.cluster.hub_client import AnswerRefused, checked_hub
from raymill.cluster.secret_values import shortened

TOKEN = "HF_TOKEN"

_MAX_ANSWERS = 1000  # of the hub to one push, besides two for each file

# What the library raises for an answer in another form.
_OTHER_FORM = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)

_PLACE = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")


@dataclass(frozen=True)
class Pushed:
    """A finished push.

    Attributes:
        place: ORG/NAME.
        commit: URL of the commit.
        files, bytes: number and size of the folder's files, including those that the hub already had.
    """

    place: str
    commit: str
    files: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"hf://{self.place} holds {plural(self.files, 'file')}, {self.bytes / 1e6:,.1f} MB\ncommit  {self.commit}"
        )


class HubRepository:
    """A repository of the hub to push to. The token is the value of the environment variable HF_TOKEN.

    Args:
        place: `hf://ORG/NAME` or `ORG/NAME`.
        kind: data set or model.

    Raises:
        ConfigError: the place is not of that form, or there is no token.
    """

    def __init__(self, place: str, kind: Literal["dataset", "model"]) -> None:
        found = _PLACE.fullmatch(place)
        if found is None:
            words = "a data set" if kind == "dataset" else "a model"
            raise ConfigError(f"{place}: wanted hf://ORG/NAME, {words} of the Hugging Face hub.")
        self.name, self.kind = found[1], kind
        token = os.environ.get(TOKEN)
        if not token:
            raise ConfigError(
                f"{TOKEN} is not set. Make a token with write access at https://huggingface.co/settings/tokens, "
                f"and set the environment variable {TOKEN} to it."
            )
        self._hub = huggingface_hub.HfApi(token=token)

    def push(self, folder: Path, title: str, description: str, replaced: list[str], *, public: bool) -> Pushed:
        """Commit the files of a local folder. The hub skips those that it has. Creates the repository if needed.

        Args:
            title, description: message of the commit.
            replaced: patterns of the repository's files that are deleted unless the folder has them, since an earlier
                push may have had more files.
            public: whether a new repository is public; an existing one is not changed.

        Raises:
            StorageError: the hub refuses the token or the request, or cannot be reached.
        """
        if not sys.stderr.isatty():
            disable_progress_bars()
        files = [one for one in folder.rglob("*") if one.is_file()]
        size = sum(file.stat().st_size for file in files)
        try:
            with checked_hub(_MAX_ANSWERS + 2 * len(files)):
                self._hub.create_repo(self.name, repo_type=self.kind, private=not public, exist_ok=True)
                commit = self._hub.upload_folder(
                    repo_id=self.name,
                    repo_type=self.kind,
                    folder_path=folder,
                    commit_message=title,
                    commit_description=description,
                    delete_patterns=replaced,
                )
        except (*_OTHER_FORM, HfHubHTTPError, httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError) as error:
            raise StorageError(f"hf://{self.name}: {self._reason(error)}") from error
        return Pushed(self.name, str(commit.commit_url), len(files), size)

    def _reason(self, error: Exception) -> str:
        """What an error of the library means, and what to do, in sentences."""
        # What ends the upload of a large file is the cause of a RuntimeError.
        cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
        if isinstance(cause, HfHubHTTPError):
            return _refusal(cause)
        if isinstance(cause, (*_OTHER_FORM, httpx2.InvalidURL)):
            return (
                f"{self._hub.endpoint} answered in another form than the hub does ({type(cause).__name__}), so it is "
                "not known whether the files are there. Check HF_ENDPOINT."
            )
        refused = cause.__cause__ if isinstance(cause.__cause__, AnswerRefused) else cause
        reason = shortened((str(refused).strip() or type(cause).__name__).splitlines()[0], 200)
        if isinstance(refused, AnswerRefused):
            return f"{self._hub.endpoint} answered otherwise than the hub does: {reason}. Nothing was committed."
        return (
            f"{self._hub.endpoint} cannot be reached ({reason}). Nothing was committed. Check the network and "
            "HF_ENDPOINT, and run the same command again."
        )


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    reason = shortened((error.server_message or str(error)).strip().splitlines()[0], 200)
    match status:
        case 401:
            fix = f"The token of {TOKEN} is wrong or has expired: make another one"
        case 403 | 404:
            fix = f"The token of {TOKEN} has no right to write there: check ORG and NAME, or give it that right"
        case 429 | 500 | 502 | 503 | 504:
            fix = "Run the same command again later"
        case _:
            fix = "Check ORG and NAME, and run the same command again"
    return f"the hub answered {status} ({reason}). Nothing was committed. {fix}."
