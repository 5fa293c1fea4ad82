"""report.json from the artifacts of a run. Reads tallies, samples and manifests, and never the corpus itself."""

import os
import platform
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

import cluster
from cluster.artifact import Artifact
from cluster.engine import Engine
from cluster.page.formats import plural
from pipelines.curate.config import STORES, CurateConfig
from pipelines.curate.decide import TALLIES, causes, checks_by_signal
from pipelines.curate.duplicate_ids import DUPLICATE_IDS
from pipelines.curate.measure import ATTRIBUTES, EMPTY_TEXT, NO_ID, QUARANTINE, REPEATED_KEY, SKIPPED
from pipelines.curate.report.schema import Report
from pipelines.curate.report_samples import SAMPLES
from pipelines.curate.tallies import add_tallies, edges, is_count
from pipelines.curate.write_corpus import CORPUS, DEDUP_STAGES, KEPT
from pipelines.dedup.group import GROUPS, NEAR
from pipelines.readers.find import skipped_text
from pipelines.readers.reader import PROBLEMS, PROBLEMS_OF_WHOLE_FILES
from pipelines.readers.units import InputManifest

SCHEMA_VERSION = 1

# A rough, language-blind conversion; a trainer counts with its own tokenizer.
CHARACTERS_PER_TOKEN = 4

_PLAIN_SIGNALS = {
    "characters": "characters of the document",
    "bytes": "bytes of the document in UTF-8",
    "tokens": "words as deduplication sees them",
    "language_score": "probability of the language",
}
_SIMILARITY_BINS = 40
_WHERE_SHOWN = 3
_ID_SHOWN = 60  # characters
_RULE_REMOVES_ALMOST_ALL = 0.95
_TELLING_DOCUMENTS = 1000  # of fewer, a rule that removes one document in a few hundred often removes none
_LOSES_THE_REST = ("truncated", "corrupt_compression", "corrupt_page", "expansion_bomb")

Counts = dict[str, int]


def gather(config: CurateConfig, inputs: InputManifest, engine: Engine, artifacts: dict[str, Artifact]) -> Report:
    """Everything the report shows of a run whose artifacts are finished."""
    tallies = _Tallies(config, artifacts)
    quarantine = _quarantine(artifacts[QUARANTINE])
    core_s = _core_seconds(artifacts)
    report: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "run": _run(config, engine),
        "totals": _totals(tallies, engine, core_s),
        "funnel": tallies.funnel(),
        "languages": tallies.languages(),
        "sources": _sources(config, tallies, artifacts[ATTRIBUTES]),
        "histograms": _histograms(config, tallies),
        "similarity": _similarity(config, artifacts.get(GROUPS)),
        "groups": _groups(artifacts[SAMPLES]),
        "samples": _samples(config, artifacts[SAMPLES], tallies),
        "personal_data": _personal_data(config, tallies),
        "quarantine": quarantine,
        "skipped": _skipped(inputs, artifacts[ATTRIBUTES]),
        "duplicate_ids": _duplicate_ids(config, artifacts.get(DUPLICATE_IDS)),
        "stages": _stage_rows(engine, artifacts, core_s),
    }
    return cast(Report, report | {"warnings": _warnings(config, inputs, report)})


class _Tallies:
    """The summed tallies of a run, by table."""

    def __init__(self, config: CurateConfig, artifacts: dict[str, Artifact]) -> None:
        total: list[pa.Table] = []
        for artifact in (artifacts[TALLIES], artifacts[KEPT]):
            for table in artifact.tables():
                total = [add_tallies([*total, table])]
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in total[0].to_pylist() if total else []:
            self.rows[row["table"]].append(row)
        self.rows["removed"] += _duplicates(config, artifacts.get(GROUPS))
        self.stages = list(dict.fromkeys(stage for stage, _ in causes(config)))
        self.reasons = list(causes(config))
        if config.dedup and config.dedup.remove:
            self.stages += DEDUP_STAGES.values()
            self.reasons += [(stage, reason) for reason, stage in DEDUP_STAGES.items()]

    def total(self, table: str, **wanted: str) -> Counts:
        rows = [row for row in self.rows[table] if all(row[key] == value for key, value in wanted.items())]
        return {key: sum(row[key] for row in rows) for key in ("documents", "characters")}

    def removed(self, **wanted: str) -> list[dict[str, Any]]:
        """One entry per reason that removed anything, in the order reasons are tried."""
        found = []
        for stage, reason in self.reasons:
            counts = self.total("removed", name=f"{stage}/{reason}", **wanted)
            if counts["documents"]:
                found.append({"stage": stage, "reason": reason, **counts})
        return found

    def funnel(self) -> list[dict[str, Any]]:
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
        # Text can still shrink in the corpus: redaction and line removal happen there.
        return [*steps, {"stage": "corpus", "left": self.total("kept"), "removed": none, "reasons": []}]

    def languages(self) -> list[dict[str, Any]]:
        names = {row["language"] for row in self.rows["input"]} - {""}
        found = [
            {"language": name, "input": self.total("input", language=name), "corpus": self.total("kept", language=name)}
            for name in names
        ]
        return sorted(found, key=lambda entry: (-entry["input"]["documents"], entry["language"]))


def _duplicates(config: CurateConfig, groups: Artifact | None) -> list[dict[str, Any]]:
    """The removed duplicates in the shape of tallies."""
    if groups is None or config.dedup is None or not config.dedup.remove:
        return []
    keys = ["source", "language", "reason"]
    rows: list[dict[str, Any]] = []
    for table in groups.tables([*keys, "characters"]):
        gone = table.filter(pc.is_valid(table["reason"])).group_by(keys, use_threads=False)
        rows += gone.aggregate([("characters", "sum"), ("characters", "count")]).to_pylist()
    return [
        {
            "source": row["source"],
            "language": row["language"],
            "name": f"{DEDUP_STAGES[row['reason']]}/{row['reason']}",
            "documents": row["characters_count"],
            "characters": row["characters_sum"],
        }
        for row in rows
    ]


def _run(config: CurateConfig, engine: Engine) -> dict[str, Any]:
    machine = {
        "cpus": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "ray": version("ray"),
    }
    return {
        "name": config.name,
        "kind": config.kind,
        "output": engine.root,
        "version": cluster.__version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "config": _without_passwords(config.model_dump(mode="json", exclude=STORES)),
    }


def _without_passwords(value: Any) -> Any:
    """A report is passed around; `scheme://user:password@host` in a path loses what stands before the @."""
    if isinstance(value, dict):
        return {key: _without_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_passwords(inner) for inner in value]
    return re.sub(r"://[^/@\s]+@", "://...@", value) if isinstance(value, str) else value


def _totals(tallies: _Tallies, engine: Engine, core_s: dict[str, float]) -> dict[str, Any]:
    corpus = tallies.total("kept")
    return {
        "input": tallies.total("input"),
        "corpus": corpus | {"tokens_estimate": corpus["characters"] // CHARACTERS_PER_TOKEN},
        "wall_s": round(sum(engine.wall_s.values()), 2),
        "core_s": round(sum(core_s.values()), 2),
    }


def _sources(config: CurateConfig, tallies: _Tallies, attributes: Artifact) -> list[dict[str, Any]]:
    counters = attributes.manifest.counters
    return [
        {
            "source": entry.source,
            "licence": entry.licence,
            "weight": entry.weight,
            "input": tallies.total("input", source=entry.source),
            "corpus": tallies.total("kept", source=entry.source),
            "reasons": tallies.removed(source=entry.source),
            "without_id": int(counters.get(NO_ID + entry.source, 0)),
            "empty_texts": int(counters.get(EMPTY_TEXT + entry.source, 0)),
            "repeated_keys": int(counters.get(REPEATED_KEY + entry.source, 0)),
        }
        for entry in config.inputs
    ]


def _histograms(config: CurateConfig, tallies: _Tallies) -> list[dict[str, Any]]:
    described = {name: ("language" if name == "language_score" else "", text) for name, text in _PLAIN_SIGNALS.items()}
    for rule in config.active_rules():
        described |= {name: (rule.name, text) for name, text in rule.signals.items()}
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for row in tallies.rows["histogram"]:
        found[row["name"]][row["bin"]] = row["documents"]
    bounds = checks_by_signal(config)
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


def _similarity(config: CurateConfig, groups: Artifact | None) -> dict[str, Any] | None:
    if groups is None or config.dedup is None:
        return None
    counts = [0] * _SIMILARITY_BINS
    for table in groups.tables(["reason", "similarity"]):
        for value in table.filter(pc.equal(table["reason"], NEAR))["similarity"].to_pylist():
            counts[min(int(value * _SIMILARITY_BINS), _SIMILARITY_BINS - 1)] += 1
    bounds = [place / _SIMILARITY_BINS for place in range(_SIMILARITY_BINS + 1)]
    return {"edges": bounds, "documents": counts, "threshold": config.dedup.threshold}


def _groups(samples: Artifact) -> list[dict[str, Any]]:
    pairs: dict[int, dict[str, Any]] = defaultdict(dict)
    for table in samples.tables():
        for row in table.filter(pc.is_valid(table["group_id"])).to_pylist():
            pair = pairs[row["group_id"]]
            side = "kept" if row["partner"] is None else "removed"
            pair |= {"group_id": str(row["group_id"]), "documents": row["duplicate_count"]}
            pair[side] = {key: row[key] for key in ("id", "source", "excerpt")}
            if side == "removed":
                pair["similarity"] = row["value"]
    whole = [pair for pair in pairs.values() if "kept" in pair and "removed" in pair]
    return sorted(whole, key=lambda pair: (-pair["documents"], pair["group_id"]))


def _samples(config: CurateConfig, samples: Artifact, tallies: _Tallies) -> list[dict[str, Any]]:
    found = defaultdict(list)
    for table in samples.tables():
        for row in table.filter(pc.is_null(table["group_id"])).to_pylist():
            found[(row["stage"], row["reason"])].append(row)
    order = [("corpus", "kept"), *tallies.reasons]
    shown = ("reason", "stage", "id", "source", "language", "value", "threshold", "excerpt")
    return [
        {name: row[name] for name in shown}
        for key in order
        for row in sorted(found[key], key=lambda row: (row["rank"], row["id"]))[: config.report.samples]
    ]


def _personal_data(config: CurateConfig, tallies: _Tallies) -> list[dict[str, Any]]:
    redacted = config.personal_data.redact if config.personal_data else ()
    return [
        {
            "kind": row["name"],
            "documents": row["documents"],
            "found": row["characters"],
            "redacted": row["name"] in redacted,
        }
        for row in tallies.rows["personal"]
    ]


def _quarantine(quarantine: Artifact) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for table in quarantine.tables(["source", "problem", "where"]):
        for row in table.to_pylist():
            key = (row["source"], row["problem"])
            entry = found.setdefault(key, {"source": key[0], "problem": key[1], "documents": 0, "examples": []})
            entry["documents"] += 1
            if len(entry["examples"]) < _WHERE_SHOWN:
                entry["examples"].append(row["where"])
    return sorted(found.values(), key=lambda entry: -entry["documents"])


def _skipped(inputs: InputManifest, attributes: Artifact) -> list[dict[str, Any]]:
    """Files that were listed and not read, then what readers passed over inside files."""
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


def _duplicate_ids(config: CurateConfig, found: Artifact | None) -> list[dict[str, Any]]:
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
        for entry in config.inputs
        if counters.get(f"ids/{entry.source}")
    ]


def _printable(id: str) -> str:
    shown = id if id.isprintable() else ascii(id)
    return shown if len(shown) <= _ID_SHOWN else shown[:_ID_SHOWN] + "..."


_STAGE_OF = {ATTRIBUTES: "measure", TALLIES: "decide", GROUPS: "group", CORPUS: "select"}


def _core_seconds(artifacts: dict[str, Artifact]) -> dict[str, float]:
    return {stage: artifacts[name].manifest.seconds for name, stage in _STAGE_OF.items() if name in artifacts}


def _stage_rows(engine: Engine, artifacts: dict[str, Artifact], core_s: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for name, stage in _STAGE_OF.items():
        if name in artifacts:
            manifest = artifacts[name].manifest
            rows.append(
                {
                    "stage": stage,
                    "units": engine.units[stage],
                    "documents": int(manifest.counters.get("documents", 0)),
                    "text_bytes": int(manifest.counters.get("text_bytes", 0)),
                    "wall_s": engine.wall_s.get(stage, 0.0),
                    "core_s": core_s[stage],
                }
            )
    return rows


def _warnings(config: CurateConfig, inputs: InputManifest, report: dict[str, Any]) -> list[str]:
    found = []
    for source in report["sources"]:
        before, after = source["input"]["documents"], source["corpus"]["documents"]
        lost = 1 - after / before if before else 0.0
        if lost > config.report.warn_source_loss:
            top = max(source["reasons"], key=lambda entry: entry["documents"], default={"reason": "nothing"})["reason"]
            found.append(
                f"Source {source['source']} lost {lost:.0%} of its {plural(before, 'document')}, most to {top}."
            )
    for step in report["funnel"][1:-1]:
        seen = step["left"]["documents"] + step["removed"]["documents"]
        if seen >= _TELLING_DOCUMENTS and not step["removed"]["documents"]:
            found.append(f"{step['stage']} removed nothing of {seen:,} documents.")
        elif seen and step["removed"]["documents"] > _RULE_REMOVES_ALMOST_ALL * seen:
            found.append(
                f"{step['stage']} removed {step['removed']['documents'] / seen:.0%} of {plural(seen, 'document')}."
            )
    if not report["totals"]["input"]["documents"]:
        found.append("The corpus is empty: no document could be read.")
    elif not report["totals"]["corpus"]["documents"]:
        found.append("The corpus is empty: every document was removed.")
    for language in config.language.keep if config.language else ():
        counts = next((entry for entry in report["languages"] if entry["language"] == language), None)
        if counts and counts["input"]["documents"] and not counts["corpus"]["documents"]:
            found.append(f"Language {language} is to be kept, and all its {counts['input']['documents']:,} went.")
    for entry in report["quarantine"]:
        if entry["problem"] in _LOSES_THE_REST:
            found.append(
                f"Source {entry['source']}: {plural(entry['documents'], 'time')} the rest of a file was lost "
                f"({entry['problem']}, first {entry['examples'][0]}); how many documents it held is not known."
            )
        if entry["problem"] in PROBLEMS_OF_WHOLE_FILES:
            found.append(f"Source {entry['source']}: {PROBLEMS[entry['problem']]} ({entry['examples'][0]}).")
    bad = sum(entry["documents"] for entry in report["quarantine"])
    if bad:
        found.append(
            f"{plural(bad, 'document')} could not be read; {'it is' if bad == 1 else 'they are'} listed under "
            "quarantine."
        )
    for source in report["sources"]:
        found += [f"Source {source['source']}: {sentence}." for sentence in _odd(source)]
    for entry in report["duplicate_ids"]:
        ids = f"{plural(entry['ids'], 'id')} {'is' if entry['ids'] == 1 else 'are'}"
        found.append(
            f"Source {entry['source']}: {ids} used by more than one document, {entry['documents']:,} documents in all "
            f"({', '.join(entry['examples'])}). Positions tell them apart."
        )
    found += inputs.notes
    for source, skipped in inputs.skipped.items():
        if skipped:
            found.append(f"Source {source}: files were passed over: {skipped_text(skipped)}.")
    return found


def _odd(source: dict[str, Any]) -> Iterator[str]:
    """What was read although something is odd about it."""
    if count := source["without_id"]:
        verbs = ("has", "is", "its") if count == 1 else ("have", "are", "their")
        yield (
            f"{plural(count, 'document')} {verbs[0]} no id (null, missing or empty) and {verbs[1]} named by the "
            f"hash of {verbs[2]} text"
        )
    if count := source["empty_texts"]:
        yield f"{plural(count, 'document')} {'has' if count == 1 else 'have'} an empty text"
    if count := source["repeated_keys"]:
        verb = "gives" if count == 1 else "give"
        yield f"{plural(count, 'record')} {verb} a key twice, of which the last value holds"
