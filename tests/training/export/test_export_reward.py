"""A reward model is exported as a sequence classifier that transformers and peft load, with equal scores."""

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification

from raymill.cluster.store.store import Store
from raymill.training.evaluation.job import initial_objective, load_trained
from raymill.training.export.job import export_and_evaluate
from raymill.training.rollouts.reward_model import RewardModelScores
from raymill.training.tokenizer.load_tokenizer import load_tokenizer
from tests.support.answer_jobs import answer_job, documents_of_steps, pack_answers
from tests.support.export_runs import byte_tokenizer
from tests.support.fit_jobs import MODEL as TINY
from tests.support.fit_jobs import fit_alone

torch.set_num_threads(1)
MODEL = TINY | {"vocab_size": 264}
TIED = {"config": MODEL | {"tie_word_embeddings": True}, "tokenizer": "train"}
CASES = {
    "full": ({}, "full"),
    "full, tied": ({"model": TIED}, "full"),
    "adapter": ({"method": "lora", "lora": {"rank": 2, "alpha": 4}}, "adapter"),
    "merged": ({"method": "lora", "lora": {"rank": 2, "alpha": 4}}, "merged"),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("packed"))
    pack_answers(root, "reward")
    byte_tokenizer().save_pretrained(f"{root}/packed-reward/tokenizer")
    return root


@pytest.mark.parametrize("case", CASES)
def test_other_programs_give_the_same_rewards(packed, tmp_path, case):
    more, folder = CASES[case]
    more = {"model": {"config": MODEL, "tokenizer": "train"}} | more
    job = answer_job(packed, "reward", output=str(tmp_path / "run"), **more)
    outcome = fit_alone(job)
    export_and_evaluate(job, outcome)
    objective = initial_objective(job)
    load_trained(objective, job.folder, outcome)
    path = Path(job.folder.uri, "export", folder)
    if folder == "adapter":
        loaded = AutoPeftModelForSequenceClassification.from_pretrained(path, num_labels=1)
    else:
        loaded = AutoModelForSequenceClassification.from_pretrained(path)
    loaded = loaded.eval().float()
    store = Store()
    scores = RewardModelScores(store, str(path), load_tokenizer(store, str(path)), torch.device("cpu"), False)
    for one in documents_of_steps(job)[0]:
        ids = torch.tensor([one["ids"]])
        with torch.no_grad():
            hidden = objective.hidden(ids, torch.arange(ids.shape[1])[None], torch.tensor([0, ids.shape[1]]))
            expected = objective.score(hidden[0, -1]).item()
            assert loaded(input_ids=ids).logits.item() == pytest.approx(expected, abs=1e-5)
        assert scores.of_ids([one["ids"]]) == pytest.approx([expected], abs=1e-5), "as a reward of grpo"


@pytest.mark.parametrize("case", ["full", "adapter", "merged"])
def test_the_code_of_the_card_runs(packed, tmp_path, case, monkeypatch, capsys):
    more, folder = CASES[case]
    more = {"model": {"config": MODEL | {"max_position_embeddings": 200}, "tokenizer": "train"}} | more
    job = answer_job(packed, "reward", output=str(tmp_path / "run"), **more)
    export_and_evaluate(job, fit_alone(job))
    card = Path(job.folder.uri, "export", folder, "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and "- reward" in card
    assert "| Objective | reward: centring 0.0 |" in card
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(Path(job.folder.uri, "export", folder))
    exec(compile(code, "card", "exec"), {})
    assert isinstance(float(capsys.readouterr().out), float)
