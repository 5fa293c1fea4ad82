"""What a report is drawn with: a page that is one file, tables, folds, numbers, bars, line charts.

    markup      elements that cannot forget to escape
    formats     numbers as people read them
    layout      sections, tables, folds
    axes, bars, lines    inline SVG, without any library
    document    the page around it, its style and its policy

Knows no trade: `pipelines.curate.report` and `training.report` say what stands in a report.
"""
