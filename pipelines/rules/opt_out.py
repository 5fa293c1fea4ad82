"""Pages whose publisher reserves them, by what the page or its server states in a form that machines read."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field

from raymill.cluster.errors import ConfigError
from raymill.pipelines.rules.rule import Analysis, Check, Dialect

TDM_RESERVED = r"""^[\s"']*0*1(?:\.0*)?[\s"']*(?:;|$)"""  # of a value of the column `tdm_reservation`


def pattern_of(directives: Iterable[str]) -> str:
    """The pattern of a value of the column `robots` with one of the directives as a whole word, in any case."""
    return rf"(?i)(?:^|[^A-Za-z0-9_-])(?:{'|'.join(map(re.escape, directives))})(?:[^A-Za-z0-9_-]|$)"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptOut:
    """Remove pages whose publisher reserves them: by a directive for robots such as `noai`, or by `tdm-reservation`.

    Reads the columns `robots` and `tdm_reservation` of HTML pages and web archives; name them in `columns` of the
    input. A directive for one robot (`X-Robots-Tag: somebot: noai`) counts as one for all. Documents without such a
    statement remain. What robots.txt of a site says is not read.

    Source: the TDM Reservation Protocol, W3C Community Group Final Report of 2024, for the second.
    """

    directives: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")], ...],
        Field(description="Directives for robots that reserve a page, in any case"),
    ] = ("noai",)
    tdm_reservation: Annotated[bool, Field(description="Whether `tdm-reservation: 1` reserves a page")] = True

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    name: ClassVar = "opt_out"
    reasons: ClassVar = ("opted_out",)
    signals: ClassVar = {"opted_out": "1 if the page or its server reserves it, else 0"}
    measured_by: ClassVar = ("directives", "tdm_reservation")
    columns: ClassVar = ("robots", "tdm_reservation")

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """opted_out: uint8[D].

        Raises:
            ConfigError: a column does not hold strings.
        """
        found = np.zeros(len(analysis.texts), np.uint8)
        if self.directives:
            found |= self._matches(analysis, "robots", pattern_of(self.directives))
        if self.tdm_reservation:
            found |= self._matches(analysis, "tdm_reservation", TDM_RESERVED)
        return {"opted_out": found}

    def _matches(self, analysis: Analysis, name: str, pattern: str) -> np.ndarray:
        """uint8[D]: whether the column has a value that matches; 0 without the column."""
        if name not in analysis.columns.column_names:
            return np.zeros(len(analysis.texts), np.uint8)
        values = analysis.columns[name]
        kind = values.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise ConfigError(f"opt_out: column {name} holds {kind}; wanted strings, as pages state them.")
        found = pc.fill_null(pc.match_substring_regex(values.cast(pa.large_string()), pattern), False)
        return found.to_numpy().astype(np.uint8)

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        return (Check("opted_out", "opted_out", maximum=0),)
