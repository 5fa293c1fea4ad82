"""Tasks for other labelling tools, and the labels that come back: Label Studio, Argilla, Prodigy and tables.

export.py        a round as a file of one of the tools
importing.py     labels of such files into a round
tool_labels.py   a label as a file has it, and the values that all tools write
label_studio.py, argilla.py, prodigy.py, table.py    `write` and `read` of each
"""
