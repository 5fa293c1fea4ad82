"""What one stage makes of a good text, no rule of another removes: every pair of a maker and a rule."""

import pytest

from raymill.cluster.examples.texts import texts_of, with_texts
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.clean import Clean, Cleaner
from raymill.pipelines.prepare.records.conversion import DEFAULT_TEMPLATES, Collected, Conversion
from raymill.pipelines.prepare.records.validate import Validate, load_validator

CODE = "```python\nfor lamp in lamps:\n    print(lamp, [1, 2, (3,\n        4)])\n```\n"
PROSE = (
    "The lamp is green while the router is ready (it takes a minute, at most), and red while it starts. Write to "
    '"ann@example.org" if it stays red, or if you see &lt;error&gt; on the <b>display</b>. '
)
MANUAL = (
    "".join(
        f"## Part {n} of the `router`\n\n{PROSE * n}\n\n{CODE * n}\n- one thing,\n- the other thing\n\n"
        f"| lamp | colour |\n|---|---|\n{'| a | red |' + chr(10)}{PROSE.replace('. ', ', ') * n}\n\n"
        for n in range(1, 6)
    )
    + "That is all of it.\n"
)
OFF = {
    "question_chars": None, "answer_chars": None, "refusals": (), "boilerplate": (), "copied_answer": False,
    "answer_in_question": None, "truncated_answers": "keep",
}  # fmt: skip
DEFAULTS = Validate()
RULES = {name: {name: getattr(DEFAULTS, name)} for name in OFF} | {
    "truncated_answers": {"truncated_answers": "sentence"},
    "answer_in_question": {"answer_in_question": 0.5},
}  # fmt: skip
CLEANINGS = {
    "html": {"html": True},
    "email": {"email": ("quotes", "signatures", "disclaimers")},
    "quotes": {"quotes": "straight"},
    "redact": {"redact": ("email",)},
    "pseudonyms": {"redact": ("email",), "pseudonyms": "per_record"},
    "terminology": {"terminology": {"router": "box"}},
    "normalize": {},
}
TASKS = [name for name in DEFAULT_TEMPLATES if DEFAULT_TEMPLATES[name].completion == "{text}"]


@pytest.mark.parametrize("most", [150, 333, 700, 2000])
@pytest.mark.parametrize("rule", RULES)
def test_parts_of_a_manual_meet_every_rule(rule, most):
    validator = load_validator(Store(), Validate.model_validate(OFF | RULES[rule]))
    for task in TASKS:
        conversion = Conversion("messages", DEFAULT_TEMPLATES[task], "refuse", None, most)
        parts = [one for one, _ in conversion(Collected(0, "manual", MANUAL, {}), MANUAL)]
        assert len(parts) > 3
        found = validator([(one.content, one.metadata) for one in parts], [one.goes_on for one in parts])
        assert not any(found), [one for one in found if one][:1]


@pytest.mark.parametrize(("cleaning", "rule"), [(a, b) for a in CLEANINGS for b in RULES])
def test_a_cleaned_answer_meets_every_rule_that_it_met(cleaning, rule):
    validator = load_validator(Store(), Validate.model_validate(OFF | RULES[rule]))
    cleaner = Cleaner(Clean.model_validate(CLEANINGS[cleaning]))
    conversion = Conversion("messages", DEFAULT_TEMPLATES["qa"], "refuse", None, None)
    answer = f"The router\n\n{PROSE}\n\nOn Monday Ann wrote:\n> Why?\n\n{CODE}\nThat is all of it.\n\nKind regards\nBob"
    ((record, _),) = conversion(Collected(0, "a", answer, {}), answer)
    assert validator([(record.content, {})]) == [None]
    ((texts), _) = cleaner([texts_of(record.content)])
    assert validator([(with_texts(record.content, texts[0]), {})]) == [None]
