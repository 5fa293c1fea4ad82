"""The forms of training examples that are known by the usual names of their columns."""

from collections.abc import Callable, Collection

Form = tuple[dict[str, str], dict[str, str]]  # role -> column: those that it needs, and those that it may have

# As TRL names whether an answer is desirable, in data for KTO. Other values of this column are labels of another kind.
_DESIRABLE = {"desirable": "label"}
_CHAT = {"tools": "tools", "system": "system"} | _DESIRABLE
_TURNS = {"system": "system", "history": "history"} | _DESIRABLE
# `messages` as chat templates and OpenAI have them, `conversations` of ShareGPT, pairs and preferences of TRL, Alpaca's
# instructions. `text` is the last: in data sets that have both (Alpaca's), it is the conversation as one text.
FORMS: tuple[Form, ...] = (
    ({"messages": "messages"}, _CHAT),
    ({"messages": "conversations"}, _CHAT),
    ({"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}, {"system": "system"}),
    ({"chosen": "chosen", "rejected": "rejected"}, {"system": "system"}),
    ({"prompt": "prompt", "completion": "completion"}, _TURNS),
    ({"prompt": "instruction", "completion": "output"}, {"input": "input"} | _TURNS),
    ({"prompt": "question", "completion": "answer"}, {}),
    ({"text": "text"}, {}),
)


def recognised(
    names: Collection[str], roles: Collection[str], later: Callable[[Form], bool] = lambda form: False
) -> dict[str, str] | None:
    """Role -> column of the first known form whose columns are all there; None if there is none.

    Args:
        names: of the columns. roles: those that the caller reads; forms that need others are passed over.
        later: whether a form comes after all others.
    """
    for needed, optional in sorted(FORMS, key=later):
        if needed.keys() <= {*roles} and {*needed.values()} <= {*names}:
            return needed | {role: name for role, name in optional.items() if role in roles and name in names}
    return None
