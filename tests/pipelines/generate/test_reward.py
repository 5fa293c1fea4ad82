"""Records that a reward model scores: best of several samples, and filters by the score."""

import json
import math
from collections import defaultdict

import numpy as np
import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame.kinds import kind_of
from raymill.pipelines.generate.choose import choices
from raymill.pipelines.generate.config import GenerateConfig, RewardSelection
from raymill.pipelines.generate.plan import plan_generation
from tests.support.generate_inline import generate_inline, rows
from tests.support.points_server import PointsServer, judge
from tests.support.reward_folders import reward_folder, scores_by_transformers


def test_choices_by_hand():
    """Two seeds with three records each, and one whose record has no score."""
    seeds, scores = list("aaabbbc"), np.array([1.0, 3.0, 3.0, -1.0, 0.5, 2.0, math.nan])

    def kept(**how) -> list[int]:
        found = choices(seeds, scores, RewardSelection(path="m", **how))
        return [at for at, reason in enumerate(found) if reason is None]

    assert kept() == [0, 1, 2, 3, 4, 5]
    assert kept(per_seed=1) == [1, 5], "the first of equal ones"
    assert kept(per_seed=2) == [1, 2, 4, 5]
    assert kept(min_score=0.5) == [0, 1, 2, 4, 5]
    assert kept(fraction=0.5) == [1, 2, 5]
    assert kept(fraction=0.4) == [1, 2, 5], "2.4 of six records are three"
    assert kept(per_seed=1, min_score=2.5) == [1]
    assert kept(per_seed=1, fraction=0.5) == [1]
    reasons = choices(seeds, scores, RewardSelection(path="m", per_seed=1, min_score=0.0))
    assert reasons == ["not_best", None, "not_best", "low_reward", "not_best", None, "not_scored"]


OWN = {"prompt": "{{ text }}", "record": {"prompt": "{{ text }}", "completion": "{{ text }}", "reward": "{{ text }}"}}


def messages_of(row) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def test_the_best_of_several_samples_is_kept_with_its_score(settings, server, monkeypatch, tmp_path):
    folder = reward_folder(tmp_path / "reward")
    settings |= {"samples": 3, "dedup": None, "answers": str(tmp_path / "answers")}
    every = generate_inline(settings | {"output": str(tmp_path / "every")}, monkeypatch)
    asked = server.stats()["requests"]
    best = generate_inline(settings | {"reward": {"path": folder, "per_seed": 1}}, monkeypatch)
    assert server.stats()["requests"] == asked, "scores ask nothing again"
    assert {*best.report} | {"embeddings"} == {*kind_of("generate").report}
    made = rows(every, "records")
    scores = dict(zip([one["id"] for one in made], scores_by_transformers(folder, map(messages_of, made)), strict=True))
    by_seed = defaultdict(list)
    for one in made:
        by_seed[one["provenance"]["parents"][0]].append(scores[one["id"]])
    assert len(made) > len(by_seed) == 12
    kept = {one["provenance"]["parents"][0]: one for one in rows(best, "records")}
    assert len(kept) == best.report["records"] == 12
    for seed, one in kept.items():
        assert one["reward"] == pytest.approx(scores[one["id"]], abs=1e-5)
        assert one["reward"] == pytest.approx(max(by_seed[seed]), abs=1e-5)
    gone = [one for one in rows(best, "removed") if one["reason"] == "not_best"]
    assert len(gone) == len(made) - 12 and {one["step"] for one in gone} == {"reward"}
    values = [*scores.values()]
    assert all(min(abs(float(one["value"]) - score) for score in values) < 1e-4 for one in gone)
    found = best.report["reward"]
    assert (found["scored"], found["kept"]) == (len(made), 12) and found["model"].startswith("model-")
    assert found["mean"] == pytest.approx(np.mean([*scores.values()]), abs=1e-5)
    assert found["mean_kept"] == pytest.approx(np.mean([max(one) for one in by_seed.values()]), abs=1e-5)
    assert f"mean reward {found['mean_kept']:.4g} of the 12 records chosen" in str(best)
    assert "Reward" in (tmp_path / "out/report.html").read_text()


def test_duplicates_are_removed_among_the_chosen_records(settings, monkeypatch, tmp_path):
    """The server repeats sentences. A record that is not chosen is no reason to remove another one."""
    how = {"path": reward_folder(tmp_path / "reward"), "fraction": 0.5}
    settings |= {"samples": 2, "dedup": {"threshold": 0.7}}
    found = generate_inline(settings | {"reward": how}, monkeypatch)
    removed = rows(found, "removed")
    ids = {one["id"] for one in rows(found, "records")}
    partners = [one["partner"] for one in removed if one["reason"].endswith("_duplicate")]
    assert partners and {*partners} <= ids
    low = [float(one["value"]) for one in removed if one["reason"] == "low_reward"]
    assert max(low) <= min(one["reward"] for one in rows(found, "records"))
    assert found.report["reward"]["kept"] == math.ceil(found.report["reward"]["scored"] / 2)


def test_a_changed_bound_is_another_run_and_a_moved_model_is_not(settings, server, monkeypatch, tmp_path):
    folder = reward_folder(tmp_path / "reward")
    generate_inline(settings | {"reward": {"path": folder, "min_score": -10}}, monkeypatch)
    (tmp_path / "reward").rename(tmp_path / "moved")
    moved = {"path": str(tmp_path / "moved"), "min_score": -10}
    assert generate_inline(settings | {"reward": moved}, monkeypatch).fresh is False
    with pytest.raises(DataError, match="reward"):
        generate_inline(settings | {"reward": moved | {"min_score": 10}}, monkeypatch)


def test_what_cannot_be_scored_is_refused_before_anything_is_asked(settings, server, monkeypatch, tmp_path):
    folder = reward_folder(tmp_path / "reward")
    for changed, said in (
        ({"make": {"template": "paraphrase"}}, "records of shape text have none"),
        ({"make": {"template": "preference"}}, "records of shape preference have none"),
        ({"make": {"template": OWN}}, "the name of the score"),
    ):
        with pytest.raises(ConfigError, match=said):
            generate_inline(settings | {"reward": folder} | changed, monkeypatch)
    assert server.stats()["requests"] == 0
    plan = plan_generation(GenerateConfig.model_validate({"kind": "generate"} | settings | {"reward": folder}))
    assert "Records are scored by the reward model" in str(plan)


def test_records_by_the_points_of_a_judge_and_by_length(settings, monkeypatch, tmp_path):
    """A record has as many points of two as its answer has `yes`; a `garbled` one has no reward."""
    lines = ["yes", "no", "yes yes", "garbled", "yes it is", "never"]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in lines))
    own = {"prompt": "{{ text }}", "record": {"prompt": "is it?", "completion": "{{ seed.text }}"}}
    settings |= {"inputs": [{"source": "asked", "path": str(tmp_path / "asked.jsonl")}], "dedup": None,
                 "make": {"template": own}, "answers": str(tmp_path / "answers")}  # fmt: skip
    with PointsServer() as points:
        how = {"judge": judge(points), "min_score": 0.5}
        made = generate_inline(settings | {"reward": how}, monkeypatch)
    kept = {one["completion"]: one["reward"] for one in rows(made, "records")}
    assert kept == {"yes": 0.5, "yes yes": 1.0, "yes it is": 0.5}
    gone = {json.loads(one["content"])["completion"]: one["reason"] for one in rows(made, "removed")}
    assert gone == {"no": "low_reward", "never": "low_reward", "garbled": "not_scored"}
    found = made.report["reward"]
    assert (found["scored"], found["kept"], found["mean"]) == (5, 3, pytest.approx(0.4))
    assert found["judge"]["tries"] == 6 and found["judge"]["cost"] > 0
    how = {"length": {"max": 6, "soft": 4, "unit": "characters"}, "min_score": -0.5}
    made = generate_inline(settings | {"reward": how, "output": str(tmp_path / "short")}, monkeypatch)
    assert {one["completion"]: one["reward"] for one in rows(made, "records")} == {"yes": -0.25, "no": 0.0}
