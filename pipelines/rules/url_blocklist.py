"""Block lists of domains and URL prefixes.

Every worker holds the lists as sorted 64-bit hashes (listed.py), 8 bytes per entry: 37 MB for UT1 with 4.6 million. A
URL with s possible matches matches a list of n entries by accident with probability s * n / 2**64: about 1e-12 for UT1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.copies import LocalFile, local_file
from raymill.cluster.store.paths import AbsolutePath, is_remote
from raymill.cluster.store.store import Store
from raymill.pipelines.rules.listed import START, add, contains, finish, hashes_of
from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.kernel import kernel
from raymill.pipelines.text.texts import Texts

# scheme, user, host, port, path (with query and fragment). Browsers read a backslash as a slash, and some web archives
# have <> around URLs.
_URL = (
    r"(?s)^[\s<]*(?:(?:[A-Za-z][A-Za-z0-9+.\-]*:)?[/\\]{2})?(?:[^/\\?#@\s]*@)?"
    r"(?P<host>\[[^\]]*\]|[^/\\?#:>]*?)\.?(?::[0-9]*)?(?P<path>(?:[/\\?#>].*)?)$"
)
_DOMAIN = r"^[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)*$"  # almost every line of a list: five times faster than _URL
_OF_FOLDERS = ("domains", "urls")
_BLOCK_BYTES = 4 << 20  # of a list, which takes ten times as much while it is read
_WWW = r"^www\.([^.]+\.)"  # not for www.com, of which the top-level domain would remain


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlBlocklist:
    """Remove documents whose URL is on a block list.

    `paths` are files or URIs with one entry per line and '#' comments, or folders on this machine, of which the files
    `domains` and `urls` are read at any depth, as in UT1. A domain (`example.com`) blocks itself and its subdomains. An
    entry with a path (`example.com/forum/`) blocks the URLs of exactly that host that begin with it. Scheme, user,
    port, a leading "www." and the case of the host are ignored; the case of a path is not. Internationalised hosts
    match in the spelling of the list, Unicode or punycode.

    Documents without a URL remain, and so do all documents of an input without the column. Pages of web archives are
    judged before their text is extracted.

    Source: RefinedWeb, Penedo et al. 2023, section 3.1, which blocked 4.6 million domains of the University of
    Toulouse's list UT1. Its scoring of words inside URLs is the rule `url_words`.
    """

    paths: Annotated[
        tuple[AbsolutePath, ...],
        Field(
            min_length=1,
            description="Paths or URIs of text files with one blocked domain or URL a line, or folders with files "
            "named `domains` and `urls`, as UT1 has one for each category",
        ),
    ]
    column: Annotated[str, Field(description="Name of the column with the documents' URLs")] = "url"

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "url_blocklist"
    reasons: ClassVar = ("blocked_url",)
    signals: ClassVar = {"url_blocked": "1 if the document's URL is on a block list, else 0"}
    measured_by: ClassVar = ("paths", "column")
    by_url: ClassVar = True

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """url_blocked: uint8[D].

        Raises:
            ConfigError: the column does not hold strings, or a list has a wrong line or no entry.
        """
        if self.column not in analysis.columns.column_names:
            return {"url_blocked": np.zeros(len(analysis.texts), np.uint8)}
        hosts, paths = _split(url_column(analysis, self.column, self.name))
        keys = _join(hosts, paths)
        host_bytes = pc.binary_length(hosts).to_numpy(zero_copy_only=False).astype(np.int64)
        files = ((path, local_file(analysis.store, path, "url_blocklist.paths")) for path in self.fingerprint_files())
        lists = _load_lists(tuple(files))
        blocked = np.zeros(len(keys), np.uint8)
        _find_blocked(keys.data, keys.offsets, host_bytes, *lists, blocked)
        return {"url_blocked": blocked}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("blocked_url", "url_blocked", maximum=0),)

    def fingerprint_files(self) -> tuple[str, ...]:
        """The lists, those of folders included.

        Raises:
            ConfigError: a folder has none.
        """
        return tuple(file for path in self.paths for file in _files_of(path))


def url_column(analysis: Analysis, column: str, rule: str) -> pa.Array:
    """The URLs of the documents, large_string. rule: its name, for messages.

    Raises:
        ConfigError: the column does not hold strings.
    """
    urls = analysis.columns[column]
    if not (pa.types.is_string(urls.type) or pa.types.is_large_string(urls.type) or pa.types.is_null(urls.type)):
        raise ConfigError(f"{rule}.column: {column!r} holds {urls.type}, and URLs are strings. Name the URL's column.")
    urls = urls.cast(pa.large_string())
    return urls.combine_chunks() if isinstance(urls, pa.ChunkedArray) else urls


def hosts_of(urls: pa.Array) -> pa.Array:
    """The host of each URL, in lower case without "www."; empty for null and for other text. urls: large_string."""
    return _split(urls)[0]


def _files_of(path: str) -> Sequence[str]:
    """The lists at a path: of a folder on this machine the files `domains` and `urls` in it, else the path itself."""
    if is_remote(path) or Store().exists(path) or not (inside := Store().list_files(path, inside=True)):
        return (path,)
    if found := [file.uri for file in inside if file.uri.rpartition("/")[2] in _OF_FOLDERS]:
        return found
    raise ConfigError(f"url_blocklist.paths: {path} is a folder without files named domains or urls. Name its files.")


def _split(urls: pa.Array) -> tuple[pa.Array, pa.Array]:
    """(host in lower case without "www.", path with its query) of each URL; empty for null and for other text."""
    parts = pc.extract_regex(urls, _URL)
    host, path = (pc.fill_null(pc.struct_field(parts, part), "") for part in ("host", "path"))
    return _host_without_www(host), path


def _host_without_www(host: pa.Array) -> pa.Array:
    """Hosts in lower case without a leading "www."."""
    return pc.replace_substring_regex(pc.utf8_lower(host), _WWW, r"\1")


def _join(host: pa.Array, path: pa.Array) -> Texts:
    """host + path of each entry."""
    return Texts.from_arrow(pc.binary_join_element_wise(host, path, pa.scalar("", pa.large_string())))


@cache
def _load_lists(files: tuple[tuple[str, LocalFile], ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(domains uint64[N], prefixes uint64[M], prefix_ends bool[L]) of all entries.

    domains, prefixes: sorted hashes. prefix_ends[n]: whether a prefix has n bytes.

    Raises:
        ConfigError: a line is neither a domain nor a URL.
    """
    domains, prefixes, lengths = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], set[int]()
    for path, file in files:
        for host, rest in _read_list(file, path):
            is_domain = pc.is_in(rest, pa.array(["", "/"], pa.large_string()))
            domains.append(hashes_of(Texts.from_arrow(host.filter(is_domain)), backward=True))
            longer = _join(host.filter(pc.invert(is_domain)), rest.filter(pc.invert(is_domain)))
            prefixes.append(hashes_of(longer))
            lengths.update(np.unique(longer.byte_lengths).tolist())
    prefix_ends = np.zeros(max(lengths, default=0) + 1, np.bool_)
    prefix_ends[list(lengths)] = True
    return np.unique(np.concatenate(domains)), np.unique(np.concatenate(prefixes)), prefix_ends


def _read_list(file: LocalFile, path: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """(hosts, paths) of the entries of a list, in blocks. path: for messages."""
    text, empty, number = Store().read_bytes(str(file.path)).removeprefix(b"\xef\xbb\xbf"), True, 0
    start = 0
    while start < len(text):
        end = text.find(b"\n", min(start + _BLOCK_BYTES, len(text))) + 1 or len(text)
        try:
            block = pa.array([text[start:end].removesuffix(b"\n")], pa.large_binary()).cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise ConfigError(
                f"url_blocklist.paths: {path} is not UTF-8 text. Give one domain or URL a line."
            ) from error
        lines = pc.list_flatten(pc.split_pattern(block, "\n"))
        found = _entries(lines, path, number)
        empty = empty and not len(found[0])
        yield found
        start, number = end, number + len(lines)
    if empty:
        raise ConfigError(f"url_blocklist.paths: {path} has no entry. Give one domain or URL a line, or drop the file.")


def _entries(lines: pa.Array, path: str, before: int) -> tuple[pa.Array, pa.Array]:
    """(hosts, paths) of the entries of some lines. path, before: for messages: the file, and the lines before them."""
    entries = pc.utf8_trim_whitespace(pc.replace_substring_regex(lines, r"(^|\s)#.*", ""))
    wanted = entries.filter(pc.not_equal(entries, ""))
    plain = pc.match_substring_regex(wanted, _DOMAIN)
    other = wanted.filter(pc.invert(plain))
    host, rest = _split(other)
    # A path may have the characters of filter syntax.
    is_wrong = pc.or_(pc.equal(host, ""), pc.match_substring_regex(host, r"[\s*|^,;\"<>]"))
    wrong = other.filter(pc.or_(is_wrong, pc.match_substring_regex(rest, r"\s")))
    if len(wrong):
        line = before + pc.index(entries, wrong[0]).as_py() + 1
        raise ConfigError(
            f"url_blocklist.paths: {path}, line {line}: {wrong[0].as_py()[:200]!r} is neither a domain nor a URL. "
            "Write example.com (its subdomains are included) or example.com/path, without wildcards or filter syntax."
        )
    domains = _host_without_www(wanted.filter(plain))
    return pa.concat_arrays([domains, host]), pa.concat_arrays([pc.utf8_slice_codeunits(domains, 0, 0), rest])


@kernel
def _find_blocked(data, offsets, host_bytes, domains, prefixes, prefix_ends, blocked):
    """Set blocked[d] to 1 if the host or a parent of it is in `domains`, or the URL begins with one of `prefixes`."""
    for document in range(len(blocked)):
        first, last = offsets[document], offsets[document + 1]
        host_end = first + host_bytes[document]
        hashed = START
        for at in range(host_end - 1, first - 1, -1):
            hashed = add(hashed, data[at])
            if (at == first or data[at - 1] == 0x2E) and contains(finish(hashed), domains):
                blocked[document] = 1
                break
        if blocked[document] or len(prefixes) == 0:
            continue
        hashed = START
        for at in range(first, min(last, first + len(prefix_ends) - 1)):
            hashed = add(hashed, data[at])
            if at >= host_end and prefix_ends[at + 1 - first] and contains(finish(hashed), prefixes):
                blocked[document] = 1
                break
