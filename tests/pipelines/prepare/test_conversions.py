"""Records in another shape than their source: chosen answers of preferences, and chats as texts by a template."""

import json
import shutil
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.content import (
    ROLES,
    Chat,
    Message,
    Preference,
    Shape,
    ToolCall,
    Unusable,
    from_shape,
    pair,
    to_shape,
)
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.stage import Scratch
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.conversion import (
    DEFAULT_TEMPLATES,
    ChatTemplate,
    Collected,
    Conversion,
    Template,
    TooMuchRepeated,
)
from raymill.pipelines.prepare.stages import collect
from raymill.pipelines.prepare.stages.collect import RECORDS
from tests.support.contents import chats, preference, preferences
from tests.support.guides import GUIDES
from tests.support.inline import prepare_inline
from tests.support.tickets import answer, question

ANYTHING = {"question_chars": None, "answer_chars": None, "truncated_answers": "keep"}
PREFERENCES = [
    {"key": f"p{n}", "system": "Be brief.", "prompt": question(n), "chosen": answer(n), "rejected": answer(n + 50)}
    for n in range(3)
]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A function that prepares rows of JSON Lines: the records by id, and the problems of quarantine."""

    def run(rows: list[dict], records: dict, **source) -> tuple[dict[str, dict], list[str]]:
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {
            "inputs": [{"path": str(tmp_path / "a.jsonl"), "id": "key"} | source], "records": records,
            "validate": ANYTHING, "output": str(tmp_path / "out"), "execution": {"max_bad_documents": 1},
        }  # fmt: skip
        done = prepare_inline(settings, monkeypatch)
        found = {row["id"]: row for split in SPLITS for row in done.split(split).table().to_pylist()}
        return found, Artifact.load(Store(), f"{done.uri}/quarantine").table()["problem"].to_pylist()

    return run


@given(preferences)
def test_the_chosen_answer_is_the_same_in_all_shapes_with_one_answer(given_preference):
    chat, _ = given_preference.chats
    for shape in ("pairs", "instruction", "messages"):
        back = from_shape(to_shape(chat, shape), shape)
        assert back == chat, "only the rejected answer is gone"


@pytest.mark.parametrize("shape", ["pairs", "messages"])
def test_of_a_preference_the_chosen_answer_is_taken_where_the_config_says_so(prepared, shape):
    assert prepared(PREFERENCES, {"shape": shape}) == ({}, ["a_preference"] * 3)


def test_the_record_of_a_chosen_answer_names_the_preference(prepared):
    found, problems = prepared(PREFERENCES, {"shape": "pairs", "preferences": "chosen"})
    assert set(found) == {"p0", "p1", "p2"} and not problems
    assert [found["p1"][name] for name in ("system", "prompt", "completion")] == ["Be brief.", question(1), answer(1)]
    assert found["p1"]["provenance"] == {"parents": ["p1"], "operation": "chosen"}


def test_conversations_without_a_prompt_are_recognised_and_others_are_in_quarantine(prepared):
    def spoken(*texts: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]

    rows = [
        {"key": "p0", "chosen": spoken(question(0), answer(0)), "rejected": spoken(question(0), answer(9))},
        {"key": "p1", "chosen": spoken(question(1), answer(1)), "rejected": spoken(question(2), answer(9))},
        {"key": "p2", "chosen": answer(2), "rejected": answer(9)},
    ]
    found, problems = prepared(rows, {"shape": "preference"})
    assert sorted(problems) == ["different_questions", "no_prompt"] and list(found) == ["p0"]
    columns = {name: found["p0"][name] for name in ("system", "prompt", "chosen", "rejected")}
    assert columns == {"system": "", "prompt": question(0), "chosen": answer(0), "rejected": answer(9)}


CHATS = [
    {"key": "c1", "messages": [{"role": "system", "content": "Be {brief}."}, {"role": "user", "content": "a?"},
                               {"role": "assistant", "content": "b."}, {"role": "user", "content": "c?"},
                               {"role": "assistant", "content": "d."}]},
    {"key": "c2", "messages": [{"role": "user", "content": "e?"}, {"role": "assistant", "content": "f."}]},
]  # fmt: skip


def test_a_chat_is_a_text_by_a_template_alone(prepared):
    assert prepared(CHATS, {"shape": "text"}) == ({}, ["a_chat"] * 2)


@pytest.mark.parametrize(
    ("template", "first", "second"),
    [
        ({}, "Be {brief}.\n\nQuestion: a?\n\nAnswer: b.\n\nQuestion: c?\n\nAnswer: d.", "Question: e?\n\nAnswer: f."),
        ({"system": "", "user": "{{{content}}}", "assistant": "-> {content}", "separator": "\n"},
         "{a?}\n-> b.\n{c?}\n-> d.", "{e?}\n-> f."),
    ],
)  # fmt: skip
def test_the_template_of_chats_makes_this_text(prepared, template, first, second):
    found, problems = prepared(CHATS, {"shape": "text", "chats_as_text": template})
    assert [found[id]["text"] for id in ("c1", "c2")] == [first, second] and not problems
    assert found["c1"]["provenance"] == {"parents": ["c1"], "operation": "template"}


def test_a_preference_is_a_text_by_both(prepared):
    found, _ = prepared(PREFERENCES, {"shape": "text", "chats_as_text": {}, "preferences": "chosen"})
    assert found["p0"]["text"] == f"Be brief.\n\nQuestion: {question(0)}\n\nAnswer: {answer(0)}"
    assert found["p0"]["provenance"] == {"parents": ["p0"], "operation": "chosen, template"}


def test_a_row_of_a_table_is_a_text_by_both_templates(prepared):
    template = {"prompt": "What does a {part} cost?", "completion": "{price} euros."}
    table = {"types": {"part": "text", "price": "integer"}, "template": template}
    rows = [{"part": "screw", "price": "3"}, {"part": "nut", "price": "4"}]
    found, _ = prepared(rows, {"shape": "text", "chats_as_text": {}}, table=table, id="part")
    assert found["nut"]["text"] == "Question: What does a nut cost?\n\nAnswer: 4 euros."
    assert found["nut"]["provenance"] == {"parents": ["nut"], "operation": "table, template"}


@given(chats.filter(lambda chat: not any("\0" in one.content for one in chat.messages)))
def test_a_text_has_every_message_once_and_in_order(chat):
    forms = {"system": "s{content}", "user": "u{content}", "assistant": "a{content}"}
    text = ChatTemplate(**forms, separator="\0").filled((one.role, one.content) for one in chat.messages)
    roles = {"s": "system", "u": "user", "a": "assistant"}
    assert Chat(tuple(Message(roles[one[0]], one[1:]) for one in text.split("\0"))).messages == chat.messages


@given(st.text(), st.text())
def test_braces_of_a_message_are_text(question, answer):
    made = ChatTemplate(separator="|").filled([("user", question), ("assistant", answer)])
    assert made == f"Question: {question}|Answer: {answer}"


FORMS = {
    "text": "Press the button.",
    "pairs": pair("Be brief.", "Why?", "", "So."),
    "instruction": pair("Be brief.", "Translate.", "Haus", "House."),
    "messages, one question": Chat((Message("user", "Why?"), Message("assistant", "So."))),
    "messages, several": Chat(tuple(Message(ROLES[1 + at % 2], text) for at, text in enumerate(("a", "b", "c", "d")))),
    "messages with tools": Chat((Message("user", "Why?"), Message("assistant", "", (ToolCall("search", "{}"),)))),
    "preference": preference("Be brief.", "Why?", "So.", "No."),
    "preference, several": preference("", "Why?", "So.", "No.", (Message("user", "a"), Message("assistant", "b"))),
}  # fmt: skip


def converted(content, shape: str, **settings) -> str:
    """What becomes of a content in a shape, in the words of the guide."""
    convert = Conversion(shape, DEFAULT_TEMPLATES["qa"], **{"preferences": "refuse", "chats_as_text": None} | settings,
                         section_chars=None)  # fmt: skip
    try:
        ((record, columns),) = convert(Collected(0, "r0", content, {"source": "one"}), content)
    except Unusable as error:
        return f"refused: `{error.reason}`"
    if record.operations:
        return record.operations[0]
    back = from_shape(columns, shape)
    if back == content:
        return "lossless"
    assert (back.messages, back.input, bool(content.input)) == (content.messages, "", True)
    return "input joins prompt"


def test_the_guide_says_what_becomes_of_every_form_in_every_shape():
    shapes = get_args(Shape)
    rows = [[form, *(converted(content, shape) for shape in shapes)] for form, content in FORMS.items()]
    lines = [
        "| from \\ to | " + " | ".join(shapes) + " |",
        "|" + "---|" * (1 + len(shapes)),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    assert "\n".join(lines) in GUIDES["pipelines/prepare/REFERENCE.md"], "\n".join(lines)


def test_the_settings_of_conversions_change_these_entries():
    for form, content in FORMS.items():
        chat, preference = isinstance(content, Chat), isinstance(content, Preference)
        as_text = converted(content, "text", chats_as_text=ChatTemplate())
        of_chat = "template" if chat and content.is_plain else "refused: `other_keys`"
        assert as_text == (of_chat if chat else converted(content, "text")), form
        for shape in ("pairs", "instruction", "messages"):
            chosen = converted(content, shape, preferences="chosen")
            becomes = (
                "chosen"
                if shape == "messages" or not preference or len(content.asked) <= 2
                else "refused: `several_turns`"
            )
            assert chosen == (becomes if preference else converted(content, shape)), (form, shape)


SECTIONS = "".join(f"# Lamp {n}\n\n{question(n)} {answer(n)} The lamp has number {n}.\n\n" for n in range(40))


def test_a_text_whose_sections_repeat_over_64_mib_is_in_quarantine(prepared):
    rows = [
        {"key": "short", "text": SECTIONS, "note": "n" * 1000},
        {"key": "note", "text": SECTIONS, "note": "n" * 2_000_000},
        {"key": "k" * 1_000_000, "text": SECTIONS, "note": "n"},
        {"key": "whole", "text": "The lamp is green.", "note": "n" * 2_000_000},
    ]
    found, problems = prepared(rows, {"shape": "text", "section_chars": 200}, columns={"text": "text", "note": "note"})
    assert set(found) == {"whole", *(f"short#section-{n}" for n in range(1, 41))}
    assert problems == ["too_large", "too_large"]


@pytest.mark.parametrize("names", ["{note}", "{note} {other}"])
def test_metadata_that_the_template_names_counts_again(names):
    template = Template(prompt=f"{names}: {{title}}")
    conversion = Conversion("messages", template, "refuse", None, 200)
    row = Collected(0, "a", "", {"note": "ä" * 500_000, "other": "n"})
    with pytest.raises(TooMuchRepeated):
        conversion(row, SECTIONS)  # 40 times 2 MB, half of it in the column
    assert len(conversion(row, SECTIONS.partition("# Lamp 20")[0])) == 20


def test_sections_with_much_metadata_are_written_a_few_at_a_time(prepared, monkeypatch, tmp_path):
    def texts() -> dict[str, str]:
        rows = [{"key": f"m{n}", "text": SECTIONS.replace("lamp", f"lamp {n}"), "note": str(n) * 500} for n in range(3)]
        columns = {"text": "text", "note": "note"}
        found, problems = prepared(rows, {"shape": "text", "section_chars": 200}, columns=columns)
        assert not problems
        return {id: row["text"] for id, row in found.items()}

    wanted = texts()
    shutil.rmtree(tmp_path / "out")
    written, write = [], Scratch.write

    def count(self, output, table, unit=None):
        written.extend([table.num_rows] * (output == RECORDS))
        write(self, output, table, unit)

    monkeypatch.setattr(Scratch, "write", count)
    monkeypatch.setattr(collect, "MOST_REPEATED", 40 * 500)
    assert texts() == wanted and len(wanted) == 120
    assert written == [40, 40, 40]


def test_each_section_has_its_own_language(prepared):
    german = "Die Lampe ist rot, solange der Router startet, und blinkt, wenn er ein Update lädt. " * 4
    english = "The lamp is green while the router is ready, and it blinks while it loads an update. " * 4
    rows = [{"key": "a", "text": f"# English\n\n{english}\n\n# Deutsch\n\n{german}\n"}]
    found, _ = prepared(rows, {"shape": "text", "section_chars": 400})
    assert [one["metadata"]["language"] for _, one in sorted(found.items())] == ["en", "de"]
