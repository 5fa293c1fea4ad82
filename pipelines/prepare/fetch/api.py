"""Records of a JSON API, page by page.

Objects inside a record become columns with dotted names: `{"fields": {"summary": ..}}` is the column `fields.summary`.
Lists stay.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.secret_values import remember, shortened, without_known
from raymill.pipelines.prepare.fetch import client
from raymill.pipelines.prepare.fetch.client import RequestFailed, Response, same_server, shown, without_parameters
from raymill.pipelines.prepare.fetch.settings import Api, Auth, Paging
from raymill.pipelines.prepare.fetch.snapshot import Page, Unread, json_text, secret

_SHOWN = 120
_LONGEST_COLUMN = 256  # characters of a dotted name
_MOST_ADDED = 1 << 20  # characters that dotted names may add to those of a record
_MOST_RECORDS = 1_000_000  # of an answer: 10 kB can stand for 10 MB of nulls
_MOST_DIGITS = 4000
_MISSING = object()


def pages(settings: Api, position: str | None, where: str) -> Iterator[Page]:
    """The pages from a position on. position: page number, offset, cursor or address; None for the first page.

    Raises:
        ConfigError: the environment lacks the secret.
        DataError: the API cannot be reached, answers with something else than JSON, or repeats a page.
    """
    secrets = _secrets(settings.auths, where)
    paging, before, between = settings.paging, b"", 1 / settings.requests_per_s
    asked: set[bytes] = set()  # positions, as hashes
    began = 0.0
    with client.Client(settings) as connection:
        while True:
            client.pause(began + between - time.monotonic())
            began = time.monotonic()
            url, given = _request(settings, position, where)
            answer, value = _answer(connection, settings, url, given, secrets, where)
            found = _records(value, settings.records, answer, where)
            digest = hashlib.blake2b(answer.body).digest()
            if found and digest == before:
                raise DataError(
                    f"{where}: {shown(answer.url)} has the same content as the page before, so the pages do not go "
                    f"on. Correct `paging` (by {paging.by})."
                )
            before = digest
            following = _next(paging, position, value, found, answer)
            if following is not None and paging.by == "next":
                following = without_parameters(following, secrets[1])
            # Positions are kept.
            if following is not None and any(without_known(one) != one for one in (following, unquote(following))):
                raise DataError(
                    f"{where}: {shown(answer.url)} names the next page with the secret of `auth`, which would be "
                    "written to the output. Choose another way of `paging`, or send the secret in a header."
                )
            if following is not None and following == position:
                raise DataError(f"{where}: {shown(answer.url)} names itself as the next page. Correct `paging`.")
            if following is not None and not _is_utf8(following):
                raise DataError(
                    f"{where}: {shown(answer.url)} names as the next page {shortened(following, 200)!a}, which UTF-8 "
                    "cannot hold. Correct `paging`, or report it to whoever runs the API."
                )
            asked.add(_hash(position))
            if following is not None and _hash(following) in asked:
                raise DataError(
                    f"{where}: {shown(answer.url)} names as the next page one that was read before, so the pages would "
                    "never end. Correct `paging`, or report it to whoever runs the API."
                )
            address = shown(answer.url)
            records, failed = [], []
            for number, one in enumerate(found):
                if not isinstance(one, Mapping):
                    failed.append(Unread("not_an_object", f"{address} record {number}", json_text(one)))
                elif isinstance(row := flat(one), str):
                    failed.append(Unread(row, f"{address} record {number}"))
                else:
                    records.append(row)
            lacks_next = following is None and _lacks_next(paging, value, f"{where}: {address}")
            lacks_next = lacks_next and position is None and bool(found)
            yield Page(address, records, failed, following, answer.received, lacks_next)
            if following is None:
                return
            position = following


def flat(record: Mapping[str, Any]) -> dict[str, Any] | str:
    """The record with the values of inner objects under dotted names; or its problem: `too_deep` if a name would be too
    long for a column, `too_large` if the names together would be.
    """
    found: dict[str, Any] = {}
    left, added = [*record.items()][::-1], 0
    while left:
        name, value = left.pop()
        if not isinstance(value, Mapping) or not value:
            found[name] = value
        elif len(name) > _LONGEST_COLUMN:
            return "too_deep"
        elif (added := added + (len(name) + 1) * len(value)) > _MOST_ADDED:
            return "too_large"
        else:
            left += [(f"{name}.{inner}", one) for inner, one in [*value.items()][::-1]]
    return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hash(position: str | None) -> bytes:
    return hashlib.blake2b(repr(position).encode("ascii", "backslashreplace"), digest_size=16).digest()


def at(value: Any, path: str) -> Any:
    """The value at a dotted path; `_MISSING` if there is none. A key that has dots itself is found too."""
    if not path:
        return value
    if not isinstance(value, Mapping):
        return _MISSING
    if path in value:
        return value[path]
    name, _, rest = path.partition(".")
    return at(value[name], rest) if rest and name in value else _MISSING


def _secrets(auths: Sequence[Auth], where: str) -> tuple[dict[str, str], dict[str, str]]:
    """(headers, parameters of the query string)."""
    headers, parameters = {}, {}
    for auth in auths:
        value = secret(auth.variable, f"{where}.auth.variable").strip()
        if auth.parameter is not None:
            parameters[auth.parameter] = value
            continue
        if auth.scheme == "Basic":
            remember(value.partition(":")[2])
            value = base64.b64encode(value.encode()).decode()
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"{where}.auth.variable: {auth.variable} holds characters that a header cannot have; wanted printable "
                "ASCII. Look for a line end or a quotation mark that was copied with it."
            )
        headers[auth.header] = value if auth.scheme == "none" else f"{auth.scheme} {value}"
    return headers, parameters


def _request(settings: Api, position: str | None, where: str) -> tuple[str, dict[str, str]]:
    """(address, parameters) of a page."""
    paging, parameters = settings.paging, dict(settings.parameters)
    if paging.by == "next" and position is not None:
        if not same_server(position, settings.url):
            raise DataError(
                f"{where}: the next page is {shown(position)}, on another server than {settings.url}; the secret of "
                "`auth` is sent to one server only. Give that server's address as `url`."
            )
        return position, {}
    if paging.size is not None:
        parameters[paging.size_parameter] = str(paging.size)
    name = paging.parameter or paging.by
    if paging.by in ("page", "offset"):
        parameters[name] = position or str(paging.first if paging.by == "page" else 0)
    elif paging.by == "cursor" and position is not None:
        parameters[name] = position
    return settings.url, parameters


def _answer(
    connection: client.Client,
    settings: Api,
    url: str,
    parameters: Mapping[str, str],
    secrets: tuple[Mapping[str, str], Mapping[str, str]],
    where: str,
) -> tuple[Response, Any]:
    """An answer and its JSON value. JSON that ends early is asked for once more."""
    headers = {"Accept": "application/json", **settings.headers}
    for last in (False, True):
        try:
            answer = connection.get(url, parameters, headers, *secrets)
        except RequestFailed as error:
            raise DataError(
                f"{where}: {error}. Check the address, `auth` and the network, and run the same command again: it "
                "continues after the last pages that were kept."
            ) from error
        try:
            return answer, json.loads(answer.body, parse_int=_number)
        except (ValueError, RecursionError) as error:
            text = shortened(" ".join(answer.body[: 4 * _SHOWN].decode("utf-8", "replace").split()), _SHOWN)
            kind = answer.content_type or "no content type"
            is_page = "html" in kind or text.startswith("<")
            if not is_page and not last:
                continue
            fix = (
                "This is a page for people, such as one to log in: check the address, and that `auth` names the right "
                "variable"
                if is_page
                else "The answer is cut off or damaged: run the same command again, or ask for smaller pages"
            )
            raise DataError(
                f"{where}: {shown(answer.url)} answered with {kind} that is not JSON ({len(answer.body):,} bytes, "
                f"which begin: {text!r}). {fix}."
            ) from error
    raise AssertionError("the last try returns or raises")


def _number(digits: str) -> int | str:
    """A whole number; of thousands of digits, which Python does not read, its text."""
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _records(value: Any, path: str, answer: Response, where: str) -> Sequence[Any]:
    found = at(value, path)
    if isinstance(found, list) and len(found) <= _MOST_RECORDS:
        return found
    if isinstance(found, list):
        raise DataError(
            f"{where}: {shown(answer.url)}: has {len(found):,} records, and at most {_MOST_RECORDS:,} of one answer "
            "are read. Ask for smaller pages with `paging`."
        )
    seen = "nothing" if found is _MISSING else type(found).__name__
    keys = shortened(", ".join(map(str, value)), 300) if isinstance(value, Mapping) else f"a {type(value).__name__}"
    raise DataError(
        f"{where}: {shown(answer.url)}: {seen} at `records: {path}`; wanted a list. The answer has: {keys}. Set "
        "`records` to the path of the list."
    )


def _next(paging: Paging, position: str | None, value: Any, found: Sequence[Any], answer: Response) -> str | None:
    """The position of the page after this one; None if this is the last."""
    if paging.by == "none" or (paging.more and not at(value, paging.more)):
        return None
    if paging.by in ("page", "offset"):
        if not found:
            return None
        if paging.by == "page":
            return str(int(position or paging.first) + 1)
        done = int(position or 0) + len(found)
        total = at(value, paging.total) if paging.total else _MISSING
        return None if isinstance(total, int) and done >= total else str(done)
    if paging.by == "next" and paging.field is None:
        return _address(answer, answer.following) if answer.following else None
    following = at(value, paging.field or "")
    if following is _MISSING or following is None or following == "" or following is False:
        return None
    return str(following) if paging.by == "cursor" else _address(answer, str(following))


def _address(answer: Response, following: str) -> str:
    try:
        return client.checked_address(following, answer.url)
    except RequestFailed as error:
        raise DataError(f"the next page: {error}. Correct `paging`, or report it to whoever runs the API.") from error


def _lacks_next(paging: Paging, value: Any, where: str) -> bool:
    """Whether an answer without a next page has no value at all where its position is looked for.

    Raises:
        DataError: the answer says that there are more pages.
    """
    if paging.field is None:
        return False
    more = at(value, paging.more) if paging.more else None
    if more is not _MISSING and more:
        raise DataError(
            f"{where} says by `more: {paging.more}` that there are more pages, and has nothing at `field: "
            f"{paging.field}`. Correct `paging`."
        )
    is_last = paging.more is not None and more is not _MISSING
    return not is_last and at(value, paging.field) is _MISSING
