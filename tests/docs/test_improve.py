"""The example of a data set that is made better: the corrections of annotators raise the score of a model."""

import re
import subprocess
import sys

import pytest

from docs.build import ROOT

# With random weights: the classifier learns from the mean of the words' vectors.
_MODEL = {
    "config": {
        "model_type": "llama",
        "hidden_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 600,
    },
    "tokenizer": "train",
}


@pytest.mark.slow
def test_a_model_that_learns_from_the_corrected_labels_is_better(tmp_path):
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'docs/examples/improve')!r})\nimport improve\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}improve.main({_MODEL!r})"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^changed +[4-9]\d$", done.stdout, re.MULTILINE), "records with another label"
    (low,) = re.findall(r"^accuracy .*\(([-+.\d]+) to [-+.\d]+\)$", done.stdout, re.MULTILINE)
    assert float(low) > 0
