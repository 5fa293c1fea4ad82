"""report.json: its content, and how it follows from the artifacts of the stages and from manifests.

Reasons, stages and signals have the names of the ledger and the attributes. Characters are Unicode code points,
text_bytes are bytes of UTF-8, times are seconds.
"""

import os
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymill import cluster
from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import Engine
from raymill.cluster.formats import ascii_text, count, plural, share
from raymill.cluster.readers.inputs import STORES
from raymill.cluster.readers.quarantine import lost_rows
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.secret_values import take_out
from raymill.pipelines.curate.config import CUTS, AnyCut, CurateConfig
from raymill.pipelines.curate.report.run_warnings import warnings
from raymill.pipelines.curate.stages.decide import TALLIES
from raymill.pipelines.curate.stages.ids import DUPLICATE_IDS
from raymill.pipelines.curate.stages.kept_texts import TOO_FEW_WORDS_LEFT
from raymill.pipelines.curate.stages.measure import (
    ATTRIBUTES,
    EMPTY_TEXT,
    NO_ID,
    NO_NEWEST_BY,
    NOTES,
    RECORDS,
    REPEATED_KEY,
    SKIPPED,
)
from raymill.pipelines.curate.stages.page_tallies import PAGE_TABLES, by_name
from raymill.pipelines.curate.stages.samples import CUT_REASON, best_samples
from raymill.pipelines.curate.stages.tallies import (
    BEST_SAMPLES,
    CHARACTERS_PER_TOKEN,
    DUPLICATES,
    PROBLEMS,
    SIMILARITY,
    SIMILARITY_BINS,
    TALLY_SUMS,
    add_problems,
    add_tallies,
    edges,
    is_count,
    merged,
    sum_of_units,
)
from raymill.pipelines.curate.stages.write_corpus import CORPUS, DEDUP_STAGES
from raymill.pipelines.dedup.group import GROUPS
from raymill.pipelines.rules.filters import Filters, all_reasons, checks_by_signal

SCHEMA_VERSION = 1

CurateReport = dict[str, Any]

_AMOUNT = {"documents": int, "characters": int}
_IN_AND_KEPT = {"input": _AMOUNT, "corpus": _AMOUNT}
_EXCERPT = {"id": str, "source": str, "excerpt": str}  # the beginning of a document; one that was cut ends with U+2026
_BY_REASON = {"reason": str, **_AMOUNT}
# A key that ends with `?` may be missing; a part that is off is empty or null.
REPORT = {
    "schema": int,  # 1
    # finished: ISO 8601 with offset. cpus: logical cores. config: without secrets.
    "run": {
        "name": str, "kind": str, "output": str, "version": str, "finished": str, "config": dict[str, Any],
        "machine": {"cpus": int, "platform": str, "python": str, "ray": str | None},
    },
    # tokens_estimate: characters / 4. wall_s: sum over the stages, null if one has none. core_s: sum over the workers.
    "totals": {
        "input": _AMOUNT, "corpus": {**_AMOUNT, "tokens_estimate": int}, "wall_s": float | None, "core_s": float,
    },
    # left: after the stage, the previous stage's `left` minus `removed`, the sum of `reasons`. The last stage,
    # `corpus`, removes no document; its `left` has the characters after lines were cut and personal data was replaced.
    "funnel": [{"stage": str, "left": _AMOUNT, "removed": _AMOUNT, "reasons": [_BY_REASON]}],
    "languages": [{"language": str, "input": _AMOUNT, "corpus": _AMOUNT}],  # by detected label
    # without_id: without a value in the `id` column. repeated_keys: records with a repeated key. without_newest_by:
    # those without a value of `dedup.newest_by` that can be compared. records: of archives; each is a document, in
    # quarantine or among `skipped`. notes: what readers left out of documents -> number.
    "sources": [{
        "source": str, "licence": str | None, "weight": float, "input": _AMOUNT, "corpus": _AMOUNT,
        "reasons": [{"stage": str, **_BY_REASON}], "without_id": int, "empty_texts": int, "repeated_keys": int,
        "without_newest_by": int, "records?": int, "notes": dict[str, int],
    }],
    # documents[i]: number of values in [edges[i], edges[i + 1]). stage: the one whose bounds apply to the signal;
    # without it, the stage of the bounds' reasons in the funnel. scale: linear, or log for counts; a logarithmic one
    # may begin at 0, its first bin is then drawn as wide as the second. Documents below `minimum` or above `maximum`
    # are removed.
    "histograms": [{
        "signal": str, "description": str, "stage?": str, "scale": str, "edges": [float], "documents": [int],
        "bounds": [{"reason": str, "minimum": float | None, "maximum": float | None}],
    }],
    # Removed near-duplicates by their Jaccard similarity with the kept document; null where they were not looked for.
    "similarity": {"edges": [float], "documents": [int], "threshold": float},
    # The largest duplicate groups, with the kept document and a removed one. similarity: of these; null for equal
    # texts.
    "groups": [{
        "group_id": str, "documents": int, "kept": _EXCERPT, "removed": _EXCERPT, "similarity": float | None,
    }],
    # Of inputs that carry these columns: pages by host, by month of `published` and `date`, and by what they say to
    # robots. hosts: those with the most documents; `others` are the rest, with an empty name. The others of a unit are
    # not told apart, so the numbers of a host are the least that it has.
    "hosts?": {"hosts": [{"host": str, **_IN_AND_KEPT}], "others": _IN_AND_KEPT},
    "dates?": [{"column": str, "months": [{"month": str, **_IN_AND_KEPT}]}],
    "opt_outs?": [{"directive": str, **_IN_AND_KEPT}],
    # With `corpus.copies`: documents of the corpus by their number of copies, in ascending order, and what an epoch of
    # training reads.
    "copies?": {
        "rule": str, "counted": [{"copies": float, **_AMOUNT}], "epoch": {"documents": float, "characters": float},
    },
    # reason: `kept` for a document of the corpus; its value and threshold are null.
    "samples": [{
        **_EXCERPT, "reason": str, "stage": str, "language": str | None, "value": float | None,
        "threshold": float | None,
    }],
    "personal_data": [{"kind": str, "documents": int, "found": int, "redacted": bool}],  # found: occurrences
    # Of each cut that is made. texts: the most frequent ones; documents: number of kept documents that have one, for
    # lines and paragraphs those of its source.
    **{
        f"{cut.name}?": {
            **cut.report, **dict.fromkeys(cut.counters, int), "texts": [{"source": str, "text": str, "documents": int}],
        }
        for cut in CUTS
    },
    # lost: those of the documents that have no row in quarantine. examples: file and row.
    "quarantine": [{"source": str, "problem": str, "documents": int, "lost?": int, "examples": [str]}],
    "skipped": [{"source": str, "inside": bool, "reason": str, "count": int}],  # files, or what is inside of files
    "duplicate_ids": [{"source": str, "ids": int, "documents": int, "examples": [str]}],  # examples: of ids
    # units: also without documents. wall_s: null if an earlier call did some of them.
    "stages": [{
        "stage": str, "units": int, "documents": int, "text_bytes": int, "wall_s": float | None, "core_s": float,
    }],
    # What endpoints were asked for text vectors: tries by outcome, tokens, and what they cost by `price`.
    "embeddings?": [{
        "model": str, "endpoint": str, "tries": int, "outcomes": dict[str, int], "tokens": int, "cost": float | None,
        "cost_uncounted": float | None,
    }],
    "warnings": [str],
}  # fmt: skip

_PLAIN_SIGNALS = {
    "characters": "characters of the document",
    "bytes": "bytes of the document in UTF-8",
    "tokens": "words of deduplication",
    "language_score": "probability of the language",
}
_WHERE_SHOWN = 3
_HOSTS_SHOWN = 200
_ID_SHOWN = 60  # characters

_STAGE_OF = {ATTRIBUTES: "measure", TALLIES: "decide", GROUPS: "group", CORPUS: "select"}
_STAGE_NAMES = {"read": "Read", "c4": "C4", "fineweb": "FineWeb"}

Counts = dict[str, int]


def gather(
    config: CurateConfig,
    filters: Filters,
    cuts: tuple[AnyCut, ...],
    inputs: InputManifest,
    engine: Engine,
    artifacts: dict[str, Artifact],
) -> CurateReport:
    """The report of a run.

    Args:
        filters, cuts: those of the config.
        engine: the one that ran the stages, for their times and units.
        artifacts: of all stages, by name.
    """
    tallies = _Tallies(config, filters, cuts, artifacts)
    samples = _merged(artifacts[BEST_SAMPLES], partial(best_samples, most=config.report.samples))
    stages = {stage: artifacts[name].manifest for name, stage in _STAGE_OF.items() if name in artifacts}
    core_s = {stage: manifest.seconds for stage, manifest in stages.items()}
    report: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "run": _run(config, engine),
        "totals": _totals(tallies, engine, core_s),
        "funnel": tallies.funnel(),
        "languages": tallies.languages(),
        "sources": _sources(inputs, tallies, artifacts[ATTRIBUTES]),
        "histograms": _histograms(filters, tallies),
        "similarity": _similarity(config, artifacts.get(SIMILARITY)),
        "groups": _groups(config.report.groups, samples),
        "samples": _samples(samples, tallies),
        "personal_data": [
            {
                "kind": row["name"],
                "documents": row["documents"],
                "found": row["characters"],
                "redacted": config.personal_data is not None and row["name"] in config.personal_data.redact,
            }
            for row in tallies.rows["personal"]
        ],
        "quarantine": _quarantine(artifacts[PROBLEMS], lost_rows(artifacts[ATTRIBUTES])),
        "skipped": _skipped(inputs, artifacts[ATTRIBUTES]),
        "duplicate_ids": _duplicate_ids(inputs, artifacts.get(DUPLICATE_IDS)),
        "stages": [
            {
                "stage": stage,
                "units": engine.units[stage],
                "documents": int(manifest.counters.get("documents", 0)),
                "text_bytes": int(manifest.counters.get("text_bytes", 0)),
                "wall_s": engine.wall_s.get(stage),
                "core_s": core_s[stage],
            }
            for stage, manifest in stages.items()
        ],
    }
    counters = artifacts[CORPUS].manifest.counters
    for cut in cuts:
        shown = samples.filter(pc.and_(pc.equal(samples["reason"], CUT_REASON), pc.equal(samples["stage"], cut.name)))
        report[cut.name] = {
            **cut.facts(artifacts[cut.name].manifest.rows),
            **{name: int(counters.get(f"{cut.name}_{name}", 0)) for name in cut.counters},
            "texts": [
                {"source": row["source"], "text": row["excerpt"], "documents": int(row["value"])}
                for row in shown.to_pylist()
            ],
        }
    report |= _pages(tallies)
    if config.corpus.copies:
        report["copies"] = {"rule": str(config.corpus.copies), **copies_of_corpus(tallies.rows["copies"])}
    kept_languages = config.language.keep if config.language else ()
    return report | {"warnings": warnings(report, inputs, config.report.warn_source_loss, kept_languages)}


class _Tallies:
    """The sum of the tallies of a run, by table, with the removed duplicates.

    reasons: (removed by, reason) of all checks and kinds of duplicates, in order.
    """

    def __init__(
        self, config: CurateConfig, filters: Filters, cuts: tuple[AnyCut, ...], artifacts: dict[str, Artifact]
    ) -> None:
        total = _merged(artifacts[TALLY_SUMS], add_tallies)
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in total.to_pylist():
            self.rows[row["table"]].append(row)
        self.reasons = list(all_reasons(filters))
        self.stages = list(dict.fromkeys(stage for stage, _ in self.reasons))
        if config.dedup and config.dedup.remove:
            for row in sum_of_units(artifacts[DUPLICATES].tables()).to_pylist():
                self.rows["removed"].append(row | {"name": f"{DEDUP_STAGES[row['reason']]}/{row['reason']}"})
            self.stages += DEDUP_STAGES.values()
            self.reasons += [(stage, reason) for reason, stage in DEDUP_STAGES.items()]
        for cut in cuts:
            self.stages.append(cut.name)
            self.reasons.append((cut.name, TOO_FEW_WORDS_LEFT))

    def total(self, table: str, **wanted: str) -> Counts:
        """Documents and characters of the rows of a table with these values."""
        rows = [row for row in self.rows[table] if all(row[key] == value for key, value in wanted.items())]
        return {key: sum(row[key] for row in rows) for key in ("documents", "characters")}

    def removed(self, **wanted: str) -> list[dict[str, Any]]:
        """One entry for each reason that removed anything, in the order of the checks."""
        found = []
        for stage, reason in self.reasons:
            counts = self.total("removed", name=f"{stage}/{reason}", **wanted)
            if counts["documents"]:
                found.append({"stage": stage, "reason": reason, **counts})
        return found

    def funnel(self) -> list[dict[str, Any]]:
        """One entry for each stage, in order: schema.FunnelStage."""
        left = self.total("input")
        none: Counts = {"documents": 0, "characters": 0}
        steps: list[dict[str, Any]] = [{"stage": "read", "left": left, "removed": none, "reasons": []}]
        by_stage: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in self.removed():
            by_stage[entry.pop("stage")].append(entry)
        for stage in self.stages:
            gone = {key: sum(entry[key] for entry in by_stage[stage]) for key in none}
            left = {key: left[key] - gone[key] for key in left}
            steps.append({"stage": stage, "left": left, "removed": gone, "reasons": by_stage[stage]})
        # The corpus may have fewer characters than its documents before: text is cut and personal data replaced.
        return [*steps, {"stage": "corpus", "left": self.total("kept"), "removed": none, "reasons": []}]

    def languages(self) -> list[dict[str, Any]]:
        names = {row["language"] for row in self.rows["input"]} - {""}
        found = [
            {"language": name, "input": self.total("input", language=name), "corpus": self.total("kept", language=name)}
            for name in names
        ]
        return sorted(found, key=lambda entry: (-entry["input"]["documents"], entry["language"]))


def _merged(artifact: Artifact, merge: Callable[[list[pa.Table]], pa.Table]) -> pa.Table:
    return merged(artifact.store, artifact.file_uris, merge)


def _run(config: CurateConfig, engine: Engine) -> dict[str, Any]:
    machine = {
        "cpus": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "ray": version("ray"),
    }
    return {
        "name": config.name,
        "kind": "curate",
        "output": engine.root,
        "version": cluster.__version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "config": take_out(config.model_dump(mode="json", exclude=STORES))[0],  # reports are shared
    }


def _totals(tallies: _Tallies, engine: Engine, core_s: dict[str, float]) -> dict[str, Any]:
    corpus = tallies.total("kept")
    return {
        "input": tallies.total("input"),
        "corpus": corpus | {"tokens_estimate": corpus["characters"] // CHARACTERS_PER_TOKEN},
        "wall_s": None if set(core_s) - set(engine.wall_s) else round(sum(engine.wall_s.values()), 2),
        "core_s": round(sum(core_s.values()), 2),
    }


def _sources(inputs: InputManifest, tallies: _Tallies, attributes: Artifact) -> list[dict[str, Any]]:
    counters, rows = attributes.manifest.counters, []
    named = {"without_id": NO_ID, "empty_texts": EMPTY_TEXT, "repeated_keys": REPEATED_KEY,
             "without_newest_by": NO_NEWEST_BY}  # fmt: skip
    for entry in inputs.inputs:
        source, notes = entry.source, f"{NOTES}{entry.source}/"
        rows.append(
            {
                "source": source,
                "licence": entry.licence,
                "weight": entry.weight,
                "input": tallies.total("input", source=source),
                "corpus": tallies.total("kept", source=source),
                "reasons": tallies.removed(source=source),
                **{name: int(counters.get(prefix + source, 0)) for name, prefix in named.items()},
                **({"records": int(counters[RECORDS + source])} if RECORDS + source in counters else {}),
                "notes": {key.removeprefix(notes): int(n) for key, n in counters.items() if key.startswith(notes)},
            }
        )
    return rows


def _pages(tallies: _Tallies) -> dict[str, Any]:
    """The parts on web pages, as far as their columns are carried."""
    found: dict[str, Any] = {}
    by_table = {table: by_name(tallies.rows[table]) for table in PAGE_TABLES}
    if hosts := by_table["host"]:
        none = {side: {"documents": 0, "characters": 0} for side in ("input", "corpus")}
        others = hosts.pop("", none)
        ranked = sorted(hosts.items(), key=lambda item: (-item[1]["input"]["documents"], item[0]))
        rest = ranked[_HOSTS_SHOWN:]
        for side in none:
            for unit in others[side]:
                others[side][unit] += sum(sides[side][unit] for _, sides in rest)
        found["hosts"] = {
            "hosts": [{"host": host, **sides} for host, sides in ranked[:_HOSTS_SHOWN]],
            "others": others,
        }
    dates = (("published", "published"), ("collected", "date"))
    if months := [
        {"column": column, "months": [{"month": month, **sides} for month, sides in sorted(by_table[table].items())]}
        for table, column in dates
        if by_table[table]
    ]:
        found["dates"] = months
    if opt_outs := by_table["opt_out"]:
        ranked = sorted(opt_outs.items(), key=lambda item: (-item[1]["input"]["documents"], item[0]))
        found["opt_outs"] = [{"directive": name, **sides} for name, sides in ranked]
    return found


def copies_of_corpus(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The parts `counted` and `epoch` on the copies of documents. rows: of the table `copies` of tallies."""
    counted: dict[float, Counts] = defaultdict(lambda: {"documents": 0, "characters": 0})
    for row in rows:
        for unit in ("documents", "characters"):
            counted[float(row["name"])][unit] += row[unit]
    ordered = sorted(counted.items())
    epoch = {unit: sum(copies * one[unit] for copies, one in ordered) for unit in ("documents", "characters")}
    return {"counted": [{"copies": copies, **one} for copies, one in ordered], "epoch": epoch}


def _histograms(filters: Filters, tallies: _Tallies) -> list[dict[str, Any]]:
    described = {name: ("language" if name == "language_score" else "", text) for name, text in _PLAIN_SIGNALS.items()}
    for rule in filters.rules:
        described |= {name: (rule.name, text) for name, text in rule.signals.items()}
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for row in tallies.rows["histogram"]:
        found[row["name"]][row["bin"]] = row["documents"]
    bounds = checks_by_signal(filters)
    histograms = []
    for signal, (stage, text) in described.items():
        if signal in found:
            checks = bounds.get(signal, [])
            cuts = edges(signal, checks)
            histograms.append(
                {
                    "signal": signal,
                    "stage": stage,
                    "description": text,
                    "scale": "log" if is_count(signal) else "linear",
                    "edges": cuts.tolist(),
                    "documents": [found[signal].get(place, 0) for place in range(len(cuts) - 1)],
                    "bounds": [{"reason": c.reason, "minimum": c.minimum, "maximum": c.maximum} for c in checks],
                }
            )
    return histograms


def _similarity(config: CurateConfig, similarity: Artifact | None) -> dict[str, Any] | None:
    if similarity is None or config.dedup is None:
        return None
    counts = [0] * SIMILARITY_BINS
    for row in similarity.table().to_pylist():
        counts[row["bin"]] += row["documents"]
    bounds = [place / SIMILARITY_BINS for place in range(SIMILARITY_BINS + 1)]
    return {"edges": bounds, "documents": counts, "threshold": config.dedup.threshold}


def _groups(most: int, samples: pa.Table) -> list[dict[str, Any]]:
    pairs: dict[int, dict[str, Any]] = defaultdict(dict)
    for row in samples.filter(pc.is_valid(samples["group_id"])).to_pylist():
        pair = pairs[row["group_id"]]
        side = "kept" if row["partner"] is None else "removed"
        pair |= {"group_id": str(row["group_id"]), "documents": row["duplicate_count"]}
        pair[side] = {key: row[key] for key in ("id", "source", "excerpt")}
        if side == "removed":
            pair["similarity"] = row["value"]
    whole = [pair for pair in pairs.values() if "kept" in pair and "removed" in pair]
    return sorted(whole, key=lambda pair: (-pair["documents"], pair["group_id"]))[:most]


def _samples(samples: pa.Table, tallies: _Tallies) -> list[dict[str, Any]]:
    found = defaultdict(list)
    for row in samples.filter(pc.is_null(samples["group_id"])).to_pylist():
        found[(row["stage"], row["reason"])].append(row)
    order = [("corpus", "kept"), *tallies.reasons]
    shown = ("reason", "stage", "id", "source", "language", "value", "threshold", "excerpt")
    return [{name: row[name] for name in shown} for key in order for row in found[key]]


def _quarantine(problems: Artifact, lost: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _merged(problems, add_problems).to_pylist():
        key = (row["source"], row["problem"])
        entry = found.setdefault(key, {"source": key[0], "problem": key[1], "documents": 0, "examples": []})
        entry["documents"] += row["documents"]
        entry["examples"].append(row["where"])
    for key, number in lost.items():
        if number:
            found[key]["documents"] += number
            found[key]["lost"] = number
    return sorted(found.values(), key=lambda entry: -entry["documents"])


def _skipped(inputs: InputManifest, attributes: Artifact) -> list[dict[str, Any]]:
    """The skipped files of the listing, then the records and files that readers skipped inside files."""
    found = [
        {"source": source, "inside": False, "reason": kind, "count": count}
        for source, kinds in inputs.skipped.items()
        for kind, count in kinds.items()
    ]
    for name, number in attributes.manifest.counters.items():
        if name.startswith(SKIPPED):
            source, _, reason = name.removeprefix(SKIPPED).partition("/")
            found.append({"source": source, "inside": True, "reason": reason, "count": int(number)})
    return found


def _duplicate_ids(inputs: InputManifest, found: Artifact | None) -> list[dict[str, Any]]:
    if found is None:
        return []
    rows, counters = found.table().to_pylist(), found.manifest.counters
    return [
        {
            "source": entry.source,
            "ids": int(counters[f"ids/{entry.source}"]),
            "documents": int(counters[f"documents/{entry.source}"]),
            "examples": [_printable(row["id"]) for row in rows if row["source"] == entry.source][:_WHERE_SHOWN],
        }
        for entry in inputs.inputs
        if counters.get(f"ids/{entry.source}")
    ]


def _printable(id: str) -> str:
    shown = id if id.isprintable() else ascii(id)
    return shown if len(shown) <= _ID_SHOWN else shown[:_ID_SHOWN] + "..."


def stage_name(stage: str) -> str:
    """A stage's name in a heading: `Gopher quality` for `gopher_quality`."""
    spaced = stage.replace("_", " ")
    return _STAGE_NAMES.get(stage, spaced[:1].upper() + spaced[1:])


# The text of the funnel, in columns of the terminal.
_WIDTH = 100
_STAGE_WIDTH = 20
_GAP = "  "


def funnel_table(report: CurateReport) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """(names of columns, a row for each stage with all its reasons), as text."""
    given = report["totals"]["input"]["documents"]
    rows = []
    for stage in report["funnel"]:
        reasons = sorted((one for one in stage["reasons"] if one["documents"]), key=lambda one: -one["documents"])
        left = stage["left"]["documents"]
        named = ", ".join(f"{one['reason']} {count(one['documents'])}" for one in reasons)
        removed = count(stage["removed"]["documents"])
        rows.append((stage_name(stage["stage"]), removed, count(left), share(left, given), named))
    return ("stage", "removed", "left", "of input", "reasons"), rows


def funnel_text(report: CurateReport) -> str:
    """The text: one line for each stage, at most 100 columns of ASCII, without a line end at the end.

    A line ends with the most frequent reasons that fit in it and the number of the others.
    """

    def top_reasons(stage: dict[str, Any], room: int) -> str:
        found = sorted((r for r in stage["reasons"] if r["documents"]), key=lambda r: -r["documents"])
        named = [f"{ascii_text(r['reason'])} {count(r['documents'])}" for r in found]
        for shown in range(len(named), 0, -1):
            rest = len(named) - shown
            line = ", ".join(named[:shown]) + (f", +{rest} more" if rest else "")
            if len(line) <= room:
                return line
        return plural(len(named), "reason") if named else ""

    given = report["totals"]["input"]["documents"]
    head = ("stage", "removed", "left", "of input")
    rows = [
        (
            ascii_text(stage_name(stage["stage"]))[:_STAGE_WIDTH],
            count(stage["removed"]["documents"]),
            count(stage["left"]["documents"]),
            ascii_text(share(stage["left"]["documents"], given)),
        )
        for stage in report["funnel"]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    room = _WIDTH - sum(widths) - len(_GAP) * len(widths)
    reasons = ["top reasons", *(top_reasons(stage, room) for stage in report["funnel"])]
    lines = [
        _GAP.join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)), why])
        for row, why in zip((head, *rows), reasons, strict=True)
    ]
    return "\n".join(line.rstrip() for line in lines)
