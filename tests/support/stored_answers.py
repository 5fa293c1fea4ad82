"""All tries in an answer store."""

from raymill.cluster.asking.answers import SCHEMA, AnswerRange, Answers, Try

ALL = AnswerRange("", "")


def tries_in(answers: Answers, keys: AnswerRange = ALL) -> dict[str, list[Try]]:
    """The tries of a range by key, in the order of their times. Of a try that is in several files, its end."""
    stored = [Try(**row) for table in answers._tables(keys, SCHEMA.names) for row in table.to_pylist()]
    found: dict[str, Try] = {}
    for one in [*stored, *answers._open(keys)]:
        if one.key in keys and (one.id not in found or found[one.id].outcome == "in_flight"):
            found[one.id] = one
    by_key: dict[str, list[Try]] = {}
    for one in sorted(found.values(), key=lambda one: (one.at, one.id)):
        by_key.setdefault(one.key, []).append(one)
    return by_key
