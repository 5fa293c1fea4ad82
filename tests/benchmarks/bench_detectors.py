"""What the checks of `prepare` find, and what they find by mistake.

    python -m tests.benchmarks detectors              # also PAIRS=FILE.jsonl in the environment
    python -m tests.benchmarks.bench_detectors FILE.jsonl

FILE.jsonl: one JSON object with `question` and `answer` a line, all of them sound, such as GSM8K's training examples.

* Rules on one record: each is given every record as it is, and with a planted defect. Recall is the share of defects
  that are found; false alarms are the sound records that are found; precision is measured in a set with one planted
  defect to nine sound records. To add one, extend `detectors()`. Personal data is made up by planted.py, in several
  spellings.
* Imbalance: sets of records with labels drawn from four, evenly and with one label more frequent.
* Checks on the whole set: a tenth of the records is planted with each defect, in one run of `prepare`. To add one,
  extend `planted_set()`. `one split` is the share of planted records in the split of the record that they are like.
* `answer_relevance`: a tenth of the records have the answer of another one, in one run of its stages.
* Cleaning: every answer is wrapped; restored is the share of answers that are exactly as before, changed the share of
  sound answers that are not.
"""

import html
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.content import pair
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.progress import Progress
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.metrics import evenness, representation
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import listed_inputs, run_stages
from raymill.pipelines.prepare.records.clean import Clean, Cleaner
from raymill.pipelines.prepare.records.validate import Validate, load_validator
from raymill.pipelines.prepare.stages.collect import collect_stage
from raymill.pipelines.prepare.stages.relevance import find_unrelated, is_below
from raymill.pipelines.prepare.stages.write import LISTED, REMOVED
from raymill.pipelines.text.texts import Texts
from tests.benchmarks import planted
from tests.benchmarks.bench_terabyte import TimedEngine
from tests.benchmarks.timing import REAL, machine

_DEFECTS = 0.1  # of the records of a set, for its precision

Pair = tuple[str, str]


@dataclass(frozen=True)
class Detector:
    """plant: a sound record with a defect, of all records, the number of one, and random numbers.

    found: whether each record has the defect.
    """

    name: str
    plant: Callable[[Sequence[Pair], int, random.Random], Pair]
    found: Callable[[Sequence[Pair]], list[bool]]


PAIRS = Path(os.environ.get("PAIRS") or REAL.with_name("gsm8k_train.jsonl"))


def run(texts: Texts | None = None, path: Path = PAIRS) -> None:
    """texts: not used; every benchmark is given them."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file. Give one with `question` and `answer` a line in PAIRS.")
    records = [(row["question"], row["answer"]) for row in map(json.loads, path.read_text().splitlines())]
    print(machine("numba", "pyarrow"))
    print(f"{len(records):,} records")
    with tempfile.TemporaryDirectory() as folder:
        _one_by_one(records, Path(folder))
    _imbalance(len(records))
    for number, dedup in enumerate(_DEDUP):
        _whole_set(records, dedup, () if number == 0 else ("near_question", "near_duplicate"))
    _unrelated(records)
    _cleaning(records)


def _one_by_one(records: Sequence[Pair], folder: Path) -> None:
    print(f"{'detector':<44}{'recall':>8}{'false alarms':>14}{'precision':>11}{'us a record':>13}")
    for detector in detectors(records, folder):
        chosen = random.Random(1)
        planted = [detector.plant(records, at, chosen) for at in range(len(records))]
        detector.found(records[:100])
        began = time.process_time()
        alarms = sum(detector.found(records)) / len(records)
        cost = (time.process_time() - began) / len(records) * 1e6
        recall = sum(detector.found(planted)) / len(planted)
        both = _DEFECTS * recall + (1 - _DEFECTS) * alarms
        precision = f"{_DEFECTS * recall / both:.3f}" if both else "-"
        print(f"{detector.name:<44}{recall:>8.3f}{alarms:>14.4f}{precision:>11}{cost:>13.1f}", flush=True)


def rule(reason: str, **settings: object) -> Callable[[Sequence[Pair]], list[bool]]:
    """Whether a rule of `validate` removes each record. settings: of that rule; lengths are not checked."""
    validator = load_validator(
        Store(), Validate.model_validate({"question_chars": None, "answer_chars": None} | settings)
    )

    def found(records: Sequence[Pair]) -> list[bool]:
        failed = validator([(pair("", question, "", answer), {}) for question, answer in records])
        return [one is not None and one.reason == reason for one in failed]

    return found


def redacted(kind: str) -> Callable[[Sequence[Pair]], list[bool]]:
    """Whether `clean.redact` finds personal data of a kind in each record."""
    cleaner = Cleaner(Clean.model_validate({"redact": (kind,)}))

    def found(records: Sequence[Pair]) -> list[bool]:
        return [number > 0 for number in cleaner(records)[1]]

    return found


def detectors(records: Sequence[Pair], folder: Path) -> list[Detector]:
    """All detectors of one record. folder: for the files that they read."""
    (folder / "bad_words.txt").write_text("".join(f"{word}\n" for word in planted.BAD_WORDS))
    bad_words = rule("bad_words", bad_words={"paths": {"en": str(folder / "bad_words.txt")}})
    # Every tenth question is one of an evaluation set, so it is no sound record for this detector: it has to be found.
    held_out = [{"question": question} for question, _ in records[::10]]
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    sets = [{"name": "held-out", "path": str(folder / "evaluation.jsonl"), "columns": ["question"]}]
    contaminated = rule("contaminated", rules={"decontamination": {"sets": sets}})

    def without_held_out(sound: Sequence[Pair]) -> list[bool]:
        known = {row["question"] for row in held_out}
        return [found and one[0] not in known for one, found in zip(sound, contaminated(sound), strict=True)]

    personal = [
        Detector(f"redact: {kind}{', ' + name if name else ''}", planted.with_personal_data(spellings), redacted(kind))
        for kind, name, spellings in planted.PERSONAL_DATA
    ]
    return [
        *personal,
        Detector("bad_words", planted.with_bad_word, bad_words),
        Detector("bad_words, disguised", planted.with_disguised_bad_word, bad_words),
        Detector("decontamination", planted.with_evaluation_question, without_held_out),
        Detector("decontamination, a word changed", planted.with_changed_evaluation_question, without_held_out),
        Detector("decontamination, its first half", planted.with_half_an_evaluation_question, without_held_out),
        Detector("truncated_answers: open", _cut, rule("truncated_answer")),
        Detector("truncated_answers: sentence", _cut, rule("truncated_answer", truncated_answers="sentence")),
        Detector(
            "truncated_answers: sentence, of prose",
            planted.with_cut_prose,
            rule("truncated_answer", truncated_answers="sentence"),
        ),
        Detector("answer_in_question: 0.8", _leak, rule("answer_in_question")),
        Detector("answer_in_question: 0.8, a part of it", _leak_part, rule("answer_in_question")),
        *(
            Detector(f"relevance: {least}", _mismatch, rule("not_relevant", relevance=least))
            for least in (0.05, 0.1, 0.15, 0.2, 0.3)
        ),
        Detector("same_language: 0.65", _german, rule("other_language", same_language=0.65)),
        Detector("boilerplate", _boilerplate, rule("boilerplate")),
        Detector("refusals", _refusal, rule("refusal")),
    ]


def _cut(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    """The answer ends at a random character between a third of it and its last three."""
    question, answer = records[at]
    return question, answer[: chosen.randint(len(answer) // 3, max(len(answer) - 3, 1))]


def _leak(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    question, answer = records[at]
    return f"{question} {chosen.choice(('Answer: ', '', 'Hint: '))}{answer}", answer


def _leak_part(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    """The question has the answer without its last line or its last tenth."""
    question, answer = records[at]
    before = answer.rpartition("\n")[0] or answer
    return f"{question}\n{before[: max(len(before) - len(answer) // 10, 1)]}", answer


def _mismatch(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    """The answer of another record."""
    other = (at + chosen.randint(1, len(records) - 1)) % len(records)
    return records[at][0], records[other][1]


_GERMAN = (
    "Zuerst rechnen wir aus, wie viele es am Anfang waren. Danach ziehen wir ab, was verkauft wurde.",
    "Man teilt die Summe durch die Anzahl der Tage und erhält so den Durchschnitt.",
    "Sie bezahlt also insgesamt zwölf Euro, und es bleiben ihr noch drei.",
)


def _german(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    return records[at][0], chosen.choice(_GERMAN)


def _boilerplate(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    said = ["Hello,", "Thank you for contacting us.", "We have received your message and are looking into it."]
    said += chosen.sample(["We will get back to you within two days.", "A member of our team will contact you."], 1)
    said += chosen.sample(["Kind regards", "Have a great day!", "Please do not reply to this message."], 1)
    return records[at][0], " ".join(said)


def _refusal(records: Sequence[Pair], at: int, chosen: random.Random) -> Pair:
    said = ("As an AI, I have no access to numbers.", "I'm sorry, but I can't solve this.", "I cannot help with that.")
    return records[at][0], f"{chosen.choice(('', 'Hm. '))}{chosen.choice(said)}"


# ---- checks on the whole set ----


# Settings of `dedup`: the defaults; looser ones; and shingles of three words, for short texts.
_DEDUP: tuple[dict[str, object], ...] = (
    {},
    {"threshold": 0.7, "bands": None, "rows_per_band": None},
    {"threshold": 0.7, "ngram_words": 3, "bands": None, "rows_per_band": None},
)


def planted_set(records: Sequence[Pair], chosen: random.Random) -> list[tuple[str, str, Pair]]:
    """(id, the reason for which it should be listed, question and answer); no reason: a sound record."""
    made = [(f"r{number}", "", one) for number, one in enumerate(records)]
    for number, (question, answer) in enumerate(records):
        if number % 10:
            continue
        words = question.split()
        other, third = (records[(number + offset) % len(records)][1] for offset in (5, 7))
        at = chosen.randrange(len(words))
        near = " ".join([*words[:at], "certainly", *words[at + 1 :]])
        made.append((f"contradictory{number}", "contradictory", (question.upper(), other)))
        made.append((f"question{number}", "same_question", (f"  {question} ", f"{answer}\nThat is all.")))
        made.append((f"near{number}", "near_question", (near, f"{third}\nThat is all there is.")))
        mixed = chosen.sample(words, len(words))
        made.append((f"answer{number}", "same_answer", (" ".join(mixed), answer.replace(" ", "  "))))
        lines = [one for at in range(30) for one in records[(number + 11 * at) % len(records)][1].split("\n")]
        chosen.shuffle(lines)
        made.append((f"long{number}", "outlier", (f"{' '.join(reversed(words))} Why?", "\n".join(lines))))
        said = answer.split(" ")
        said[chosen.randrange(len(said))] = "certainly"
        again = " ".join([*words[: at // 2], "probably", *words[at // 2 + 1 :]])
        made.append((f"whole{number}", "near_duplicate", (again, " ".join(said))))
    return made


def _whole_set(records: Sequence[Pair], dedup: dict[str, object], reasons: tuple[str, ...]) -> None:
    """Prepare the records with planted ones. reasons: those to print; empty: all."""
    made = planted_set(records, random.Random(1))
    wanted = {id: reason for id, reason, _ in made if reason}
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"id": id, "question": question, "answer": answer} for id, _, (question, answer) in made]
        Path(folder, "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = PrepareConfig.model_validate(
            {
                "kind": "prepare",
                "name": "bench",
                "inputs": [{"path": f"{folder}/in.jsonl", "id": "id"}],
                "validate": {"question_chars": None, "answer_chars": None, "outliers": {}},
                "dedup": dedup,
                "duplicates": {"questions": "list", "answers": "list"},
                "output": f"{folder}/out",
            }
        )
        root, settings, listing = listed_inputs(config)

        def run(stage: Stage, folder: str = "") -> dict[str, Artifact]:
            return TimedEngine(paths.join(root, folder) if folder else root, Session(), Progress()).run(stage)

        artifacts = run_stages(config, settings, freeze_listing(listing), {}, run)
        listed, removed = (artifacts[name].table(["id", "reason"]).to_pylist() for name in (LISTED, REMOVED))
        splits = {id: name for name in SPLITS for id in artifacts[name].table(["id"])["id"].to_pylist()}
    gone = {row["id"]: row["reason"] for row in removed}
    print(f"\nwhole set of {len(made):,}, dedup {dedup or 'as by default'}; removed: {dict(Counter(gone.values()))}")
    print(f"{'reason':<20}{'planted':>9}{'recall':>9}{'precision':>11}{'one split':>11}")
    _print_whole_duplicates(wanted, gone)
    found = {(row["id"], row["reason"]) for row in listed}
    counts = Counter(reason for _, reason in found)
    for reason, names in {
        "contradictory": ("contradictory", "same_question"),  # a repeated question with another answer is both
        "same_question": ("contradictory", "same_question"),
        "near_question": ("near_question",),
        "same_answer": ("same_answer", "contradictory"),  # the other answer belongs to another question
        "outlier": ("outlier",),
    }.items():
        if reasons and reason not in reasons:
            continue
        ids = {id for id, name in wanted.items() if name in names and id not in gone}
        # The sound record of a contradiction is listed too.
        sound = {_original(id) for id in ids} if reason == "contradictory" else set()
        right = sum((id, reason) in found for id in ids)
        also = sum((id, reason) in found for id in sound)
        precision = (right + also) / max(counts[reason], 1)
        print(f"{reason:<20}{len(ids):>9,}{right / max(len(ids), 1):>9.3f}{precision:>11.3f}", end="")
        pairs = [(splits.get(id), splits.get(_original(id))) for id in ids]
        together = [one == other for one, other in pairs if one and other]
        print(f"{sum(together) / max(len(together), 1):>11.3f}" if reason != "outlier" else "")


def _unrelated(records: Sequence[Pair]) -> None:
    """Records of which every tenth has the answer of another one, by `validate.answer_relevance`."""
    chosen, wrong = random.Random(1), np.arange(len(records)) % round(1 / _DEFECTS) == 0
    made = [_mismatch(records, at, chosen) if wrong[at] else one for at, one in enumerate(records)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"question": question, "answer": answer} for question, answer in made]
        Path(folder, "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rules = {"question_chars": None, "answer_chars": None, "truncated_answers": "keep", "answer_in_question": None}
        rules |= {"copied_answer": False, "refusals": (), "boilerplate": (), "answer_relevance": {}}
        settings = {"kind": "prepare", "inputs": [{"path": f"{folder}/in.jsonl"}], "validate": rules}
        config = PrepareConfig.model_validate(settings | {"dedup": None, "output": f"{folder}/out"})
        root, of_collect, listing = listed_inputs(config)

        def run(stage: Stage, folder: str = "") -> dict[str, Artifact]:
            return TimedEngine(paths.join(root, folder) if folder else root, Session(), Progress()).run(stage)

        inputs = freeze_listing(listing, config.execution.unit_bytes, 0)
        collected = run(collect_stage(of_collect, inputs, None))
        began = time.process_time()
        unrelated = find_unrelated(config, collected, len(inputs.units), run)
        cost = (time.process_time() - began) / len(made) * 1e6
        assert unrelated is not None
        cosines = unrelated.cosines.table()["cosine"]
    print(f"\nanswer_relevance, {len(made):,} records, {wrong.sum():,} with another answer, {cost:.0f} us a record")
    print(f"{'min_cosine':<20}{'recall':>9}{'precision':>11}")
    for least in (0.1, 0.2, 0.3, 0.4, 0.5):
        found = is_below(cosines, least)
        right = int((found & wrong).sum())
        print(f"{least:<20}{right / wrong.sum():>9.3f}{right / max(found.sum(), 1):>11.3f}")


def _print_whole_duplicates(wanted: dict[str, str], gone: dict[str, str]) -> None:
    """What is removed as a near-duplicate: planted as one, or another planted record, or a sound one."""
    ids = [id for id, reason in wanted.items() if reason == "near_duplicate"]
    right = sum(gone.get(id) == "near_duplicate" for id in ids)
    removed = [id for id, reason in gone.items() if reason == "near_duplicate"]
    precision = sum(id in wanted for id in removed) / max(len(removed), 1)
    print(f"{'near_duplicate':<20}{len(ids):>9,}{right / len(ids):>9.3f}{precision:>11.3f}")


def _original(id: str) -> str:
    """The id of the sound record of which a record was made."""
    return f"r{id.lstrip('abcdefghijklmnopqrstuvwxyz')}"


# ---- imbalance ----

_LABELS, _SETS, _RECORDS_OF_A_SET = 4, 1000, 500


def _imbalance(records: int) -> None:
    """Sets of 500 records with one of four labels; in the planted ones the first label is more frequent.

    records: of which the sets are drawn; their labels do not depend on what they say.
    """
    chosen = np.random.default_rng(1)
    of_records = chosen.integers(0, _LABELS, records)

    def measured(times: float) -> tuple[list[float], list[float]]:
        """(representation, balance) of sets where records of the first label are drawn `times` times as often."""
        weights = np.where(of_records == 0, times, 1.0)
        both = []
        for _ in range(_SETS):
            drawn = chosen.choice(of_records, _RECORDS_OF_A_SET, p=weights / weights.sum())
            counts = {str(label): int(number) for label, number in enumerate(np.bincount(drawn, minlength=_LABELS))}
            both.append((representation(counts, {}) or 0.0, evenness(counts.values()) or 0.0))
        return tuple(map(list, zip(*both, strict=True)))  # type: ignore[return-value]

    sound = measured(1)
    print(f"\n{_SETS:,} sets of {_RECORDS_OF_A_SET} records, {_LABELS} labels, of which one is more frequent")
    print(f"{'found by':<24}{'times':>7}{'recall':>9}{'false alarms':>14}")
    bounds = (("representation < 0.9", 0, 0.9), ("balance < 0.98", 1, 0.98))
    for times in (1.25, 1.5, 2, 4):
        skewed = measured(times)
        for name, which, bound in bounds:
            recall, alarms = (sum(value < bound for value in one[which]) / _SETS for one in (skewed, sound))
            print(f"{name:<24}{times:>7g}{recall:>9.3f}{alarms:>14.4f}")


# ---- cleaning ----

_SIGNATURES = (
    "\n\n-- \nAnn Example\nSupport",
    "\n\nKind regards,\nAnn Example\nExample Ltd\n+49 228 123456",
    "\n\nMit freundlichen Gr\u00fc\u00dfen\n\nAnn Example",
    "\nThanks!\nAnn\n\nSent from my phone",
    "\n\nYours sincerely\nDr. Ann B. Example",
)
_QUOTES = (
    "\n\nOn Mon, 2 Nov 2026 at 10:00, Bob <bob@example.com> wrote:\n> Hello,\n> how much is it?",
    "\n\n-----Original Message-----\nFrom: Bob\nSent: Monday\n\nHow much is it?",
    "\n\nAm 02.11.2026 um 10:00 schrieb Bob:\n> Wie viel ist es?",
)
_DISCLAIMERS = (
    "\n\nThis e-mail and any attachments are confidential.",
    "\n\nIf you are not the intended recipient, please notify the sender and delete this message.",
    "\n\nPlease consider the environment before printing this e-mail.",
)


def _cleaning(records: Sequence[Pair]) -> None:
    answers = [answer for _, answer in records]
    wrapped: dict[str, tuple[dict[str, object], Callable[[str, random.Random], str]]] = {
        "html": ({"html": True}, _as_html),
        "email: signatures": ({"email": ("signatures",)}, lambda text, chosen: text + chosen.choice(_SIGNATURES)),
        "email: quotes": ({"email": ("quotes",)}, lambda text, chosen: text + chosen.choice(_QUOTES)),
        "email: disclaimers": ({"email": ("disclaimers",)}, lambda text, chosen: text + chosen.choice(_DISCLAIMERS)),
    }
    print(f"\n{'cleaning':<20}{'restored':>10}{'changed':>9}{'us a text':>11}")
    for name, (settings, wrap) in wrapped.items():
        cleaner, chosen = Cleaner(Clean.model_validate(settings | {"normalize": False})), random.Random(1)
        before = [[wrap(text, chosen)] for text in answers]
        began = time.process_time()
        after, _ = cleaner(before)
        cost = (time.process_time() - began) / len(answers) * 1e6
        restored = sum(one == text for (one,), text in zip(after, answers, strict=True)) / len(answers)
        unchanged, _ = cleaner([[text] for text in answers])
        changed = sum(one != text for (one,), text in zip(unchanged, answers, strict=True)) / len(answers)
        print(f"{name:<20}{restored:>10.3f}{changed:>9.4f}{cost:>11.1f}")


def _as_html(text: str, chosen: random.Random) -> str:
    lines = [html.escape(line) for line in text.split("\n")]
    at = chosen.randrange(len(lines))
    lines[at] = f'<span style="color: red">{lines[at]}</span>'
    return chosen.choice(("<p>{}</p>", "<div class='body'>{}</div><!-- end -->", "{}<br/>")).format("<br>".join(lines))


if __name__ == "__main__":
    run(path=Path(sys.argv[1]))
