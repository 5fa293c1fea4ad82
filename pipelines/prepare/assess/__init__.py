"""Assessment of a prepared data set: metrics, a score of them, and gates.

settings.py        the settings `assess` and `gates` of a prepare config
job.py             the stages in order, and assessment.json
facts.py           the stage that measures every record of the splits
embed.py           the stages that make vectors of texts and learn from them
vectors.py         their work: vectors, groups of vectors
labels.py          labels that are predicted from vectors, and judged
sentence_model.py  vectors of a sentence-transformers model
summary.py         the stage that puts the facts together to findings
findings.py        what it counts
metrics.py         the measures, as pure functions
score.py           findings to metrics, score and gates
fixes.py           what would fix a failed gate
"""
