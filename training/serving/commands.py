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
        typer.Argument(help="model folder, or output of a finished training; with --alias: the folder of the aliases"),
    ],
    alias: Annotated[str | None, typer.Option(help="serve the model of this alias, such as champion")] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; requests need a token if it is not a loopback address")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any that is free")] = 8000,
    batch: Annotated[int, typer.Option(min=1, max=256, help="largest number of requests computed together")] = 8,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="largest number of tokens of an answer, and the number if a request states none")
    ] = 1024,
    max_context: Annotated[int, typer.Option(min=2, help="largest number of tokens of a prompt and its answer")] = 8192,
    concurrent: Annotated[
        int, typer.Option(min=1, max=10_000, help="largest number of requests in work or waiting")
    ] = 64,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout-s", min=0.1, help="largest number of seconds from a request to the end of its answer"),
    ] = 300.0,
    log_content: Annotated[
        bool, typer.Option("--log-content", help="also log prompts and answers, which may be personal")
    ] = False,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Serve a model with OpenAI's interface, to try and test it: chat and text completions, streamed or whole.

    Standard output has a JSON line for each request, with the names of OpenTelemetry. The token that requests need is
    read from RAYMILL_ANSWER_TOKEN; if it is not set and the address is not loopback, one is made and shown. Ctrl-C
    stops it.
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
    """Serve a model with OpenAI's interface until the server is closed: `with raymill.answer(...) as server`.

    The model is loaded before the function returns, on a GPU if this process sees one.

    Args:
        model: model folder, or output of a finished training; with `alias` the folder of the aliases.
        alias: serve the model of this alias.
        host: address to listen on. Requests need the token in the variable RAYMILL_ANSWER_TOKEN; if it is not set, one
            is made for addresses other than loopback, and loopback needs none.
        port: port to listen on; 0: any that is free.
        batch: largest number of requests computed together.
        max_tokens: largest number of tokens of an answer, and the number if a request states none.
        max_context: largest number of tokens of a prompt and its answer.
        concurrent: largest number of requests in work or waiting.
        timeout_s: largest number of seconds from a request to the end of its answer.
        log: called from another thread with a record of each request, with the names of OpenTelemetry.
        log_content: whether records contain prompts and answers.
        config: a config, for its `storage` settings.
        override: changes of single settings, as in {"storage.endpoint_url": "http://HOST:PORT"}.

    Raises:
        ConfigError: there is no such alias, the model does not generate text, or the port is taken.
        DataError: a file of the model is damaged, or the model of the alias changed after its promotion.
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
