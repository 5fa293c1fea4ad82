"""The public summary of training content: training-content.md beside the exported folders.

Providers of general-purpose models publish such a summary under Article 53(1)(d) of Regulation (EU) 2024/1689 (AI Act),
by a template of the Commission: "Explanatory Notice and Template for the Public Summary of Training Content", 24 July
2025, C(2025) 8311. The document has the sections of that template. It states what manifests, reports and records of
fetched pages of the runs hold; everything else is marked TO BE COMPLETED, for the author. It is no legal advice.
training_content.md is the template.
"""

import heapq
import itertools
import json
import os.path
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from raymill import cluster
from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.formats import count, plural
from raymill.cluster.readers.formats.hub import HubName, is_hub_data
from raymill.cluster.record import check_types, read_json
from raymill.cluster.report.markdown import rendered
from raymill.cluster.run import RUN_MANIFEST, RUN_REPORT, RunFolder, reading_report
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

FILE = "training-content.md"
BLANK = "TO BE COMPLETED"
_DEEPEST = 8  # runs behind each other: a data set of a corpus of generated records and so on
# Anybody may have written the runs, so what one export reads and shows of all of them together is bounded.
_MOST_FOLDERS = 2_000  # that are looked at for runs
_MOST_BYTES = 1 << 26  # of their manifests, reports and records of fetched pages: 10 s
_MOST_READ = 10_000_000  # KiB of rows, and 5 for each fetched page, 1,000 for each artifact: 100 s
_MOST_SOURCES = 10_000
_MOST_ROWS = 100_000  # of all tables: 4 s
_MOST_HOSTS = 200  # of a run, as many as `curate` lists
_SIZES = ((10**9, "less than 1 billion tokens"), (10**13, "1 billion to 10 trillion tokens"))
_LARGEST = "more than 10 trillion tokens"
# Reasons of `raymill curate` to remove pages by lists.
_LISTS = {
    "blocked_url": "by a list of addresses", "banned_url_word": "by words of the address",
    "soft_url_words": "by words of the address", "banned_url_substring": "by parts of the address",
    "bad_words": "by a list of words",
}  # fmt: skip
# Anybody may have written the reports: each class below checks the types of its values, and raises ValueError.
_Number = Annotated[int, Field(ge=0, lt=2**63)]
_Name = Annotated[str, Field(max_length=1000)]  # it stands in many rows


@dataclass(frozen=True)
class Crawl:
    """Web pages that `raymill prepare` fetched for a source.

    Attributes:
        agent: the name that servers were given.
        began, ended: ISO 8601, UTC.
        asked: addresses that were asked for.
        forbidden: those of them that robots.txt forbids.
        domains: number of hosts.
        largest: (host, pages, characters of their text) of the tenth of the hosts with the most text, at least of ten.
    """

    agent: str
    began: str
    ended: str
    asked: int
    forbidden: int
    domains: int
    largest: Sequence[tuple[str, int, int]]

    def __post_init__(self) -> None:
        check_types(tuple[_Name, _Name, _Name], (self.agent, self.began, self.ended))


@dataclass(frozen=True)
class Origin:
    """A source of a run.

    Attributes:
        name: of the source.
        way: hub, pages, api, database, files or run.
        place: hub name or URI; of a local path the last part; empty: not stated.
        licence: as the config states it; None: not stated.
        number: its documents or records in the result of the run, see `MadeBy.unit`; None: not counted.
        made: the run whose output the source is.
        crawl: the pages that were fetched.
    """

    name: str
    way: str
    place: str
    licence: str | None
    number: int | None
    made: "MadeBy | None" = None
    crawl: Crawl | None = None

    def __post_init__(self) -> None:
        kind = tuple[str, str, str, str | None, _Number | None]
        check_types(kind, (self.name, self.way, self.place, self.licence, self.number))


@dataclass(frozen=True)
class MadeBy:
    """What a run of `curate`, `prepare` or `generate` states about the content that it made.

    Attributes:
        root: URI of the run's folder. kind, name, digest: of the run.
        unit: what is counted.
        total: the number of these in its result; the sum over the sources.
        sources: in the order of the config.
        generated: (model, terms, number) of generated content.
        variants: operation -> number of records that were made of others without a model.
        languages: language -> number.
        newest: date of the newest content, ISO 8601; empty: not known.
        hosts: (rows of host, documents and characters, documents of other hosts) of archives of web pages.
        opt_outs: sentences on statements of publishers. lists: sentences on removals by lists. measures: other ones.
    """

    root: str
    kind: str
    name: str
    digest: str
    unit: str
    total: int
    sources: tuple[Origin, ...]
    generated: Sequence[tuple[str, str | None, int]] = ()
    variants: Mapping[str, int] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)
    newest: str = ""
    hosts: tuple[Sequence[tuple[str, int, int]], int] = ((), 0)
    opt_outs: Sequence[str] = ()
    lists: Sequence[str] = ()
    measures: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_types(tuple[_Name, _Name, _Number, str], (self.name, self.digest, self.total, self.newest))
        check_types(list[tuple[str, str | None, _Number]], list(self.generated))
        check_types(dict[str, _Number], dict(self.variants))
        check_types(dict[str, _Number], dict(self.languages))
        check_types(tuple[list[tuple[str, _Number, _Number]], _Number], (list(self.hosts[0]), self.hosts[1]))

    def leaves(self, listed: set[str] | None = None) -> Iterator[Origin]:
        """The sources that are no output of another run, with those of the runs before; names are joined by `/`.

        listed: folders of the runs whose sources are not listed again; changed.
        """
        listed = {self.root} if listed is None else listed
        for one in self.sources:
            if one.made is None:
                yield one
            elif one.made.root not in listed:
                listed.add(one.made.root)
                for leaf in one.made.leaves(listed):
                    yield Origin(f"{one.name}/{leaf.name}", leaf.way, leaf.place, leaf.licence or one.licence, None)

    def with_earlier(self, listed: set[str] | None = None) -> "Iterator[MadeBy]":
        """This run, and those whose output it read, each once. listed: as in `leaves`."""
        listed = {self.root} if listed is None else listed
        yield self
        for one in self.sources:
            if one.made is not None and one.made.root not in listed:
                listed.add(one.made.root)
                yield from one.made.with_earlier(listed)


class RunsBehind:
    """The runs that made the data of an export. Each folder and each record of fetched pages is read once, however many
    sources name it.

    sources_left: sources that may still be kept.
    """

    def __init__(self, store: Store):
        self.store, self.sources_left = store, _MOST_SOURCES
        self._folders: dict[str, MadeBy | None] = {}
        self._crawls: dict[tuple[str, str], Crawl | None] = {}
        self._bytes_left, self._read_left = _MOST_BYTES, _MOST_READ

    def made_by(self, folder: str, digest: str = "", depth: int = _DEEPEST) -> MadeBy | None:
        """What the run in a folder, or else in its parent, states.

        None: there is no finished run of `curate`, `prepare` or `generate`, it has another digest than `digest`, its
        report cannot be read, it is being read (its sources lead back to it), or too much was read.
        """
        if not paths.is_remote(folder):
            folder = os.path.normpath(folder)
        for root in (folder, folder.rpartition("/")[0]):
            if root not in self._folders:
                if len(self._folders) == _MOST_FOLDERS:
                    return None
                self._folders[root] = None  # for sources that lead back to it
                self._folders[root] = self._stated(root, depth)
            found = self._folders[root]
            if found is not None and (not digest or found.digest == digest):
                return found
        return None

    def _stated(self, root: str, depth: int) -> MadeBy | None:
        reader = {"curate": _curated, "prepare": _prepared, "generate": _generated}
        try:
            with reading_report(root):
                self.charge(root, RUN_MANIFEST, RUN_REPORT)
                manifest = RunFolder(self.store, root).manifest_file.read()
                if manifest is None or manifest["kind"] not in reader:
                    return None
                return reader[manifest["kind"]](self, root, manifest, RunFolder(self.store, root).report(), depth)
        except (StorageError, DataError):
            return None

    def charge(self, root: str, *names: str) -> None:
        """Count the bytes of records of a run, before they are read.

        Raises:
            StorageError: one is gone.
            DataError: the records behind this export are too large.
        """
        self._bytes_left -= sum(self.store.info(paths.join(root, name)).size for name in names)
        if self._bytes_left < 0:
            raise DataError(f"{root}: {', '.join(names)}: not read, as this export has read enough")

    def tables(self, artifact: Artifact, columns: Sequence[str], each: int = 0) -> Iterator[pa.Table]:
        """The row groups of an artifact. each: cost of a row, beside its size.

        Raises:
            DataError: too many were read.
        """
        cost = 1000 + 100 * len(artifact.manifest.files)
        for table in itertools.chain([None], artifact.tables(columns)):
            if table is not None:
                cost = table.nbytes // 1024 + each * len(table)
            self._read_left -= cost
            if self._read_left < 0:
                raise DataError("the rows behind this export are too many")
            if table is not None:
                yield table

    def crawl(self, root: str, source: str, version: str) -> Crawl | None:
        """The pages of a source that this version fetched; None if its record or its rows are gone or too many."""
        if (root, source) not in self._crawls:
            if len(self._crawls) == _MOST_FOLDERS:
                return None
            try:
                self._crawls[root, source] = _crawl(self, root, source, version)
            except (StorageError, DataError):
                self._crawls[root, source] = None
        return self._crawls[root, source]


def _curated(runs: RunsBehind, root: str, manifest: dict[str, Any], report: dict[str, Any], depth: int) -> MadeBy:
    settings = {one.get("source", "input"): one for one in report["run"]["config"]["inputs"]}
    removed = Counter({one["reason"]: one["documents"] for stage in report["funnel"] for one in stage["reasons"]})
    opt_outs = [
        f"{plural(one['input']['documents'], 'page')} of the inputs and {count(one['corpus']['documents'])} of the "
        f"corpus state {one['directive']}."
        for one in report.get("opt_outs", ())
    ]
    if reserved := removed["opted_out"]:
        opt_outs.append(f"The rule opt_out removed {plural(reserved, 'page')} that their publishers reserve.")
    hosts = report.get("hosts", {"hosts": [], "others": {"input": {"documents": 0}}})
    ranked = heapq.nlargest(_MOST_HOSTS, hosts["hosts"], key=lambda one: one["input"]["characters"])
    pages = sum(one["input"]["documents"] for one in (*hosts["hosts"], hosts["others"]))
    months = [month["month"] for one in report.get("dates", ()) if one["column"] == "collected"
              for month in one["months"]]  # fmt: skip
    return MadeBy(
        root=root,
        kind="curate",
        name=manifest["name"],
        digest=manifest["digest"],
        unit="documents",
        total=report["totals"]["corpus"]["documents"],
        sources=_origins(
            runs,
            root,
            manifest,
            report["sources"],
            lambda one: (settings[one["source"]], one["licence"], one["corpus"]["documents"]),
            depth,
        ),
        languages={one["language"]: one["corpus"]["documents"] for one in report["languages"]},
        newest=max(months, default=""),
        hosts=(
            [(one["host"], one["input"]["documents"], one["input"]["characters"]) for one in ranked],
            pages - sum(one["input"]["documents"] for one in ranked),
        ),
        opt_outs=opt_outs,
        lists=[
            f"{plural(removed[reason], 'document')} {'was' if removed[reason] == 1 else 'were'} removed {how}."
            for reason, how in _LISTS.items()
            if removed[reason]
        ],
        measures=[
            f"{plural(one['found'], 'finding')} of personal data of the kind {one['kind']}, "
            f"{'replaced' if one['redacted'] else 'not replaced'}."
            for one in report["personal_data"]
            if one["found"]
        ],
    )


def _prepared(runs: RunsBehind, root: str, manifest: dict[str, Any], report: dict[str, Any], depth: int) -> MadeBy:
    settings = {one["source"]: one for one in report["config"]["inputs"]}
    personal = report["totals"]["personal_data"]
    return MadeBy(
        root=root,
        kind="prepare",
        name=manifest["name"],
        digest=manifest["digest"],
        unit="records for training",
        total=report["splits"]["train"],
        sources=_origins(
            runs,
            root,
            manifest,
            report["sources"],
            lambda one: (
                settings[one["source"]],
                "of each record" if "licence" in settings[one["source"]]["columns"] else one["licence"],
                one["splits"]["train"],
            ),
            depth,
        ),
        generated=[
            (one["generator"], one["terms"], one["splits"]["train"])
            for one in report.get("generated", ())
            if one["splits"]["train"]
        ],
        variants={name: of["train"] for name, of in report.get("made", {}).items() if of["train"]},
        newest=_newest(runs, root),
        measures=[f"{plural(personal, 'finding')} of personal data replaced."] if personal else [],
    )


def _newest(runs: RunsBehind, root: str) -> str:
    """The day of the newest training record; empty if none has a time, or if its records are too many."""
    if (train := Artifact.find(runs.store, paths.join(root, "train"))) is None:
        return ""
    with suppress(DataError):
        tables = runs.tables(train, ["metadata"])
        days = [pc.max(pc.struct_field(table["metadata"], "collected_at")).as_py() for table in tables]
        return max((day[:10] for day in days if day), default="")
    return ""


def _generated(runs: RunsBehind, root: str, manifest: dict[str, Any], report: dict[str, Any], depth: int) -> MadeBy:
    model = manifest["config"]["model"]
    name = str(model.get("name") or _last(str(model.get("path") or "")))
    return MadeBy(
        root=root,
        kind="generate",
        name=manifest["name"],
        digest=manifest["digest"],
        unit="records",
        total=report["records"],
        sources=_origins(
            runs, root, manifest, manifest["config"]["inputs"], lambda one: (one, one.get("licence"), None), depth
        ),
        generated=[(name, model.get("terms"), report["records"])],
    )


def _origins(
    runs: RunsBehind,
    root: str,
    manifest: Mapping[str, Any],
    rows: Sequence[Any],
    stated: Callable[[Any], tuple[Mapping[str, Any], str | None, int | None]],
    depth: int,
) -> tuple[Origin, ...]:
    """The sources of the run with this manifest; in place of those beyond the bound, one that has their number.

    stated: (settings, licence, number) of one of the rows.
    """
    kept, more = rows[: runs.sources_left], len(rows) - runs.sources_left
    runs.sources_left -= len(kept)
    found = [_origin(runs, root, manifest, *stated(one), depth) for one in kept]
    if more > 0:
        found.append(Origin(f"{plural(more, 'more source')}, not listed", "files", "", None, None))
    return tuple(found)


def _origin(
    runs: RunsBehind,
    root: str,
    manifest: Mapping[str, Any],
    settings: Mapping[str, Any],
    licence: str | None,
    number: int | None,
    depth: int,
) -> Origin:
    """A source of the run with this manifest, from its settings, which the manifest or the report records."""
    name, path = str(settings.get("source", "input")), settings.get("path")
    check_types(tuple[_Name, _Name | None], (name, licence))
    for way in ("pages", "api", "database"):
        if settings.get(way):
            crawl = runs.crawl(root, name, manifest["version"]) if way == "pages" else None
            return Origin(name, way, "", licence, number, crawl=crawl)
    path = str(path or "")
    if is_hub_data(path):
        with suppress(DataError):
            path = HubName.of(path).name
        return Origin(name, "hub", path, licence, number)
    # A recorded path on another store is not followed: it would be read with the user's keys.
    found = None
    if depth and path and paths.store_of(path) == paths.store_of(root):
        found = runs.made_by(path, depth=depth - 1)
    place = path if paths.is_remote(path) else _last(path)
    return Origin(name, "run" if found else "files", place, licence, number, found)


def _crawl(runs: RunsBehind, root: str, source: str, version: str) -> Crawl | None:
    """As `RunsBehind.crawl`.

    Raises:
        DataError, StorageError: rows are too many, or cannot be read.
    """
    store = runs.store
    folder = paths.join(root, "fetched")
    runs.charge(folder, f"{source}.json")
    record = read_json(store, paths.join(folder, f"{source}.json"), "the record of a fetched source", "parts")
    if record is None:
        return None
    pages, characters = Counter[str](), Counter[str]()
    asked = forbidden = 0
    for part in range(record["parts"]):
        found = Artifact.find(store, paths.join(folder, source, f"{part:06}"))
        if found is None:
            return None
        for table in runs.tables(found, ["record", "problem"], 5):
            asked += table.num_rows
            for record_, problem in zip(table["record"].to_pylist(), table["problem"].to_pylist(), strict=True):
                if problem is not None:
                    forbidden += problem == "robots_forbid"
                    continue
                row = json.loads(record_)
                host = urlsplit(row["url"]).hostname or ""
                pages[host] += 1
                characters[host] += len(row["text"])
    most = characters.most_common(max(10, -(-len(characters) // 10)))
    largest = [(host, pages[host], number) for host, number in most]
    return Crawl(f"raymill/{version}", record["began"], record["ended"], asked, forbidden, len(characters), largest)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class ContentCorpus:
    """A corpus that a model was trained on.

    path: as in the config. documents, tokens: of its training split as packed. made: the run that made it; None: it is
    not known.
    """

    name: str
    path: str
    documents: int
    tokens: int
    made: MadeBy | None

    def __post_init__(self) -> None:
        check_types(tuple[str, str, _Number, _Number], (self.name, self.path, self.documents, self.tokens))


@dataclass(frozen=True)
class ContentTraining:
    """One of the trainings behind a model. name: of the run. base: the model it began with. corpora: its data."""

    name: str
    base: str
    corpora: Sequence[ContentCorpus]

    def __post_init__(self) -> None:
        check_types(tuple[str, str], (self.name, self.base))


def earlier_trainings(runs: RunsBehind, settings: Mapping[str, Any], depth: int = _DEEPEST) -> list[ContentTraining]:
    """The finished trainings whose weights a training continues or has as its model, the first one first.

    settings: of its config, as plain values. A run that cannot be read, and those before it, are left out.
    """
    name = (settings.get("model") or {}).get("name")
    root = (settings.get("continue_from") or {}).get("run") or (str(name).rpartition("/export/")[0] if name else "")
    if not depth or not root or is_hub_data(root):
        return []
    try:
        with reading_report(root):
            runs.charge(root, RUN_MANIFEST, RUN_REPORT)
            if RunFolder(runs.store, root).finished("train") is None:
                return []
            report = RunFolder(runs.store, root).report("fits", "run")
            fit = report["fits"][-1]
            corpora = [_earlier_corpus(runs, root, one) for one in fit["corpora"]]
            found = ContentTraining(fit["name"], fit["recipe"]["base_model"], corpora)
            return [*earlier_trainings(runs, report["run"]["config"], depth - 1), found]
    except (StorageError, DataError):
        return []


def _earlier_corpus(runs: RunsBehind, root: str, corpus: dict[str, Any]) -> ContentCorpus:
    path, train = corpus["path"], {one["split"]: one for one in corpus["splits"]}["train"]
    made = None
    if paths.store_of(path) == paths.store_of(root):
        digest = corpus["prepared"]["digest"] if "prepared" in corpus else ""
        made = runs.made_by(path, digest)
    return ContentCorpus(corpus["name"], path, train["documents"], train["tokens"], made)


class _Rows:
    """Rows of tables and items of lists, of which the document has at most `_MOST_ROWS`."""

    def __init__(self) -> None:
        self._left = _MOST_ROWS

    def __call__(self, rows: Sequence[Any]) -> list[Any]:
        """The first rows, texts or tuples of cells; in place of the others, one with their number."""
        kept = [*rows[: self._left]]
        self._left -= len(kept)
        if more := len(rows) - len(kept):
            words = f"{count(more)} more, not listed"
            kept.append(words if isinstance(rows[0], str) else (words, *[""] * (len(rows[0]) - 1)))
        return kept


def training_content(name: str, fingerprint: str, trainings: Sequence[ContentTraining]) -> str:
    """The text of training-content.md.

    Args:
        name, fingerprint: of the training.
        trainings: the one that is exported, and before it those whose weights it continues, the first one first.
    """
    corpora = [(one.name, corpus) for one in trainings for corpus in one.corpora]
    runs = list({
        made.root: made
        for _, corpus in corpora if corpus.made is not None
        for made in corpus.made.with_earlier()
    }.values())  # fmt: skip
    origins = [(run, one) for run in runs for one in run.sources]
    # Of generated records, `prepare` counts those for training.
    counted = {one.made.root for run, one in origins if one.made and run.kind == "prepare"}
    tokens = sum(corpus.tokens for _, corpus in corpora)
    languages = Counter[str]()
    for run in runs:
        languages.update(run.languages)
    listed = _Rows()
    known = [f"{language or 'not identified'} {count(n)}" for language, n in languages.most_common()]
    values = {
        "name": name,
        "base": trainings[0].base,
        "trainings": [one.name for one in trainings],
        "corpora": listed(
            [(training, one.name, count(one.documents), count(one.tokens), _run(one.made)) for training, one in corpora]
        ),
        "unknown": listed(
            [
                one.path if paths.is_remote(one.path) else _last(one.path)
                for _, one in corpora
                if one.made is None and not is_hub_data(one.path)
            ]
        ),
        "documents": count(sum(corpus.documents for _, corpus in corpora)),
        "tokens": count(tokens),
        "size": next((words for bound, words in _SIZES if tokens < bound), _LARGEST),
        "newest": max((run.newest for run in runs), default=""),
        "languages": ", ".join(listed(known)),
        "runs": [
            (
                f"{run.kind} {run.name}",
                run.digest,
                run.unit,
                listed([(one.name, _place(one), _licence(one), _number(one.number)) for one in run.sources]),
                count(run.total) if all(one.number is not None for one in run.sources) else "",
            )
            for run in runs
        ],
        "hub": listed(
            [
                *(
                    (HubName.of(one.path).name, f"{BLANK}: not stated", f"{count(one.documents)} documents")
                    for _, one in corpora
                    if is_hub_data(one.path)
                ),
                *(
                    (one.place, _licence(one), f"{_number(one.number)} {run.unit}")
                    for run, one in origins
                    if one.way == "hub"
                ),
            ]
        ),
        "crawls": [
            (
                one.name,
                one.crawl,
                one.crawl and plural(one.crawl.asked, "address", "es"),
                one.crawl and plural(one.crawl.forbidden, "address", "es"),
                listed([(host, count(n), count(size)) for host, n, size in one.crawl.largest]) if one.crawl else [],
            )
            for _, one in origins
            if one.way == "pages"
        ],
        "hosts": [
            (
                f"{run.kind} {run.name}",
                listed([(host, count(n), count(size)) for host, n, size in run.hosts[0]]),
                count(run.hosts[1]),
            )
            for run in runs
            if run.hosts[0]
        ],
        "generated": listed(
            [
                (f"{run.kind} {run.name}", model, terms or f"{BLANK}: not stated", f"{count(n)} {run.unit}")
                for run in runs
                if run.root not in counted
                for model, terms, n in run.generated
            ]
        ),
        "variants": listed(
            [(f"{run.kind} {run.name}", how, count(n)) for run in runs for how, n in run.variants.items()]
        ),
        "others": listed(
            [
                (f"{run.kind} {run.name}", one.name, _place(one), f"{_number(one.number)} {run.unit}")
                for run, one in origins
                if one.way in ("files", "api", "database")
            ]
        ),
        "opt_outs": listed([f"{run.kind} {run.name}: {words}" for run in runs for words in run.opt_outs]),
        "lists": listed([f"{run.kind} {run.name}: {words}" for run in runs for words in run.lists]),
        "measures": listed([f"{run.kind} {run.name}: {words}" for run in runs for words in run.measures]),
        "version": cluster.__version__,
        "fingerprint": fingerprint,
    }
    return rendered(__package__, "training_content.md", values)


def _run(made: MadeBy | None) -> str:
    return "not known" if made is None else f"{made.kind} {made.name}, digest {made.digest}"


def _place(one: Origin) -> str:
    if one.made is not None:
        return f"the output of {one.made.kind} {one.made.name}"
    if one.way in ("files", "hub"):
        return one.place
    return {"pages": "web pages", "api": "records of an API", "database": "rows of a database"}[one.way]


def _licence(one: Origin) -> str:
    return one.licence or ("as its sources" if one.made else f"{BLANK}: not stated")


def _number(number: int | None) -> str:
    return "not counted" if number is None else count(number)
