"""A place that jobs are submitted to, as the options of the verbs name it: `--to`, `--address`, ..."""

import difflib
from typing import Annotated

import typer

from raymill.cluster.cli import shell_command
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError
from raymill.cluster.submit.backend import Backend
from raymill.cluster.submit.jobs_api import JobsApi
from raymill.cluster.submit.local import Local
from raymill.cluster.submit.ray_api import RayApi, checked_address, found_token

# An Entry, so that the Kubernetes client is loaded only for `--to kuberay`.
_kuberay = Entry("raymill.cluster.submit.kuberay:connect")

_PLACES = ("local", "jobs", "kuberay")
# Other words for a place -> its name.
_OTHER_NAMES = {"kubernetes": "kuberay", "k8s": "kuberay", "kube": "kuberay", "ray": "jobs", "cluster": "jobs"}
_WANTED = {
    "to": "one of local, jobs, kuberay",
    "address": "http://HOST:PORT",
    "token_file": "a file",
    "namespace": "a name",
    "context": "a name",
}


class Place:
    """The place that the options name.

    Raises:
        ConfigError: an option is given and empty.
    """

    def __init__(
        self,
        to: Annotated[
            str | None,
            typer.Option(
                help="local: this machine; jobs: a running Ray cluster; kuberay: Kubernetes. "
                "Default: jobs with --address, else local"
            ),
        ] = None,
        address: Annotated[
            str | None, typer.Option(help="of the cluster's dashboard, as in http://127.0.0.1:8265")
        ] = None,
        token_file: Annotated[
            str | None,
            typer.Option(help="file with the cluster's token; default: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"),
        ] = None,
        insecure_http: Annotated[
            bool, typer.Option("--insecure-http", help="send config and token unencrypted to another machine")
        ] = False,
        namespace: Annotated[
            str | None, typer.Option(help="kuberay: namespace of the jobs; default: the overlay's, else raymill")
        ] = None,
        context: Annotated[
            str | None, typer.Option(help="kuberay: context of the kubeconfig; default: the current one")
        ] = None,
    ) -> None:
        given = {"to": to, "address": address, "token_file": token_file, "namespace": namespace, "context": context}
        for option, value in given.items():
            if value is not None and not value.strip():
                raise ConfigError(f"--{option.replace('_', '-')}: empty; wanted {_WANTED[option]}.")
        self.to = to or ("jobs" if address else "local")
        self.address, self.token_file, self.insecure_http = address, token_file, insecure_http
        self.namespace, self.context = namespace, context

    def backend(
        self,
        ship_code: bool = False,
        overlay: str | None = None,
        image: str | None = None,
        within: str | None = None,
    ) -> Backend:
        """The backend. ship_code, overlay, image, within: options of `submit`, each for some places only.

        Raises:
            ConfigError: the options contradict each other.
        """
        if self.to not in _PLACES:
            near = difflib.get_close_matches(self.to.lower(), (*_PLACES, *_OTHER_NAMES), n=1)
            hint = f" Did you mean {_OTHER_NAMES.get(near[0], near[0])}?" if near else ""
            raise ConfigError(f"--to {self.to}: no such place. Give one of: {', '.join(_PLACES)}.{hint}")
        if self.to != "jobs":
            self._only_for("jobs", address=self.address, token_file=self.token_file, ship_code=ship_code)
        if self.to != "kuberay":
            if within is not None:
                raise ConfigError(
                    f"--within {within}: chooses how many machines --to kuberay makes for a job, and --to {self.to} "
                    "uses the machines that are there. Leave it out; `raymill render --within` prints the machines for "
                    "a duration."
                )
            self._only_for("kuberay", namespace=self.namespace, context=self.context, overlay=overlay, image=image)
        if self.to == "local":
            return Local()
        if self.to == "kuberay":
            require_extra("k8s", "--to kuberay")
            backend = _kuberay(self.namespace, self.context, overlay, image)
            self.namespace = backend.api.namespace  # the overlay's, if it has one
            return backend
        if not self.address:
            raise ConfigError(
                "--to jobs: no --address. Give the address of the cluster's dashboard, as in http://127.0.0.1:8265."
            )
        address = checked_address(self.address, self.insecure_http)
        return JobsApi(RayApi(address, found_token(self.token_file)), ship_code)

    @property
    def where(self) -> str:
        """The place in words, for messages."""
        if self.to == "local":
            return "on this machine (for a cluster's runs give --address or --to kuberay)"
        return f"at {self.address}" if self.to == "jobs" else f"in the namespace {self.namespace}"

    def command(self, verb: str, *words: str) -> str:
        """The shell command of a verb for this place, for messages."""
        more = ["--address", self.address] if self.to == "jobs" and self.address else ["--to", self.to]
        more += ["--namespace", self.namespace] if self.namespace else []
        more += ["--context", self.context] if self.context else []
        more += ["--token-file", self.token_file] if self.token_file else []
        return shell_command(verb, *words, *more, *(["--insecure-http"] if self.insecure_http else []))

    def _only_for(self, to: str, **given: object) -> None:
        for name, value in given.items():
            if value:
                raise ConfigError(f"--{name.replace('_', '-')}: is for --to {to}, and --to {self.to} was given.")
