"""People label records: which ones, how much the annotators agree, and one label of each from the votes of several."""
