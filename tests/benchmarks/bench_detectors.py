"""What the checks of `prepare` find, and what they find by mistake.

    python -m tests.benchmarks.bench_detectors PAIRS.jsonl

PAIRS.jsonl: one JSON object with `question` and `answer` a line, all of them sound, such as GSM8K's training examples.

* Rules on one record: each is given every record as it is, and with a planted defect. Recall is the share of defects
  that are found; false alarms are the sound records that are found; precision is that of a set with one planted defect
  to nine sound records. To add one, extend `detectors()`.
* Checks on the whole set: a tenth of the records is planted with each defect, in one run of `prepare`. To add one,
  extend `planted()`.
* Cleaning: every answer is wrapped; restored is the share of answers that are exactly as before, changed the share of
  sound answers that are not.
"""

import html
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.artifact import Artifact
from cluster.progress import Silent
from cluster.session import Session
from cluster.stage import Stage
from cluster.store import paths
from cluster.store.store import Store
from pipelines.prepare.clean import Cleaner
from pipelines.prepare.config import Clean, PrepareConfig, Validate
from pipelines.prepare.content import pair
from pipelines.prepare.job import listed_inputs, run_stages
from pipelines.prepare.validate import load_validator
from pipelines.prepare.write import LISTED, REMOVED
from pipelines.readers.freeze import freeze_listing
from tests.benchmarks.bench_terabyte import TimedEngine
from tests.benchmarks.timing import machine

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


def run(path: str) -> None:
    records = [(row["question"], row["answer"]) for row in map(json.loads, Path(path).read_text().splitlines())]
    print(machine("numba", "pyarrow"))
    print(f"{len(records):,} records")
    print(f"{'detector':<44}{'recall':>8}{'false alarms':>14}{'precision':>11}{'us a record':>13}")
    for detector in detectors():
        chosen = random.Random(1)
        planted = [detector.plant(records, at, chosen) for at in range(len(records))]
        detector.found(records[:100])
        began = time.process_time()
        alarms = sum(detector.found(records)) / len(records)
        cost = (time.process_time() - began) / len(records) * 1e6
        recall = sum(detector.found(planted)) / len(planted)
        both = _DEFECTS * recall + (1 - _DEFECTS) * alarms
        precision = f"{_DEFECTS * recall / both:.3f}" if both else "-"
        print(f"{detector.name:<44}{recall:>8.3f}{alarms:>14.4f}{precision:>11}{cost:>13.1f}")
    _whole_set(records)
    _cleaning(records)


def rule(reason: str, **settings: object) -> Callable[[Sequence[Pair]], list[bool]]:
    """Whether a rule of `validate` removes each record. settings: of that rule; lengths are not checked."""
    validator = load_validator(
        Store(), Validate.model_validate({"question_chars": None, "answer_chars": None} | settings)
    )

    def found(records: Sequence[Pair]) -> list[bool]:
        failed = validator([(pair("", question, "", answer), {}) for question, answer in records])
        return [one is not None and one.reason == reason for one in failed]

    return found


def detectors() -> list[Detector]:
    """All detectors of one record."""
    return [
        Detector("truncated_answers: open", _cut, rule("truncated_answer")),
        Detector("truncated_answers: sentence", _cut, rule("truncated_answer", truncated_answers="sentence")),
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


def planted(records: Sequence[Pair], chosen: random.Random) -> list[tuple[str, str, Pair]]:
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
    return made


def _whole_set(records: Sequence[Pair]) -> None:
    made = planted(records, random.Random(1))
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
                "duplicates": {"questions": "list", "answers": "list"},
                "output": f"{folder}/out",
            }
        )
        root, settings, listing = listed_inputs(config)

        def run(stage: Stage, folder: str = "") -> dict[str, Artifact]:
            return TimedEngine(paths.join(root, folder) if folder else root, Session(), Silent()).run(stage)

        artifacts = run_stages(config, settings, freeze_listing(listing), {}, run)
        listed, removed = (artifacts[name].table(["id", "reason"]).to_pylist() for name in (LISTED, REMOVED))
    print(
        f"\nwhole set of {len(made):,}; {len(removed):,} records are removed before, as whole duplicates or by a rule"
    )
    gone = {row["id"] for row in removed}
    print(f"{'reason':<20}{'planted':>9}{'recall':>9}{'precision':>11}")
    found = {(row["id"], row["reason"]) for row in listed}
    counts = Counter(reason for _, reason in found)
    for reason, names in {
        "contradictory": ("contradictory", "same_question"),  # a repeated question with another answer is both
        "same_question": ("contradictory", "same_question"),
        "near_question": ("near_question",),
        "same_answer": ("same_answer", "contradictory"),  # the other answer is that of another question
        "outlier": ("outlier",),
    }.items():
        ids = {id for id, name in wanted.items() if name in names and id not in gone}
        # The sound record of a contradiction is listed too.
        sound = {f"r{id.lstrip('abcdefghijklmnopqrstuvwxyz')}" for id in ids} if reason == "contradictory" else set()
        right = sum((id, reason) in found for id in ids)
        also = sum((id, reason) in found for id in sound)
        print(f"{reason:<20}{len(ids):>9,}{right / len(ids):>9.3f}{(right + also) / max(counts[reason], 1):>11.3f}")


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
    run(sys.argv[1])
