"""Rounds of active learning by people, one after the other: `raymill annotate round CONFIG`.

The rounds are OUTPUT/1, OUTPUT/2 and so on. Each learns from the labels of the earlier ones. The classifier is measured
without further labels: it predicts tasks before they are labelled, and the tasks that were drawn at random show how
often it is right. OUTPUT/rounds.json has these measurements, what the labels cost, and the stopping rules.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.answer import Answer
from raymill.cluster.artifact import Artifact
from raymill.cluster.config import read_config
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import duration, money, plural
from raymill.cluster.frame.job import Run
from raymill.cluster.proportions import wilson
from raymill.cluster.record import json_bytes
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.pipelines.agreement import cross_table, kappa
from raymill.pipelines.annotate.annotations import latest
from raymill.pipelines.annotate.config import AnnotateConfig
from raymill.pipelines.annotate.finish import finish_round
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.stopping import STABLE, WINDOW, Gain, is_stable, predicted_gain
from raymill.pipelines.annotate.tasks import SCORED

ROUNDS = "rounds.json"
# Rule -> the setting by which it stops.
_SETTINGS = {"budget": "budget", "predicted gain": "point_value", "stable predictions": "stop_when_stable"}
_COMPARED = 20_000  # candidates whose predictions by two classifiers are compared


def next_round(
    config: AnnotateConfig,
    make: Callable[[AnnotateConfig], Run],
    train: Callable[[str, Mapping[str, Any]], Run] | None = None,
) -> Answer:
    """Finish the last round if all its tasks are labelled, and make the next one unless a stopping rule says not to.

    Args:
        config: of the rounds, whose `output` is the folder of all of them.
        make: makes the round of a config.
        train: makes the run of a config of `raymill train`, with changes of it; needed for `rounds.train`.

    Raises:
        StorageError: a link in the folder of the rounds leads out of it.

    Returns:
        `round`, its number; `output`; `left`, tasks of it without a label; `stopped`, the rule by which no further
        round was made, or None; `learning` and `ledger`, a row for each finished round; `stopping`, one for each rule.
    """
    if config.simulate:
        raise ConfigError("simulate: rounds with people simulate none. Leave it out, or run `raymill annotate CONFIG`.")
    store, root = config.store, paths.absolute(config.output)
    store.refuse_links_out(root)
    if config.rounds.train and (kind := read_config(config.rounds.train).get("kind")) != "train":
        raise ConfigError(f"rounds.train: {config.rounds.train}: kind is {kind!r:.40}; train was wanted.")
    done: list[Round] = []
    while (manifest := RunFolder(store, paths.join(root, str(len(done) + 1))).finished("annotate")) is not None:
        done.append(Round.of(store, paths.join(root, str(len(done) + 1)), manifest))
    if done and (left := finish_round(done[-1])["status"]["unlabelled"]):
        facts = _facts(config, done[:-1], done)
        facts |= {"round": len(done), "output": done[-1].uri, "left": left, "stopped": None}
    elif done and not done[-1].labels():
        raise ConfigError(f"{done[-1].uri}: all tasks were skipped, so there is nothing to learn from. Label some.")
    else:
        facts = _facts(config, done, done)
        stopped = next((one["rule"] for one in facts["stopping"] if one["stops"]), None)
        if stopped is None:
            uri = paths.join(root, str(len(done) + 1))
            earlier = (*config.choose.labelled, *(one.uri for one in done))
            update: dict[str, Any] = {"labelled": earlier}
            if config.rounds.train and earlier:
                assert train is not None
                update["classifier"] = _train_on_labels(config, [Round.at(store, one) for one in earlier], train)
            choose = config.choose.model_copy(update=update)
            plain = config.rounds.model_copy(update={"train": None})  # `choose.classifier` is what it has trained
            made = make(config.model_copy(update={"choose": choose, "rounds": plain, "output": uri}))
            facts |= {"round": len(done) + 1, "output": uri, "left": made.report["tasks"], "stopped": None}
        else:
            facts |= {"round": len(done), "output": done[-1].uri, "left": 0, "stopped": stopped}
    store.write_bytes(paths.join(root, ROUNDS), json_bytes(facts))
    return Answer(facts, _text(facts))


def _train_on_labels(
    config: AnnotateConfig, rounds: Sequence[Round], train: Callable[[str, Mapping[str, Any]], Run]
) -> str:
    """Train the model of `rounds.train` on the labels of these rounds. Returns the output of the run.

    The labels are in OUTPUT/training/DIGEST.jsonl, the run in OUTPUT/training/DIGEST: equal labels are trained on once.
    """
    found = dict[str, dict[str, str]]()
    for round in rounds:
        labels = round.labels()
        for row in round.tasks:
            if row.id in labels:
                text = "\n".join(row.record.get(name) or "" for name in config.task.columns)
                found[row.id] = {"id": row.id, "text": text, "label": labels[row.id]}
    lines = "".join(json.dumps(found[id], ensure_ascii=False) + "\n" for id in sorted(found))
    content = lines.encode("utf-8", "replace")
    output = paths.join(paths.absolute(config.output), "training", hashlib.sha256(content).hexdigest()[:16])
    config.store.create(f"{output}.jsonl", content)
    assert config.rounds.train is not None
    classifies = read_config(config.rounds.train).get("method") == "probe"
    columns = {"text": "text", "label": "label"} if classifies else {"prompt": "text", "completion": "label"}
    train(config.rounds.train, {"corpus": f"{output}.jsonl", "columns": columns | {"id": "id"}, "output": output})
    return output


def learning(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """{round, labels, tasks, right, accuracy, low, high, stability} of each: how often the classifier was right.

    Of random tasks with a label, predicted beforehand; accuracy is None where the tasks had no predictions. labels:
    those of earlier rounds. stability: kappa of the predictions for other records with those of the round before; None
    if either is not known.
    """
    found, labels = [], 0
    before: pa.Table | None = None
    for number, round in enumerate(rounds, 1):
        known = round.labels()
        drawn = [row for row in round.tasks if row.chosen_by == "random" and row.prediction and row.id in known]
        right = sum(row.prediction == known[row.id] for row in drawn)
        low, high = wilson(right, len(drawn)) if drawn else (None, None)
        predictions = _predictions(round)
        found.append(
            {
                "round": number,
                "labels": labels,
                "tasks": len(drawn),
                "right": right,
                "accuracy": right / len(drawn) if drawn else None,
                "low": low,
                "high": high,
                "stability": _stability(before, predictions, round.task.choices),
            }
        )
        labels, before = labels + len(known), predictions
    return found


def _predictions(round: Round) -> pa.Table | None:
    """(draw, prediction) of some candidates, by the classifier of a round; None if there was none, or it is deleted."""
    artifact = Artifact.find(round.store, paths.join(round.uri, SCORED))
    if artifact is None or not artifact.rows:
        return None
    bound = min(1.0, 2 * _COMPARED / artifact.rows) * 2**64  # the draws are uniform
    parts = [
        table.filter(pa.array(table["draw"].to_numpy() < bound)) for table in artifact.tables(["draw", "prediction"])
    ]
    return pa.concat_tables(parts)


def _stability(before: pa.Table | None, now: pa.Table | None, names: Sequence[str]) -> float | None:
    if before is None or now is None:
        return None
    joined = before.join(now, "draw", join_type="inner", right_suffix="_now").sort_by("draw").slice(0, _COMPARED)
    number = {name: at for at, name in enumerate(names)}
    pairs = [
        (number[one], number[other])
        for one, other in zip(joined["prediction"].to_pylist(), joined["prediction_now"].to_pylist(), strict=True)
        if one in number and other in number
    ]
    if not pairs:
        return None
    first, second = np.array(pairs, np.int64).T
    found = kappa(cross_table(first, second, len(names)), "nominal")
    return 1.0 if found is None else found  # all predictions of both are one label


def ledger(rounds: Sequence[Round], price: float | None) -> list[dict[str, Any]]:
    """{round, labels, skipped, seconds, untimed, cost} of each: labels by annotators, of which each has the price.

    seconds: of labels and skipped tasks, without the `untimed` ones, whose time is not known. cost: None without a
    price.
    """
    found = []
    for number, round in enumerate(rounds, 1):
        given = [one for one in latest(round.answers.read()).values() if one.status in ("labelled", "skipped")]
        labels = sum(one.status == "labelled" for one in given)
        found.append(
            {
                "round": number,
                "labels": labels,
                "skipped": len(given) - labels,
                "seconds": sum(one.seconds or 0.0 for one in given),
                "untimed": sum(one.seconds is None for one in given),
                "cost": None if price is None else labels * price,
            }
        )
    return found


def _facts(config: AnnotateConfig, finished: Sequence[Round], begun: Sequence[Round]) -> dict[str, Any]:
    rows, costs = learning(finished), ledger(begun, config.rounds.price)
    now = sum(len(one.labels()) for one in finished)
    return {"learning": rows, "ledger": costs, "stopping": stopping(config, rows, costs, now) if finished else []}


def stopping(
    config: AnnotateConfig, learning: Sequence[Mapping[str, Any]], ledger: Sequence[Mapping[str, Any]], now: int
) -> list[dict[str, Any]]:
    """{rule, stops, evidence} of each stopping rule, with its numbers. stops: whether no further round is made.

    Stable predictions stop only with `rounds.stop_when_stable`: what a small gain is worth is not known by them.

    learning, ledger: as of the functions. now: number of tasks with a label.
    """
    rounds, further = config.rounds, config.choose.count
    cost = None if rounds.price is None else rounds.price * further * config.overlap
    found = list[dict[str, Any]]()
    if cost is not None:
        spent = sum(row["cost"] or 0.0 for row in ledger)
        stops = rounds.budget is not None and spent + cost > rounds.budget * (1 + 1e-9)
        of_budget = "" if rounds.budget is None else f" of {money(rounds.budget)}"
        evidence = f"{money(spent)}{of_budget} spent; the next round costs {money(cost)}"
        found.append({"rule": "budget", "stops": stops, "evidence": evidence, "spent": spent, "next_cost": cost})
    known = [row for row in learning if row["accuracy"] is not None]
    gain = predicted_gain(
        [row["labels"] for row in known], [row["right"] for row in known], [row["tasks"] for row in known], now, further
    )
    found.append(_of_gain(gain, cost, rounds.point_value, further))
    kappas = [row["stability"] for row in learning]
    last = [one for one in kappas[-WINDOW:] if one is not None]
    stable = is_stable(kappas)
    evidence = f"kappa with the round before of the last {WINDOW} rounds: " + (
        ", ".join(f"{one:.3f}" for one in last) + f"; stable from a mean of {STABLE:g} on" if last else "not known"
    )
    found.append({"rule": "stable predictions", "stops": stable and rounds.stop_when_stable, "evidence": evidence,
                  "stable": stable})  # fmt: skip
    return found


def _of_gain(gain: Gain | None, cost: float | None, point_value: float | None, further: int) -> dict[str, Any]:
    """The rule `predicted gain`: it stops if even the upper bound of the gain is worth less than the cost."""
    row: dict[str, Any] = {"rule": "predicted gain", "stops": False, "gain": None, "low": None, "high": None}
    if gain is None:
        return row | {
            "evidence": "not known before two rounds have predictions of a classifier that learned from labels"
        }
    evidence = (
        f"{gain.value:+.1%} ({gain.low:+.1%} to {gain.high:+.1%}) accuracy by the next {plural(further, 'label')}"
    )
    if cost is not None and point_value is not None:
        worth = 100 * gain.high * point_value
        row["stops"] = worth < cost
        evidence += f"; worth at most {money(worth)}, at a cost of {money(cost)}"
    return row | {"gain": gain.value, "low": gain.low, "high": gain.high, "evidence": evidence}


def _text(facts: Mapping[str, Any]) -> str:
    lines = [
        f"round {row['round']}: trained on {plural(row['labels'], 'label')}, right on {row['accuracy']:.1%} "
        f"({row['low']:.1%} to {row['high']:.1%}) of {plural(row['tasks'], 'random task')}"
        for row in facts["learning"]
        if row["accuracy"] is not None
    ]
    lines += [f"round {row['round']}: {_cost_text(row)}" for row in facts["ledger"]]
    if len(facts["ledger"]) > 1:
        names = ("labels", "skipped", "seconds", "untimed")
        total: dict[str, Any] = {name: sum(row[name] for row in facts["ledger"]) for name in names}
        prices = [row["cost"] for row in facts["ledger"]]
        lines.append(f"all rounds: {_cost_text(total | {'cost': None if None in prices else sum(prices)})}")
    lines += [f"{one['rule']}: {one['evidence']}" for one in facts["stopping"]]
    if facts["stopped"] is None and any(one.get("stable") for one in facts["stopping"]):
        lines.append("The predictions are stable: think about stopping.")
    if (rule := facts["stopped"]) is not None:
        lines.append(f"No further round: {rule}. To go on, change `rounds.{_SETTINGS[rule]}`.")
    else:
        number, uri, left = facts["round"], facts["output"], facts["left"]
        lines.append(f"round {number}: {plural(left, 'task')} to label. `raymill annotate label {uri} --open`")
    return "\n".join(lines)


def _cost_text(row: Mapping[str, Any]) -> str:
    skipped = f", {row['skipped']:,} skipped" if row["skipped"] else ""
    untimed = f" and the unknown time of {row['untimed']:,}" if row["untimed"] else ""
    cost = "" if row["cost"] is None else f", cost {money(row['cost'])}"
    return f"{plural(row['labels'], 'label')} by annotators{skipped}, {duration(row['seconds'])}{untimed}{cost}"
