"""HTML reports: a page in one file, with tables, folds, numbers and charts.

    markup      HTML elements that escape their text; sections, tables, folds
    charts      bars and line charts as inline SVG
    document    the page: head, style, content policy

`pipelines.curate.report` and `training.report` decide what a report contains.
"""
