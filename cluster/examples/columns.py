"""The usual names of columns with the content of records, and what to do about files that have none of them.

`prepare` and `train` guess columns by these; columns that the settings name are checked by cluster/readers/columns.py.
"""

from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches

from raymill.cluster.readers.columns import column_of, no_column

# Role -> COLUMN or COLUMN.FIELD: those that it needs, and those that it may have.
Form = tuple[dict[str, str], dict[str, str]]

# As TRL names whether an answer is desirable, in data for KTO. Other values of this column are labels of another kind.
_DESIRABLE = {"desirable": "label"}
_CHAT = {"tools": "tools", "system": "system"} | _DESIRABLE
_OTHERS = {"tools": "functions", "desirable": "kto_tag"}  # of OpenAI's older interface, of LLaMA-Factory
_ANSWERS = {"chosen": "chosen", "rejected": "rejected"}
_RANKED = {"chosen": "completions", "rejected": "completions"}  # the best and the worst of them
_COMPARED = {"tools": "tools", "system": "system", "margin": "margin"}
_TURNS = {"tools": "tools", "system": "system", "history": "history"} | _DESIRABLE
# `messages` as chat templates and OpenAI have them, `conversations` of ShareGPT, pairs and preferences of TRL, Alpaca's
# instructions. `text` is the last: in data sets that have both (Alpaca's), it is the conversation as one text.
FORMS: tuple[Form, ...] = (
    ({"messages": "messages"}, _CHAT),
    ({"messages": "conversations"}, _CHAT),
    ({"prompt": "prompt"} | _ANSWERS, _COMPARED),
    # Of LLaMA-Factory, with Alpaca's and ShareGPT's questions.
    ({"prompt": "instruction"} | _ANSWERS, {"input": "input"} | _COMPARED),
    ({"prompt": "conversations"} | _ANSWERS, _COMPARED),
    ({"prompt": "question"} | _ANSWERS, _COMPARED),
    (_ANSWERS, _COMPARED),
    # Ranked answers: `context` of NeMo RL, `instruction` of UltraFeedback.
    *(({"prompt": name} | _RANKED, _COMPARED) for name in ("prompt", "context", "instruction", "question")),
    ({"prompt": "prompt", "completion": "completion"}, _TURNS),
    ({"prompt": "prompt", "completion": "reward_model.ground_truth"}, {}),  # prompts with references, of verl
    ({"prompt": "instruction", "completion": "output"}, {"input": "input"} | _TURNS),
    ({"prompt": "question", "completion": "answer"}, {}),
    ({"text": "text"}, {}),
)
# Pairs of other names, which an error proposes.
_PAIRS = (
    *(("question", "answer"), ("query", "response"), ("input", "output"), ("prompt", "response")),
    *(("instruction", "response"), ("question", "response"), ("problem", "solution"), ("prompt", "answer")),
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
        if needed.keys() <= {*roles} and {column_of(one, names) for one in needed.values()} <= {*names}:
            known = {role: name for role, name in _OTHERS.items() if role in optional}
            others = (known | {role: name for role, name in optional.items() if name in names}).items()
            return needed | {role: name for role, name in others if role in roles and name in names}
    return None


def no_content(uri: str, setting: str, name: str, names: Sequence[str], used: Collection[str | None] = ()) -> str:
    """The message about a file without a column of the content, with what its other columns seem to be.

    used: columns that other settings name.
    """
    advice = otherwise = ""
    pair = next((pair for pair in _PAIRS if {*pair} <= {*names}), None)
    if {"chosen", "rejected"} <= {*names}:
        question = "prompt" if "prompt" in names else "COLUMN"
        advice = f"Two answers are `columns: {{prompt: {question}, chosen: chosen, rejected: rejected}}`."
    elif name == "text" and "input_ids" in names:
        advice = "Tokens are not read: give the texts that they were made of."
    elif name == "text" and {"preferred_output", "non_preferred_output"} <= {*names}:
        answers = "chosen: preferred_output, rejected: non_preferred_output"
        advice = f"Two answers are `columns: {{prompt: input.messages, {answers}}}`."
    elif name == "text" and pair:
        advice = f"A question and its answer are `columns: {{prompt: {pair[0]}, completion: {pair[1]}}}`."
    elif uri.lower().endswith(".json"):
        otherwise = f"Set `{setting}` to one of them. If the documents are a list in one of them, write that alone: "
        otherwise += f"`jq .{names[-1]} FILE > NEW.json`."
    elif name == "text" and not get_close_matches(name, names[:1000], 1, 0.8):  # mostly guessed
        advice = "Name the columns of the content, as in `columns: {prompt: COLUMN, completion: COLUMN}`."
    return f"{uri}: {no_column(setting, name, names, advice, otherwise=otherwise, used=used)}"
