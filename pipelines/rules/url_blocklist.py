"""Block lists of domains and URL prefixes.

Every worker holds the lists as sorted 64-bit hashes, 8 bytes per entry: 37 MB for UT1 with 4.6 million. A URL with s
possible matches matches a list of n entries by accident with probability s * n / 2**64: about 1e-12 for UT1.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.copies import LocalFile, local_file
from raymill.cluster.store.paths import AbsolutePath
from raymill.cluster.store.store import Store
from raymill.pipelines.rules.rule import Analysis, Check, Dialect
from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts

# scheme, user, host, port, path (with query and fragment). Browsers read a backslash as a slash, and some web archives
# have <> around URLs.
_URL = (
    r"(?s)^[\s<]*(?:(?:[A-Za-z][A-Za-z0-9+.\-]*:)?[/\\]{2})?(?:[^/\\?#@\s]*@)?"
    r"(?P<host>\[[^\]]*\]|[^/\\?#:>]*?)\.?(?::[0-9]*)?(?P<path>(?:[/\\?#>].*)?)$"
)
_DOMAIN = r"^[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)*$"  # almost every line of a list: five times faster than _URL
_WWW = r"^www\.([^.]+\.)"  # not for www.com, of which the top-level domain would remain


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlBlocklist:
    """Remove documents whose URL is on a block list.

    `paths` are files or URIs with one entry per line and '#' comments. A domain (`example.com`) blocks itself and its
    subdomains. An entry with a path (`example.com/forum/`) blocks the URLs of exactly that host that begin with it.
    Scheme, user, port, a leading "www." and the case of the host are ignored; the case of a path is not.
    Internationalised hosts match in the spelling of the list, Unicode or punycode.

    Documents without a URL remain, and so do all documents of an input without the column. (The config checks that its
    inputs carry the column.)

    Source: RefinedWeb, Penedo et al. 2023, section 3.1, which blocked 4.6 million domains of the University of
    Toulouse's list UT1. Its scoring of words inside URLs is not part of this rule.
    """

    paths: Annotated[
        tuple[AbsolutePath, ...],
        Field(min_length=1, description="Paths or URIs of text files with one blocked domain or URL a line"),
    ]
    column: Annotated[str, Field(description="Name of the column with the documents' URLs")] = "url"

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "url_blocklist"
    reasons: ClassVar = ("blocked_url",)
    signals: ClassVar = {"url_blocked": "1 if the document's URL is on a block list, else 0"}
    measured_by: ClassVar = ("paths", "column")

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """url_blocked: uint8[D].

        Raises:
            ConfigError: the column does not hold strings, or a list has a wrong line or no entry.
        """
        if self.column not in analysis.columns.column_names:
            return {"url_blocked": np.zeros(len(analysis.texts), np.uint8)}
        urls = analysis.columns[self.column]
        if not (pa.types.is_string(urls.type) or pa.types.is_large_string(urls.type) or pa.types.is_null(urls.type)):
            raise ConfigError(
                f"url_blocklist.column: {self.column!r} holds {urls.type}, and URLs are strings. Name the URL's column."
            )
        hosts, paths = _split(urls.cast(pa.large_string()))
        keys = _join(hosts, paths)
        host_bytes = pc.binary_length(hosts).to_numpy(zero_copy_only=False).astype(np.int64)
        files = tuple((path, local_file(analysis.store, path, "url_blocklist.paths")) for path in self.paths)
        lists = _load_lists(files)
        blocked = np.zeros(len(keys), np.uint8)
        _find_blocked(keys.data, keys.offsets, host_bytes, *lists, blocked)
        return {"url_blocked": blocked}

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("blocked_url", "url_blocked", maximum=0),)

    def fingerprint_files(self) -> tuple[str, ...]:
        """The lists."""
        return self.paths


def _split(urls: pa.ChunkedArray | pa.Array) -> tuple[pa.Array, pa.Array]:
    """(host in lower case without "www.", path with its query) of each URL; empty for null and for other text."""
    if isinstance(urls, pa.ChunkedArray):
        urls = urls.combine_chunks()
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
    hosts, rests = zip(*(_read_list(file, path) for path, file in files), strict=True)
    host, rest = pa.concat_arrays(hosts), pa.concat_arrays(rests)
    is_domain = pc.is_in(rest, pa.array(["", "/"], pa.large_string()))
    domains = Texts.from_arrow(host.filter(is_domain))
    prefixes = _join(host.filter(pc.invert(is_domain)), rest.filter(pc.invert(is_domain)))
    prefix_ends = np.zeros(prefixes.byte_lengths.max(initial=0) + 1, np.bool_)
    prefix_ends[prefixes.byte_lengths] = True
    return (
        np.unique(_hashes(domains, backward=True)),
        np.unique(_hashes(prefixes, backward=False)),
        prefix_ends,
    )


def _read_list(file: LocalFile, path: str) -> tuple[pa.Array, pa.Array]:
    """(hosts, paths) of the entries of a list. path: for messages."""
    text = Store().read_bytes(str(file.path)).removeprefix(b"\xef\xbb\xbf")
    try:
        lines = pc.list_flatten(pc.split_pattern(pa.array([text], pa.large_binary()).cast(pa.large_string()), "\n"))
    except pa.ArrowInvalid as error:
        raise ConfigError(f"url_blocklist.paths: {path} is not UTF-8 text. Give one domain or URL a line.") from error
    entries = pc.utf8_trim_whitespace(pc.replace_substring_regex(lines, r"(^|\s)#.*", ""))
    wanted = entries.filter(pc.not_equal(entries, ""))
    if not len(wanted):
        raise ConfigError(f"url_blocklist.paths: {path} has no entry. Give one domain or URL a line, or drop the file.")
    plain = pc.match_substring_regex(wanted, _DOMAIN)
    other = wanted.filter(pc.invert(plain))
    host, rest = _split(other)
    wrong = other.filter(pc.or_(pc.equal(host, ""), pc.match_substring_regex(other, r"[\s*|^,;\"<>]")))
    if len(wrong):
        line = pc.index(entries, wrong[0]).as_py() + 1
        raise ConfigError(
            f"url_blocklist.paths: {path}, line {line}: {wrong[0].as_py()!r} is neither a domain nor a URL. "
            "Write example.com (its subdomains are included) or example.com/path, without wildcards or filter syntax."
        )
    domains = _host_without_www(wanted.filter(plain))
    return pa.concat_arrays([domains, host]), pa.concat_arrays([pc.utf8_slice_codeunits(domains, 0, 0), rest])


@inner_kernel
def _add(hashed, byte):
    """One step of FNV-1a, 64 bits."""
    return (hashed ^ np.uint64(byte)) * np.uint64(0x100000001B3)


@inner_kernel
def _finish(hashed):
    """Mix the bits of a hash (the finaliser of splitmix64)."""
    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashed ^ (hashed >> np.uint64(31))


_START = np.uint64(0xCBF29CE484222325)


def _hashes(texts: Texts, *, backward: bool) -> np.ndarray:
    """uint64[D]: hash of each document, from its end if `backward`.

    Domains are hashed from their end: one pass over a host then gives the hashes of all its parent domains.
    """
    hashes = np.empty(len(texts), np.uint64)
    _fill_hashes(texts.data, texts.offsets, backward, hashes)
    return hashes


@kernel
def _fill_hashes(data, offsets, backward, hashes):
    for entry in range(len(hashes)):
        first, last = offsets[entry], offsets[entry + 1]
        hashed = _START
        for at in range(last - first):
            hashed = _add(hashed, data[last - 1 - at] if backward else data[first + at])
        hashes[entry] = _finish(hashed)


@inner_kernel
def _contains(hashed, hashes):
    """Whether the sorted `hashes` hold `hashed`."""
    low, high = 0, len(hashes)
    while low < high:
        middle = (low + high) >> 1
        if hashes[middle] < hashed:
            low = middle + 1
        else:
            high = middle
    return low < len(hashes) and hashes[low] == hashed


@kernel
def _find_blocked(data, offsets, host_bytes, domains, prefixes, prefix_ends, blocked):
    """Set blocked[d] to 1 if the host or a parent of it is in `domains`, or the URL begins with one of `prefixes`."""
    for document in range(len(blocked)):
        first, last = offsets[document], offsets[document + 1]
        host_end = first + host_bytes[document]
        hashed = _START
        for at in range(host_end - 1, first - 1, -1):
            hashed = _add(hashed, data[at])
            if (at == first or data[at - 1] == 0x2E) and _contains(_finish(hashed), domains):
                blocked[document] = 1
                break
        if blocked[document] or len(prefixes) == 0:
            continue
        hashed = _START
        for at in range(first, min(last, first + len(prefix_ends) - 1)):
            hashed = _add(hashed, data[at])
            if at >= host_end and prefix_ends[at + 1 - first] and _contains(_finish(hashed), prefixes):
                blocked[document] = 1
                break
