"""Forms of training examples in data sets, for `prepare` and for training.

content.py      texts, chats and preferences, their columns in each shape, and the usual names of these columns
messages.py     messages of a conversation, tool calls and tools
splits.py       names of splits, and the places between them
"""
