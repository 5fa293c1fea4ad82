"""report.html of a run of `raymill train`, drawn with cluster.page from report.json.

The curves in report.json have a bounded number of points, so the page does not grow with the number of steps.
"""

from collections.abc import Callable, Sequence
from importlib import resources

from cluster import formats
from cluster.formats import count, plural, share, short
from cluster.page.document import document, header
from cluster.page.markup import Markup, Section, anchor, element, outside_text
from training.report import tables
from training.report.curves import curves
from training.report.schema import Fit, FitTotals, TrainReport, exported_validation
from training.report.text import loss_words, metric_words, perplexity_words

_STYLE = resources.files(__package__).joinpath("page.css").read_text("utf-8")

_PARTS: tuple[tuple[str, str, Callable[[Fit], Markup]], ...] = (
    ("curves", "Curves", curves),
    ("evaluation", "Evaluation", tables.evaluation),
    ("answers", "Answers", tables.answers),
    ("data", "Data", tables.data),
    ("export", "Exported model", tables.export),
)


def render(report: TrainReport) -> str:
    """The whole page; valid UTF-8 for any text of documents and models."""
    run, fits = report["run"], report["fits"]
    sections = [
        _warnings(report["warnings"]),
        *(_continues(fit, several=len(fits) > 1) for fit in fits),
        Section("result", "Result", _tiles(fits[0]) if len(fits) == 1 else tables.phases(fits)),
        *(_section(fit, part, several=len(fits) > 1) for fit in fits for part in _PARTS),
        Section("config", "Config", tables.config(run["config"])),
    ]
    top = header(run["name"], "Training report", run["finished"], run["version"], run["output"], _recipe(fits[0]))
    return document(f"{run['name']}: training report", top, sections, _STYLE)


def _continues(fit: Fit, *, several: bool) -> Section | None:
    """What was continued, kept and new, for a training that continues another run."""
    if not (lines := fit.get("continues")):
        return None
    name = f"{anchor(fit['name'])}-continues" if several else "continues"
    return Section(name, "Continued run", element("ul", *(element("li", outside_text(line)) for line in lines)))


def _section(fit: Fit, part: tuple[str, str, Callable[[Fit], Markup]], *, several: bool) -> Section:
    name, title, draw = part
    if not several:
        return Section(name, title, draw(fit))
    return Section(f"{anchor(fit['name'])}-{name}", f"{fit['name']}: {title.lower()}", draw(fit))


def _recipe(fit: Fit) -> Markup:
    recipe = fit["recipe"]
    workers = " or ".join(map(count, fit["totals"]["workers"]))
    return element(
        "p",
        "Base model: ",
        outside_text(recipe["base_model"]),
        f". Method: {recipe['method']}. Engine: {recipe['engine']}, {recipe['precision']}, "
        f"attention {recipe['attention']}, {workers} "
        f"worker{'' if workers == '1' else 's'}, {count(recipe['tokens_per_step'])} tokens a step in rows of "
        f"{count(recipe['sequence_length'])}.",
    )


def _warnings(words: Sequence[str]) -> Section | None:
    if not words:
        return None
    items = [element("li", warning) for warning in words]
    return Section("warnings", plural(len(items), "warning").capitalize(), element("ul", items))


def _tiles(fit: Fit) -> Markup:
    totals, validation = fit["totals"], fit["validation"]
    tiles = []
    if validation and (best := exported_validation(fit)):
        first = validation[0]
        words = metric_words(fit["recipe"]["method"])
        right = f"{words.right} right {share(first['accuracy'], 1)} → {share(best['accuracy'], 1)}"
        tiles += [
            (
                "Validation loss",
                f"{loss_words(first['loss'])} → {loss_words(best['loss'])}",
                f"{'lowest at' if best['loss'] < first['loss'] else 'exported:'} step {count(best['step'])}"
                + ("" if words.perplexity else f"; {right}"),
            )
        ]
        if words.perplexity:
            fell = f"{perplexity_words(first['perplexity'])} → {perplexity_words(best['perplexity'])}"
            tiles.append(("Perplexity", fell, right))
    speed = (
        f"{short(totals['tokens_per_s'])} a second of a step (median)"
        if totals["tokens_per_s"]
        else "speed was not measured"
    )
    if totals["mfu"]:
        speed += f", MFU {share(totals['mfu'], 1)}"
    tiles += [
        ("Tokens trained on", short(totals["tokens"]), speed),
        ("Time", formats.duration(totals["seconds"]), _time_note(totals)),
        (
            "Parameters trained",
            share(totals["trainable_parameters"], totals["all_parameters"]),
            f"{count(totals['trainable_parameters'])} of {count(totals['all_parameters'])}",
        ),
    ]
    body = [
        element("div", element("dt", title), element("dd", element("strong", big), element("span", small)))
        for title, big, small in tiles
    ]
    return element("dl", body, class_="tiles")


def _time_note(totals: FitTotals) -> str:
    compiling = f", {formats.duration(totals['compile_s'])} of it compiling" if totals.get("compile_s") else ""
    validating = f", {formats.duration(totals['validation_s'])} of it validation" if totals.get("validation_s") else ""
    return plural(totals["steps"], "step") + validating + compiling
