"""The variants of a record: which operation makes each, what they depend on, and which may not stay."""

from typing import Any

import pytest
from pydantic import ValidationError

from raymill.cluster.examples.content import Chat, Content, Message, Preference, pair, sides_of, to_shape
from raymill.pipelines.prepare.augment.settings import Augment
from raymill.pipelines.prepare.augment.variants import Variant, Variants
from raymill.pipelines.prepare.stages.duplicates import question_hash
from tests.support.contents import preference

ASKED = "How can I cancel the order 4711 of my colour printer?"
ALL = {"typos": {}, "ocr": {}, "case": {}, "punctuation": {}, "drop": {}, "swap": {}, "spelling": {}, "entities": {}}


def of(content: Content, count: int = 3, id: str = "t7", known: tuple[str, ...] = (), **settings: Any) -> list[Variant]:
    hashes = {question_hash(sides_of(one)) for one in known}
    augment = Augment.model_validate({"operations": {"typos": {}}} | settings)
    return list(Variants(augment, hashes.__contains__).of(id, content, count))


def texts(found: list[Variant]) -> list[str]:
    return [one.content for one in found if isinstance(one.content, str)]


def test_a_variant_depends_on_seed_record_operation_and_number_alone():
    found = of(ASKED, 8, operations=ALL)
    assert found == of(ASKED, 8, operations=ALL) and found[:3] == of(ASKED, 3, operations=ALL)
    assert len({one.operation for one in found}) == 8 and all(one.reason is None for one in found)
    assert texts(found) != texts(of(ASKED, 8, operations=ALL, id="t8"))
    assert texts(found) != texts(of(ASKED, 8, operations=ALL, seed=2))
    few = {one.operation: one.content for one in of(ASKED, 1, operations={"typos": {}})}
    alone = of(ASKED, 1, operations={"typos": {}, "spelling": {"words": 0.5}})
    assert few.get(alone[0].operation, alone[0].content) == alone[0].content, "other operations change nothing in it"


def test_questions_are_changed_and_answers_stay_unless_asked():
    chat = pair("Be brief.", ASKED, "", "Open the order, and choose Cancel.")
    for wanted, changes in (("question", (1,)), ("answer", (2,)), ("both", (1, 2))):
        (one,) = of(chat, 1, texts=wanted)
        assert isinstance(one.content, Chat)
        before, after = [[m.content for m in c.messages] for c in (chat, one.content)]
        assert [at for at in range(3) if before[at] != after[at]] == list(changes)
    several = Chat((*chat.messages, Message("user", "And then what?"), Message("assistant", "Nothing.")))
    (one,) = of(several, 1)
    assert isinstance(one.content, Chat)
    changed = [a.role for a, b in zip(several.messages, one.content.messages, strict=True) if a != b]
    assert changed == ["user", "user"]
    (one,) = of(preference("", ASKED, "Do this.", "Do that."), 1)
    assert isinstance(one.content, Preference) and one.content.chosen == (Message("assistant", "Do this."),)
    assert one.content.asked != (Message("user", ASKED),)


def test_an_instruction_keeps_its_input_apart():
    (one,) = of(pair("", "Translate the sentence into French", "The quick brown fox jumps.", "Le renard."), 1)
    found = to_shape(one.content, "instruction")
    assert found["input"] and found["instruction"] != "Translate the sentence into French"
    assert "fox" not in found["instruction"] and found["output"] == "Le renard."


def test_an_operation_that_changes_nothing_leaves_its_turn_to_the_next():
    found = of("lost my card", 4, operations={"spelling": {}, "typos": {}})
    assert {one.operation for one in found} == {"typos"} and not any(one.reason for one in found)
    assert [one.reason for one in of("lost my card", 2, operations={"spelling": {}})] == ["unchanged"] * 2


def test_a_variant_that_is_too_near_or_too_far_may_not_stay():
    (far,) = of(ASKED, 1, operations={"typos": {"words": 1}}, min_similarity=0.9)
    assert far.reason == "too_far" and far.similarity < 0.9 and far.limit == "0.9"
    (near,) = of(ASKED, 1, operations={"case": {}}, max_similarity=0.99)
    assert near.reason == "too_near" and near.similarity == 1 and near.limit == "0.99"
    (values,) = of("Order 4711 on 2026-11-02", 1, operations={"entities": {}}, min_similarity=0.9)
    assert values.reason is None, "its values are to differ"


def test_a_variant_that_is_another_record_or_variant_may_not_stay():
    (one,) = of("cannot pay", 1, operations={"case": {"forms": ["upper"]}})
    assert one.content == "CANNOT PAY" and one.reason is None, "case makes no other question"
    again = of("cannot pay", 2, operations={"case": {"forms": ["upper"]}})
    assert [one.reason for one in again] == [None, "known_text"]
    others = ("pay cannot",)
    assert [one.reason for one in of("cannot pay", 1, known=others, operations={"swap": {}})] == ["known_text"]


def test_what_must_stay_is_checked_after():
    found = of("my pin code is lost", 1, operations={"swap": {"words": 1}}, keep_patterns=[r"my \w+ code", r"is lost$"])
    assert [one.reason for one in found] == ["unchanged"]
    (one,) = of("code: A1. Why? why?", 1, operations={"case": {"forms": ["upper"]}}, keep_patterns=[r"(?<=A1)\. Why"])
    assert one.reason is None and one.content == "CODE: A1. Why? WHY?"
    # The word before decides what must stay, and it may change.
    (lost,) = of(
        "call the number abc now", 1, operations={"case": {"forms": ["upper"]}}, keep_patterns=["(?<=number )abc"]
    )
    assert lost.reason == "lost_text"


def test_values_of_calls_of_tools_are_not_replaced():
    called = Chat((Message("user", "Order 4711?"), Message("assistant", "Yes.")), tools='[{"name": "f"}]')
    assert [one.reason for one in of(called, 1, operations={"entities": {}})] == ["dependent_answer"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"operations": {}}, "none named; wanted some of typos"),
        ({"by": ["queue"]}, "by and to go together"),
        ({"to": 5}, "by and to go together"),
        ({"by": ["a", "b"], "to": {"x": 1}}, "values have numbers with one field"),
        ({"max_similarity": 0.3}, "not above min_similarity"),
        ({"keep_patterns": ["("]}, "is no regular expression"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, problem):
    with pytest.raises(ValidationError, match=problem):
        Augment.model_validate({"operations": {"typos": {}}} | settings)
