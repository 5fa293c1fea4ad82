"""The verb `raymill answer MODEL`."""

import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import AnyConfig, Changes
from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.training.serving.served import find_served
from raymill.training.serving.server import AnswerServer, RequestBounds, is_loopback

TOKEN = "RAYMILL_ANSWER_TOKEN"
_completer = Entry("raymill.training.evaluation.completing:Completer")


def answer(
    model: Annotated[
        str,
        typer.Argument(help="model folder, or output of a finished training; with --alias the folder of the models"),
    ],
    alias: Annotated[str | None, typer.Option(help="serve the model that this alias names, such as champion")] = None,
    host: Annotated[str, typer.Option(help="address to listen on; another one than loopback needs a token")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any that is free")] = 8000,
    batch: Annotated[int, typer.Option(min=1, max=256, help="requests that are computed together, at most")] = 8,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="tokens of an answer, at most, and where a request states none")
    ] = 1024,
    max_context: Annotated[int, typer.Option(min=2, help="tokens of a prompt with its answer, at most")] = 8192,
    concurrent: Annotated[
        int, typer.Option(min=1, max=10_000, help="requests that are answered or wait, at most")
    ] = 64,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.1, help="seconds from a request to the end of its answer, at most")
    ] = 300.0,
    log_content: Annotated[
        bool, typer.Option("--log-content", help="also log prompts and answers, which may be personal")
    ] = False,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Serve a model with OpenAI's interface, to try and test it: chat and text completions, streamed or whole.

    Standard output has a JSON line for each request, in OpenTelemetry's names. The token of requests is read from
    RAYMILL_ANSWER_TOKEN; without it one is made and shown where others can reach the address. Ctrl-C ends it.
    """
    server = answer_requests(
        model, alias, host=host, port=port, batch=batch, max_tokens=max_tokens, max_context=max_context,
        concurrent=concurrent, timeout_s=timeout_s, log=_print, log_content=log_content, config=config,
        override=override,
    )  # fmt: skip
    made = server.token is not None and TOKEN not in os.environ
    lines = [
        f"model        {server.served.name}, {server.served.folder}",
        f"fingerprint  {server.served.fingerprint}",
        f"endpoint     {server.url}",
        *([f"token        {server.token}"] if made else []),
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)
    with server:
        try:
            server.wait()
        except KeyboardInterrupt:
            print("closed", file=sys.stderr)


def answer_requests(
    model: str | os.PathLike[str],
    alias: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    batch: int = 8,
    max_tokens: int = 1024,
    max_context: int = 8192,
    concurrent: int = 64,
    timeout_s: float = 300.0,
    log: Callable[[Mapping[str, Any]], object] | None = None,
    log_content: bool = False,
    config: AnyConfig = None,
    override: Changes = None,
) -> AnswerServer:
    """A model behind an endpoint with OpenAI's interface, until it is closed: `with raymill.answer(...) as server`.

    The model is loaded before the function returns, on a GPU if this process sees one.

    Args:
        model: model folder, or output of a finished training; with `alias` the folder of the models.
        alias: serve the model that this alias names.
        host: address to listen on. Requests need the token of the variable RAYMILL_ANSWER_TOKEN if it is set; without
            it one is made for an address that others can reach.
        port: port to listen on; 0: any that is free.
        batch: requests that are computed together, at most.
        max_tokens: tokens of an answer, at most, and where a request states none.
        max_context: tokens of a prompt with its answer, at most.
        concurrent: requests that are answered or wait, at most.
        timeout_s: seconds from a request to the end of its answer, at most.
        log: called with a record of each request, in OpenTelemetry's names, from another thread.
        log_content: records have prompts and answers, too.
        config: a config, for its `storage` settings.
        override: changes of single settings, as in {"storage.endpoint_url": "http://HOST:PORT"}.

    Raises:
        ConfigError: there is no such alias, the model answers with no text, or the port is taken.
        DataError: a file of the model is damaged, or it is not the one that was promoted.
        StorageError: nothing is there.
    """
    require_extra("train", "raymill answer")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if (token := os.environ.get(TOKEN)) is not None and not token.strip():
        raise ConfigError(f"{TOKEN}: is set and empty. Give a token, or remove the variable.")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(32)
    with store_for(model, config, override) as (store, at):
        served = find_served(store, at, alias)
        loaded = _completer(store, served.folder, batch)
    bounds = RequestBounds(max_tokens, max_context, concurrent, timeout_s)
    try:
        return AnswerServer(loaded, served, bounds, host, port, token and token.strip(), log, log_content)
    except BaseException:
        loaded.close()
        raise


def _print(record: Mapping[str, Any]) -> None:
    print(json.dumps(record), flush=True)
