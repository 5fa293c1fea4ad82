"""Forms of training examples in data sets, for `prepare` and for training.

columns.py      the usual names of columns with content
content.py      texts, chats and preferences, and their columns in each shape
messages.py     messages of a conversation, tool calls and tools
splits.py       names of splits, and the places between them
"""
