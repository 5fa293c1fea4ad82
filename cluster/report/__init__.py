"""Reports of runs: typed sections over facts, and one renderer that makes an HTML page of them.

    sections    the parts of a report: tables, tiles, folds, notes, excerpts; sections from facts alone
    charts      bars, histograms and line charts as inline SVG
    markdown    texts of records in Markdown; Markdown cards with escaped values
    page        the page in one file: head, style, content policy
    templates/  the Jinja2 templates of all of these

A kind of run lists its sections; the renderer escapes every value that is no part.
"""
