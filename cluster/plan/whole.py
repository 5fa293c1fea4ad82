"""All stages of a run, planned and not run.

The stages of the run are built as in the run, from artifacts whose manifests are scaled from those of the sample. So
their units and their memory are those of the run, whatever divides and joins them. Seconds, bytes and requests are
scaled from the sample, or are those of the stage's model.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise

import pyarrow as pa

from raymill import cluster
from raymill.cluster.artifact import Artifact, DataFile, Manifest, describe_schema
from raymill.cluster.cost import PIECE_BYTES, REQUEST_CORE_S, Cost, requests_to_read, requests_to_write
from raymill.cluster.exchange import FAN
from raymill.cluster.output import Output
from raymill.cluster.plan.trial import Sampled, Trial, Tried
from raymill.cluster.stage import Stage, prefix_of
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store


@dataclass(frozen=True)
class PlannedInput:
    """The input of a run. weights: estimated bytes of each unit. reads: files that the units open, in all.

    text_bytes: of its rows. stored_bytes: of its files. read_s: processor seconds to read a byte of text, which the
    seconds of the sample do not have.
    """

    rows: int
    text_bytes: float
    stored_bytes: float
    files: int
    weights: Sequence[int]
    reads: int
    is_remote: bool = False
    read_s: float = 0.0


class PlannedArtifact(Artifact):
    """An artifact that is planned. sampled: of the sample, whose rows stand for those of this one."""

    def __init__(self, sampled: Artifact | None, store: Store, uri: str, manifest: Manifest) -> None:
        super().__init__(store, uri, manifest)
        self.sampled = sampled
        self.rows_instead: pa.Table | None = None

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        if self.rows_instead is not None:
            return iter([self.rows_instead if columns is None else self.rows_instead.select(columns)])
        return iter(()) if self.sampled is None else self.sampled.tables(columns)


class Whole:
    """Plans the stages of a run.

    assumed: numbers that a sample does not show, by name. factors: of the rows and bytes of an output whose share the
    sample does not show. rows_of: the rows that the driver reads instead of those of the sample, by output.
    """

    def __init__(self, root: str, input: PlannedInput, sampled: Sampled) -> None:
        self.root, self.input, self.sampled = root, input, sampled
        self.assumed: dict[str, float] = {}
        self.costs: list[Cost] = []
        self.factors: dict[str, float] = {}
        self.rows_of: dict[str, pa.Table] = {}
        self._made: dict[str, Artifact] = {}  # by path below the run
        self._sizes: dict[str, int] = {}  # by URI
        self._sample_units = next(iter(sampled.whole.stages.values())).units
        self._writes = paths.is_remote(root)

    def bytes_of(self, uris: Sequence[str]) -> float:
        return sum(self._sizes[uri] for uri in dict.fromkeys(uris))

    def run(self, stage: Stage, folder: str = "") -> dict[str, Artifact]:
        """Plan a stage. Returns its artifacts, which have manifests and no files."""
        if stage.prepare is not None and stage.model is None:
            stage = replace(stage, units=stage.prepare(partial(self.run, folder=folder)), prepare=None)
        prefix = prefix_of(folder)
        name, units = f"{prefix}{stage.name}", len(stage.units)
        tried = self.sampled.whole.stages.get(name)
        outputs = [self._output(stage, name, output, tried) for output in stage.outputs]
        cost = None if tried is None else self._scaled(stage, name, tried, outputs)
        if stage.model is not None:
            *before, cost = stage.model(self, cost)
            for one in before:
                self._add(replace(one, name=f"{prefix}{one.name}"), 0)
            units = cost.units or units
            outputs[0] = replace(
                outputs[0], rows=cost.rows or outputs[0].rows, bytes=cost.written, files=units, of=units
            )
        cost = cost or Cost(written=sum(one.bytes for one in outputs))
        observed = self.sampled.observed
        seen = observed.stages[name].seen if name in observed.stages else ()
        opened = sum(uri.startswith(observed.input_folder) for uri, _ in seen)
        cost = replace(cost, name=name, units=units, memory=cost.memory or stage.memory)
        self._add(cost, opened / self._sample_units)
        made: dict[str, Artifact] = {}
        for output, planned in zip(stage.outputs, outputs, strict=True):
            path = paths.join(folder, output.name) if folder else output.name
            made[output.name] = self._made[path] = self._artifact(stage, output, path, planned, tried, cost.counters)
        return made

    def add(self, cost: Cost, share: float) -> None:
        """Add a stage that the sample does not have, which reads a share of the files. core_s: with the reading."""
        gets = share * self.input.is_remote * (2 * self.input.reads + self.input.stored_bytes / PIECE_BYTES)
        puts = cost.units * requests_to_write(cost.written / max(cost.units, 1))
        self._add(replace(cost, gets=gets, puts=puts, read=share * self.input.stored_bytes), 0)

    def _add(self, cost: Cost, passes: float) -> None:
        """Add a cost, without the requests to files that are local. passes: how often it reads the input."""
        input = self.input
        gets, puts = (self._writes * number for number in (cost.gets, cost.puts))
        gets += passes * input.is_remote * (2 * input.reads + input.stored_bytes / PIECE_BYTES)
        core_s = cost.core_s + passes * input.text_bytes * input.read_s + REQUEST_CORE_S * (gets + puts)
        self.costs.append(
            replace(cost, gets=gets, puts=puts, core_s=core_s, read=cost.read + passes * input.stored_bytes)
        )

    def _times(self, stage: Stage, tried: Tried) -> float:
        """How many times the fixed part of what the sample takes a stage takes."""
        if stage.per_input:
            return len(self.input.weights) / self._sample_units
        return len(stage.units) / max(tried.units, 1)

    def _scaled(self, stage: Stage, name: str, tried: Tried, outputs: Sequence["_Planned"]) -> Cost:
        """What follows from the sample, without reading the input."""
        observed, opened = self.sampled.observed, defaultdict[str, list[int]](list)
        for uri, size in observed.stages[name].seen:
            opened[uri.removeprefix(f"{observed.root}/").rpartition("/")[0]].append(size)
        gets = read = files_sampled = files_planned = 0.0
        for path, sizes in opened.items():
            if (before := observed.made.get(path)) and (planned := self._made.get(path)):
                files, size = len(planned.manifest.files), planned.manifest.bytes
                times = len(sizes) / len(before.manifest.files)  # that each file is opened
                files_sampled, files_planned = files_sampled + len(sizes), files_planned + times * files
                if before.manifest.schema:
                    gets += times * files * requests_to_read(size / max(files, 1))
                else:  # a slice of each file of the last level (exchange.py), in two requests
                    gets += 2 * len(stage.units) * min(files, FAN)
                read += min(sum(sizes) / max(before.manifest.bytes, 1), times) * size
        written = sum(one.bytes for one in outputs)
        puts = len(stage.units) + sum(one.files * requests_to_write(one.bytes / max(one.files, 1)) for one in outputs)
        if stage.per_file:
            seconds = tried.seconds * files_planned / max(files_sampled, 1)
        else:
            seconds = self.sampled.seconds[name].at(self._times(stage, tried), self.input.rows)
        scratch = written / max(len(stage.units), 1)
        counters = self._counters(stage, tried, name)
        return Cost("", 0, seconds, read, written, gets, puts, scratch=scratch, counters=counters)

    def _output(self, stage: Stage, name: str, output: Output, tried: Tried | None) -> "_Planned":
        """The rows, bytes and files of an output, by those of the sample."""
        units = len(stage.units)
        if tried is None or output.name not in tried.outputs:  # no piece of the sample has such rows
            return _Planned(0, 0, units, units)
        filled = {file.unit for file in tried.outputs[output.name].manifest.files if file.rows}
        of_inputs = stage.per_input and max(filled, default=0) >= tried.units
        of, before = (len(self.input.weights), self._sample_units) if of_inputs else (units, max(tried.units, 1))
        files = min(of, math.ceil(of * len(filled) / before)) if output.schema.names else of

        def scaled(value: Callable[[Manifest], float]) -> float:
            line = self.sampled.line(
                lambda trial: value(trial.stages[name].outputs[output.name].manifest) if name in trial.stages else 0.0
            )
            return self.factors.get(output.name, 1.0) * line.at(of / before, self.input.rows)

        return _Planned(scaled(lambda one: one.rows), scaled(lambda one: one.bytes), files, of)

    def _artifact(
        self,
        stage: Stage,
        output: Output,
        path: str,
        planned: "_Planned",
        tried: Tried | None,
        counters: Mapping[str, float],
    ) -> PlannedArtifact:
        weights = self.input.weights if planned.files == len(self.input.weights) else [1] * planned.files
        ends = list(accumulate(weights, initial=0))
        rows, sizes = (
            [round(whole * end / (ends[-1] or 1)) for end in ends] for whole in (planned.rows, planned.bytes)
        )
        files = [
            DataFile(
                paths.RelativePath(f"{at:06}.planned"), at * planned.of // planned.files, last - first, end - start, ""
            )
            for at, ((first, last), (start, end)) in enumerate(zip(pairwise(rows), pairwise(sizes), strict=True))
        ]
        # As in `publish`, which writes a file where no unit has rows.
        files = files or [DataFile(paths.RelativePath("000000.planned"), 0, 0, 0, "")]
        manifest = Manifest(
            kind=output.name,
            fingerprint=stage.fingerprint,
            **describe_schema(output.schema),
            files=files,
            counters=dict(counters),
            seconds=0.0,
            made="",
            version=cluster.__version__,
            digest="planned",
        )
        sampled = tried.outputs.get(output.name) if tried else None
        artifact = PlannedArtifact(sampled, stage.store, paths.join(self.root, path), manifest)
        artifact.rows_instead = self.rows_of.get(path)
        self._sizes |= {uri: file.bytes for uri, file in zip(artifact.file_uris, files, strict=True)}
        return artifact

    def _counters(self, stage: Stage, tried: Tried, name: str) -> dict[str, float]:
        """The counters of a stage, by those of the sample."""
        (sampled, *_) = tried.outputs.values()
        times = self._times(stage, tried)

        def counter(key: str, trial: Trial) -> float:
            (one, *_) = trial.stages[name].outputs.values() if name in trial.stages else (sampled,)
            return one.manifest.counters.get(key, 0.0)

        return {
            key: self.sampled.line(partial(counter, key)).at(times, self.input.rows)
            for key in sampled.manifest.counters
        }


@dataclass(frozen=True)
class _Planned:
    """An output: rows, bytes, number of files, and number of the units that may have one."""

    rows: float
    bytes: float
    files: int
    of: int
