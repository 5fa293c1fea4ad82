"""Forms of training examples in data sets, for `prepare` and for training.

forms.py        the forms that are known by the usual names of their columns
content.py      texts, chats and preferences, and their columns in each shape
splits.py       names of splits, and the places between them
messages.py     messages of a conversation
tool_calls.py   tool calls and tools
"""
