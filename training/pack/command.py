"""The verb `raymill pack`: pack the corpora of a config, or print a few examples of them."""

import logging
from typing import Annotated

import typer

from cluster.artifact import Counters
from cluster.entry import Entry
from cluster.errors import ConfigError
from cluster.examples.splits import SPLITS
from cluster.frame.commands import Address, ConfigFile, Overrides, Verify, load_of_kind
from cluster.progress import ProgressLines
from cluster.session import Session
from cluster.store import paths
from training.config import TrainConfig
from training.job import packed_job
from training.model_folder.checks import check_model
from training.pack import overflow
from training.pack.job import pack as run_pack
from training.pack.packed_run import PackedRun
from training.pack.sources import set_name, shown_name

_preview = Entry("training.tokenizer.preview:preview")  # imports transformers
_print_previews = Entry("training.tokenizer.preview:print_previews")

log = logging.getLogger(__name__)


def pack(
    config: ConfigFile,
    override: Overrides = None,
    address: Address = None,
    preview: Annotated[
        int | None,
        typer.Option(min=1, help="number of examples of each corpus to print, with trained tokens marked; then stop"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="pack everything again")] = False,
    verify: Verify = False,
    job: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="also write the job for `torchrun ... -m training.fit FILE`, a path or URI"),
    ] = None,
) -> None:
    """A corpus to packed rows: tokenise, mask, split, pack, shuffle. `raymill train` also does this.

    A second run continues where the first stopped: finished parts are not packed again, unless they are damaged or
    gone.
    """
    settings = load_of_kind("train", config, override)
    if settings.phases:
        raise ConfigError(
            f"{config}, phases: the corpus of a phase is packed when the phase begins. Run `raymill train`, or give "
            "the settings of one phase in a config without phases."
        )
    for warning in check_model(settings):
        log.warning("%s", warning)
    if preview is not None:
        _print_previews(_preview(settings, preview))
        return
    progress = ProgressLines()
    with Session(address, settings.execution.cpus, progress) as session:
        packed = run_pack(settings, session, progress, replace, verify)
    print(summary(settings, packed))
    if job is not None:
        settings.store.write_bytes(paths.absolute(job), packed_job(settings, packed).to_json())
        print(f"job        {paths.absolute(job)}")


def summary(config: TrainConfig, packed: PackedRun) -> str:
    """A text about packed corpora: documents, tokens, padding, and the documents that were left out."""
    lines = [line for name in packed.corpora for line in _corpus_lines(config, packed, name)]
    lines += [line for name in packed.sets for line in _set_lines(packed, name)]
    steps = packed.rows("train") / config.rows_per_step
    lines.append(f"one epoch is {steps:,.1f} steps of {config.rows_per_step:,} rows, {config.tokens_per_step:,} tokens")
    return "\n".join([*lines, "", f"packed     {packed.uri}", f"tokenizer  {packed.tokenizer_uri}"])


def _corpus_lines(config: TrainConfig, packed: PackedRun, name: str) -> list[str]:
    tokenised, counters = packed.tokenised(name), packed.packed(name)
    tokens = sum(counters[f"tokens/{split}"] for split in SPLITS)
    trained = sum(counters[f"label_tokens/{split}"] for split in SPLITS)
    probe = config.method == "probe"  # it predicts a class of each document and no token
    share = "" if probe else f", {_share(trained, tokens)} of them trained on"
    heads = ["documents", "rows", "tokens", *([] if probe else ["trained on"]), "rows filled"]
    lines = [
        f"{name}: {tokenised['documents']:,.0f} documents, {tokens:,.0f} tokens{share}",
        _line("split", heads),
    ]
    for split in SPLITS:
        of = {key: counters[f"{key}/{split}"] for key in ("documents", "rows", "tokens", "label_tokens", "padding")}
        cells = [f"{of[key]:,.0f}" for key in ("documents", "rows", "tokens")]
        cells += [] if probe else [_share(of["label_tokens"], of["tokens"])]
        lines.append(_line(split, [*cells, _share(of["tokens"], of["tokens"] + of["padding"])]))
    left_out = [note.words for note in [*overflow.left_out(tokenised), *overflow.turns(tokenised)]]
    if note := packed.passed_over.get(name):
        left_out.insert(0, note)
    notes = [*left_out, *_cut(tokenised, counters, config.sequence_length), *_as_text(tokenised)]
    return [*lines, *(f"  {note}" for note in notes)]


def _set_lines(packed: PackedRun, name: str) -> list[str]:
    """One of `evaluate.sets`: what is measured of it, and the documents that were left out."""
    artifact, tokenised = packed.sets[name], packed.tokenised(set_name(name))
    split = artifact.uri.rpartition("/")[2]
    documents, rows, tokens = (
        artifact.manifest.counters[f"{what}/{split}"] for what in ("documents", "rows", "tokens")
    )
    notes = [note.words for note in [*overflow.left_out(tokenised), *overflow.turns(tokenised)]]
    if note := packed.passed_over.get(set_name(name)):
        notes.insert(0, note)
    head = (
        f"{shown_name(set_name(name))}: {documents:,.0f} documents, {rows:,.0f} rows, {tokens:,.0f} tokens to measure"
    )
    return [head, *(f"  {note}" for note in notes)]


def _line(first: str, cells: list[str]) -> str:
    return f"  {first:<12}" + "".join(f"{cell:>14}" for cell in cells)


def _cut(tokenised: Counters, counters: Counters, length: int) -> list[str]:
    lines = [note.words for note in overflow.notes(overflow.totals(tokenised), counters, length)]
    if pieces := counters.get("pieces_without_label"):
        tokens = counters["tokens_without_label"]
        lines.append(f"{pieces:,.0f} pieces without a token to train on, left out: {tokens:,.0f} tokens")
    return lines


def _as_text(tokenised: Counters) -> list[str]:
    documents = tokenised.get("special_tokens_as_text", 0)
    return (
        [f"{documents:,.0f} documents have control tokens in their messages, which are text there"] if documents else []
    )


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"
