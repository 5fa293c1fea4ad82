"""The report's tables of a training: data, evaluation, answers, export, phases, config."""

import posixpath
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import yaml

from cluster import formats
from cluster.formats import count, decimal, plural, share
from cluster.page.charts import BarSegment, bar
from cluster.page.markup import (
    Child,
    Column,
    Markup,
    code,
    element,
    fold,
    join,
    name,
    note,
    outside_text,
    scroll_box,
    sentence,
    table,
)
from cluster.store import paths
from training.records.schema import GeneratedAnswer, Measured
from training.report.schema import CorpusData, DataSet, Fit, exported_validation
from training.report.text import MetricWords, loss_words, metric_words, perplexity_words

_LONG_EXCERPT = 600  # characters; longer texts scroll in a box

_WHOLE = ("merged", "full")  # folders with whole weights
_SCORES = {
    "exact_match": "exact match", "f1": "F1 of words", "bleu": "BLEU", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "number_match": "number right (strict)", "number_match_flexible": "number right (flexible)",
    "answered_flexible": "answered (flexible)",
}  # fmt: skip

# What the report says of the order of examples.
_ORDERS = {
    "shuffled": "",
    "curriculum": " Order: curriculum; every epoch goes from the stage of the easiest examples to that of the hardest.",
    "reverse": " Order: reverse; every epoch goes from the stage of the hardest examples to that of the easiest.",
    "mixed": " Order: mixed; every step has all stages in their shares.",
}


def data(fit: Fit) -> Markup:
    """The corpora: what was read, the splits as packed, and what was left out or cut."""
    columns = [
        Column("Corpus", False), Column("Split", False), Column("", False), Column("Documents"), Column("Tokens"),
        Column("Label tokens"), Column("of tokens"), Column("Rows"), Column("Filled"),
    ]  # fmt: skip
    labelled = metric_words(fit["recipe"]["method"]).labels == "label tokens"  # a probe has one label per document
    if not labelled:
        del columns[5:7]
    most = max((split["tokens"] for corpus in fit["corpora"] for split in corpus["splits"]), default=0)
    rows = [
        (
            name(outside_text(corpus["name"])),
            split["split"],
            bar([BarSegment(split["tokens"], "kept", f"{count(split['tokens'])} tokens")], most, "", "small"),
            count(split["documents"]),
            count(split["tokens"]),
            *((count(split["label_tokens"]), share(split["label_tokens"], split["tokens"])) if labelled else ()),
            count(split["rows"]),
            share(split["filled"], 1),
        )
        for corpus in fit["corpora"]
        for split in corpus["splits"]
    ]
    words = (
        f"A row has {count(fit['recipe']['sequence_length'])} positions; filled is the share that hold a token. "
        + ("The loss counts label tokens." if labelled else "The loss counts documents, by their class.")
    )
    words += _ORDERS[fit["recipe"].get("order", "shuffled")]
    read = [element("li", _read(corpus, fit["output"])) for corpus in fit["corpora"]]
    reasons = [_reasons(corpus) for corpus in fit["corpora"] if _changes(corpus)]
    return join(
        element("ul", read, class_="read"), note(words), table("Splits as they were packed", columns, rows), reasons
    )


def _read(corpus: CorpusData, output: str) -> Markup:
    text = f": {plural(corpus['documents'], 'document')}, {corpus['text_bytes'] / 1e6:,.1f} MB of text, from "
    rows = "; ".join(f"{stage}: {count(number)}" for stage, number in corpus.get("stages", {}).items())
    stages = f". Rows of each stage: {rows}" if rows else ""
    data_set = _data_set(corpus["prepared"], output) if "prepared" in corpus else None
    return join(element("b", outside_text(corpus["name"])), text, code(corpus["path"]), stages, data_set)


def _data_set(found: DataSet, output: str) -> Markup:
    """The version and digest of a prepared data set, with a link to the page of its report.

    output: the folder of the page with the link. The URI of a page on an object store is shown without a link.
    """
    words = ", ".join(found["versions"]) or f"{found['name']}, not tagged"
    report = found["report"]
    if paths.is_remote(report) or paths.is_remote(output):
        shown = join("its report is ", code(report))
    else:
        href = quote(posixpath.relpath(report, paths.absolute(output)))
        shown = element("a", "its report", href=href)
    return join(". Data set ", element("b", outside_text(words)), ", digest ", code(found["digest"][:12]), "; ", shown)


def _changes(corpus: CorpusData) -> bool:
    return bool(corpus["left_out"] or corpus["packing"] or corpus.get("turns", {}).keys() - {"turns"})


def _reasons(corpus: CorpusData) -> Markup:
    columns = [Column("What", False), Column("Number"), Column("Share")]
    read = corpus["documents"] + sum(corpus["left_out"].values())
    rows = [
        (f"left out: {reason.replace('_', ' ')}", count(number), share(number, read))
        for reason, number in corpus["left_out"].items()
    ]
    turns = corpus.get("turns", {})
    rows += [
        (name.replace("_", " ").replace("/", ": "), count(number), share(number, turns["turns"]))
        for name, number in turns.items()
        if name != "turns"
    ]
    rows += [(what.replace("_", " "), count(number), _packed_share(corpus, what)) for what, number in
             corpus["packing"].items()]  # fmt: skip
    return table(join("Left out or cut in ", outside_text(corpus["name"])), columns, rows)


def _packed_share(corpus: CorpusData, counter: str) -> str:
    """The counter's share of the corpus' examples, tokens or label tokens, whichever it counts."""
    kinds = {"documents": "examples", "tokens": "tokens", "label_tokens": "label_tokens"}
    whole = next((corpus["tokenised"][of] for start, of in kinds.items() if counter.startswith(f"{start}_")), 0)
    return share(corpus["packing"][counter], whole) if whole else ""


def evaluation(fit: Fit) -> Markup:
    """Losses and accuracies on held-out splits before and after training."""
    notes = [note(words) for words in fit["evaluation_notes"]]
    if not fit["after"]:
        return join(sentence("No held-out split was measured."), *notes)
    means = metric_words(fit["recipe"]["method"])
    columns = [
        Column("Held out", False), Column("Loss before"), Column("after"), Column("Change"),
        Column("Perplexity before"), Column("after"), Column("Accuracy before"), Column("after"),
        Column(means.labels.capitalize()),
    ]  # fmt: skip
    if not means.perplexity:
        del columns[4:6]
    rows = [_measured(split, fit["before"].get(split), after, means) for split, after in fit["after"].items()]
    words = "Before: the base model. After: the exported weights"
    words += f", of step {count(fit['best_step'])}." if fit["best_step"] is not None else "."
    words += f" {means.accuracy}"
    check = fit["merged_check"]
    held_out = table("Splits and sets held out from training", columns, rows)
    return join(note(words), held_out, *notes, _check(check) if check else None)


def _measured(split: str, before: Measured | None, after: Measured, means: MetricWords) -> tuple[Child, ...]:
    change = None if before is None else after["loss"] - before["loss"]
    perplexity = (perplexity_words(before["perplexity"]) if before else "–", perplexity_words(after["perplexity"]))
    return (
        name(outside_text(split)),
        loss_words(before["loss"]) if before else "–",
        loss_words(after["loss"]),
        "–" if change is None else f"{'−' if change < 0 else '+'}{decimal(abs(change))}",
        *(perplexity if means.perplexity else ()),
        share(before["accuracy"], 1) if before else "–",
        share(after["accuracy"], 1),
        count(after["label_tokens"]),
    )


def _check(check: dict[str, Any]) -> Markup:
    words = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in check.items() if value is not None)
    return note(f"The merged model's logits against those with the adapter: {words}.")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def answers(fit: Fit) -> Markup:
    """Scores and examples of generated answers, or scores of a probe's classes."""
    if not fit["answers"] and not fit["generation"] and not fit.get("set_generation"):
        return sentence("This run generated no answers (`generate` is not set).")
    columns = [Column("Score", False), Column("Value")]
    caption = "Greedy answers to held-out prompts; from 0 to 1, BLEU from 0 to 100"
    if fit["recipe"]["method"] == "probe":
        caption = "Classes given to held-out documents; from 0 to 1"
    of_sets = fit.get("set_generation", {})
    scored = {caption: fit["generation"]} | {
        join(caption, ": set ", outside_text(name)): of for name, of in of_sets.items()
    }
    scores = [
        table(
            words, columns, [(_SCORES.get(name, name.replace("_", " ")), decimal(value)) for name, value in of.items()]
        )
        for words, of in scored.items()
        if of
    ]
    shown = [_answer(answer, opened=number < 3) for number, answer in enumerate(fit["answers"])]
    return join(scores, shown)


def _answer(answer: GeneratedAnswer, *, opened: bool) -> Markup:
    parts = (("Prompt", "prompt"), ("Reference", "reference"), ("Generated", "generated"))
    boxes = [
        element("div", element("h4", title), _excerpt(answer[key]), class_=key)  # type: ignore[literal-required]
        for title, key in parts
    ]
    of_set = f"Document of {answer['set']}" if "set" in answer else "Document"
    heading = [element("h3", of_set), element("span", outside_text(answer["document"]), class_="aside")]
    return fold(heading, element("div", boxes, class_="answer"), opened=opened)


def _excerpt(words: str) -> Markup:
    if not words.strip():
        return sentence("Empty: no visible text.")
    scrolls = len(words) > _LONG_EXCERPT
    return element(
        "div",
        words,
        class_="excerpt",
        dir="auto",
        tabindex=0 if scrolls else None,
        role="group" if scrolls else None,
        aria_label="Excerpt, scrolls" if scrolls else None,
    )


def export(fit: Fit) -> Markup:
    """The exported folders, with code that loads them."""
    if not fit["folders"]:
        return sentence("Nothing was exported.")
    rows = [(folder["kind"], code(folder["uri"]), f"{folder['bytes'] / 1e6:,.1f}") for folder in fit["folders"]]
    columns = [Column("What", False), Column("Folder", False), Column("MB")]
    first = next((f for f in fit["folders"] if f["kind"] in _WHOLE), fit["folders"][0])
    codes = [
        fold(
            join(element("h3", "Load "), code(folder["kind"])),
            scroll_box(element("pre", folder["code"], class_="config"), "Code, scrolls sideways"),
            opened=folder is first,
        )
        for folder in fit["folders"]
        if folder["kind"] != "base"
    ]
    words = "Code to run in the folder; its README.md has the same code. Copy it from an object store to a disk first."
    return join(table("Exported folders", columns, rows), note(words), codes)


def phases(fits: Sequence[Fit]) -> Markup:
    """One row for each phase of a run."""
    columns = [
        Column("Phase", False), Column("Method", False), Column("Steps"), Column("Tokens"), Column("First loss"),
        Column("Exported"), Column("Perplexity"), Column("Trained"), Column("Time"),
    ]  # fmt: skip
    rows = []
    for fit in fits:
        totals, measured = fit["totals"], fit["validation"]
        best = exported_validation(fit)
        rows.append(
            (
                name(outside_text(fit["name"])),
                fit["recipe"]["method"],
                count(totals["steps"]),
                count(totals["tokens"]),
                loss_words(measured[0]["loss"]) if measured else "–",
                loss_words(best["loss"]) if best else "–",
                perplexity_words(best["perplexity"])
                if best and metric_words(fit["recipe"]["method"]).perplexity
                else "–",
                share(totals["trainable_parameters"], totals["all_parameters"]),
                formats.duration(totals["seconds"]),
            )
        )
    return table("Phases in order; losses are of the validation split", columns, rows)


def config(settings: dict[str, Any]) -> Markup:
    """The run's config as YAML."""
    words = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
    text = scroll_box(element("pre", words, class_="config"), "The config, scrolls sideways")
    return join(note("As this run used it."), text)
