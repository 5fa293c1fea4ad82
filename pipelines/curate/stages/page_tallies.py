"""Counts of web pages for the report: by host, by month, and by the directives of pages for robots, read and kept.

They are made of carried columns: `url`, `published` and `date`, `robots` and `tdm_reservation`. Rows of tallies.py with
these tables; `bin` is 0 for documents that were read, and 1 for those of them that were kept:

    host       `name` is the host without "www.", empty for those that are not among the most frequent
    published  `name` is the month as 2026-01, or the year; `other` for another form, empty without a value
    collected  the same of `date`
    opt_out    `name` is a directive, or `tdm-reservation`
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.pipelines.curate.stages.tallies import add_tallies, tally
from raymill.pipelines.rules.opt_out import TDM_RESERVED, pattern_of
from raymill.pipelines.rules.url_blocklist import hosts_of

READ, KEPT = 0, 1
PAGE_TABLES = ("host", "published", "collected", "opt_out")

# Hosts of a unit of `select` that are counted by name. A crawl has millions, and the report shows some.
HOSTS_OF_A_UNIT = 1000
_HOST_WITHIN = 1000  # first characters of a URL
_LONGEST_HOST = 253  # characters of a name: RFC 1035; others are counted with the rarest

_MONTH = r"^\s*(?P<year>(?:19|20)[0-9]{2})(?:-(?P<month>0[1-9]|1[0-2]))?(?:[^0-9].*)?$"
DIRECTIVES = ("noai", "noimageai", "noindex", "nofollow", "noarchive", "nosnippet", "none")
TDM_RESERVATION = "tdm-reservation"


def page_tallies(source: str, carried: pa.Table, characters: np.ndarray, kept: np.ndarray) -> list[pa.Table]:
    """The tallies of D documents of a source; none of columns that are not carried, or not strings.

    carried: the carried columns. characters: int64[D]. kept: bool[D].
    """
    columns = {field.name: carried[field.name] for field in carried.schema if _is_text(field.type)}
    names: list[tuple[str, pa.Array, np.ndarray]] = []  # (table, name of each row, its document)
    everything = np.arange(carried.num_rows)
    if "url" in columns:
        hosts = hosts_of(pc.utf8_slice_codeunits(_plain(columns["url"]), 0, _HOST_WITHIN))
        is_name = pc.less_equal(pc.binary_length(hosts), _LONGEST_HOST)
        names.append(("host", pc.if_else(is_name, hosts, ""), everything))
    for table, column in (("published", "published"), ("collected", "date")):
        if column in columns:
            names.append((table, months(_plain(columns[column])), everything))
    for directive, told in _opt_outs(columns):
        rows = np.flatnonzero(told)
        names.append(("opt_out", pa.repeat(directive, len(rows)).cast(pa.large_string()), rows))
    found = []
    for table, name, rows in names:
        for side, chosen in ((READ, np.ones(len(rows), bool)), (KEPT, kept[rows])):
            documents = rows[chosen]
            ones = np.ones(len(documents), np.int64)
            counted = tally(table, source, "", name.filter(pa.array(chosen)), ones, characters[documents])
            found.append(counted.set_column(4, "bin", pa.repeat(pa.scalar(side, pa.int32()), len(documents))))
    return [add_tallies(found)] if found else []


def most_frequent_hosts(tallies: pa.Table, most: int = HOSTS_OF_A_UNIT) -> pa.Table:
    """The tallies, with the hosts of which the fewest documents were read added up under an empty name."""
    is_host = pc.equal(tallies["table"], "host")
    hosts = tallies.filter(is_host)
    read = hosts.filter(pc.equal(hosts["bin"], READ)).sort_by([("documents", "descending"), ("name", "ascending")])
    if read.num_rows <= most:
        return tallies
    # A host of several sources may be in the list twice; then it is kept of both.
    kept = pc.is_in(hosts["name"], read["name"].slice(0, most).combine_chunks())
    hosts = hosts.set_column(hosts.column_names.index("name"), "name", pc.if_else(kept, hosts["name"], ""))
    return add_tallies([tallies.filter(pc.invert(is_host)), hosts])


def months(values: pa.Array) -> pa.Array:
    """The month or year of each value, `other` where it has another form, empty where there is none: large_string."""
    parts = pc.extract_regex(values, _MONTH)
    year, month = (pc.struct_field(parts, name) for name in ("year", "month"))
    has_month = pc.fill_null(pc.not_equal(month, ""), False)
    joined = pc.if_else(has_month, pc.binary_join_element_wise(year, month, pa.scalar("-", pa.large_string())), year)
    blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(values, "")), "")
    return pc.if_else(blank, "", pc.fill_null(joined, "other"))


def _opt_outs(columns: dict[str, pa.ChunkedArray]) -> list[tuple[str, np.ndarray]]:
    """(directive, bool[D]: the pages that state it)."""
    found = []
    if "robots" in columns:
        robots = _plain(columns["robots"])
        for directive in DIRECTIVES:
            found.append((directive, _matches(robots, pattern_of([directive]))))
    if "tdm_reservation" in columns:
        found.append((TDM_RESERVATION, _matches(_plain(columns["tdm_reservation"]), TDM_RESERVED)))
    return found


def _matches(values: pa.Array, pattern: str) -> np.ndarray:
    return pc.fill_null(pc.match_substring_regex(values, pattern), False).to_numpy(zero_copy_only=False)


def _is_text(type: pa.DataType) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    return column.cast(pa.large_string()).combine_chunks()


def by_name(rows: Sequence[dict[str, object]]) -> dict[str, dict[str, dict[str, int]]]:
    """name -> `input`, `corpus` -> documents and characters, of the rows of one table, of all sources."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        sides = found.setdefault(str(row["name"]), {s: {"documents": 0, "characters": 0} for s in ("input", "corpus")})
        side = sides["input" if row["bin"] == READ else "corpus"]
        side["documents"] += int(row["documents"])  # type: ignore[call-overload]
        side["characters"] += int(row["characters"])  # type: ignore[call-overload]
    return found
