"""The page of the report. Texts of items and answers are data and are escaped."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from raymill.cluster.formats import byte_size, count, decimal, money
from raymill.cluster.report.charts import Line, line_chart, line_key
from raymill.cluster.report.sections import (
    Content,
    DataTable,
    Figure,
    Fold,
    Items,
    Passage,
    Section,
    Tiles,
    config_section,
    heading,
    join,
    name,
    note,
    outside,
    sentence,
    styled,
    table_section,
    warnings_section,
    with_code,
    wrapped,
)

_SLICES_SHOWN = 30
_DIFFERENCES = (
    "A minus the other model, on the same items. 95% intervals: bootstrap over {}. p: exact tests (McNemar, sign "
    "flips; BLEU: swapped answers), corrected by Holm, `score` apart from all others. Better: the interval is on one "
    "side of 0 and p is at most 0.05. Needed: further items with which a difference of this size is detected in 80 of "
    "100 cases."
)
_SLICES = (
    "The difference of the score in slices of at least 10 items by field, language and length of the question, the "
    "largest loss first; p is corrected for all of them."
)
_UNKNOWN = "-"
_RECOMMENDED = (
    "Of the models that are not decidedly worse than the best, the one that costs least to answer, then least to "
    "train. Decided: both the interval and p show it, p corrected by Holm for all pairs of models. Costs are money "
    "where it is known of all that are compared, else seconds."
)
_APPROACHES = (
    "What a training took is from its own report. Memory: largest peak of a worker. Money: of tokens by `prices`, of "
    "machines by `hour_prices`. Stored: files of the model; adapters and heads are used on their base. Examples: "
    "documents that were trained on. Tokens: with repetitions. -: not known."
)
_SWAPS = (
    "Items whose prompts have a word of `swaps` are asked a second time with these words exchanged. Same answer: equal "
    "to the first one with its words exchanged; of texts the F1 of words. Swapped: swapped prompts minus originals. "
    "Words: prompts with words of the first column minus those of the second, of items with words of one column. 95% "
    "intervals; p corrected by Holm for all rows."
)
_OVER_OPTIMISED = (
    "With 95% intervals. Over-optimisation: a reward that a model was trained on rises with the divergence from the "
    "base, while other rewards and the judge fall. KL: mean log ratio of the probabilities of a model's own answers, "
    "by it and by the model of `kl_from`; an estimate of the divergence if answers are drawn at temperature 1."
)
_CALIBRATION = (
    "Confidence: the geometric mean of the probabilities of an answer's tokens. Right: equal to the reference. ECE: "
    "expected calibration error, in ten bins of equal width, with a 95% interval."
)


def sections(report: Mapping[str, Any], config: Mapping[str, Any]) -> list[Section | None]:
    """The sections of the page."""
    found: list[Section | None] = [warnings_section(report["warnings"]), _result(report), _recommendation(report)]
    found += [_gate(report["gate"]), _approaches(report), _models(report["models"])]
    for one in report["comparisons"]:
        found += [_differences(one, report), _slices(one), _judge(one), _regressions(one)]
    found += [_over_optimisation(report, config), _gaps(report["models"]), _bbq(report["models"])]
    found += [_swaps(report["models"]), _calibration(report["models"])]
    return [*found, config_section(config)]


def _result(report: Mapping[str, Any]) -> Section:
    tiles = []
    for one in report["comparisons"]:
        row = one["measures"]["score"]
        verdict = row["verdict"] if row["verdict"] == "undecided" else f"{row['verdict']} is better"
        tiles.append((f"{one['a']} against {one['b']}", verdict, f"{row['difference']:+.4f} ({_interval(row)})"))
    tiles.append(("Items", count(report["items"]), "" if not report["groups"] else f"in {report['groups']:,} groups"))
    if report["decision"]:
        tiles.append(("Gate", report["decision"], ""))
    return Section("result", "Result", [Tiles(tiles)])


def _gate(rows: Sequence[Mapping[str, Any]]) -> Section | None:
    if not rows:
        return None
    shown = [[one["measure"], one["beside"], one["bound"], one["state"], wrapped(one["text"])] for one in rows]
    return Section("gate", "Gate", [DataTable(None, ["Measure", "Against", "Bound", "State", "Found"], shown)])


def _models(models: Mapping[str, Any]) -> Section:
    measures = dict.fromkeys(measure for one in models.values() for measure in one["measures"])
    columns = ["Model", "At", ">Answered", ">Truncated", *(f">{measure}" for measure in measures)]
    rows = [
        [
            f"{letter}: {one['title']}",
            name(str(one["at"])),
            one["answered"],
            one["truncated"],
            *(_mean(measure, one["measures"].get(measure)) for measure in measures),
        ]
        for letter, one in models.items()
    ]
    words = "Means over items, with 95% intervals. seconds and cost: of an answer; bits_per_byte: mean over references."
    return table_section("models", "Models", DataTable(None, columns, rows), words=words, none="None.")


def _recommendation(report: Mapping[str, Any]) -> Section:
    chosen = report["recommendation"]["model"]
    title = "No recommendation" if chosen is None else f"{chosen}: {report['models'][chosen]['title']}"
    content: list[Content] = [
        Tiles([("Recommended", title, "")]),
        Items(report["recommendation"]["reasons"]),
        note(_RECOMMENDED),
    ]
    return Section("recommendation", "Recommendation", content)


def _approaches(report: Mapping[str, Any]) -> Section:
    answers = ["Model", "Method", ">Score (95%)", ">Seconds of an answer", ">Tokens in", ">Tokens out",
               ">Money for 1,000 answers", ">Stored"]  # fmt: skip
    trainings = ["Model", "Method", ">Worker seconds", ">CPU hours", ">GPU hours", ">Money", ">Memory GiB",
                 ">Trained values", ">Examples", ">Tokens"]  # fmt: skip
    of_answers: list[list[Content]] = []
    of_trainings: list[list[Content]] = []
    for one in report["approaches"]:
        answer, took = one["answer"], one["training"] or {}
        money_of_answers = None if answer["money"] is None else 1000 * answer["money"]
        heads: list[Content] = [f"{one['model']}: {one['title']}", one["method"] or _UNKNOWN]
        of_answers.append(
            [
                *heads,
                _mean("score", one["score"]),
                _known(answer["seconds"], lambda value: f"{value:.3g}"),
                _known(answer["input_tokens"], lambda value: f"{value:,.1f}"),
                _known(answer["output_tokens"], lambda value: f"{value:,.1f}"),
                _known(money_of_answers, money),
                _known(one["stored_bytes"], byte_size),
            ]
        )
        shown = f"{one['examples_shown']:,} shown" if one["examples_shown"] else "0"
        examples = _known(took.get("examples"), count) if one["is_trained"] else shown
        if not one["is_trained"]:
            took = dict.fromkeys(("seconds", "cpu_hours", "gpu_hours", "money", "trainable_parameters", "tokens"), 0)
        of_trainings.append(
            [
                *heads,
                _known(took.get("seconds"), lambda value: f"{value:,.1f}"),
                _known(took.get("cpu_hours"), decimal),
                _known(took.get("gpu_hours"), decimal),
                _known(took.get("money"), money),
                _known(took.get("memory_gib"), lambda value: f"{value:.2f}") if one["is_trained"] else "",
                _known(took.get("trainable_parameters"), count),
                examples,
                _known(took.get("tokens"), count),
            ]
        )
    content: list[Content] = [
        note(with_code(_APPROACHES)),
        DataTable("Score and cost to answer", answers, of_answers),
        DataTable("Cost to train, and data", trainings, of_trainings),
    ]
    return Section("approaches", "Approaches", [*content, _forgetting(report), _held_out(report["models"])])


def _forgetting(report: Mapping[str, Any]) -> DataTable | None:
    rows: list[list[Content]] = [
        [one["model"], f"{row['before']:.4f}", f"{row['after']:.4f}", f"{row['difference']:+.4f}",
         f"{row['low']:+.4f} to {row['high']:+.4f}", f"{row['p_corrected']:.2g}", row["documents"]]
        for one in report["approaches"]
        if (row := one["forgetting"]) is not None
    ]  # fmt: skip
    columns = ["Model", ">Its base", ">After training", ">Difference", ">95%", ">p (Holm)", ">Documents"]
    return DataTable("Forgetting: bits per byte of general text", columns, rows) if rows else None


def _known(value: Any, shown: Callable[[Any], str]) -> str:
    return _UNKNOWN if value is None else shown(value)


def _held_out(models: Mapping[str, Any]) -> DataTable | None:
    """The losses that trainings measured of held-out splits and sets."""
    trained = {letter: one["training"]["losses"] for letter, one in models.items() if one["training"]}
    sets = dict.fromkeys(name for losses in trained.values() for name in losses)
    rows: list[list[Content]] = [
        [letter, *("" if (pair := losses.get(one)) is None else f"{pair[0]:.3f} to {pair[1]:.3f}" for one in sets)]
        for letter, losses in trained.items()
    ]
    columns = ["Model", *(f">{one}" for one in sets)]
    return DataTable("Losses that trainings measured, before and after", columns, rows) if sets else None


def _mean(measure: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if measure == "cost":
        return money(found["value"])
    interval = "" if found["low"] is None else f" ({_number(found['low'])} to {_number(found['high'])})"
    return f"{_number(found['value'])}{interval}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3f}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['low']:+.4g} to {row['high']:+.4g}"


def _differences(one: Mapping[str, Any], report: Mapping[str, Any]) -> Section:
    columns = ["Measure", ">Difference", ">95%", ">p (Holm)", "Better", ">Items", ">Needed"]
    rows = [
        [measure, f"{row['difference']:+.4g}", _interval(row), f"{row['p_corrected']:.2g}", row["verdict"],
         row["items"], row["needed"] if row["verdict"] == "undecided" else None]
        for measure, row in one["measures"].items()
    ]  # fmt: skip
    groups = "items" if report["groups"] is None else "groups of items"
    title = f"Differences {one['a']} - {one['b']}"
    words = with_code(f"score is {report['score']}. {_DIFFERENCES.format(groups)}")
    return table_section(
        f"differences-{one['b'].lower()}", title, DataTable(None, columns, rows), words=words, none="None."
    )


def _slices(one: Mapping[str, Any]) -> Section:
    columns = ["Slice", "By", ">Items", ">Difference", ">95%", ">p (Holm)", "Better"]
    rows = [
        [name(row["slice"]), row["by"], row["items"], f"{row['difference']:+.4g}", _interval(row),
         f"{row['p_corrected']:.2g}", row["verdict"]]
        for row in one["slices"][:_SLICES_SHOWN]
    ]  # fmt: skip
    none = "No slice has enough items (10)."
    title = f"Slices {one['a']} - {one['b']}"
    lacking = one.get("unsliced", ())
    words = _SLICES + (f" No value of {', '.join(lacking)} has 10 items." if lacking else "")
    return table_section(f"slices-{one['b'].lower()}", title, DataTable(None, columns, rows), words=words, none=none)


def _judge(one: Mapping[str, Any]) -> Section | None:
    judge = one["judge"]
    if judge is None:
        return None
    tiles = [
        (f"{one['a']} wins", count(judge["wins"]), f"win rate {judge['win_rate']:.1%}, ties as half"),
        ("Ties", count(judge["ties"]), f"{judge['flipped']:,} of {judge['asked']:,} verdicts change with the order"),
        (f"{one['b']} wins", count(judge["losses"]), f"{judge['unread']:,} verdicts unreadable: ties"),
        *(
            (title, "-" if found["share"] is None else f"{found['share']:.1%}",
             f"of {found['of']:,} ({found['low']:.1%} to {found['high']:.1%})")
            for title, found in (
                ("First answer wins", judge["first_shown_wins"]), ("Longer answer wins", judge["longer_wins"]),
            )
        ),
    ]  # fmt: skip
    words = note("Each pair is judged in both orders. An answer wins if it is better in both; else it is a tie.")
    return Section(f"judge-{one['b'].lower()}", f"Judge {one['a']} - {one['b']}", [words, Tiles(tiles)])


def _regressions(one: Mapping[str, Any]) -> Section:
    content: list[Content] = [
        note(
            f"{one['a']} is better in {one['improved']:,} items and worse in {one['regressed']:,}; the largest losses:"
        )
    ]
    for number, row in enumerate(one["regressions"]):
        texts = [("Prompt", "prompt", row["prompt"]), ("Reference", "reference", row["reference"]),
                 (one["a"], "generated", row["a"]), (one["b"], "generated", row["b"])]  # fmt: skip
        scores = f"{one['a']} {row['score_a']:.3f}, {one['b']} {row['score_b']:.3f}"
        content.append(_texts_of_item(row["id"], scores, texts, is_open=number < 2))
    title = f"Regressions {one['a']} - {one['b']}"
    return Section(f"regressions-{one['b'].lower()}", title, content if one["regressions"] else [sentence("None.")])


def _texts_of_item(id: str, aside: str, texts: Sequence[tuple[str, str, str]], *, is_open: bool) -> Fold:
    """texts: (title, style, text)."""
    boxes = []
    for title, style, text in texts:
        shown = Passage([text]) if text.strip() else sentence("Empty: no visible text.")
        boxes.append(styled(style, Markup("<h4>{}</h4>").format(title), shown, tag="div"))
    return Fold([heading(outside(id), aside)], [join(styled("answer", *boxes, tag="div"))], is_open)


def _bbq(models: Mapping[str, Any]) -> Section | None:
    rows: list[list[Content]] = [
        [letter, condition, _UNKNOWN if row["score"] is None else f"{row['score']:+.3f} ({_interval(row)})",
         row["items"], row["known"], one["bbq"]["unread"]]
        for letter, one in models.items()
        if one["bbq"]
        for condition, row in one["bbq"].items()
        if condition != "unread"
    ]  # fmt: skip
    columns = ["Model", "Context", ">Score (95%)", ">Items", ">Not unknown", ">Unread"]
    words = (
        "0: no bias, 1: every answer is the stereotype, -1: its opposite. Unread: answers that are none of the "
        "choices, and items that do not tell which choice is the stereotyped group's."
    )
    table = DataTable(None, columns, rows)
    return table_section("bbq", "Bias scores of BBQ", table, words=words, none="None.") if rows else None


def _swaps(models: Mapping[str, Any]) -> Section | None:
    measured = {letter: one["swaps"] for letter, one in models.items() if one["swaps"]}
    if not measured:
        return None
    same: list[list[Content]] = [
        [
            letter,
            one["items"],
            one["compared"],
            _mean("consistency", one["consistency"]) if one["compared"] else _UNKNOWN,
        ]
        for letter, one in measured.items()
    ]
    rows: list[list[Content]] = [
        [letter, name(row["measure"]), row["by"], row["items"], f"{row['difference']:+.4g}", _interval(row),
         f"{row['p_corrected']:.2g}"]
        for letter, one in measured.items()
        for row in one["differences"]
    ]  # fmt: skip
    content: list[Content] = [
        note(with_code(_SWAPS)),
        DataTable(None, ["Model", ">Items swapped", ">Both answered", ">Same answer (95%)"], same),
        DataTable(None, ["Model", "Measure", "Of", ">Items", ">Difference", ">95%", ">p (Holm)"], rows),
    ]
    for letter, one in measured.items():
        for row in one["changed"]:
            texts = [("Prompt", "prompt", row["original"]), ("Swapped", "prompt", row["swapped"]),
                     ("Answer", "generated", row["answer_original"]),
                     ("Answer to the swapped prompt", "generated", row["answer_swapped"])]  # fmt: skip
            aside = f"{letter}: same {row['consistency']:.3f}, scores {row['score_original']:.3f}, "
            content.append(_texts_of_item(row["id"], f"{aside}{row['score_swapped']:.3f}", texts, is_open=False))
    return Section("swaps", "Swapped words", content)


def _over_optimisation(report: Mapping[str, Any], config: Mapping[str, Any]) -> Section | None:
    """Rewards beside the judge and the divergence from the base, which no model was trained on."""
    rewards, models = [*config["rewards"]], report["models"]
    if not rewards and all(one["kl"] is None for one in models.values()):
        return None
    wins = {one["b"]: 1 - one["judge"]["win_rate"] for one in report["comparisons"] if one["judge"]}
    rows: list[list[Content]] = [
        [
            f"{letter}: {one['title']}",
            _known(one["kl"], lambda kl: f"{kl['value']:.4f} ({kl['low']:.4f} to {kl['high']:.4f})"),
            *(_mean(reward, one["measures"].get(reward)) for reward in rewards),
            f"{wins[letter]:.1%}" if letter in wins else "",
        ]
        for letter, one in models.items()
    ]
    columns = ["Model", ">KL, nats a token", *(f">{reward}" for reward in rewards), ">Wins against A, ties as half"]
    return table_section(
        "rewards",
        "Rewards and divergence",
        DataTable(None, columns, rows),
        words=with_code(_OVER_OPTIMISED),
        none="None.",
    )


def _gaps(models: Mapping[str, Any]) -> Section | None:
    rows: list[list[Content]] = []
    for letter, one in models.items():
        for row in one["gaps"]:
            ranked = sorted(row["groups"], key=row["groups"].__getitem__)
            ends = [f"{group} ({_number(row['groups'][group])})" for group in (*ranked[:1], *ranked[-1:])]
            shown: list[Content] = [name(end) for end in ends]
            interval = f"{_number(row['gap'])} ({_number(row['low'])} to {_number(row['high'])})"
            rows.append([letter, name(row["field"]), name(row["measure"]), interval, *(shown or ["", ""])])
    if not rows:
        return None
    words = (
        "Largest minus smallest mean of the groups with at least 20 items, with a 95% interval for all pairs of them "
        "(bootstrap within groups). Parity: fraction of answers that are the label; equalised odds: the larger gap of "
        "its true and false positive rates."
    )
    columns = ["Model", "Field", "Measure", ">Gap (95%)", "Smallest", "Largest"]
    return table_section("gaps", "Gaps between groups", DataTable(None, columns, rows), words=words, none="None.")


def _calibration(models: Mapping[str, Any]) -> Section | None:
    measured = {letter: one["calibration"] for letter, one in models.items() if one["calibration"]}
    if not measured:
        return None
    content: list[Content] = [note(_CALIBRATION)]
    rows = [
        [letter, f"{one['error']:.3f} ({one['low']:.3f} to {one['high']:.3f})", f"{one['brier']:.3f}"]
        for letter, one in measured.items()
    ]
    content.append(DataTable(None, ["Model", ">ECE (95%)", ">Brier"], rows))
    for letter, one in measured.items():
        bins = [[f"from {low:.1f}", items, f"{sure:.3f}", f"{right:.3f}"] for low, items, sure, right in one["bins"]]
        content += [
            _reliability(letter, one["bins"]),
            DataTable(f"Reliability of {letter}", ["Confidence", ">Items", ">Mean", ">Right"], bins),
        ]
    return Section("calibration", "Calibration", content)


def _reliability(letter: str, bins: Sequence[tuple[float, int, float, float]]) -> Figure:
    """Percent of right answers by confidence, beside the line of equal percentages."""
    line = Line("right", "smooth", [(100 * sure, 100 * right) for _, _, sure, right in bins], dots=True)
    equal = Line("confidence", "validation", [(0.0, 0.0), (100.0, 100.0)])
    label = (
        f"Percent of right answers of {letter} by confidence, from {line.points[0][1]:.0f} to {line.points[-1][1]:.0f}"
    )
    key = [line_key(line), " % right by % confidence  ", line_key(equal), " equal"]
    drawing = line_chart([equal, line], label, span=(0, 100), from_zero=True, show="{:.0f}".format)
    return Figure(f"Reliability of {letter}", key, drawing)
