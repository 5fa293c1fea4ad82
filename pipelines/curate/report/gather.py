"""Makes the content of report.json from the artifacts of the stages `duplicates` and `merge`, and from manifests."""

import os
import platform
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import cluster
from cluster.artifact import Artifact
from cluster.engine import Engine
from cluster.readers.units import InputManifest
from cluster.secret_values import take_out
from pipelines.curate.config import ReportSettings
from pipelines.curate.report.run_warnings import warnings
from pipelines.curate.report.schema import CurateReport
from pipelines.curate.stages.boilerplate import BOILERPLATE
from pipelines.curate.stages.cuts import TOO_FEW_WORDS_LEFT
from pipelines.curate.stages.decide import TALLIES
from pipelines.curate.stages.duplicate_ids import DUPLICATE_IDS
from pipelines.curate.stages.measure import ATTRIBUTES, EMPTY_TEXT, NO_ID, NO_NEWEST_BY, NOTES, REPEATED_KEY, SKIPPED
from pipelines.curate.stages.merge import BEST_SAMPLES, PROBLEMS, TALLY_SUMS, add_problems, best_samples, merged
from pipelines.curate.stages.removed_duplicates import DUPLICATES, SIMILARITY, SIMILARITY_BINS, sum_of_units
from pipelines.curate.stages.repeats import REPEATS
from pipelines.curate.stages.samples import CUT_REASON
from pipelines.curate.stages.tallies import CHARACTERS_PER_TOKEN, add_tallies, edges, is_count
from pipelines.curate.stages.write_corpus import CORPUS, DEDUP_STAGES
from pipelines.dedup.group import GROUPS
from pipelines.dedup.settings import Dedup
from pipelines.rules.filters import Filters, all_reasons, checks_by_signal

SCHEMA_VERSION = 1

_PLAIN_SIGNALS = {
    "characters": "characters of the document",
    "bytes": "bytes of the document in UTF-8",
    "tokens": "words of deduplication",
    "language_score": "probability of the language",
}
_WHERE_SHOWN = 3
_ID_SHOWN = 60  # characters

_STAGE_OF = {ATTRIBUTES: "measure", TALLIES: "decide", GROUPS: "group", CORPUS: "select"}

Counts = dict[str, int]


def gather(
    settings: ReportSettings, inputs: InputManifest, engine: Engine, artifacts: dict[str, Artifact]
) -> CurateReport:
    """The report of a run.

    Args:
        engine: the one that ran the stages, for their times and units.
        artifacts: of all stages, by name.
    """
    tallies = _Tallies(settings, artifacts)
    samples = _merged(artifacts[BEST_SAMPLES], partial(best_samples, most=settings.report.samples))
    stages = {stage: artifacts[name].manifest for name, stage in _STAGE_OF.items() if name in artifacts}
    core_s = {stage: manifest.seconds for stage, manifest in stages.items()}
    report: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "run": _run(settings, engine),
        "totals": _totals(tallies, engine, core_s),
        "funnel": tallies.funnel(),
        "languages": tallies.languages(),
        "sources": _sources(inputs, tallies, artifacts[ATTRIBUTES]),
        "histograms": _histograms(settings.filters, tallies),
        "similarity": _similarity(settings.dedup, artifacts.get(SIMILARITY)),
        "groups": _groups(settings.report.groups, samples),
        "samples": _samples(samples, tallies),
        "personal_data": [
            {
                "kind": row["name"],
                "documents": row["documents"],
                "found": row["characters"],
                "redacted": row["name"] in settings.redact,
            }
            for row in tallies.rows["personal"]
        ],
        "quarantine": _quarantine(artifacts[PROBLEMS]),
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
    kept_languages = settings.filters.language.keep if settings.filters.language else ()
    if cut := settings.boilerplate:
        found = {"cut": cut.cut, "max_documents": cut.max_documents, "different": artifacts[BOILERPLATE].manifest.rows}
        report["boilerplate"] = found | _cut(artifacts, samples, BOILERPLATE, "pieces", "documents", "characters")
    if runs := settings.repeats:
        counted = _cut(artifacts, samples, REPEATS, "runs", "documents", "later_runs", "later_words")
        report["repeats"] = {"min_words": runs.min_words, "cut": runs.cut, **counted}
    return report | {"warnings": warnings(report, inputs, settings.report.warn_source_loss, kept_languages)}


class _Tallies:
    """The sum of the tallies of a run, by table, with the removed duplicates.

    reasons: (removed by, reason) of all checks and kinds of duplicates, in order.
    """

    def __init__(self, settings: ReportSettings, artifacts: dict[str, Artifact]) -> None:
        total = _merged(artifacts[TALLY_SUMS], add_tallies)
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in total.to_pylist():
            self.rows[row["table"]].append(row)
        self.reasons = list(all_reasons(settings.filters))
        self.stages = list(dict.fromkeys(stage for stage, _ in self.reasons))
        if settings.dedup and settings.dedup.remove:
            self.rows["removed"] += _duplicates(artifacts[DUPLICATES])
            self.stages += DEDUP_STAGES.values()
            self.reasons += [(stage, reason) for reason, stage in DEDUP_STAGES.items()]
        for cut, name in ((settings.boilerplate, BOILERPLATE), (settings.repeats, REPEATS)):
            if cut:
                self.stages.append(name)
                self.reasons.append((name, TOO_FEW_WORDS_LEFT))

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


def _duplicates(duplicates: Artifact) -> list[dict[str, Any]]:
    """The removed duplicates as rows of the tally `removed`."""
    rows = sum_of_units(duplicates.tables()).to_pylist()
    return [row | {"name": f"{DEDUP_STAGES[row['reason']]}/{row['reason']}"} for row in rows]


def _run(settings: ReportSettings, engine: Engine) -> dict[str, Any]:
    machine = {
        "cpus": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "ray": version("ray"),
    }
    return {
        "name": settings.name,
        "kind": "curate",
        "output": engine.root,
        "version": cluster.__version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "config": take_out(settings.config)[0],  # reports are shared
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
                "notes": {key.removeprefix(notes): int(n) for key, n in counters.items() if key.startswith(notes)},
            }
        )
    return rows


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


def _similarity(dedup: Dedup | None, similarity: Artifact | None) -> dict[str, Any] | None:
    if similarity is None or dedup is None:
        return None
    counts = [0] * SIMILARITY_BINS
    for row in similarity.table().to_pylist():
        counts[row["bin"]] += row["documents"]
    bounds = [place / SIMILARITY_BINS for place in range(SIMILARITY_BINS + 1)]
    return {"edges": bounds, "documents": counts, "threshold": dedup.threshold}


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


def _cut(artifacts: dict[str, Artifact], samples: pa.Table, stage: str, *names: str) -> dict[str, Any]:
    """Counters of the corpus about what a stage found, by these names, and its most frequent texts."""
    counters = artifacts[CORPUS].manifest.counters
    shown = samples.filter(pc.and_(pc.equal(samples["reason"], CUT_REASON), pc.equal(samples["stage"], stage)))
    texts = [
        {"source": row["source"], "text": row["excerpt"], "documents": int(row["value"])} for row in shown.to_pylist()
    ]
    return {name: int(counters.get(f"{stage}_{name}", 0)) for name in names} | {"texts": texts}


def _quarantine(problems: Artifact) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _merged(problems, add_problems).to_pylist():
        key = (row["source"], row["problem"])
        entry = found.setdefault(key, {"source": key[0], "problem": key[1], "documents": 0, "examples": []})
        entry["documents"] += row["documents"]
        entry["examples"].append(row["where"])
    return sorted(found.values(), key=lambda entry: -entry["documents"])


def _skipped(inputs: InputManifest, attributes: Artifact) -> list[dict[str, Any]]:
    """The skipped files of the listing, then the records and files that readers skipped inside files."""
    found = [
        {"source": source, "inside": False, "reason": kind, "count": count}
        for source, kinds in inputs.skipped.items()
        for kind, count in kinds.items()
    ]
    for name, count in attributes.manifest.counters.items():
        if name.startswith(SKIPPED):
            source, _, reason = name.removeprefix(SKIPPED).partition("/")
            found.append({"source": source, "inside": True, "reason": reason, "count": int(count)})
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
