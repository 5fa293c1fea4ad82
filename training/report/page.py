"""report.html of a run of `raymill train`, drawn with raymill.cluster.report from report.json.

The curves in report.json have a bounded number of points, so the page does not grow with the number of steps.
"""

import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from raymill.cluster.formats import amount_of_bytes, count, decimal, duration, plural, share, short
from raymill.cluster.proportions import wilson
from raymill.cluster.report.charts import BarSegment, Line, Mark, Point, bar, is_spread, line_chart, line_key, thinned
from raymill.cluster.report.page import page
from raymill.cluster.report.sections import (
    Content,
    DataTable,
    Figure,
    Fold,
    Items,
    Listing,
    Passage,
    Section,
    Tiles,
    anchor,
    code,
    config_section,
    heading,
    join,
    name,
    note,
    outside,
    sentence,
    styled,
    warnings_section,
)
from raymill.cluster.store import paths
from raymill.training.methods import MetricWords
from raymill.training.objectives import recipe_words
from raymill.training.records.schema import GeneratedAnswer, Measured
from raymill.training.report.text import (
    Fit,
    TrainReport,
    exported_validation,
    loss_or_reward,
    loss_words,
    perplexity_words,
)

_LOSS_HEIGHT = 280  # pixels
_MAX_EVENTS = 20
_OPEN_ANSWERS = 3
_WHOLE = ("merged", "full")  # folders with whole weights
_SCORES = {
    "exact_match": "exact match", "f1": "F1 of words", "bleu": "BLEU", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "number_match": "number right (strict)", "number_match_flexible": "number right (flexible)",
    "answered_flexible": "answered (flexible)",
}  # fmt: skip

# What the report says of the order of examples.
_ORDERS = {
    "shuffled": "",
    "curriculum": " Order: curriculum; every epoch goes from the easiest curriculum stage to the hardest.",
    "reverse": " Order: reverse; every epoch goes from the hardest curriculum stage to the easiest.",
    "mixed": " Order: mixed; every step has all stages in their shares.",
}

Contents = list[Content]


def render(report: TrainReport) -> str:
    """The whole page; valid UTF-8 for any text of documents and models."""
    run, fits = report["run"], report["fits"]
    shown = [warnings_section(report["warnings"])]
    for fit in fits:
        lines = list(map(outside, fit.get("continues", [])))
        id = f"{anchor(fit['name'])}-continues" if len(fits) > 1 else "continues"
        shown.append(Section(id, "Continued run", [Items(lines)]) if lines else None)
    shown.append(Section("result", "Result", [tiles(fits[0]) if len(fits) == 1 else phases(fits)]))
    for fit in fits:
        for id, title, part in _PARTS:
            of = (id, title) if len(fits) == 1 else (f"{anchor(fit['name'])}-{id}", f"{fit['name']}: {title.lower()}")
            shown.append(Section(*of, part(fit)))
    shown.append(config_section(run["config"]))
    more = [recipe(fits[0])]
    return page("Training report", run["name"], run["finished"], run["version"], run["output"], shown, more)


def recipe(fit: Fit) -> Markup:
    """How the weights were trained, in a line."""
    made, workers = fit["recipe"], " or ".join(map(count, fit["totals"]["workers"]))
    return join(
        "Base model: ",
        outside(made["base_model"]),
        f". Method: {made['method']}. Engine: {made['engine']}, {made['precision']}, attention {made['attention']}, "
        f"{workers} worker{'' if workers == '1' else 's'}, {count(made['tokens_per_step'])} tokens a step in rows of "
        f"{count(made['sequence_length'])}.",
    )


def tiles(fit: Fit) -> Tiles:
    """Losses before and after, tokens, time and the share of parameters that were trained."""
    totals, validation = fit["totals"], fit["validation"]
    found = []
    if validation and (best := exported_validation(fit)):
        first, words = validation[0], recipe_words(fit["recipe"])
        right = words.right if words.is_reward else f"{words.right} right"
        right += f" {share(first['accuracy'], 1)} → {share(best['accuracy'], 1)}"
        best_at = "highest at" if words.is_reward else "lowest at"
        at = f"{best_at if best['loss'] < first['loss'] else 'exported:'} step {count(best['step'])}"
        changed = " → ".join(loss_or_reward(one["loss"], words) for one in (first, best))
        title = "Validation reward" if words.is_reward else "Validation loss"
        found.append((title, changed, at if words.perplexity else f"{at}; {right}"))
        if words.perplexity:
            fell = f"{perplexity_words(first['perplexity'])} → {perplexity_words(best['perplexity'])}"
            found.append(("Perplexity", fell, right))
    speed = "speed was not measured"
    if totals["tokens_per_s"]:
        speed = f"{short(totals['tokens_per_s'])} a second of a step (median)"
    speed += f", MFU {share(totals['mfu'], 1)}" if totals["mfu"] else ""
    trained, whole = totals["trainable_parameters"], totals["all_parameters"]
    found += [
        ("Tokens trained on", short(totals["tokens"]), speed),
        ("Time", duration(totals["seconds"]), _time_note(totals)),
        ("Parameters trained", share(trained, whole), f"{count(trained)} of {count(whole)}"),
    ]
    return Tiles(found)


def _time_note(totals: dict[str, Any]) -> str:
    compiling = f", {duration(totals['compile_s'])} of it compiling" if totals.get("compile_s") else ""
    validating = f", {duration(totals['validation_s'])} of it validation" if totals.get("validation_s") else ""
    return plural(totals["steps"], "step") + validating + compiling


def phases(fits: Sequence[Fit]) -> DataTable:
    """One row for each phase of a run."""
    rows = []
    for fit in fits:
        totals, measured, best = fit["totals"], fit["validation"], exported_validation(fit)
        has_perplexity = best and recipe_words(fit["recipe"]).perplexity
        rows.append(
            (
                name(fit["name"]), fit["recipe"]["method"], totals["steps"], totals["tokens"],
                loss_words(measured[0]["loss"]) if measured else "–",
                loss_words(best["loss"]) if best else "–",
                perplexity_words(best["perplexity"]) if best and has_perplexity else "–",
                share(totals["trainable_parameters"], totals["all_parameters"]), duration(totals["seconds"]),
            )
        )  # fmt: skip
    columns = ["Phase", "Method", ">Steps", ">Tokens", ">First loss", ">Exported", ">Perplexity", ">Trained", ">Time"]
    return DataTable("Phases in order; losses are of the validation split", columns, rows)


def curves(fit: Fit) -> Contents:
    """Loss, learning rate, gradient norm, speed, memory and data wait by step, and the same as a table."""
    drawn = fit["curves"]
    if not drawn["loss"] and not fit["validation"]:
        return [sentence("No step was logged.")]
    words = f"Losses are means over {recipe_words(fit['recipe']).labels}, in nats."
    if len(drawn["loss"]) < fit["totals"]["steps"] // 2:
        words += " There are more steps than pixels: each column of a curve shows its lowest and highest value."
    validation = thinned((measured["step"], measured["loss"]) for measured in fit["validation"])
    last = max(fit["totals"]["steps"], 1)
    steps = [last, *(point[0] for curve in (drawn["loss"], validation) for point in curve)]
    span, marks = (min(steps), max(steps)), [Mark(event["step"], event["words"]) for event in fit["events"]]

    def chart(title: str, curve: str, words: str, show: Callable[[float], str] = short, **how: bool) -> Content:
        points: Sequence[Point] = drawn.get(curve, [])
        if not points:
            return None
        values = [y for _, y in points]
        log = is_spread(values) and not how
        label = (
            f"{title} by step: first {show(values[0])}, last {show(values[-1])}, between {show(min(values))} and "
            f"{show(max(values))}"
        )
        drawing = line_chart([Line(title, "line", points)], label, span=span, marks=marks, log=log, show=show, **how)
        return Figure(title, [Markup("<p>{}</p>").format(words + " Logarithmic." * log)], drawing)

    charts = (
        chart("Learning rate", "learning_rate", "As scheduled."),
        chart("Gradient norm", "grad_norm", "Before clipping."),
        chart("Tokens a second", "tokens_per_s", "Over all workers.", from_zero=True),
        chart("Memory, GiB", "memory_gib", "Largest worker.", from_zero=True),
        chart("Waiting for data", "data_wait", "Fraction of a step's time.", _percent, from_zero=True),
    )
    loss = styled("loss-chart", _loss(fit, validation, span, marks), *_events(fit), tag="div")
    answers = (_of_answers(fit, title, words, names, span, marks) for title, words, names in _ANSWER_CHARTS)
    return [
        note(words),
        loss,
        styled("charts", *answers, *charts, tag="div"),
        _rewards(fit),
        _judges(fit),
        _as_table(fit),
    ]


# Title, words and lines (curve -> class and name) of the charts of answers.
_ANSWER_CHARTS = (
    (
        "Rewards",
        "Mean over a step's answers.",
        {"reward_chosen": ("validation", "chosen"), "reward_rejected": ("raw", "rejected")},
    ),
    (
        "Log-probability of answers",
        "Mean over a step's answers.",
        {"logp_chosen": ("validation", "chosen"), "logp_rejected": ("raw", "rejected")},
    ),
    ("Accuracy", "Fraction of a step's pairs that are right.", {"reward_accuracy": ("smooth", "right")}),
    ("Reward", "Mean over a step's sampled answers.", {"reward_mean": ("smooth", "mean")}),
    ("Tokens of an answer", "Mean over a step's sampled answers.", {"answer_tokens": ("smooth", "mean")}),
    (
        "Groups without spread",
        "Prompts of a step whose answers all have one reward, so that nothing is trained on them.",
        {"groups_without_spread": ("raw", "groups")},
    ),
    (
        "KL divergence",
        "Of kto z, the mean log-probability ratio of answers to other questions; of grpo the mean of sampled tokens "
        "from the model without its adapter.",
        {"kl": ("smooth", "kl")},
    ),
)


def _of_answers(
    fit: Fit, title: str, words: str, names: Mapping[str, tuple[str, str]], span: Point, marks: Sequence[Mark]
) -> Content:
    drawn = fit["curves"]
    lines = [Line(shown, style, drawn[name]) for name, (style, shown) in names.items() if drawn.get(name)]
    if not lines:
        return None
    ends = (f"{one.name} from {decimal(one.points[0][1])} to {decimal(one.points[-1][1])}" for one in lines)
    drawing = line_chart(lines, f"{title} by step: {'; '.join(ends)}", span=span, marks=marks)
    keys = [Markup("<span>{} {}</span>").format(line_key(line), line.name) for line in lines]
    return Figure(title, [Markup("<p>{}</p>").format(join(words, " ", *(keys if len(keys) > 1 else ())))], drawing)


def _loss(fit: Fit, validation: Sequence[Point], span: Point, marks: Sequence[Mark]) -> Figure:
    smooth = fit["curves"]["loss_smooth"]
    lines = [
        Line("Training loss of each step", "raw", fit["curves"]["loss"]),
        Line("Training loss, smoothed", "smooth", smooth),
        Line("Validation loss", "validation", validation, dots=True),
    ]
    lines = [line for line in lines if line.points]
    parts = [f"Loss by step, {count(int(span[0]))} to {count(int(span[1]))}"]
    for title, points in (("training, smoothed", smooth), ("validation", validation)):
        if points:
            best = min(points, key=lambda point: point[1])
            parts.append(
                f"{title}: from {loss_words(points[0][1])} to {loss_words(points[-1][1])}, lowest "
                f"{loss_words(best[1])} at step {count(int(best[0]))}"
            )
    log = is_spread(y for line in lines for _, y in line.points)
    drawing = line_chart(lines, "; ".join(parts), span=span, marks=marks, log=log, height=_LOSS_HEIGHT)
    keys = [Markup("<span>{} {}</span>").format(line_key(line), line.name.lower()) for line in lines]
    return Figure("Loss", [Markup("<p>{}</p>").format(join(*keys))], drawing)


def _events(fit: Fit) -> Contents:
    """A numbered list of the events that the dashed lines mark."""
    items = [f"step {count(event['step'])}: {event['words']}" for event in fit["events"]]
    rest = len(items) - _MAX_EVENTS
    shown = Items(items[:_MAX_EVENTS], "events", ordered=True) if items else None
    return [shown, note(f"And {plural(rest, 'more interruption')}.") if rest > 0 else None]


def _rewards(fit: Fit) -> DataTable | None:
    """Rewards of held-out prompts beside those that were trained on, and the divergence from the base."""
    if not (found := fit.get("rewards")):
        return None
    rows = [
        [
            count(one["step"]),
            *("" if one[key] is None else decimal(one[key]) for key in ("validation", "sampled", "kl")),
        ]
        for one in found
    ]
    columns = [">Step", ">Held-out prompts", ">Sampled answers", ">KL"]
    words = (
        "Mean rewards at each validation: of greedy answers to held-out prompts, and of the answers sampled since the "
        "validation before. Where the second rises and the first does not, the training went too far. A reward that is "
        "no measure of your own goal shows it in neither: compare checkpoints by a judge."
    )
    return DataTable(words, columns, rows)


def _judges(fit: Fit) -> DataTable | None:
    """What the judges of rewards took."""
    rows = [
        [
            one["setting"],
            one["model"],
            count(one["tries"]),
            *(count(one["tokens"][name]) for name in ("input", "output")),
            "" if one["cost"] is None else decimal(one["cost"]),
        ]
        for one in fit.get("judges", ())
    ]
    columns = ["Setting", "Model", ">Requests", ">Input tokens", ">Output tokens", ">Cost"]
    return DataTable("Requests to judges of sampled answers", columns, rows) if rows else None


def _as_table(fit: Fit) -> Fold:
    validated = {row["step"]: row for row in fit["validation"]}
    logged: dict[int, dict[str, Any]] = {row["step"]: row for row in fit["rows"]}
    has_perplexity = recipe_words(fit["recipe"]).perplexity
    shown = {"loss": loss_words, "loss_smooth": loss_words, "learning_rate": decimal, "grad_norm": decimal,
             "tokens_per_s": short, "memory_gib": decimal, "data_wait": _percent}  # fmt: skip
    rows: list[Sequence[Content]] = []
    for step in sorted({*validated, *logged}):
        values = logged.get(step, {})
        cells = [show(value) if (value := values.get(key)) is not None else "" for key, show in shown.items()]
        measured: list[str] = [""] * (3 if has_perplexity else 2)
        if one := validated.get(step):
            perplexity = [perplexity_words(one["perplexity"])] if has_perplexity else []
            measured = [loss_words(one["loss"]), *perplexity, share(one["accuracy"], 1)]
        rows.append((count(step), *cells[:2], *measured, *cells[2:]))
    columns = [
        ">Step", ">Training loss", ">smoothed", ">Validation loss", *([">Perplexity"] if has_perplexity else []),
        ">Accuracy", ">Learning rate", ">Gradient norm", ">Tokens/s", ">Memory, GiB", ">Waiting for data",
    ]  # fmt: skip
    words = f"{plural(len(fit['rows']), 'step')} of {count(fit['totals']['steps'])}, and every validation"
    return Fold(["The curves as a table"], [DataTable(words, columns, rows)])


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def evaluation(fit: Fit) -> Contents:
    """Losses and accuracies on held-out splits before and after training."""
    notes = list(map(note, fit["evaluation_notes"]))
    if not fit["after"]:
        return [sentence("No held-out split was measured."), *notes]
    means = recipe_words(fit["recipe"])
    words = "Before: the base model. After: the exported weights"
    words += f", of step {count(fit['best_step'])}." if fit["best_step"] is not None else "."
    perplexity = [">Perplexity before", ">after"] if means.perplexity else []
    columns = [
        "Held out", ">Loss before", ">after", ">Change", *perplexity, ">Accuracy before", ">after",
        f">{means.labels.capitalize()}",
    ]  # fmt: skip
    rows = [measured_row(split, fit["before"].get(split), after, means) for split, after in fit["after"].items()]
    table = DataTable("Splits and sets held out from training", columns, rows)
    check = ", ".join(
        f"{key.replace('_', ' ')} {_plain(value)}"
        for key, value in (fit["merged_check"] or {}).items()
        if value is not None
    )
    checked = note(f"The merged model's logits against those with the adapter: {check}.") if check else None
    return [note(f"{words} {means.accuracy}"), table, *_of_pairs(fit["after"]), *notes, checked]


def _of_pairs(after: Mapping[str, Measured]) -> Contents:
    """How right rewards are by the length of answers and by their own confidence, on held-out pairs."""
    lengths, bins = [], []
    for split, found in after.items():
        for order, (number, right) in found.get("by_length", {}).items():
            low, high = wilson(round(right * number), int(number))
            lengths.append((name(split), order, int(number), share(right, 1), f"{share(low, 1)} to {share(high, 1)}"))
        calibrated = found.get("calibration", [])
        total = sum(number for number, _, _ in calibrated)
        error = sum(number * abs(right - confidence) for number, confidence, right in calibrated) / (total or 1)
        for number, confidence, right in calibrated:
            bins.append((name(split), share(confidence, 1), share(right, 1), int(number), share(error, 1)))
    if not bins:
        return []
    return [
        DataTable(
            "Held-out pairs by the length of the chosen answer beside the other one",
            ["Held out", "Chosen answer", ">Pairs", ">Right", ">95% interval"],
            lengths,
        ),
        DataTable(
            "Held-out pairs by the probability that rewards give to the answer with the higher one; the error is the "
            "mean distance of both columns",
            ["Held out", ">Probability", ">Right", ">Pairs", ">Error of the split"],
            bins,
        ),
    ]


def measured_row(split: str, before: Measured | None, after: Measured, means: MetricWords) -> tuple[Content, ...]:
    """Measurements of a held-out split before and after training, and the change of the loss."""
    change = None if before is None else after["loss"] - before["loss"]
    perplexity = (perplexity_words(before["perplexity"]) if before else "–", perplexity_words(after["perplexity"]))
    return (
        name(split),
        loss_words(before["loss"]) if before else "–",
        loss_words(after["loss"]),
        "–" if change is None else f"{'−' if change < 0 else '+'}{decimal(abs(change))}",
        *(perplexity if means.perplexity else ()),
        share(before["accuracy"], 1) if before else "–",
        share(after["accuracy"], 1),
        count(after["label_tokens"]),
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def answers(fit: Fit) -> Contents:
    """Scores and examples of generated answers, or scores of predicted classes."""
    if not fit["answers"] and not fit["generation"] and not fit.get("set_generation"):
        return [sentence("This run generated no answers: the setting generate is not set.")]
    caption = recipe_words(fit["recipe"]).scores
    of_sets = fit.get("set_generation", {}).items()
    scored = [(caption, fit["generation"]), *((join(caption, ": set ", outside(set)), of) for set, of in of_sets)]
    tables = [
        DataTable(
            words, ["Score", ">Value"], [(_SCORES.get(one, one.replace("_", " ")), decimal(of[one])) for one in of]
        )
        for words, of in scored
        if of
    ]
    return [*tables, *(_answer(one, opened=number < _OPEN_ANSWERS) for number, one in enumerate(fit["answers"]))]


def _answer(answer: GeneratedAnswer, *, opened: bool) -> Fold:
    boxes = []
    for key in ("prompt", "reference", "generated"):
        words: str = answer[key]  # type: ignore[literal-required]
        excerpt = Passage([words]) if words.strip() else sentence("Empty: no visible text.")
        boxes.append(styled(key, Markup("<h4>{}</h4>").format(key.capitalize()), excerpt, tag="div"))
    of_set = f"Document of {answer['set']}" if "set" in answer else "Document"
    return Fold([heading(of_set, outside(answer["document"]))], [styled("answer", *boxes, tag="div")], opened)


def data(fit: Fit) -> Contents:
    """The corpora: what was read, the splits as packed, and what was left out or cut."""
    labelled = recipe_words(fit["recipe"]).labels == "label tokens"
    splits = [(corpus, split) for corpus in fit["corpora"] for split in corpus["splits"]]
    most = max((split["tokens"] for _, split in splits), default=0)
    rows = [
        (
            name(corpus["name"]),
            split["split"],
            bar([BarSegment(split["tokens"], "kept", f"{count(split['tokens'])} tokens")], most, "", "small"),
            split["documents"],
            split["tokens"],
            *((split["label_tokens"], share(split["label_tokens"], split["tokens"])) if labelled else ()),
            split["rows"],
            share(split["filled"], 1),
        )
        for corpus, split in splits
    ]
    words = (
        f"A row has {count(fit['recipe']['sequence_length'])} positions; filled is the share that hold a token. "
        f"The loss counts {'label tokens' if labelled else 'documents, by their class'}."
    ) + _ORDERS[fit["recipe"].get("order", "shuffled")]
    columns = ["Corpus", "Split", "", ">Documents", ">Tokens", *([">Label tokens", ">of tokens"] if labelled else []),
               ">Rows", ">Filled"]  # fmt: skip
    read = Items([_read(corpus, fit["output"]) for corpus in fit["corpora"]], "read")
    changes = [_left_out(corpus) for corpus in fit["corpora"]]
    return [read, note(words), DataTable("Splits as they were packed", columns, rows), *changes]


def _read(corpus: dict[str, Any], output: str) -> Markup:
    text = f": {plural(corpus['documents'], 'document')}, {amount_of_bytes(corpus['text_bytes'])} of text, from "
    rows = "; ".join(f"{stage}: {count(number)}" for stage, number in corpus.get("stages", {}).items())
    stages = f". Rows of each stage: {rows}" if rows else ""
    data_set = _data_set(corpus["prepared"], output) if "prepared" in corpus else None
    return join(_bold(corpus["name"]), text, code(corpus["path"]), stages, data_set)


def _bold(words: str) -> Markup:
    return Markup("<b>{}</b>").format(outside(words))


def _data_set(found: dict[str, Any], output: str) -> Markup:
    """The version and digest of a prepared data set, with a link to the page of its report.

    output: the folder of the page with the link. The URI of a page on an object store is shown without a link.
    """
    words = ", ".join(found["versions"]) or f"{found['name']}, not tagged"
    report = found["report"]
    if paths.is_remote(report) or paths.is_remote(output):
        shown = join("its report is ", code(report))
    else:
        href = quote(posixpath.relpath(report, paths.absolute(output)))
        shown = Markup('<a href="{}">its report</a>').format(href)
    return join(". Data set ", _bold(words), ", digest ", code(found["digest"][:12]), "; ", shown)


def _left_out(corpus: dict[str, Any]) -> DataTable | None:
    """Numbers of what was left out, not trained on or cut; None if there is nothing."""
    read, turns = corpus["documents"] + sum(corpus["left_out"].values()), corpus.get("turns", {})
    rows = [(f"left out: {reason.replace('_', ' ')}", n, share(n, read)) for reason, n in corpus["left_out"].items()]
    rows += [
        (what.replace("_", " ").replace("/", ": "), n, share(n, turns["turns"]))
        for what, n in turns.items()
        if what != "turns"
    ]
    rows += [(what.replace("_", " "), n, packed_share(corpus, what)) for what, n in corpus["packing"].items()]
    caption = join("Left out or cut in ", outside(corpus["name"]))
    return DataTable(caption, ["What", ">Number", ">Share"], rows) if rows else None


def packed_share(corpus: dict[str, Any], counter: str) -> str:
    """The counter's share of the corpus' examples, tokens or label tokens, whichever it counts."""
    kinds = {"documents": "examples", "tokens": "tokens", "label_tokens": "label_tokens"}
    whole = next((corpus["tokenised"][of] for start, of in kinds.items() if counter.startswith(f"{start}_")), 0)
    return share(corpus["packing"][counter], whole) if whole else ""


def export(fit: Fit) -> Contents:
    """The exported folders, with code that loads them."""
    folders = fit["folders"]
    if not folders:
        return [sentence("Nothing was exported.")]
    rows = [(folder["kind"], code(folder["uri"]), f"{folder['bytes'] / 1e6:,.1f}") for folder in folders]
    first = next((folder for folder in folders if folder["kind"] in _WHOLE), folders[0])
    codes = [
        Fold(
            [heading("Load "), code(folder["kind"])],
            [Listing(folder["code"], "Code")],
            opened=folder is first,
        )
        for folder in folders
        if folder["kind"] != "base"
    ]
    words = "Code to run in the folder; its README.md has the same code. Copy it from an object store to a disk first."
    return [DataTable("Exported folders", ["What", "Folder", ">MB"], rows), note(words), *codes]


_PARTS: tuple[tuple[str, str, Callable[[Fit], Contents]], ...] = (
    ("curves", "Curves", curves),
    ("evaluation", "Evaluation", evaluation),
    ("answers", "Answers", answers),
    ("data", "Data", data),
    ("export", "Exported model", export),
)
