"""What is made of the labels of a round: one label of each task, the agreement, and what experts have to decide.

labels/labels.parquet            a row for each task: label, status, posterior, votes
labels/patch.jsonl               with the setting `corrects`: the labels that differ from it, for `patches` of `prepare`
adjudication/queue.parquet       tasks for experts, those that annotators disagree about most first
agreement.json                   coefficients with intervals, annotators, estimated shares of the labels
report.html                      the same as a page
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import combinations, islice
from statistics import median
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill import cluster
from raymill.cluster.answer import Answer
from raymill.cluster.formats import plural, share
from raymill.cluster.frame.job import REPORT_HTML
from raymill.cluster.record import json_bytes
from raymill.cluster.report.page import page
from raymill.cluster.report.sections import Tile, plain_sections
from raymill.cluster.store import paths
from raymill.pipelines.agreement import Cells, agreement
from raymill.pipelines.annotate.agreement import (
    ANY_LABEL,
    Coefficient,
    Level,
    fleiss_kappa,
    gwet_ac1,
    items_needed,
    krippendorff_alpha,
    observed,
    randolph_kappa,
)
from raymill.pipelines.annotate.annotations import Annotation
from raymill.pipelines.annotate.ballots import (
    REASONS,
    Ballots,
    Found,
    labels_from,
    read_ballots,
    vocabulary_of,
)
from raymill.pipelines.annotate.consensus import (
    Consensus,
    annotator_skill,
    crowdlab,
    dawid_skene,
    gold_weights,
    majority,
)
from raymill.pipelines.annotate.estimates import Z95, label_shares
from raymill.pipelines.annotate.pairwise import answer_strengths
from raymill.pipelines.annotate.round import LABELS, Round
from raymill.pipelines.annotate.tasks import TaskRow, vote_of
from raymill.pipelines.prepare.records.fields import listed

Method = Literal["majority", "dawid_skene", "one_coin", "gold", "crowdlab"]
AGREEMENT, QUEUE, PATCH = "agreement.json", "adjudication/queue.parquet", "labels/patch.jsonl"
WANTED_WIDTH = 0.1  # of the interval of alpha
_PERIODS = 4
_MOST_LABELS, _MOST_PAIRS = 50, 200  # listed in the report
_STATUSES = ("agreed", "decided", "disputed", "skipped", "unlabelled")
_VOTE = pa.struct(
    [
        ("annotator", pa.string()),
        ("value", pa.large_string()),
        ("at", pa.string()),
        ("seconds", pa.float64()),
        ("guideline", pa.string()),
        ("origin", pa.string()),
    ]
)
_LABELS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.large_string()),
        ("status", pa.string()),
        ("posterior", pa.float64()),
        ("votes", pa.list_(_VOTE)),
        ("guideline", pa.string()),
        ("decided_by", pa.string()),
        ("chosen_by", pa.string()),
        ("probability", pa.float64()),
        ("stratum", pa.string()),
    ]
)
_QUEUE_FIELDS = (pa.field("topic", pa.string()), pa.field("priority", pa.int64()))
_PAGE_NOTES = {
    "agreement": "With 95% intervals by a bootstrap over tasks. 1 is full agreement; of all but `observed` 0 is "
    "agreement by chance.",
    "labels": "Shares in all candidates, estimated from the labelled tasks by their chances of being chosen, with 95% "
    "intervals.",
    "answers": "Log-odds of winning against the first answer (Bradley and Terry), with 95% intervals, by the labels of "
    "the tasks. A tie is half a win of each.",
    "by_annotator": "Accuracy: chance of a right vote, by a model with one skill each, with 95% intervals. "
    "Gold: right votes on tasks with a known label. Drift: accuracy in the second half of the votes, less the first, "
    "with a 95% interval.",
    "pairs": "Cohen's kappa, with 95% intervals.",
    "over_time": "Agreement of tasks by the time of their last vote.",
    "left_out": "Labels that came in and do not count.",
    "queue": "Tasks that annotators disagree about most. An expert among the annotators decides them.",
}


def finish_round(
    round: Round, method: Method = "dawid_skene", posterior: float = 0.8, width: float = WANTED_WIDTH
) -> Answer:
    """Make one label of each task from the votes, measure the agreement, and list what experts have to decide.

    Can be called again whenever further labels have come in.

    Args:
        method: `majority`; `dawid_skene`, annotators with a table of confusions each; `one_coin`, with one skill each;
            `gold`, majority weighted by skill on gold tasks; `crowdlab`, votes with the predictions of the tasks.
        posterior: minimum probability of a label; tasks with less are disputed.
        width: wanted width of the 95% interval of alpha, for the number of further tasks.

    Returns:
        What agreement.json has.
    """
    ballots = read_ballots(round)
    consensus = _consensus(ballots, method)
    found = labels_from(ballots, consensus)
    rows = [_row(ballots, row, found.get(row.id), posterior) for row in round.tasks]
    content = _table(round, rows)
    queue = sorted((row for row in rows if row["status"] == "disputed"), key=lambda row: (row["posterior"], row["id"]))
    facts = _facts(ballots, consensus, rows, method, width)
    _write(round, LABELS, content)
    _write(round, QUEUE, _table(round, queue, _QUEUE_FIELDS))
    if round.corrects:
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in _corrections(round, rows))
        round.store.write_bytes(paths.join(round.uri, PATCH), "".join(lines).encode("utf-8", "surrogatepass"))
    round.store.write_bytes(paths.join(round.uri, AGREEMENT), json_bytes(facts))
    round.store.write_bytes(paths.join(round.uri, REPORT_HTML), _page(round, facts, queue).encode())
    return Answer(facts, _text(round, facts))


def _consensus(ballots: Ballots, method: Method) -> Consensus:
    votes = ballots.votes
    if not ballots.round.task.choices and ballots.round.task.type in ("correct", "write"):
        return majority(votes)  # texts have no labels in common
    if method == "crowdlab":
        return crowdlab(votes, _predictions(ballots))
    if method == "gold":
        return majority(votes, gold_weights(votes, ballots.gold()))
    if method == "majority":
        return majority(votes)
    return dawid_skene(votes, "full" if method == "dawid_skene" else "one_coin", ballots.gold())


def _predictions(ballots: Ballots) -> np.ndarray:
    """float64[I, L]: probabilities by the classifier that chose the tasks; the rest equally over the other labels."""
    labels, tasks = list(ballots.vocabulary), ballots.round.tasks
    found = np.full((len(ballots.places), len(labels)), 1 / max(1, len(labels)))
    for item, (at, _) in enumerate(ballots.places):
        row = tasks[at]
        if row.prediction in labels and row.certainty is not None and len(labels) > 1:
            found[item] = (1 - row.certainty) / (len(labels) - 1)
            found[item, labels.index(row.prediction)] = row.certainty
    return found


def _row(ballots: Ballots, row: TaskRow, found: Found | None, least: float) -> dict[str, Any]:
    """A row of `labels/`."""
    given = ballots.given.get(row.id, [])
    experts = {one.name for one in ballots.round.annotators if one.expert}
    decisions = [one for one in given if one.annotator in experts]
    label: Any = None
    if decisions:
        label, status, certainty = decisions[-1].value, "decided", 1.0
    elif found is None:
        skipped = any(one.task == row.id for one in ballots.left_out.get("skipped", ()))
        status, certainty = "skipped" if skipped else "unlabelled", None
    else:
        certainty = found.posterior
        status = "disputed" if found.tied or certainty < least else "agreed"
        label = None if found.tied else found.value
    versions = Counter(one.guideline for one in given if one.guideline)
    return {
        "id": row.id,
        "label": None if label is None else vote_of(ballots.round.task, label),
        "status": status,
        "posterior": certainty,
        "votes": [_vote(ballots, one) for one in sorted(given, key=lambda one: (one.at, one.annotator))],
        "guideline": max(versions, key=lambda one: (versions[one], one)) if versions else "",
        "decided_by": decisions[-1].annotator if decisions else None,
        "chosen_by": row.chosen_by,
        "probability": row.probability,
        "stratum": row.stratum,
        "record": row.record,
        **{field.name: getattr(row, field.name) for field in _QUEUE_FIELDS},
    }


def _vote(ballots: Ballots, answer: Annotation) -> dict[str, Any]:
    plain = {name: getattr(answer, name) for name in _VOTE.names}
    return plain | {"value": vote_of(ballots.round.task, answer.value)}


def _corrections(round: Round, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """The corrections for `patches` of `prepare`: of tasks with a label that is not the present value."""
    for task, row in zip(round.tasks, rows, strict=True):
        if row["status"] not in ("agreed", "decided") or task.present is None:
            continue
        if listed(row["label"]) == listed(task.present):
            continue
        by = row["decided_by"] or ", ".join(dict.fromkeys(vote["annotator"] for vote in row["votes"]))
        yield {
            "id": task.id,
            "field": round.corrects,
            "old": task.present,
            "new": row["label"],
            "edited_by": by,
            "source": round.name,
        }


def _table(round: Round, rows: Sequence[Mapping[str, Any]], more: Sequence[pa.Field] = ()) -> pa.Table:
    """The rows, with the columns of the record under their names, or `record_NAME` where a column has that name.

    more: further columns.
    """
    schema = pa.schema([*_LABELS_SCHEMA, *more])
    columns = {name: f"record_{name}" if name in schema.names else name for name in round.task.columns}
    for name in columns.values():
        schema = schema.append(pa.field(name, pa.large_string()))
    flat = [{**row} | {shown: row["record"].get(name) for name, shown in columns.items()} for row in rows]
    return pa.Table.from_pylist(flat, schema)


def _write(round: Round, name: str, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    round.store.write_bytes(paths.join(round.uri, name), sink.getvalue())


# --- facts


@dataclass(frozen=True)
class _Measure:
    """The coefficients of some of the items of a round. counts: int64[I, L], as of `Votes.counts`."""

    ballots: Ballots
    counts: np.ndarray
    level: Level

    def of(self, chosen: np.ndarray) -> dict[str, Coefficient]:
        """Name -> coefficient, of the items that bool[I] selects."""
        grouped, counts = grouping(self.ballots, chosen), self.counts[chosen]
        return {
            "krippendorff_alpha": krippendorff_alpha(counts, self.level, tasks=grouped),
            "fleiss_kappa": fleiss_kappa(counts, grouped),
            "randolph_kappa": randolph_kappa(counts, grouped)
            if vocabulary_of(self.ballots.round.task)
            else Coefficient(None, None, None, int((counts.sum(axis=1) >= 2).sum()), ANY_LABEL),
            "gwet_ac1": gwet_ac1(counts, grouped),
            "observed": observed(counts, grouped),
        }

    def alpha(self, chosen: np.ndarray) -> Coefficient:
        """Krippendorff's alpha of the items that bool[I] selects."""
        return krippendorff_alpha(self.counts[chosen], self.level, tasks=grouping(self.ballots, chosen))


def grouping(ballots: Ballots, chosen: np.ndarray) -> np.ndarray | None:
    """int64[I]: the task of each of the chosen items; None if each has a task of its own. chosen: bool[I]."""
    tasks = ballots.task_of_item[chosen]
    return None if len(np.unique(tasks)) == len(tasks) else tasks


def _facts(
    ballots: Ballots, consensus: Consensus, rows: Sequence[Mapping[str, Any]], method: Method, width: float
) -> dict[str, Any]:
    round, votes = ballots.round, ballots.votes
    counts, level = votes.counts(), cast(Level, "ordinal" if round.task.type == "rate" else "nominal")
    measure = _Measure(ballots, counts, level)
    everything = measure.of(np.ones(len(counts), bool))
    tasks = np.array([row.stratum for row in round.tasks], object)
    of_item = tasks[ballots.task_of_item] if len(counts) else np.empty(0, object)
    statuses = Counter(row["status"] for row in rows)
    now = round.guideline()[1]
    stale = sum(bool(one.guideline) and one.guideline != now for some in ballots.given.values() for one in some)
    missing = items_needed(everything["krippendorff_alpha"], width)
    return {
        "name": round.name,
        **{name: _plain(one) for name, one in everything.items()},
        "level": level,
        "annotators": len(np.unique(votes.annotator)),
        "items": len(ballots.given),
        "tasks": len(round.tasks),
        "votes": sum(map(len, ballots.given.values())),
        "status": {name: statuses[name] for name in _STATUSES},
        "method": method,
        "guideline": now,
        "stale_guideline": stale,
        "further_tasks": {"width": width, "tasks": missing},
        "labels": _shares(ballots, rows),
        "answers": _answers(round, rows),
        "by_annotator": list(_annotators(ballots, consensus)),
        "pairs": list(islice(_pairs(ballots), _MOST_PAIRS)),
        "by_label": list(_by_label(ballots, counts)) if len(ballots.vocabulary) <= _MOST_LABELS else [],
        "by_stratum": [
            {"stratum": name} | _plain(measure.alpha(of_item == name)) for name in sorted(set(of_item)) if name
        ],
        "over_time": list(_over_time(ballots, measure)),
        "left_out": [
            {"reason": reason, "labels": len(some), "meaning": REASONS[reason], "first": some[0].task}
            for reason, some in sorted(ballots.left_out.items())
        ],
        "warnings": list(_warnings(ballots, everything, stale)),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _plain(one: Coefficient) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name != "problem" or value}


def _warnings(ballots: Ballots, coefficients: Mapping[str, Coefficient], stale: int) -> Iterator[str]:
    if problem := coefficients["krippendorff_alpha"].problem:
        yield f"Krippendorff's alpha is not defined: {problem}."
    if stale:
        yield f"{plural(stale, 'label')} by an earlier version of the guideline."
    for reason in ("unknown_task", "unknown_annotator", "changed_task", "bad_value"):
        if some := ballots.left_out.get(reason):
            first = f"{some[0].annotator}, {some[0].task}"
            yield f"{plural(len(some), 'label')} left out: {REASONS[reason]} (first: {first})."


def _shares(ballots: Ballots, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The estimated share of each label; empty if labels are not of a few, or no random task has one."""
    if not ballots.round.task.choices or not any(row["chosen_by"] == "random" and row["label"] for row in rows):
        return []  # without random tasks nothing is known of the records that no strategy chose
    drawn = [row for row in rows if row["probability"] is not None]
    strata = [("random" if row["chosen_by"] == "random" else "chosen", row["stratum"] if row["chosen_by"] == "random"
               else "") for row in drawn]  # fmt: skip
    return label_shares([row["label"] for row in drawn], strata, [row["probability"] for row in drawn])


def _answers(round: Round, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The strength of each answer of `compare` and `rank`, by the labels of the tasks; empty of others."""
    if not round.task.answers:
        return []
    labels = [row["label"] for row in rows if row["label"] is not None]
    return answer_strengths(round.task, [json.loads(one) for one in labels] if round.task.type == "rank" else labels)


def _annotators(ballots: Ballots, consensus: Consensus) -> Iterator[dict[str, Any]]:
    votes, gold = ballots.votes, ballots.gold()
    right = consensus.posterior[votes.item, votes.label]
    answers = [one for some in ballots.given.values() for one in some]
    skipped = Counter(one.annotator for one in ballots.left_out.get("skipped", ()))
    known = np.full(votes.items, -1)
    for item, label in gold.items():
        known[item] = label
    times = {(one.task, one.annotator): one.at for one in answers}
    rows = ballots.round.tasks
    skill = annotator_skill(votes, gold) if votes.labels > 1 else np.full((3, votes.annotators), np.nan)
    for who, name in enumerate(ballots.names):
        own = np.flatnonzero(votes.annotator == who)
        mean, low, high = (None if np.isnan(one[who]) else float(one[who]) for one in skill)
        on_gold = own[known[votes.item[own]] >= 0]
        seconds = [one.seconds for one in answers if one.annotator == name and one.seconds is not None]
        task_of = [rows[ballots.places[int(item)][0]].id for item in votes.item[own]]
        ordered = own[sorted(range(len(own)), key=lambda at: times[task_of[at], name])] if len(own) else own
        drift, around = _drift(*(right[part] for part in np.array_split(ordered, 2)))
        yield {
            "annotator": name,
            "labels": sum(one.annotator == name for one in answers),
            "skipped": skipped[name],
            "accuracy": mean,
            "accuracy_low": low,
            "accuracy_high": high,
            "gold": len(on_gold),
            "gold_right": int((votes.label[on_gold] == known[votes.item[on_gold]]).sum()),
            "drift": drift,
            "drift_low": None if drift is None or around is None else drift - around,
            "drift_high": None if drift is None or around is None else drift + around,
            "median_seconds": median(seconds) if seconds else None,
        }


def _drift(first: np.ndarray, second: np.ndarray) -> tuple[float | None, float | None]:
    """(difference of the means, half of the width of its 95% interval by normal distributions); None if not known."""
    if not len(first) or not len(second):
        return None, None
    drift = float(second.mean() - first.mean())
    if len(first) < 2 or len(second) < 2:
        return drift, None
    return drift, Z95 * float(np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)))


def _pairs(ballots: Ballots) -> Iterator[dict[str, Any]]:
    """Cohen's kappa of each two annotators who labelled the same items."""
    votes = ballots.votes
    table = np.full((votes.annotators, votes.items), -1, np.int64)
    table[votes.annotator, votes.item] = votes.label
    weights = "quadratic" if ballots.round.task.type == "rate" else "nominal"
    for one, other in combinations(range(votes.annotators), 2):
        both = (table[one] >= 0) & (table[other] >= 0)
        if both.any():
            first, second, labels = table[one, both], table[other, both], votes.labels
            if not vocabulary_of(ballots.round.task):
                first, second, labels = _shared_labels(first, second)
            cells = Cells.of(first, second, labels)
            yield agreement(f"{ballots.names[one]} and {ballots.names[other]}", cells, weights)  # type: ignore[arg-type]


def _shared_labels(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The labels of two annotators with one number for all that only the first gave, and one for the second's, and the
    number of labels. Kappa stays the same, as agreement by chance on such a label is 0. first, second: int64[I].
    """
    shared = np.intersect1d(first, second)
    numbered = (
        np.where(np.isin(one, shared), np.searchsorted(shared, one), len(shared) + at)
        for at, one in enumerate((first, second))
    )
    return *numbered, len(shared) + 2  # type: ignore[return-value]


def _by_label(ballots: Ballots, counts: np.ndarray) -> Iterator[dict[str, Any]]:
    """Alpha of each label against all others."""
    grouped = grouping(ballots, np.ones(len(counts), bool))
    for at, label in enumerate(ballots.vocabulary):
        binary = np.stack([counts[:, at], counts.sum(axis=1) - counts[:, at]], axis=1)
        yield {"label": label or "none", "votes": int(counts[:, at].sum())} | _plain(
            krippendorff_alpha(binary, tasks=grouped)
        )


def _over_time(ballots: Ballots, measure: _Measure) -> Iterator[dict[str, Any]]:
    """Alpha of the tasks in the order of their last votes, in four parts of equal size."""
    last = {id: max(one.at for one in some) for id, some in ballots.given.items()}
    rows = ballots.round.tasks
    dated = sorted({at for at, _ in ballots.places if last[rows[at].id]}, key=lambda at: (last[rows[at].id], at))
    if len(dated) < 2 * _PERIODS:
        return
    for part in np.array_split(np.array(dated), _PERIODS):
        found = measure.alpha(np.isin(ballots.task_of_item, part))
        yield {"until": last[rows[part[-1]].id], "tasks": len(part)} | _plain(found)


# --- as text and as a page


def _text(round: Round, facts: Mapping[str, Any]) -> str:
    status = ", ".join(f"{number:,} {name}" for name, number in facts["status"].items() if number)
    lines = [f"{plural(facts['tasks'], 'task')}: {status}"]
    for name in ("krippendorff_alpha", "fleiss_kappa", "observed"):
        lines.append(f"{name.replace('_', ' '):<20}{_shown(facts[name])}")
    lines += [
        f"{one['annotator']:<20}{plural(one['labels'], 'label')}, accuracy {_interval(one, 'accuracy')}"
        for one in facts["by_annotator"]
        if one["labels"]
    ]
    if missing := facts["further_tasks"]["tasks"]:
        width = facts["further_tasks"]["width"]
        lines.append(f"An interval of alpha of {width:g} takes about {plural(missing, 'further task')}.")
    lines += [f"warning: {one}" for one in facts["warnings"]]
    for name in (LABELS, *([PATCH] if round.corrects else []), QUEUE, AGREEMENT, REPORT_HTML):
        lines.append(f"{name.partition('.')[0].rpartition('/')[2]:<20}{paths.join(round.uri, name)}")
    return "\n".join(lines)


def _shown(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return f"not defined: {one['problem']}"
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _interval(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return "–"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _signed(row: Mapping[str, Any]) -> str:
    if row["drift"] is None:
        return "–"
    bounds = "" if row["drift_low"] is None else f" ({row['drift_low']:+.3f} to {row['drift_high']:+.3f})"
    return f"{row['drift']:+.3f}{bounds}"


def _page(round: Round, facts: Mapping[str, Any], queue: Sequence[Mapping[str, Any]]) -> str:
    alpha = facts["krippendorff_alpha"]
    low = "" if alpha["value"] is None else f"{alpha['low']:.3f} to {alpha['high']:.3f} (95%)"
    status = facts["status"]
    labelled = status["agreed"] + status["decided"]
    shown: dict[str, Any] = {
        "warnings": facts["warnings"],
        "tasks": Tile(facts["tasks"], f"{share(labelled, facts['tasks'])} have a label"),
        "votes": Tile(facts["votes"], f"by {plural(facts['annotators'], 'annotator')}"),
        "krippendorff's_alpha": Tile("–" if alpha["value"] is None else f"{alpha['value']:.3f}", low),
        "disputed": Tile(status["disputed"], "tasks that an expert decides"),
        "agreement": [
            {"coefficient": name.replace("_", " "), "value": _shown(facts[name]), "items": facts[name]["items"]}
            for name in ("krippendorff_alpha", "fleiss_kappa", "randolph_kappa", "gwet_ac1", "observed")
        ],
        "status": dict(status),
        "labels": [
            {"label": one["label"], "tasks": one["tasks"],
             "share": f"{one['share']:.1%} ({one['low']:.1%} to {one['high']:.1%})"}
            for one in facts["labels"]
        ],
        "answers": [
            {"answer": one["answer"], "log-odds": _log_odds(one),
             "wins": one["wins"], "losses": one["losses"], "ties": one["ties"]}
            for one in facts["answers"]
        ],
        "by_annotator": [
            {"annotator": one["annotator"], "labels": one["labels"], "skipped": one["skipped"],
             "accuracy": _interval(one, "accuracy"),
             "gold": f"{one['gold_right']} of {one['gold']}" if one["gold"] else "–",
             "drift": _signed(one),
             "median_seconds": "–" if one["median_seconds"] is None else f"{one['median_seconds']:.1f}"}
            for one in facts["by_annotator"]
        ],
        "pairs": [
            {"between": one["between"], "items": one["documents"], "kappa": _interval(one, "kappa"),
             "equal": f"{one['equal_share']:.1%}"}
            for one in facts["pairs"]
        ],
        "by_label": [
            {"label": one["label"], "votes": one["votes"], "alpha": _or_dash(one)} for one in facts["by_label"]
        ],
        "by_stratum": [
            {"stratum": one["stratum"], "items": one["items"], "alpha": _or_dash(one)} for one in facts["by_stratum"]
        ],
        "over_time": [
            {"until": one["until"], "tasks": one["tasks"], "alpha": _or_dash(one)} for one in facts["over_time"]
        ],
        "queue": list(map(partial(_queued, round), queue[:20])),
        "left_out": facts["left_out"],
    }  # fmt: skip
    sections = plain_sections(shown, _PAGE_NOTES)
    return page("Report of annotate", round.name, facts["finished"], cluster.__version__, round.uri, sections)


def _log_odds(row: Mapping[str, Any]) -> str:
    if row["log_odds"] is None:
        return f"not defined: {row['problem']}"
    if row["low"] == row["high"]:  # the first, with which the others are compared
        return "0"
    return f"{row['log_odds']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def _or_dash(one: Mapping[str, Any]) -> str:
    return "–" if one["value"] is None else _shown(one)


def _queued(round: Round, row: Mapping[str, Any]) -> dict[str, Any]:
    text = " ".join((row["record"].get(round.task.show[0]) or "").split())[:200]
    votes = ", ".join(f"{one['annotator']}: {one['value'][:60]}" for one in row["votes"])
    return {"task": row["id"], "posterior": f"{row['posterior']:.2f}", "votes": votes, "text": text}
