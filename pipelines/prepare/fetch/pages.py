"""The main text of web pages, one after the other, as their servers' robots.txt allows.

Rules of robots.txt are read by Python's `urllib.robotparser`, which takes `*` and `$` inside of paths as they are
written. Servers without the file allow everything; servers that fail to send it allow nothing (RFC 9309, 2.3.1).
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.robotparser import RobotFileParser

from raymill.cluster.errors import ConfigError
from raymill.cluster.readers.formats.web_pages import add_page
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts, Rows
from raymill.cluster.secret_values import shortened
from raymill.cluster.store.copies import local_file
from raymill.cluster.store.store import Store
from raymill.cluster.web_address import WebAddress, web_address
from raymill.pipelines.prepare.fetch import client
from raymill.pipelines.prepare.fetch.client import USER_AGENT, RequestFailed, Response, shown
from raymill.pipelines.prepare.fetch.settings import Pages
from raymill.pipelines.prepare.fetch.snapshot import Page, Unread, now

_LONGEST_DELAY_S = 60.0  # that robots.txt may ask for
_RULES_BYTES = 500 << 10  # of robots.txt that are read, the least of RFC 9309, 2.5
# Rules of the servers asked last are kept: bytes of their files, which take 16 times as much memory, and servers.
_KEPT_BYTES, _KEPT_SERVERS = 4 << 20, 1000
# Addresses in a row for which a server refuses all requests (429, 503) or does not answer; then it is not asked again.
_MOST_REFUSED = 5
_RATE = re.compile(r"[0-9]{1,9}(?:/[0-9]{1,9})?")
_INPUT = Input(path="/")
_ACCEPT = {"Accept": "text/html, text/plain;q=0.5"}


def addresses(settings: Pages, store: Store, where: str) -> tuple[WebAddress, ...]:
    """The pages of the settings, or of the file that they name, each once.

    Raises:
        ConfigError: a line of the file is no address of a page, or there is none.
        StorageError: the file cannot be read.
    """
    if not isinstance(settings.urls, str):
        return tuple(dict.fromkeys(settings.urls))
    file = local_file(store, settings.urls, f"{where}.urls")
    lines = Store().read_bytes(str(file.path)).decode("utf-8-sig", "replace").splitlines()
    found = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    found = [(number, line) for number, line in found if line and not line.startswith("#")]
    for number, line in found:
        try:
            web_address(line)
        except ValueError as error:
            raise ConfigError(f"{where}.urls: {settings.urls} line {number}: {error}. Correct the file.") from error
    if not found:
        raise ConfigError(f"{where}.urls: {settings.urls} has no address. Write one a line.")
    return tuple(dict.fromkeys(line for _, line in found))


def pages(settings: Pages, position: str | None, urls: tuple[WebAddress, ...]) -> Iterator[Page]:
    """A page of one row for each address, from a position on: the number of an address, or None for the first.

    Fields of a row: `url`, where the text was found; `requested`, the address of the list; `text`. An address without a
    text has a problem instead.
    """
    with client.Client(settings) as connection:
        visitor = _Visitor(connection, settings.delay_s)
        for number, url in enumerate(urls):
            if number < int(position or 0):
                continue
            following = str(number + 1) if number + 1 < len(urls) else None
            try:
                visitor.approach(url)
                answer = connection.get(url, headers=_ACCEPT, allowed=visitor.approach)
                text, problem = _text(answer)
                visitor.note_answer(None)
            except RequestFailed as error:
                visitor.note_answer(error)
                yield Page(url, (), [Unread(error.problem, str(error))], following, now())
                continue
            if problem:
                yield Page(url, (), [Unread(problem, shown(answer.url))], following, answer.received)
            else:
                # A redirect may lead to an address with a signature.
                yield Page(
                    url, [{"url": shown(answer.url), "requested": url, "text": text}], (), following, answer.received
                )


@dataclass
class _Visitor:
    """Approaches pages with a delay between the requests to one server, and as robots.txt allows.

    A server that does not send its robots.txt, or no page for several addresses, is not asked again: each address would
    take all attempts with their waits.
    """

    connection: client.Client
    delay_s: float
    # With the bytes of the file.
    _rules: dict[str, tuple[RobotFileParser | RequestFailed, int]] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)
    _server: str = ""  # that was approached last
    _refused: dict[str, int] = field(default_factory=dict)  # addresses in a row, by server

    def approach(self, url: str) -> None:
        """Check robots.txt, and wait until the server may be asked again.

        Raises:
            RequestFailed: robots.txt forbids the address, or cannot be fetched; or the server is not asked again.
        """
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise RequestFailed("http_error", f"{shortened(url, 200)}: is no address ({error})") from error
        server = self._server = f"{parts.scheme}://{parts.netloc}"
        kept = self._rules.pop(server) if server in self._rules else self._fetched_rules(server)
        self._rules[server], (rules, _) = kept, kept
        while sum(bytes for _, bytes in self._rules.values()) > _KEPT_BYTES or len(self._rules) > _KEPT_SERVERS:
            del self._rules[next(iter(self._rules))]
        if isinstance(rules, RequestFailed):
            raise RequestFailed(rules.problem, str(rules))
        if self._refused.get(server, 0) >= _MOST_REFUSED:
            raise RequestFailed(
                "unreachable",
                f"{shown(url)}: not asked, since {server} refused or did not answer {_MOST_REFUSED} others",
            )
        if not rules.can_fetch(USER_AGENT, url):
            raise RequestFailed("robots_forbid", url)
        wanted = rules.crawl_delay(USER_AGENT)
        delay = max(self.delay_s, min(float(wanted or 0), _LONGEST_DELAY_S))
        self._wait(server, delay)

    def note_answer(self, error: RequestFailed | None) -> None:
        """Note how the server that was approached last answered, after all attempts."""
        if error is not None and (error.problem == "unreachable" or error.status in (429, 503)):
            self._refused[self._server] = self._refused.get(self._server, 0) + 1
        else:
            self._refused.pop(self._server, None)

    def _wait(self, server: str, delay: float) -> None:
        """Wait for the rest of the delay since the last request to a server."""
        if server in self._last:
            client.pause(self._last[server] + delay - time.monotonic())
        self._last[server] = time.monotonic()
        if len(self._last) > _KEPT_SERVERS:
            del self._last[min(self._last, key=self._last.__getitem__)]

    def _fetched_rules(self, server: str) -> tuple[RobotFileParser | RequestFailed, int]:
        """(the rules of a server, or why it allows nothing; the bytes of its robots.txt)."""
        rules, address, text = RobotFileParser(), f"{server}/robots.txt", ""
        self._wait(server, self.delay_s)
        try:
            text = self.connection.get(address).body[:_RULES_BYTES].decode("utf-8", "replace")
            rules.parse([line for line in text.splitlines() if _is_rule(line)])
        except RequestFailed as error:
            if error.problem in ("private_address", "unreachable"):
                return error, 0
            if error.status is None or not 400 <= error.status < 500 or error.status == 429:
                return RequestFailed("robots_forbid", f"{address} cannot be read, so nothing is allowed: {error}"), 0
            rules.parse([])
        return rules, len(text)


def _is_rule(line: str) -> bool:
    """Whether `RobotFileParser` can read a line; it raises ValueError at numbers and addresses that are none."""
    name, _, value = line.partition(":")
    if name.strip().lower() in ("crawl-delay", "request-rate"):
        return _RATE.fullmatch(value.partition("#")[0].strip()) is not None
    try:
        urlsplit(unquote(value.strip()))
        urlsplit(value.strip())
    except ValueError:
        return False
    return True


def _text(answer: Response) -> tuple[str, str | None]:
    """(the main text of a page, its problem or None)."""
    kind = answer.content_type.partition(";")[0].strip()
    if kind not in ("", "text/html", "application/xhtml+xml", "text/plain"):
        return "", "not_a_page"
    rows = Rows(_INPUT, Limits(), ReaderCounts())
    if kind == "text/plain":
        rows.add(answer.body.decode("utf-8", "replace"), answer.url)
    else:
        add_page(rows, answer.body, answer.url, None, (), answer.content_type)
    (row,) = rows.table().to_pylist()
    return row["text"] or "", row["problem"]
