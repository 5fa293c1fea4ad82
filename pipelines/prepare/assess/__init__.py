"""Assessment of a prepared data set: metrics, a score of them, and gates.

settings.py  the settings `assess` and `gates` of a prepare config
metrics.py   the measures of counts, texts and questions, as pure functions
facts.py     the stage that measures every record of the splits
forms.py     the form of answers: JSON or not, and how dates are written
summary.py   the stage that puts the facts together to findings
score.py     findings to metrics, score and gates, with what would mend a failed gate
mend.py      what would mend a failed gate
job.py       the stages in order, and assessment.json
data.py      data besides the output of `raymill prepare`
section.py   the assessment as a section of the report, and as lines to print
"""
