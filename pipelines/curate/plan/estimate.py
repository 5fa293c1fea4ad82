"""The arithmetic of a plan: units, processor time, bytes, requests and memory of each stage, then time and money.

Nothing is read here. Measured numbers come in `Rates`. The others are constants below, with their sources; the plan
prints those that a user may know better (`assumed` in command.py).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from cluster.exchange import MEMORY as EXCHANGE_MEMORY
from cluster.levels import Levels
from cluster.readers.divide import bytes_of_unit
from cluster.readers.units import InputManifest
from cluster.store import paths
from pipelines.curate.config import CurateConfig
from pipelines.curate.plan.prices import Prices
from pipelines.curate.plan.rates import Rates
from pipelines.curate.stages import decide, duplicate_ids, id_index, removed_duplicates
from pipelines.curate.stages.boilerplate import TEXT_OF_A_PIECE
from pipelines.curate.stages.memory import keys_memory, windows_memory
from pipelines.curate.stages.merge import FILES_OF_A_UNIT
from pipelines.curate.stages.repeats import TEXT_OF_AN_ANCHOR
from pipelines.curate.stages.shared_keys import COUNTED, SLICE_MEMORY, slices_for
from pipelines.curate.stages.write_corpus import attribute_columns
from pipelines.curate.work import machine_of, task_scratch
from pipelines.dedup.compare import candidate_columns, keeper_columns
from pipelines.dedup.documents import KEY_COLUMNS
from pipelines.dedup.exact import TEXT, TEXT_COLUMNS
from pipelines.dedup.group import DEFAULT_SIZES, memory_by_stage, slices_of_keys, slices_of_texts, stars_memory
from pipelines.dedup.settings import Dedup

# A document that shares a band key with another one is a candidate. In a group of three, one is kept and two removed.
CANDIDATES_OF_A_DUPLICATE = 1.5
# Used if the sample has fewer: duplicates far apart in the input are not in a sample.
LEAST_DUPLICATES = 0.2

# Large and small stars where one task does not connect all candidates; groups of 2 to 5 documents take 3.
STARS = 8

# Processor seconds of grouping: `python -m tests.benchmarks group` with 2 million documents, 32% of them in groups
# (AMD EPYC, 2026-11-25, in a slow hour); of one range of 2^19 documents: with 500,000.
_ONE_RANGE_S = 4.0e-6  # of a document that passed
_GROUP_S = {
    "texts": 0.5e-6,
    "firsts": 0.3e-6,
    "keys": 1.9e-6,
    "merge": 0.7e-6,
    "route": 1.7e-6,
}  # of a document that passed
_CANDIDATE_S = {"compare": 3.6e-6, "group": 1.2e-6}  # of a candidate
_CANDIDATE_BYTES = {"route": 531, "compare": 125, "group": 16}  # that these stages write, from the same run
# A near-duplicate or copy shares most of its keys with the kept document, and each of them makes an edge of 16 bytes.
# Seconds: of `mark` and `components` with 20 million documents, which do not fit into the processor's cache (AMD EPYC,
# 2026-11-25); of a star with 2 million (2026-11-23).
EDGES_OF_A_CANDIDATE = 10
_EDGE_S = {"mark": 8e-9, "components": 75e-9, "star": 0.5e-6}
_EDGE_BYTES, _STAR_BYTES = 16, 30  # of an edge of `keys` and `merge`; that a star writes for one
_PAIR_BYTES, _POSITION_BYTES = 8, 8
_EXCHANGE_S = 3.3e-9  # of a byte of slices at a level between (cluster/exchange.py), on the same machine

# Of counting lines and windows: `python -m tests.benchmarks boilerplate repeats` (AMD EPYC, 2026-11-23).
_PIECE_BYTES = 0.4  # written for each byte of text, at most
_WORD_BYTES = 0.15  # words for each byte of text
REPEATED = 0.1  # of the words, in runs that several documents have
_SHARED_S = 10e-9  # seconds for each of these bytes
_SHARED_PART = 0.3  # share of them that comes back to the units, at most

# An S3 request: processor seconds of the client (0.4 ms to read 7 kB, 0.5 ms to write them, without TLS, 2026-11-23;
# `cluster/store` against moto), and seconds until the answer, as stores document them for small objects.
REQUEST_CORE_S = 0.0005
REQUEST_S = 0.03
_AT_ONCE = 8  # reads of a unit that wait for the store at the same time
_SMALL_FILE = 256 << 10  # read with one request
_PIECE = 8 << 20  # of a larger read
_ROW_GROUP = 4 << 20  # of attributes, compressed
_PART = 5 << 20  # of a multipart upload

# Seconds from the first call to the first unit, on machines that are running. Source: tests/benchmarks/README.md, 500
# MB on 2 cores.
START_S = 15.0
# Seconds of the driver for each unit, to plan and publish a stage: tests/benchmarks/README.md, 20,000 units.
_DRIVER_UNIT_S = 0.0005

MOST_CORES = 16  # of a machine


@dataclass(frozen=True)
class Size:
    """An input. text_bytes: of its documents; unit_bytes: their estimate in the manifest. stored_bytes: of its files.

    earlier: documents of the runs in `dedup.against`.
    """

    documents: int
    text_bytes: int
    unit_bytes: int
    stored_bytes: int
    units: int
    files: int
    largest_unit: int
    earlier: int = 0

    def scaled(self, documents: int, config: CurateConfig) -> "Size":
        """An input of `documents` documents in files of the same sizes, divided into the units of its own size."""
        factor = documents / self.documents
        whole = round(self.unit_bytes * factor)
        of_unit = config.execution.unit_bytes or bytes_of_unit(whole)
        return Size(
            documents,
            round(self.text_bytes * factor),
            whole,
            round(self.stored_bytes * factor),
            max(1, math.ceil(whole / of_unit)),
            max(1, round(self.files * factor)),
            min(of_unit, whole),
            self.earlier,
        )


def size_of(inputs: InputManifest, documents: int, text_bytes: int, earlier: int = 0) -> Size:
    """The size of an input whose documents and text are known, or estimated. earlier: see Size."""
    read = [file for file in inputs.files if file.problem is None]
    estimates = [unit.bytes for unit in inputs.units]
    stored = sum(file.size for file in read)
    return Size(documents, text_bytes, sum(estimates), stored, len(estimates), len(read), max(estimates), earlier)


@dataclass(frozen=True)
class StagePlan:
    """The cost of a stage. core_s, read, written, gets, puts: of all its units; memory, scratch: bytes of one task.

    input_gets: those of `gets` that read the input files.
    """

    name: str
    units: int
    core_s: float
    read: float = 0
    written: float = 0
    gets: float = 0
    puts: float = 0
    memory: int = 0
    scratch: float = 0
    input_gets: float = 0

    @property
    def unit_s(self) -> float:
        """Seconds of a unit on its core, and of its waiting for the store."""
        return (self.core_s + REQUEST_S * (self.puts + self.gets / _AT_ONCE)) / self.units

    def seconds(self, cores: int) -> float:
        """Wall time on `cores` cores, if all units take equally long."""
        return math.ceil(self.units / cores) * self.unit_s + _DRIVER_UNIT_S * self.units


@dataclass(frozen=True)
class OnCores:
    """A run on `cores` cores. money: of the machines from the first stage to the last, of requests and of egress."""

    cores: int
    seconds: float
    machine_gib: float
    money: float


def plan_stages(config: CurateConfig, size: Size, rates: Rates, duplicates: float) -> list[StagePlan]:
    """Every stage of a run. duplicates: share of the documents that pass."""
    # Local files need no requests.
    reads = any(paths.is_remote(entry.path) for entry in config.inputs)
    writes = paths.is_remote(paths.absolute(config.output))
    found = []
    for stage in _stages(config, size, rates, duplicates):
        gets = writes * (stage.gets - stage.input_gets) + reads * stage.input_gets
        puts = writes * stage.puts
        core_s = stage.core_s + REQUEST_CORE_S * (gets + puts)
        memory = stage.memory or rates.memory.get(stage.name, 0)
        found.append(replace(stage, gets=gets, puts=puts, core_s=core_s, memory=memory))
    return found


def _stages(config: CurateConfig, size: Size, rates: Rates, duplicates: float) -> Iterator[StagePlan]:
    """The stages as if all files were on an object store."""
    documents, units = size.documents, size.units
    of_unit = documents / units
    passed = documents * rates.passed
    removed = passed * duplicates if config.dedup and config.dedup.remove else 0.0
    kept = passed - removed
    columns = rates.attribute_bytes
    attributes = documents * sum(columns.values())
    attributes_gets = _gets(attributes / units)  # of one file
    verdicts = (documents - passed) * rates.verdict_bytes
    scratch = task_scratch(config, size.largest_unit)

    def core_s(stage: str) -> float:
        # A unit of a later stage does some units of `measure` one after the other, as in the sample.
        return units * rates.unit_s.get(stage, 0) + documents * rates.document_s.get(stage, 0)

    def columns_bytes(names: Iterable[str]) -> float:
        return documents * sum(columns.get(name, 0) for name in names)

    reading = size.text_bytes * rates.read_s
    input_gets = 2 * max(size.files, units) + size.stored_bytes / _PIECE
    yield StagePlan(
        "measure", units, core_s("measure") + reading, size.stored_bytes, attributes, input_gets,
        units * (1 + _puts(attributes / units)), scratch=scratch, input_gets=input_gets,
    )  # fmt: skip

    count = _joined(units, of_unit, id_index.DOCUMENTS_OF_A_UNIT)
    index = 16.0 * documents
    yield StagePlan(
        "index", count, core_s("index"), columns_bytes(["id"]), index, units * attributes_gets,
        count * (1 + _puts(index / count)),
    )  # fmt: skip
    if any(entry.id is not None for entry in config.inputs):
        # Each unit reads its range of the hashes from every file of the index.
        of_hashes = max(1, math.ceil(documents / duplicate_ids.DOCUMENTS_OF_A_RANGE))
        gets = of_hashes * count * _gets(index / count / of_hashes)
        yield StagePlan("ids.ranges", of_hashes, core_s("ids.ranges"), index, 0, gets, 2 * of_hashes)
        yield StagePlan("ids", 1, core_s("ids"), 0, 0, of_hashes, 2)
    count = _joined(units, of_unit, decide.DOCUMENTS_OF_A_UNIT, decide.MEASURED_UNITS_OF_A_UNIT)
    judged = units if documents > passed else 0
    yield StagePlan(
        "decide", count, core_s("decide"), columns_bytes(filter(decide.is_needed, columns)), verdicts,
        units * attributes_gets, judged * _puts(verdicts / units) + 2 * count,
    )  # fmt: skip
    tallies = count

    group_files = 0
    if config.dedup:
        for stage in grouping_stages(config.dedup, documents, size.earlier, units, columns, passed, duplicates):
            yield stage
        group_files, members = stage.units, stage.written / _CANDIDATE_BYTES["group"]
        count = _joined(group_files, members / group_files, removed_duplicates.ROWS_OF_A_UNIT)
        seconds = count * rates.unit_s.get("duplicates", 0) + documents * rates.document_s.get("duplicates", 0)
        yield StagePlan("duplicates", count, seconds, stage.written, 0, 2 * group_files, 3 * count)

    kept_bytes = kept * rates.document_bytes
    of_shared: dict[str, float] = {}  # requests that read the shared keys, by stage
    for name, share, written, slices, most in _counts_of_keys(config, kept_bytes, size.largest_unit):
        reads = input_gets + judged + 2 * group_files + sum(of_shared.values())
        yield StagePlan(
            f"select.{name}", units, core_s(f"select.{name}") + reading, size.stored_bytes, written, reads,
            units * (1 + _puts(written / units)), most, written / units, input_gets,
        )  # fmt: skip
        by_key, by_unit = Levels.of(units, slices), Levels.of(slices, units)
        yield from _exchange(f"select.{share}-keys", by_key, written)
        yield StagePlan(
            f"select.{share}", slices, written * _SHARED_S, written, written * _SHARED_PART, _last_gets(by_key),
            2 * slices, SLICE_MEMORY, written / slices,
        )  # fmt: skip
        yield from _exchange(f"select.{share}-units", by_unit, written * _SHARED_PART)
        of_shared[name] = _last_gets(by_unit)
    of_shared.pop("anchors", None)  # `select` reads the windows that are found with them
    count = _joined(units, kept_bytes / units, config.corpus.file_mib << 20)
    corpus, ledger = kept * rates.corpus_bytes, (documents - kept) * rates.removed_bytes
    files = _puts(corpus / count) + (_puts(ledger / count) if ledger else 0)
    yield StagePlan(
        "select", count, core_s("select") + reading,
        size.stored_bytes + columns_bytes(attribute_columns(config.corpus.columns)) + verdicts, corpus + ledger,
        input_gets + units * attributes_gets + judged + 2 * count * bool(group_files) + sum(of_shared.values()),
        count * (files + 3 + bool(config.boilerplate) + bool(config.repeats)),
        scratch=scratch, input_gets=input_gets,
    )  # fmt: skip

    small = tallies + 2 * count
    count = max(1, math.ceil((tallies + count) / FILES_OF_A_UNIT)) + max(1, math.ceil(count / FILES_OF_A_UNIT)) + 1
    yield StagePlan("merge", count, small * rates.unit_s.get("merge", 0), 0, 0, small, 4 * count)


def _counts_of_keys(config: CurateConfig, text: float, largest: int) -> Iterator[tuple[str, str, float, int, int]]:
    """(stage, the stage that finds its shared keys, bytes written, slices, memory) of the stages before `select`.

    text: bytes of the documents that stay. largest: bytes of the largest unit.
    """
    if config.boilerplate:
        slices = slices_for(text / TEXT_OF_A_PIECE)
        yield "pieces", "shared", text * _PIECE_BYTES, slices, keys_memory(config.limits, largest)
    if config.repeats:
        memory = windows_memory(config.limits, largest)
        anchors = text * _WORD_BYTES * 4 / config.repeats.min_words
        yield "anchors", "shared_anchors", anchors * COUNTED.itemsize, slices_for(text / TEXT_OF_AN_ANCHOR), memory
        windows = text * _WORD_BYTES * REPEATED
        yield "windows", "shared_windows", windows * COUNTED.itemsize, slices_for(windows), memory


def grouping_stages(
    dedup: Dedup,
    documents: int,
    earlier: int,
    units: int,
    columns: Mapping[str, float],
    passed: float,
    duplicates: float,
) -> Iterator[StagePlan]:
    """Grouping as if all files were on an object store; the last stage is `group`. See pipelines/dedup/group.py.

    documents: with attributes, in files of so many units. earlier: documents of the runs in `dedup.against`. columns:
    bytes of the columns of a document's attributes. passed: documents that are compared. duplicates: share of these.
    """
    candidates = min(passed, CANDIDATES_OF_A_DUPLICATE * passed * duplicates)
    documents, passed = documents + earlier, passed + earlier
    of_documents = math.ceil(documents / DEFAULT_SIZES.documents)
    text_columns = TEXT_COLUMNS | frozenset(keeper_columns(dedup))
    text_bytes, key_bytes, both_bytes, route_bytes = (
        documents * sum(columns.get(name, 0) for name in names)
        for names in (text_columns, KEY_COLUMNS, text_columns | KEY_COLUMNS, candidate_columns(dedup))
    )
    # A file of attributes that two ranges have is read by both.
    parts = units + of_documents - 1
    part_gets = parts * (1 + _gets(documents * sum(columns.values()) / units))
    found = candidates * _CANDIDATE_BYTES["group"]
    if of_documents == 1 and not earlier:
        memory = memory_by_stage(documents)["group"]
        yield StagePlan("group", 1, passed * _ONE_RANGE_S, both_bytes + route_bytes, found, 2 * part_gets, 2, memory)
        return
    memory_of = memory_by_stage(max(documents, DEFAULT_SIZES.documents + 1), round(candidates))
    slices, text_slices = slices_of_keys(math.ceil(passed), dedup), slices_of_texts(math.ceil(passed))
    batches = max(1, math.ceil(candidates / DEFAULT_SIZES.batch))
    routed, compared = candidates * _CANDIDATE_BYTES["route"], candidates * _CANDIDATE_BYTES["compare"]
    edges = candidates * EDGES_OF_A_CANDIDATE
    edge_bytes = edges * _EDGE_BYTES

    def plan(name: str, units: int, core_s: float, read: float, written: float, gets: float, files: int) -> StagePlan:
        puts = units * (1 + files * _puts(written / units / files))
        stage = f"group.{name}"
        return StagePlan(stage, units, core_s, read, written, gets, puts, memory_of[stage], written / units)

    # The number of exact copies is not known, so each text counts as different, and each candidate as a copy.
    texts, copies = passed * TEXT.itemsize, candidates * _POSITION_BYTES
    shuffled = passed * dedup.banding[0] * _PAIR_BYTES
    texts_of, copies_of, keys, candidates_of, rows_of = (
        Levels.of(of_documents, text_slices), Levels.of(text_slices, of_documents), Levels.of(of_documents, slices),
        Levels.of(of_documents, batches), Levels.of(batches, of_documents + 1),
    )  # fmt: skip
    yield plan("texts", of_documents, passed * _GROUP_S["texts"], text_bytes, texts, part_gets, 2)
    yield from _exchange("group.texts", texts_of, texts)
    yield plan("firsts", text_slices, passed * _GROUP_S["firsts"], texts, copies, _last_gets(texts_of), 2)
    yield from _exchange("group.copies", copies_of, copies)
    copy_gets = 2 * of_documents + _last_gets(copies_of)  # of `keys`, and of `route`
    within = candidates * _EDGE_BYTES / of_documents  # a forest of the pairs whose documents are in one range
    yield plan("keys", of_documents, passed * _GROUP_S["keys"], key_bytes, shuffled + within, part_gets + copy_gets, 2)
    yield from _exchange("group.keys", keys, shuffled)
    yield plan("merge", slices, passed * _GROUP_S["merge"], shuffled, edge_bytes, _last_gets(keys), 1)
    if edges <= dedup.connected_at_once:
        gets = 2 * (2 * of_documents + text_slices + slices)
        yield plan("mark", 1, edges * _EDGE_S["mark"], edge_bytes, documents / 8, gets, 1)
        yield plan("components", 1, edges * _EDGE_S["components"], edge_bytes, candidates * 8, gets, 1)
    else:
        yield _stars(candidates, edges, of_documents)
    gets = part_gets + 2 * of_documents + copy_gets
    yield plan("route", of_documents, passed * _GROUP_S["route"], route_bytes, routed, gets, 1)
    yield from _exchange("group.candidates", candidates_of, routed)
    core_s = candidates * _CANDIDATE_S["compare"]
    yield plan("compare", batches, core_s, routed, compared, _last_gets(candidates_of), 1)
    yield from _exchange("group.found", rows_of, compared)
    yield StagePlan(
        "group", of_documents, candidates * _CANDIDATE_S["group"], compared, found, 2 * _last_gets(rows_of),
        2 * of_documents, memory_of["group"],
    )  # fmt: skip


def _exchange(name: str, levels: Levels, size: float) -> Iterator[StagePlan]:
    """The levels of an exchange of slices between two stages. size: bytes of all slices."""
    for level in range(1, levels.count):
        units, gets = levels.parts(level) * levels.groups(level), 2 * levels.reads(level)
        puts = units * (1 + _puts(size / units))
        scratch = size / units
        yield StagePlan(f"{name}-{level}", units, size * _EXCHANGE_S, size, size, gets, puts, EXCHANGE_MEMORY, scratch)


def _last_gets(levels: Levels) -> int:
    """Requests of the units that read the slices of the last level."""
    return 2 * levels.reads(levels.count)


def _stars(candidates: float, edges: float, ranges: int) -> StagePlan:
    """All stages of pipelines/dedup/stars.py together.

    Equal edges come from different slices of the keys. Of ten, the first star writes eight and the second two or three,
    so the first two are counted with all edges, and the others with one of each candidate.
    """
    spans = math.ceil(ranges / DEFAULT_SIZES.span)

    def files(of_edges: float) -> int:
        return max(spans, math.ceil(of_edges / DEFAULT_SIZES.edges))

    first, later = 2, STARS - 2
    all_files = first * files(edges) + later * files(candidates)
    units = STARS * spans + all_files
    moved = first * edges + later * candidates
    shuffled = moved * _STAR_BYTES
    # A unit of `least` reads a slice of every file, and those of `move` together one of every file for each span.
    gets, puts = 4 * spans * all_files, 3 * units
    core_s, memory = moved * _EDGE_S["star"], stars_memory(DEFAULT_SIZES)
    return StagePlan("group.star", units, core_s, shuffled, shuffled, gets, puts, memory, shuffled / units)


def on_cores(config: CurateConfig, size: Size, stages: list[StagePlan], cores: int, prices: Prices) -> OnCores:
    """Time and money on `cores` cores, which all run from the first stage to the last."""
    seconds = START_S + sum(stage.seconds(cores) for stage in stages)
    of_machine = min(cores, MOST_CORES)
    memory = machine_of(config, of_machine, size.documents + size.earlier, size.largest_unit).memory / (1 << 30)
    machines = math.ceil(cores / of_machine)
    hourly = cores * prices.core_hour + machines * memory * prices.gib_hour
    return OnCores(cores, seconds, memory, seconds / 3600 * hourly + store_money(stages, prices))


def store_money(stages: list[StagePlan], prices: Prices) -> float:
    """The cost of requests and of bytes that leave the store."""
    gets, puts = sum(stage.gets for stage in stages), sum(stage.puts for stage in stages)
    read = sum(stage.read for stage in stages if stage.gets)
    return gets / 1000 * prices.thousand_gets + puts / 1000 * prices.thousand_puts + read / 1e9 * prices.egress_gb


def shuffle_bytes(stages: list[StagePlan]) -> float:
    """Bytes that a stage of grouping writes for another one."""
    return sum(stage.written for stage in stages if stage.name.startswith("group."))


def _joined(units: int, of_unit: float, full: float, most: int | None = None) -> int:
    """How many lists `neighbours` makes of units of equal size."""
    each = max(1, math.ceil(full / max(of_unit, 1e-9)))
    return math.ceil(units / (min(each, most) if most else each))


def _gets(size: float) -> int:
    """Requests that read some columns of a file of attributes."""
    return 1 if size <= _SMALL_FILE else 1 + 2 * math.ceil(size / _ROW_GROUP)


def _puts(size: float) -> int:
    """Requests that write a file."""
    return 1 if size <= _PART else 2 + math.ceil(size / _PART)
