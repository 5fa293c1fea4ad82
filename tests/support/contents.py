"""Contents of records of every form, for properties."""

from dataclasses import replace

from hypothesis import strategies as st

from raymill.cluster.examples import content as contents
from raymill.cluster.examples.content import Chat, Message, Preference

some_text = st.text(min_size=1, max_size=12).filter(lambda text: not text.isspace())
maybe = st.one_of(st.just(""), some_text)
chats = st.builds(
    lambda system, turns: Chat(
        tuple(
            ([Message("system", system)] if system else [])
            + [Message(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
        )
    ),
    maybe,
    st.lists(st.tuples(some_text, some_text), min_size=1, max_size=3),
)


def preference(
    system: str,
    prompt: str,
    chosen: str,
    rejected: str,
    earlier: tuple[Message, ...] = (),
    margin: float | None = None,
) -> Preference:
    """Two answers that are texts. earlier: turns before the question."""
    found = contents.preference(system, prompt, chosen, rejected, margin)
    *first, question = found.asked
    return replace(found, asked=(*first, *earlier, question))


preferences = st.builds(preference, maybe, some_text, some_text, some_text)
# Also with earlier turns, and a margin.
preferences_of_turns = st.builds(
    lambda preference, turns, margin: replace(
        preference,
        asked=(
            *preference.asked[:-1],
            *(Message(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)),
            preference.asked[-1],
        ),
        margin=margin,
    ),
    preferences,
    st.lists(st.tuples(some_text, some_text), max_size=2),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
