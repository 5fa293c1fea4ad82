"""Right and wrong answers to GSM8K, judged by three simulated annotators of known skill; imports that are killed."""

import contextlib
import csv
import json
import random
from itertools import combinations

import numpy as np
import pytest

from raymill.cluster.store.store import Store
from raymill.pipelines.annotate.annotations import Annotation
from raymill.pipelines.annotate.exchange.importing import import_labels
from raymill.pipelines.annotate.finish import finish_round
from raymill.pipelines.annotate.round import Round
from tests.support.annotate_inline import annotate_inline
from tests.support.rounds import labels_of, round_of

SKILLS = {"ada": 0.95, "ben": 0.85, "cleo": 0.7}
RIGHT_SHARE = 0.6


@pytest.fixture(scope="module")
def answers(shared_data):
    """id -> (question, answer, whether it is right), of 900 problems; wrong ones end with another number."""
    chosen, found = random.Random(5), dict[str, tuple[str, str, bool]]()
    lines = (shared_data / "gsm8k_test.jsonl").read_text().splitlines()[:900]
    for number, line in enumerate(lines):
        row = json.loads(line)
        steps, _, result = row["answer"].rpartition("#### ")
        right = chosen.random() < RIGHT_SHARE
        given = result if right else str(int(result.replace(",", "")) + chosen.choice([-10, -1, 1, 2, 100]))
        found[f"g{number}"] = row["question"], f"{steps}#### {given}", right
    return found


def make_round(answers, folder, monkeypatch, overlap: int) -> Round:
    path = folder / "answers.jsonl"
    rows = [{"id": id, "question": question, "answer": given} for id, (question, given, _) in answers.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "kind": "annotate",
        "input": str(path),
        "task": {"type": "classify", "show": ["question", "answer"], "labels": ["right", "wrong"]},
        "choose": {"count": 600},
        "annotators": [*SKILLS],
        "overlap": overlap,
        "output": str(folder / "round"),
    }
    return annotate_inline(settings, monkeypatch).round


def judge(round: Round, answers, seed: int) -> None:
    """The votes of the annotators on all tasks, in place of earlier ones."""
    round.store.delete([one.uri for one in round.answers.files()])
    chosen = random.Random(seed)
    votes = []
    for number, row in enumerate(round.tasks):
        for name in row.annotators:
            is_right = answers[row.id][2] == (chosen.random() < SKILLS[name])
            at = f"2026-11-01T{number // 60:02d}:{number % 60:02d}:00+00:00"
            votes.append(Annotation(row.id, name, "labelled", "right" if is_right else "wrong", at=at))
    round.answers.add(votes)


def alpha_of_the_skills() -> float:
    """Krippendorff's alpha of infinitely many items with votes of all three."""
    pairs = [one * (1 - other) + other * (1 - one) for one, other in combinations(SKILLS.values(), 2)]
    share = float(np.mean([RIGHT_SHARE * one + (1 - RIGHT_SHARE) * (1 - one) for one in SKILLS.values()]))
    return float(1 - np.mean(pairs) / (2 * share * (1 - share)))


@pytest.mark.parametrize(("overlap", "accuracy"), [(3, 0.94), (2, 0.91)])
def test_skills_posteriors_alpha_and_shares_hold_the_true_ones(answers, tmp_path, monkeypatch, overlap, accuracy):
    round = make_round(answers, tmp_path, monkeypatch, overlap)
    most = {row.id: "right" if answers[row.id][2] else "wrong" for row in round.tasks}
    seeds, skills, alphas = 8, 0, 0
    posterior, is_true = list[float](), list[bool]()
    for seed in range(seeds):
        judge(round, answers, seed)
        found = finish_round(round, "one_coin")
        for row in found["by_annotator"]:
            assert row["labels"] == 200 * overlap
            assert row["accuracy"] == pytest.approx(SKILLS[row["annotator"]], abs=0.08)
            skills += row["accuracy_low"] <= SKILLS[row["annotator"]] <= row["accuracy_high"]
        alpha = found["krippendorff_alpha"]
        alphas += alpha["low"] <= alpha_of_the_skills() <= alpha["high"]
        labels = labels_of(round)
        posterior += [labels[id]["posterior"] for id in most]
        is_true += [labels[id]["label"] == label for id, label in most.items()]
        share = next(row for row in found["labels"] if row["label"] == "right")
        true = np.mean([right for _, _, right in answers.values()])
        assert share["low"] - 0.06 <= true <= share["high"] + 0.06  # labels themselves are wrong sometimes
    assert skills >= 3 * seeds - 5 and alphas >= seeds - 2  # 95% intervals
    sure, right = np.array(posterior), np.array(is_true)
    assert right.mean() == pytest.approx(accuracy, abs=0.03)
    for part in np.array_split(np.argsort(sure, kind="stable"), 3):  # calibrated at low and high posteriors
        assert right[part].mean() == pytest.approx(sure[part].mean(), abs=0.05)


def test_an_import_that_is_killed_at_any_of_100_moments_loses_and_doubles_nothing(tmp_path, monkeypatch):
    round = round_of(tmp_path, {"type": "classify", "show": ["prompt"], "labels": ["a", "b"]},
                     [{"prompt": f"text {number}"} for number in range(400)])  # fmt: skip
    files, wanted = [], {}
    for number in range(100):
        path = tmp_path / f"export-{number}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["raymill_id", "annotator", "label"])
            for row in round.tasks[4 * number : 4 * number + 4]:
                wanted[row.id] = "ab"[number % 2]
                writer.writerow([row.id, "a1", wanted[row.id]])
        files.append(str(path))
    chosen, real, faults = random.Random(7), Store.create, 0

    def dying(self, uri, data):
        if chosen.random() < 0.5:
            real(self, uri, data)
        raise KeyboardInterrupt

    for file in files:
        with monkeypatch.context() as within:
            within.setattr(Store, "create", dying)
            with contextlib.suppress(KeyboardInterrupt):
                import_labels(round, [file])
                raise AssertionError("nothing was written")
        faults += 1
        import_labels(round, [file])
    assert faults == 100 and import_labels(round, files)["new"] == 0
    stored = round.answers.read()
    assert {one.task: one.value for one in stored} == wanted and len(stored) == len(wanted) == 400
