"""Requests to a Kubernetes API server, through the official client.

Every request has a deadline, and what is read of an answer a bound. Objects are plain JSON values, not the client's
models, so that fields of newer servers do not matter; the fields that are read have their types
(kubernetes_objects.py). Credentials are those of kubectl: $KUBECONFIG or ~/.kube/config, or a pod's service account.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from logging.handlers import BufferingHandler
from typing import Any, TypeVar

import yaml
from kubernetes import client, config
from pydantic import BaseModel
from urllib3 import BaseHTTPResponse, HTTPResponse, Retry
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from raymill.cluster.entry import within
from raymill.cluster.errors import ClusterError, ConfigError, DataError
from raymill.cluster.secret_values import remember, shortened
from raymill.cluster.submit.backend import NoAnswer, NoConnection, NotThere, warn_of_unlisted
from raymill.cluster.submit.kubernetes_objects import (
    ConfigMap,
    Event,
    Pod,
    RayJob,
    Review,
    ServerVersion,
    name_of,
    problem_of,
)

Object = dict[str, Any]
T = TypeVar("T")

_REQUEST_S = (10, 30)  # time-outs: to connect, and without data
_ANSWER_S = 120  # deadline of a whole answer, and of the headers of one that is read as it arrives
_LOG_SILENCE_S = 120  # then the connection of a log is made again, as it may have been cut without notice
_LARGEST_ANSWER = 256 << 20  # bytes; a list of all RayJobs of a namespace has some MiB
_LARGEST_ERROR = 1 << 16  # bytes that are read of the answer to a request that is refused
_BYTES_SHOWN = 1 << 12
_TEXT_SHOWN = 500
# A starting API server refuses what it allows some tenths of a second later, when its roles are loaded.
_STARTING_S = 30
_RAYJOBS = ("ray.io", "v1")
_DEFAULT_KUBECONFIG = "~/.kube/config"
_FIX = "Set the environment variable KUBECONFIG to the kubeconfig of your cluster, or run this in a pod."


class KubernetesApi:
    """A namespace of a Kubernetes cluster.

    Args:
        namespace: namespace of the jobs.
        context: context of the kubeconfig; None: the current one.

    Raises:
        ConfigError: there are no credentials, or none of this context.
    """

    def __init__(self, namespace: str, context: str | None = None) -> None:
        self.namespace = namespace
        settings = _settings(context)
        for key in (*settings.api_key.values(), settings.password or ""):
            remember(key.rpartition(" ")[2])  # of `Bearer TOKEN`
        # A request that may have been carried out is not sent again.
        settings.retries = Retry(connect=1, read=1, status=0, redirect=0, other=0)
        self.address = settings.host
        connection = client.ApiClient(settings)
        connection.rest_client.pool_manager = _ShortErrors(connection.rest_client.pool_manager)  # type: ignore[assignment]
        self._core = client.CoreV1Api(connection)
        self._custom = client.CustomObjectsApi(connection)
        self._access = client.AuthorizationV1Api(connection)
        self._version = client.VersionApi(connection)
        self._allowed: set[str] = set()  # requests that were answered
        self._refused: dict[str, float] = {}  # answered before, refused now -> time of the first refusal

    # --- RayJobs

    def rayjobs(self, labels: str) -> list[Object]:
        """All with these labels. Raises NotThere: the cluster does not serve RayJobs."""
        return self._items(RayJob, "list rayjobs.ray.io", self._custom.list_namespaced_custom_object,
                           *_RAYJOBS, self.namespace, "rayjobs", label_selector=labels)  # fmt: skip

    def rayjob(self, name: str) -> Object | None:
        """Raises DataError: a field that is read has another type."""
        return self._found(RayJob, "get rayjobs.ray.io", self._custom.get_namespaced_custom_object,
                           *_RAYJOBS, self.namespace, "rayjobs", name)  # fmt: skip

    def create_rayjob(self, manifest: Mapping[str, Any], dry_run: bool = False) -> Object:
        """Create it, or with `dry_run` only let the server check it.

        Raises:
            Conflict: the name is taken.
            UnknownFields: in a dry run on Kubernetes 1.25 or later; earlier ones leave the fields out of the answer.
        """
        dry = {"dry_run": "All", "field_validation": "Strict"} if dry_run else {}
        return self._object(RayJob, "create rayjobs.ray.io", self._custom.create_namespaced_custom_object,
                            *_RAYJOBS, self.namespace, "rayjobs", dict(manifest), **dry)  # fmt: skip

    def delete_rayjob(self, name: str) -> None:
        """Begin to delete it; it is gone when its cluster and all pods are."""
        self._found(None, "delete rayjobs.ray.io", self._custom.delete_namespaced_custom_object,
                    *_RAYJOBS, self.namespace, "rayjobs", name, propagation_policy="Foreground")  # fmt: skip

    def wait_for_change(self, job: Object, seconds: int) -> None:
        """Return when the RayJob differs from `job` or is gone, or after `seconds`."""
        metadata = job["metadata"]
        answer = self._ask(
            "watch rayjobs.ray.io", self._custom.list_namespaced_custom_object,
            *_RAYJOBS, self.namespace, "rayjobs", watch=True, field_selector=f"metadata.name={metadata['name']}",
            resource_version=metadata.get("resourceVersion"), timeout_seconds=seconds,
            _request_timeout=(_REQUEST_S[0], seconds + _REQUEST_S[1]),
        )  # fmt: skip
        try:
            with self._translated("watch rayjobs.ray.io"):
                within(
                    seconds + _ANSWER_S, lambda: next(answer.stream(), None)
                )  # any event, also the error that `resource_version` is too old
        finally:
            answer.close()

    # --- ConfigMaps

    def config_maps(self, labels: str) -> list[Object]:
        return self._items(ConfigMap, "list configmaps", self._core.list_namespaced_config_map,
                           self.namespace, label_selector=labels)  # fmt: skip

    def config_map(self, name: str) -> Object | None:
        return self._found(ConfigMap, "get configmaps", self._core.read_namespaced_config_map, name, self.namespace)

    def create_config_map(self, manifest: Mapping[str, Any]) -> Object:
        """Raises Conflict: the name is taken."""
        return self._object(
            ConfigMap, "create configmaps", self._core.create_namespaced_config_map, self.namespace, dict(manifest)
        )

    def change_config_map(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Merge into its metadata; None removes a value."""
        self._json("patch configmaps", self._core.patch_namespaced_config_map, name, self.namespace,
                   {"metadata": metadata}, _content_type="application/merge-patch+json")  # fmt: skip

    def delete_config_map(self, found: Object) -> None:
        """Delete this one, and no newer one of the same name."""
        self._found(None, "delete configmaps", self._core.delete_namespaced_config_map, found["metadata"]["name"],
                    self.namespace, body={"preconditions": {"uid": found["metadata"]["uid"]}})  # fmt: skip

    # --- pods, events and logs

    def pods(self, labels: str) -> list[Object]:
        return self._items(Pod, "list pods", self._core.list_namespaced_pod, self.namespace, label_selector=labels)

    def events(self) -> list[Object]:
        """The events of the namespace, the oldest first. Kubernetes keeps them for an hour."""
        found = self._items(Event, "list events", self._core.list_namespaced_event, self.namespace)
        return sorted(found, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))

    def log(self, pod: str, container: str, follow: bool, since_s: int | None = None) -> Iterator[bytes]:
        """The log of a container as it arrives, each line after its time and a space."""
        more = {} if since_s is None else {"since_seconds": since_s}
        answer = self._ask("get pods/log", self._core.read_namespaced_pod_log, pod, self.namespace, container=container,
                           follow=follow, timestamps=True, **more,
                           _request_timeout=(_REQUEST_S[0], _LOG_SILENCE_S))  # fmt: skip
        try:
            with self._translated("get pods/log"):
                yield from answer.stream(1 << 16)
        finally:
            answer.close()

    # --- what a job needs

    def version(self) -> str:
        return self._object(ServerVersion, "get /version", self._version.get_code)["gitVersion"]

    def has_namespace(self) -> bool | None:
        """Whether the namespace exists; None without the right to read it, as with rights in this namespace alone."""
        return self._exists("get namespaces", self._core.read_namespace, self.namespace)

    def has_account(self, name: str) -> bool | None:
        """Whether there is this service account; None without the right to read it."""
        return self._exists("get serviceaccounts", self._core.read_namespaced_service_account, name, self.namespace)

    def may(self, verb: str, resource: str) -> bool:
        """Whether these credentials may do this. resource: such as `rayjobs.ray.io` or `pods/log`."""
        name, _, group = resource.partition(".")
        name, _, part = name.partition("/")
        wanted = {"verb": verb, "group": group, "resource": name, "subresource": part, "namespace": self.namespace}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": wanted}}  # fmt: skip
        review = self._access.create_self_subject_access_review
        return self._object(Review, "create selfsubjectaccessreviews", review, body)["status"]["allowed"]

    # --- requests

    def _items(
        self, kind: type[BaseModel], what: str, method: Callable[..., Any], *given: Any, **more: Any
    ) -> list[Object]:
        """The objects of a list. One with a field of another type is left out with a warning."""
        found = self._json(what, method, *given, **more)
        items = found.get("items")
        if not isinstance(items, list) or not all(isinstance(one, dict) and "metadata" in one for one in items):
            begin = shortened(json.dumps(found)[:_BYTES_SHOWN], _TEXT_SHOWN)
            raise NoAnswer(f"{self.address}: the answer to {what} is no list of objects ({begin}).")
        wrong = {at: problem for at, one in enumerate(items) if (problem := problem_of(kind, one))}
        warn_of_unlisted([_damaged(kind, items[at], problem) for at, problem in wrong.items()])
        return [one for at, one in enumerate(items) if at not in wrong]

    def _found(
        self, kind: type[BaseModel] | None, what: str, method: Callable[..., Any], *given: Any, **more: Any
    ) -> Object | None:
        """An object; None if there is none. kind: None: its fields are not read.

        Raises:
            DataError: a field has another type.
        """
        try:
            found = self._json(what, method, *given, **more)
        except NotThere:
            return None
        if kind is not None and (problem := problem_of(kind, found)):
            raise DataError(_damaged(kind, found, problem))
        return found

    def _object(self, kind: type[BaseModel], what: str, method: Callable[..., Any], *given: Any, **more: Any) -> Object:
        """The answer to a request that makes an object or has one always. Raises NoAnswer: it has another form."""
        found = self._json(what, method, *given, **more)
        if problem := problem_of(kind, found):
            raise NoAnswer(f"{self.address}: the answer to {what} is no {kind.__name__} ({problem}).")
        return found

    def _exists(self, what: str, method: Callable[..., Any], *given: Any) -> bool | None:
        try:
            return self._found(None, what, method, *given) is not None
        except Forbidden:
            return None

    def _json(self, what: str, method: Callable[..., Any], *given: Any, **more: Any) -> Object:
        def body() -> bytes:
            answer = method(*given, **{"_request_timeout": _REQUEST_S} | more, _preload_content=False)
            data = answer.read(_LARGEST_ANSWER + 1, decode_content=True)
            answer.release_conn()
            return data

        data = self._answered(what, body)
        if len(data) > _LARGEST_ANSWER:
            raise NoAnswer(f"{self.address}: the answer to {what} has more than {_LARGEST_ANSWER >> 20} MiB.")
        try:
            found = json.loads(data)
            if not isinstance(found, dict):
                raise ValueError
            return found
        except (ValueError, RecursionError):
            begin = " ".join(shortened(data[:_BYTES_SHOWN].decode(errors="replace"), _TEXT_SHOWN).split())
            raise NoAnswer(
                f"{self.address}: the answer to {what} is not JSON ({begin}). Another server, such as a proxy with its "
                "login page, answers at this address. Log in there, or set the cluster's address in the kubeconfig."
            ) from None

    def _ask(self, what: str, method: Callable[..., Any], *given: Any, **more: Any) -> BaseHTTPResponse:
        """The answer without its body."""
        how = {"_request_timeout": _REQUEST_S} | more
        return self._answered(what, lambda: method(*given, **how, _preload_content=False))

    def _answered(self, what: str, request: Callable[[], T]) -> T:
        """What a request returns, within the deadline: the time-outs of the client are those of single reads."""
        with self._translated(what):
            answer = within(_ANSWER_S, request)
        self._allowed.add(what)
        self._refused.pop(what, None)
        return answer

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            with _login_errors() as errors:  # before a request the client renews credentials that have expired
                yield
        except client.ApiException as error:
            if errors:
                raise NoAnswer(f"{self.address}: cannot {what}, and {_login_failed(errors)}") from None
            raise self._error(what, error.status or 0, error.body or error.reason or "") from None
        except (HTTPError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None)
            # The library's exception would print headers with `--debug`.
            kind = NoConnection if isinstance(reason, (NewConnectionError, ConnectTimeoutError, SSLError)) else NoAnswer
            raise kind(
                f"{self.address}: no answer to {what} ({_cause(error)}). Is this the cluster's address (kubectl "
                "cluster-info), and is it reachable from here (VPN, proxy)?"
            ) from None
        except config.ConfigException as error:
            raise ConfigError(
                f"the credentials of the kubeconfig could not be renewed: {error}. Log in again."
            ) from None

    def _error(self, what: str, status: int, body: str | bytes) -> Exception:
        text = body.decode(errors="replace") if isinstance(body, bytes) else body
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            text = str(json.loads(text)["message"])
        text = " ".join(text.split())
        if status == 400 and "strict decoding error" in text:
            return UnknownFields(re.findall(r'unknown field "([^"]*)"', text), text)
        text = shortened(text, _TEXT_SHOWN)
        if status in (401, 403) and what in self._allowed:
            since = self._refused.setdefault(what, time.monotonic())
            if time.monotonic() - since < _STARTING_S:
                return NoAnswer(f"{self.address}: refuses to {what} now (status {status}), which it allowed before.")
        if status == 401:
            return ConfigError(
                f"{self.address}: refused the credentials of the kubeconfig (401). They are missing or expired: log in "
                "again, as with `aws eks update-kubeconfig` or `gcloud container clusters get-credentials`."
            )
        if status == 403 and " cannot " in text:
            verb, _, resource = what.partition(" ")
            return Forbidden(
                f"namespace {self.namespace}: you may not {verb} {resource} ({text}). Ask for a Role with this verb "
                "and resource, or choose another --namespace or --context."
            )
        if status == 404:
            return NotThere(f"{self.address}: {what}: not found ({text}).")
        if status == 409:
            return Conflict(f"{what}: {text}.")
        if status == 0:
            return ConfigError(f"{self.address}: no secure connection: {text}. Is the kubeconfig of this cluster?")
        if status == 400 and what == "get pods/log":
            return NoAnswer(f"{text}")  # its container has not started
        if 400 <= status < 500 and status != 429:
            return ConfigError(f"namespace {self.namespace}: Kubernetes refused to {what} (status {status}): {text}")
        return NoAnswer(f"{self.address}: {what} failed there with status {status}: {text}. Try again in a minute.")


class _ShortErrors:
    """A pool of connections that reads the beginning alone of the answer to a request that is refused.

    The client reads the whole of it, whatever its size.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def request(self, *given: Any, **more: Any) -> BaseHTTPResponse:
        answer = self._pool.request(*given, **more)
        if 200 <= answer.status <= 299:
            return answer
        begin = answer.read(_LARGEST_ERROR, decode_content=True)
        answer.close()
        return HTTPResponse(begin, answer.headers, answer.status, reason=answer.reason, preload_content=False)


class Conflict(ClusterError):
    """The name is taken, or the object was replaced."""


class Forbidden(ConfigError):
    """These credentials lack a right."""


class UnknownFields(ConfigError):
    """The server's CRD has no such fields, so it would drop them. fields: such as `spec.preRunningDeadlineSeconds`."""

    def __init__(self, fields: list[str], text: str) -> None:
        super().__init__(f"Kubernetes refused fields that its CRDs do not have: {text[:_TEXT_SHOWN]}")
        self.fields = fields


def _settings(context: str | None) -> client.Configuration:
    """The address and credentials of a context of the kubeconfig, or of the pod that this runs in.

    Raises:
        ConfigError: there is no kubeconfig, it cannot be read, or it has no such context.
    """
    settings = client.Configuration()
    named = os.environ.get("KUBECONFIG") or None
    where = f"kubeconfig {named or _DEFAULT_KUBECONFIG}"
    files = [os.path.expanduser(file) for file in (named or _DEFAULT_KUBECONFIG).split(os.pathsep) if file]
    there = any(os.path.exists(file) for file in files)
    if named and not there:
        raise ConfigError(
            f"{where}: no such file. Set the environment variable KUBECONFIG to your cluster's, or unset it."
        )
    if context and not there:
        raise ConfigError(f"--context {context}: there is no {_DEFAULT_KUBECONFIG} to choose it from. {_FIX}")
    try:
        if not there:
            config.load_incluster_config(settings)
            return settings
        merged = config.kube_config.KubeConfigMerger(named or _DEFAULT_KUBECONFIG).config
        current, contexts = merged.safe_get("current-context"), [one["name"] for one in merged["contexts"] or []]
        if context and context not in contexts:
            listed = f"It has: {', '.join(contexts)}." if contexts else "It has none."
            raise ConfigError(f"--context {context}: {where} has no such context. {listed}")
        if not context and current not in contexts:
            what = f"has no context {current}, which is its current one" if current else "names no current context"
            raise ConfigError(f"{where}: {what}. Give --context: {', '.join(contexts) or 'it has none'}.")
        with _login_errors() as errors:
            config.load_kube_config(named, context, settings, persist_config=False)
        if errors:
            raise ConfigError(f"{where}: {_login_failed(errors)}")
    except ConfigError:  # also a ValueError
        raise
    except config.ConfigException as error:
        if not there:
            raise ConfigError(f"there is no {_DEFAULT_KUBECONFIG}, and this is not a pod. {_FIX}") from None
        raise ConfigError(f"{where}: {str(error).rstrip('.')}. {_FIX}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: not UTF-8 YAML. {_FIX}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not UTF-8 YAML ({' '.join(str(error).split())[:_TEXT_SHOWN]}). {_FIX}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}. {_FIX}") from None
    except (TypeError, AttributeError, KeyError, ValueError) as error:  # the client expects the right types
        raise ConfigError(f"{where}: not a kubeconfig ({type(error).__name__}: {error}). {_FIX}") from None
    except Exception as error:  # of the libraries that log in for an `auth-provider`
        raise ConfigError(
            f"{where}: its credentials cannot be used ({type(error).__name__}: {str(error).rstrip('.')}). Log in "
            "again, as with `aws eks update-kubeconfig` or `gcloud container clusters get-credentials`."
        ) from None
    return settings


def _damaged(kind: type[BaseModel], found: Object, problem: str) -> str:
    return f"the {kind.__name__} {name_of(found)} is damaged ({problem}). Look at it with kubectl, and delete it."


@contextmanager
def _login_errors() -> Iterator[list[logging.LogRecord]]:
    """Errors of the program that a kubeconfig names to log in: the client only logs them, and goes on without token."""
    handler = BufferingHandler(capacity=1000)
    handler.setLevel(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logging.getLogger().removeHandler(handler)


def _login_failed(errors: list[logging.LogRecord]) -> str:
    """The last of the errors of `_login_errors`, as a part of a message."""
    text = " ".join(errors[-1].getMessage().split())[:_TEXT_SHOWN].rstrip(".")
    return (
        f"the kubeconfig's program that logs in failed: {text}. Install it, or log in again, until `kubectl get "
        "namespaces` works."
    )


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {reason}"[:_TEXT_SHOWN] if isinstance(reason, Exception) else str(reason)
