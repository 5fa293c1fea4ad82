"""Rounds of active learning by people, one after the other: `raymill annotate round CONFIG`.

The rounds are OUTPUT/1, OUTPUT/2 and so on. Each learns from the labels of the earlier ones. The classifier is measured
without further labels: it predicts tasks before they are labelled, and the tasks that were drawn at random show how
often it is right.
"""

from collections.abc import Callable
from typing import Any

from raymill.cluster.answer import Answer
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import plural
from raymill.cluster.frame.job import Run
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.pipelines.agreement import wilson
from raymill.pipelines.annotate.config import AnnotateConfig
from raymill.pipelines.annotate.finish import finish_round
from raymill.pipelines.annotate.round import Round


def next_round(config: AnnotateConfig, make: Callable[[AnnotateConfig], Run]) -> Answer:
    """Finish the last round if all its tasks are labelled, and make the next one.

    Args:
        config: of the rounds, whose `output` is the folder of all of them.
        make: makes the round of a config.

    Returns:
        `round`, its number; `output`; `left`, tasks of it without a label; `learning`, a row for each finished round.
    """
    if config.simulate:
        raise ConfigError("simulate: rounds with people simulate none. Leave it out, or run `raymill annotate CONFIG`.")
    store, root = config.store, paths.absolute(config.output)
    done: list[Round] = []
    while (manifest := RunFolder(store, paths.join(root, str(len(done) + 1))).finished("annotate")) is not None:
        done.append(Round.of(store, paths.join(root, str(len(done) + 1)), manifest))
    if done and (left := finish_round(done[-1])["status"]["unlabelled"]):
        return _answer(done, len(done), done[-1].uri, left)
    if not done or done[-1].labels():
        uri = paths.join(root, str(len(done) + 1))
        earlier = (*config.choose.labelled, *(one.uri for one in done))
        choose = config.choose.model_copy(update={"labelled": earlier})
        made = make(config.model_copy(update={"choose": choose, "output": uri}))
        return _answer(done, len(done) + 1, uri, made.report["tasks"])
    raise ConfigError(f"{done[-1].uri}: all tasks were skipped, so there is nothing to learn from. Label some.")


def learning(rounds: list[Round]) -> list[dict[str, Any]]:
    """{round, labels, tasks, accuracy, low, high} of each round: how often the classifier was right beforehand.

    Of random tasks with a label; accuracy is None where the tasks had no predictions. labels: those of earlier rounds.
    """
    found, labels = [], 0
    for number, round in enumerate(rounds, 1):
        known = round.labels()
        drawn = [row for row in round.tasks if row.chosen_by == "random" and row.prediction and row.id in known]
        right = sum(row.prediction == known[row.id] for row in drawn)
        low, high = wilson(right, len(drawn)) if drawn else (None, None)
        share = right / len(drawn) if drawn else None
        row = {"round": number, "labels": labels, "tasks": len(drawn), "accuracy": share}
        found.append(row | {"low": low, "high": high})
        labels += len(known)
    return found


def _answer(done: list[Round], number: int, uri: str, left: int) -> Answer:
    rows = learning(done[: number - 1])
    lines = [
        f"round {row['round']}: trained on {plural(row['labels'], 'label')}, right on {row['accuracy']:.1%} "
        f"({row['low']:.1%} to {row['high']:.1%}) of {plural(row['tasks'], 'random task')}"
        for row in rows
        if row["accuracy"] is not None
    ]
    if len(lines) > 1 and _no_gain(rows):
        lines.append("The last two rounds brought no gain that the intervals show: think about stopping.")
    lines.append(f"round {number}: {plural(left, 'task')} to label. `raymill annotate label {uri} --open`")
    return Answer({"round": number, "output": uri, "left": left, "learning": rows}, "\n".join(lines))


def _no_gain(rows: list[dict[str, Any]]) -> bool:
    """Whether the interval of the last round holds the accuracy of the round before it."""
    before, last = [row for row in rows if row["accuracy"] is not None][-2:]
    return bool(last["accuracy"] <= before["accuracy"] or last["low"] <= before["accuracy"] <= last["high"])
