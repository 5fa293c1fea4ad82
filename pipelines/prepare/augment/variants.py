"""The variants of a record.

A variant depends on the seed, the record's id and content, the operation and the variant's number alone. Operations
take turns; which is the first depends on the seed and the id. One that makes no variant of the record, or none that may
stay, leaves its turn to the next.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from raymill.cluster.examples.content import Chat, Content, Preference, Unusable, sides_of, with_input
from raymill.cluster.examples.texts import texts_of, with_texts
from raymill.pipelines.prepare.augment import noise
from raymill.pipelines.prepare.augment.draws import Draws
from raymill.pipelines.prepare.augment.entities import Dependent, replaced
from raymill.pipelines.prepare.augment.pieces import Keep, similarity
from raymill.pipelines.prepare.augment.settings import Augment
from raymill.pipelines.prepare.stages.duplicates import question_hash

# Why a variant is not among the records.
REASONS = {
    "unchanged": "no operation of `augment` changes the record",
    "too_near": "a variant that is as similar to its record as `augment.max_similarity`, or more",
    "too_far": "a variant that is less similar to its record than `augment.min_similarity`",
    "lost_text": "a variant without something that must stay, by `augment.keep`, `keep_terms` or `keep_patterns`",
    "dependent_answer": "the answer may depend on a number that would be replaced, or a value cannot be replaced in "
    "all places",
    "known_text": "a variant with the question, or text, of another record or variant",
}
_ATTEMPTS = 3  # of an operation to make a variant
_Role = Literal["question", "answer", "other"]


class Variant(NamedTuple):
    """A variant of a record, or why there is none.

    Attributes:
        number: from 1.
        operation: that made it.
        content: of the variant; of one that may not stay too, if there is one.
        reason: a key of REASONS; None: the variant may stay.
        similarity: to the record; None without a variant.
        limit: the bound that it does not meet.
    """

    number: int
    operation: str
    content: Content | None
    reason: str | None = None
    similarity: float | None = None
    limit: str | None = None


@dataclass(frozen=True)
class Variants:
    """Makes variants of records.

    Attributes:
        is_known: whether a hash, as of `question_hash`, is of a record of the data set.
        synonyms: the operation of this name, with its thesaurus; None: it is off.
    """

    settings: Augment
    is_known: Callable[[int], bool]
    synonyms: Callable[[Sequence[Any], Draws], str] | None = None

    def of(self, id: str, content: Content, count: int) -> Iterator[Variant]:
        """The variants of a record with the numbers 1 to `count`."""
        names = self.settings.operations.names
        first = Draws(str(self.settings.seed), id).below(len(names))
        made = [content]
        for number in range(1, count + 1):
            turn = (first + number - 1) % len(names)
            found = list[Variant]()
            for name in (*names[turn:], *names[:turn]):
                found += self._attempts(id, content, name, number, made)
                if found[-1].reason is None:
                    break
            best = found[-1] if found[-1].reason is None else _first_made(found)
            if best.reason is None and best.content is not None:
                made.append(best.content)
            yield best

    def _attempts(
        self, id: str, content: Content, name: str, number: int, made: Sequence[Content]
    ) -> Iterator[Variant]:
        """The variants of an operation up to the first that may stay. made: the record and its variants before."""
        for attempt in range(_ATTEMPTS):
            draws = Draws(str(self.settings.seed), id, name, str(number), str(attempt))
            found = self._variant(content, name, number, made, draws)
            yield found
            if found.reason is None:
                return

    def _variant(self, content: Content, name: str, number: int, made: Sequence[Content], draws: Draws) -> Variant:
        settings = self.settings
        texts, roles = texts_of(content), _roles(content)
        try:
            changed = self._changed(name, texts, roles, content, draws)
            new = with_texts(content, changed)
        except Dependent:
            return Variant(number, name, None, "dependent_answer")
        except Unusable:  # nothing is left of a text
            return Variant(number, name, None, "unchanged")
        if changed == texts:
            return Variant(number, name, None, "unchanged")
        pairs = [(old, one) for old, one in zip(texts, changed, strict=True) if old != one]
        near = similarity("\n".join(old for old, _ in pairs), "\n".join(one for _, one in pairs))
        keep = self._keep if name != "entities" else self._without_numbers
        reason = limit = None
        if near < settings.min_similarity and name != "entities":  # whose values are to differ
            reason, limit = "too_far", f"{settings.min_similarity:g}"
        elif settings.max_similarity is not None and near >= settings.max_similarity:
            reason, limit = "too_near", f"{settings.max_similarity:g}"
        elif not all(_has_all(keep.found(one), keep.found(old)) for old, one in pairs):
            reason = "lost_text"
        elif new in made or self._repeats_another(content, new):
            reason = "known_text"
        return Variant(number, name, new, reason, near, limit)

    def _repeats_another(self, content: Content, new: Content) -> bool:
        """Whether a variant has the question of another record. content: of its own."""
        asked = question_hash(sides_of(new))
        return asked != question_hash(sides_of(content)) and self.is_known(asked)

    @cached_property
    def _keep(self) -> Keep:
        return self.settings.kept

    @cached_property
    def _without_numbers(self) -> Keep:
        return replace(self.settings.kept, kinds=tuple(one for one in self.settings.keep if one != "numbers"))

    def _changed(
        self, name: str, texts: Sequence[str], roles: Sequence[_Role], content: Content, draws: Draws
    ) -> list[str]:
        """The texts of a record after an operation.

        Raises:
            Dependent: it cannot be done in all places.
        """
        if name == "entities":
            options = self.settings.operations.entities
            assert options is not None
            if isinstance(content, Chat) and not content.is_plain:
                raise Dependent  # calls of tools have values, too
            answers = [role == "answer" for role in roles]
            return replaced(texts, answers, self._without_numbers, draws, **options.model_dump())
        wanted = {"question", "answer"} if self.settings.texts == "both" else {self.settings.texts}
        input = content.input if isinstance(content, Chat) else ""
        found = []
        for text, role in zip(texts, roles, strict=True):
            if role not in wanted:
                found.append(text)
            elif input and role == "question" and text.endswith(f"\n\n{input}"):
                before = self._of_text(name, text[: -len(input) - 2], draws)
                input = self._of_text(name, input, draws)
                found.append(with_input(before, input))
            else:
                found.append(self._of_text(name, text, draws))
        if isinstance(content, Chat):
            found[-1] = input  # see `texts_of`
        return found

    def _of_text(self, name: str, text: str, draws: Draws) -> str:
        """The text after an operation on its words."""
        pieces = self._keep.pieces(text)
        if name == "synonyms":
            assert self.synonyms is not None
            return self.synonyms(pieces, draws)
        options = getattr(self.settings.operations, name).model_dump()
        return getattr(noise, name)(pieces, draws, **options)


def _first_made(found: Sequence[Variant]) -> Variant:
    """Of variants that may not stay the first that was made, else the first that could not be for a reason."""
    made = [one for one in found if one.content is not None]
    return (made or [one for one in found if one.reason != "unchanged"] or [*found])[0]


def _has_all(values: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether the wanted values are among others, in their order."""
    left = iter(values)
    return all(one in left for one in wanted)


def _roles(content: Content) -> list[_Role]:
    """What each text of `texts_of` is."""
    if isinstance(content, str):
        return ["question"]
    if isinstance(content, Preference):
        return ["other", "question", "answer", "answer"]
    role: dict[str, _Role] = {"user": "question", "assistant": "answer"}
    found = list[_Role]()
    for one in content.messages:
        found += [] if one.role == "tool" else [role.get(one.role, "other")]
        found += ["answer"] * len(one.reasoning)
    return [*found, "other"]
