"""The variants of a record.

A variant depends on the seed, the record's id and content, the operation and the variant's number alone. Operations
take turns; the seed and the id decide which comes first. If an operation makes no valid variant of the record, the next
one is tried.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from raymill.cluster.examples.content import Chat, Content, Unusable, sides_of, with_input
from raymill.cluster.examples.texts import texts_of, with_texts
from raymill.pipelines.prepare.augment import noise
from raymill.pipelines.prepare.augment.draws import Draws
from raymill.pipelines.prepare.augment.entities import Dependent, replaced
from raymill.pipelines.prepare.augment.pieces import Keep, similarity
from raymill.pipelines.prepare.augment.settings import Augment
from raymill.pipelines.prepare.stages.duplicates import question_hash

# Reasons why a variant is left out.
REASONS = {
    "unchanged": "no operation of `augment` changes the record",
    "too_near": "the similarity of the variant to its record is `augment.max_similarity` or more",
    "too_far": "the similarity of the variant to its record is below `augment.min_similarity`",
    "lost_text": "a part that `augment.keep`, `keep_terms` or `keep_patterns` protects is gone",
    "dependent_answer": "the answer may depend on a number that would be replaced, or a value cannot be replaced in "
    "all places",
    "known_text": "another record or variant has the same question, or text",
}
_ATTEMPTS = 3  # attempts of an operation to make a variant
_Role = Literal["question", "answer", "other"]


class Variant(NamedTuple):
    """A variant of a record, or the reason why it is left out.

    Attributes:
        number: number of the variant, from 1.
        operation: operation that made it.
        content: content of the variant; None if none could be made.
        reason: a key of REASONS; None: the variant is valid.
        similarity: similarity to the record; None without content.
        limit: bound that the similarity does not meet.
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
        is_known: whether a hash, as `question_hash` makes it, belongs to a record of the data set.
        synonyms: the operation `synonyms` with its thesaurus; None: it is off.
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
        """The attempts of an operation, up to the first valid variant. made: the record and its earlier variants."""
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
        except Unusable:  # a text became empty
            return Variant(number, name, None, "unchanged")
        if changed == texts:
            return Variant(number, name, None, "unchanged")
        pairs = [(old, one) for old, one in zip(texts, changed, strict=True) if old != one]
        near = similarity("\n".join(old for old, _ in pairs), "\n".join(one for _, one in pairs))
        keep = self._keep if name != "entities" else self._without_numbers
        reason = limit = None
        if near < settings.min_similarity and name != "entities":  # its values differ on purpose
            reason, limit = "too_far", f"{settings.min_similarity:g}"
        elif settings.max_similarity is not None and near >= settings.max_similarity:
            reason, limit = "too_near", f"{settings.max_similarity:g}"
        elif not all(_has_all(keep.found(one), keep.found(old)) for old, one in pairs):
            reason = "lost_text"
        elif new in made or self._repeats_another(content, new):
            reason = "known_text"
        return Variant(number, name, new, reason, near, limit)

    def _repeats_another(self, content: Content, new: Content) -> bool:
        """Whether a variant has the question of another record. content: content of its own record."""
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
            Dependent: values cannot be replaced consistently.
        """
        if name == "entities":
            options = self.settings.operations.entities
            assert options is not None
            if isinstance(content, Chat) and not content.is_plain:
                raise Dependent  # arguments of tool calls are not among the texts
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
    """The first invalid variant that has content; without one, the first with a reason other than `unchanged`."""
    made = [one for one in found if one.content is not None]
    return (made or [one for one in found if one.reason != "unchanged"] or [*found])[0]


def _has_all(values: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether `wanted` is a subsequence of `values`."""
    left = iter(values)
    return all(one in left for one in wanted)


def _roles(content: Content) -> list[_Role]:
    """The role of each text of `texts_of`."""
    if isinstance(content, str):
        return ["question"]
    role: dict[str, _Role] = {"user": "question", "assistant": "answer"}
    messages = content.messages if isinstance(content, Chat) else (*content.asked, *content.chosen, *content.rejected)
    found = list[_Role]()
    for one in messages:
        found += [] if one.role == "tool" else [role.get(one.role, "other")]
        found += ["answer"] * len(one.reasoning)
    return [*found, "other"] if isinstance(content, Chat) else found
