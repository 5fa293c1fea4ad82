"""Contents of records of every form, for properties."""

from dataclasses import replace

from hypothesis import strategies as st

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
preferences = st.builds(Preference, maybe, some_text, some_text, some_text)
# Also with earlier turns, and a margin.
preferences_of_turns = st.builds(
    lambda preference, turns, margin: replace(
        preference,
        earlier=tuple(
            Message(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)
        ),
        margin=margin,
    ),
    preferences,
    st.lists(st.tuples(some_text, some_text), max_size=2),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
