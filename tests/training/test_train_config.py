"""What a train config accepts, what it refuses and how the refusal reads."""

import json

import pytest
from pydantic import BaseModel

from raymill.cluster.config import load
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.calls import config_of
from raymill.cluster.wording import of_the_command
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Optimizer
from raymill.training.methods import Lora
from raymill.training.records.job import Job, TrainingFolder

SMALLEST = {
    "kind": "train",
    "name": "tiny",
    "corpus": "corpus",
    "model": {"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": "train"},
    "sequence_length": 64,
    "tokens_per_step": 512,
    "steps": 10,
    "output": "runs/tiny",
}


def config(**changes) -> TrainConfig:
    return TrainConfig.model_validate(SMALLEST | changes)


def refusal(tmp_path, **changes) -> str:
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps(SMALLEST | changes))
    with pytest.raises(ConfigError) as refused:
        load(str(path))
    return str(refused.value)


def settings_below(model: type[BaseModel], path: str) -> bool:
    """Whether a dotted name is a setting of the model."""
    first, _, rest = path.partition(".")
    field = model.model_fields.get(first)
    return field is not None and (not rest or settings_below(field.annotation, rest))


@pytest.mark.parametrize("model", [TrainConfig, Optimizer, Lora])
def test_names_of_other_programs_lead_to_settings_that_there_are(model):
    assert all(settings_below(model, meant) for meant in model.other_names.values())
    assert not model.other_names.keys() & model.model_fields.keys()


def test_a_path_alone_is_a_corpus_and_a_name_alone_a_model():
    read = config(corpus="runs/a", model="gpt2")
    assert [one.path for one in read.corpus] == ["runs/a"] and read.model.name == "gpt2"
    assert config(corpus=["a", {"path": "b"}]).corpus_names == ("corpus-0", "corpus-1")
    assert config(corpus={"path": "a", "name": "n"}).corpus_names == ("n",)


@pytest.mark.parametrize(
    ("overrides", "name", "tokenizer", "path", "weight"),
    [
        (["model=b", "model.tokenizer=t"], "b", "t", "corpus", None),
        (["model.tokenizer=t.json"], "a", "t.json", "corpus", None),
        (["corpus.0.weight=3", "corpus.0.path=d"], "a", None, "d", 3),
    ],
)
def test_an_override_inside_a_model_or_corpus_that_is_given_by_its_path_alone(
    tmp_path, overrides, name, tokenizer, path, weight
):
    (tmp_path / "train.yaml").write_text(json.dumps(SMALLEST | {"model": "a"}))
    read = load(str(tmp_path / "train.yaml"), overrides)
    assert (read.model.name, read.model.tokenizer) == (name, tokenizer)
    assert (read.corpus[0].path, read.corpus[0].weight) == (path, weight)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("workers.count=0", "0 given; wanted at least 1."),
        ("workers.count=x", "'x' given; wanted a whole number, or a group of settings, as in {name: value}."),
        ("workers.count={min: 3, max: 1}", "min 3 is above max 1."),
        ("compile=maybe", "'maybe' given; wanted 'auto', or true or false."),
        ("lora.target=3", "3 given; wanted text (in quotes, if it looks like a number), or a list, as in [a, b]."),
    ],
)
def test_a_setting_of_several_types_is_refused_in_one_line_by_its_own_name(tmp_path, override, line):
    (tmp_path / "train.yaml").write_text(json.dumps(SMALLEST))
    with of_the_command(), pytest.raises(ConfigError) as refused:
        load(str(tmp_path / "train.yaml"), [override])
    assert refused.value.as_written == f"-o {override}: {line}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens_per_step": 500}, "500 is no multiple of sequence_length 64; the nearest are 448 and 512"),
        ({"workers": {"count": 9}}, "9 workers, but a step has 8 rows of 64; use 8 workers or fewer"),
        ({"tokens_per_step": 32}, "32 is no multiple of sequence_length 64; the nearest is 64."),
        ({"workers": {"count": 2}, "tokens_per_step": 64},
         "2 workers, but a step has 1 row of 64; use 1 worker, or tokens_per_step 128 or more."),
        ({"workers": {"count": 0}}, "0 given; wanted at least 1"),
        ({"steps": None}, "none given; wanted exactly one of steps, epochs, tokens."),
        ({"epochs": 2}, "steps and epochs given; wanted exactly one of steps, epochs, tokens."),
        ({"optimizer": {"lr": 1}}, "optimizer.lr: no such setting. Did you mean learning_rate? optimizer has: "),
        ({"learning_rate": 1}, "Did you mean optimizer.learning_rate?"),
        ({"lora": {"r": 8}}, "Did you mean rank?"),
        ({"columns": {"text": "a", "messages": "b"}}, "text and messages given; wanted one of"),
        ({"columns": {"prompt": "a"}}, "prompt and completion go together"),
        ({"columns": {"messages": "a", "system_prompt": "b"}}, "system_prompt goes with prompt and completion"),
        ({"split": {"train": 0.9}}, "sum to 1.1; wanted 1"),
        ({"model": {"config": {"vocab_size": 3}, "tokenizer": "train"}}, "needs a model_type"),
        ({"model": {"config": {"model_type": "llama"}}}, "tokenizer: a randomly initialised model has no tokenizer"),
        ({"model": {"name": "a", "config": {"model_type": "llama"}}}, "not both"),
        ({"corpus": [{"path": "a", "weight": 1}, {"path": "b"}]}, "every corpus of the list a weight"),
        ({"corpus": [{"path": "a", "name": "x"}, {"path": "b", "name": "x"}]}, "not all different"),
        ({"method": "prefix"}, "set packing: {mode: none}"),
        ({"method": "qlora"}, "needs GPUs"),
        ({"columns": {"text": "text", "label": "kind"}}, "only method probe and objective kto use a label"),
        ({"reduce_every_micro_batch": False}, "a choice of engine fsdp2; the engine is ddp"),
        ({"offload": "optimizer"}, "only engines zero1, zero2, zero3 offload"),
        ({"engine": "zero2", "offload": "parameters"}, "zero3 only"),
        ({"engine": "zero3", "compile": True}, "use fsdp2"),
        ({"optimizer": {"warmup_steps": 10}}, "10 of 10 steps"),
        ({"workers": {"count": {"min": 3, "max": 2}}}, "min 3 is above max 2"),
        ({"phases": [{"steps": 3}]}, "every phase needs a name"),
        ({"phases": [{"name": "a", "tokens_per_step": 100}]}, "no multiple of sequence_length"),
        ({"phases": [{"name": "a", "method": "prompt", "packing": {"mode": "none"}}, {"name": "b"}]}, "no full"),
        ({"lora": {"rnk": 3}}, "Did you mean rank?"),
        ({"engine": "zero"}, "wanted 'ddp', 'zero1'"),
        ({"split": {"train": 0.5}}, "sum to 0.7; wanted 1"),
        ({"columns": {"text": "a", "tools": "b"}}, "tools goes with messages"),
        ({"columns": {"text": "a", "input": "b"}}, "input goes with prompt and completion"),
        ({"columns": {"text": "a", "system": "b"}}, "system goes with prompt and completion"),
        ({"columns": {"completion": "a"}}, "prompt and completion go together"),
        ({"columns": {"id": "a"}}, "no form given; wanted one of"),
        ({"model": {"tokenizer": "train"}}, "give a name (path, URI or hub name), or a config"),
        ({"model": {"config": {"model_type": "llama"}, "tokenizer": "train"}}, "config.vocab_size: a tokenizer that"),
        ({"corpus": [{"path": "a", "weight": 1, "epochs": 1}]}, "every corpus of the list a weight"),
        ({"corpus": [{"path": "a", "weight": 1}, {"path": "b", "tokens": 1}]}, "every corpus of the list a weight"),
        ({"corpus": [{"path": "a", "name": "reference"}]}, "the name reference is taken by a folder"),
        ({"corpus": [{"path": "a", "name": "corpus-1"}, "b"]}, "the names corpus-1, corpus-1 are not all different"),
        ({"method": "prompt"}, "method prompt puts virtual tokens before a row"),
        ({"method": "probe", "columns": {"text": "a", "label": "b"}}, "method probe classifies whole documents"),
        ({"method": "probe", "columns": {"text": "a", "label": "b"}, "packing": {"mode": "none", "overflow": "split"}},
         "method probe classifies whole documents"),
        ({"method": "probe", "columns": {"messages": "a", "label": "b"}, "packing": {"mode": "none"}}, "label: COLUMN"),
        ({"method": "qlora", "workers": {"gpus_each": 1}}, "random weights have nothing to keep"),
        ({"method": "qlora", "workers": {"gpus_each": 1}, "model": "a", "engine": "fsdp2"}, "fsdp2 cannot shard 4-bit"),
        ({"engine": "fsdp2", "offload": "optimizer"}, "offload; the engine is fsdp2"),
        ({"phases": [{"name": "a"}, {"name": "a"}]}, "every phase needs a name"),
        ({"phases": [{"name": "a", "method": "lora", "export": {"merged": False}}, {"name": "b"}]}, "a exports no "),
        ({"optimizer": {"warmup_steps": 11}}, "11 of 10 steps"),
        ({"optimizer": {"warmup_fraction": 0.95}}, "optimizer.warmup_fraction: 10 of 10 steps; use a smaller one"),
        ({"optimizer": {"warmup_fraction": 0.5, "warmup_steps": 2}}, "wanted one of them"),
        ({"optimizer": {"restarts": 8, "warmup_steps": 2}}, "optimizer.restarts: 8 in 8 steps; use fewer"),
        ({"optimizer": {"restarts": 1, "schedule": "wsd"}}, "only schedule cosine starts again; the schedule is wsd"),
        ({"optimizer": {"schedule": "wsd", "warmup_steps": 3, "decay_steps": 8}}, "8 after 3 of warm-up, of 10 steps"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_fix(tmp_path, changes, said):
    assert said in refusal(tmp_path, **changes)


NONE = {"packing": {"mode": "none"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": {"count": 8}},
        {"tokens_per_step": 64},
        {"optimizer": {"warmup_steps": 9}},
        {"optimizer": {"schedule": "wsd", "warmup_steps": 3, "decay_steps": 7}},
        {"workers": {"count": {"min": 2, "max": 2}}},
        {"split": {"train": 0.7, "validation": 0.2, "test": 0.1}},  # 0.9999999999999999
        {"corpus": [{"path": "a", "epochs": 1}, {"path": "b", "epochs": 2}]},
        {"columns": {"messages": "a", "tools": "b"}},
        {"columns": {"prompt": "a", "completion": "b", "input": "c", "system": "d", "system_prompt": "e"}},
        {"method": "prefix"} | NONE,
        {"method": "probe", "columns": {"text": "a", "label": "b"}} | NONE,
        {"method": "qlora", "model": "a", "workers": {"gpus_each": 1}},
        {"engine": "zero1", "offload": "optimizer"},
        {"engine": "zero3", "offload": "parameters"},
        {"engine": "fsdp2", "reduce_every_micro_batch": False, "compile": True},
        {"phases": [{"name": "a", "method": "lora"}, {"name": "b", "method": "prompt"} | NONE]},
        {"phases": [{"name": "a"}, {"name": "b", "method": "lora", "export": {"merged": False}}]},
    ],
)
def test_what_stands_right_beside_a_refusal_is_accepted(changes):
    config(**changes)


@pytest.mark.parametrize(
    ("columns", "default"),
    [({"text": "a"}, "split"), ({"prompt": "a", "completion": "b"}, "drop"), ({"messages": "a"}, "drop")],
)
def test_documents_longer_than_a_row_are_treated_by_their_form_and_the_method_unless_it_is_set(columns, default):
    assert config(columns=columns).overflow(config(columns=columns).columns.form) == default
    for chosen in ("split", "truncate", "drop"):
        assert config(packing={"overflow": chosen}).overflow(config(columns=columns).columns.form) == chosen
    probe = config(method="probe", columns={"text": "a", "label": "b"}, **NONE)
    assert probe.overflow(probe.columns.form) == "truncate"


@pytest.mark.parametrize(
    ("changes", "most", "rows"),
    [
        ({}, None, [8, 4, 3, 2]),  # 8 rows a step, for 1 to 4 workers
        ({"micro_batch": 3}, None, [3, 3, 3, 2]),
        ({"micro_batch": 3}, 2, [3, 3, 3, 2]),
        ({}, 3, [3, 2, 3, 2]),
        ({}, 100, [8, 4, 3, 2]),
    ],
)
def test_rows_of_a_micro_batch_are_the_configs_else_what_the_device_holds_spread_evenly(changes, most, rows):
    assert [config(**changes).micro_rows(world, most) for world in (1, 2, 3, 4)] == rows


@pytest.mark.parametrize("gpus", [0, 1])
def test_defaults_of_gpus_and_of_cpus_and_what_is_set_holds_on_both(gpus):
    workers = {"gpus_each": gpus}
    assert config(workers=workers).loss_chunk == (4096 if gpus else 1024)
    assert config(workers=workers, loss_chunk_tokens=7).loss_chunk == 7
    said = {precision: config(workers=workers, precision=precision).bf16 for precision in ("auto", "bf16", "float32")}
    assert said == {"auto": gpus == 1, "bf16": True, "float32": False}
    assert config(workers={"count": {"min": 2, "max": 5}}).workers.range == (2, 5)
    assert config(workers={"count": 3}).workers.range == (3, 3)


def test_what_no_single_setting_is_to_blame_for_is_said_of_the_file(tmp_path):
    assert refusal(tmp_path, steps=None) == (
        f"{tmp_path}/train.yaml: none given; wanted exactly one of steps, epochs, tokens."
    )


def test_a_phase_is_the_whole_config_with_its_own_settings_over_it():
    whole = config(lora={"rank": 4, "alpha": 8}, phases=[{"name": "b", "epochs": 2, "lora": {"rank": 2}}], seed=7)
    phase = whole.phase(whole.phases[0])
    assert (phase.lora.rank, phase.lora.alpha, phase.seed) == (2, 8, 7)
    assert (phase.steps, phase.epochs, phase.name, phase.output) == (None, 2, "tiny-b", "runs/tiny/b")
    assert whole.phase(whole.phases[0], "runs/tiny/a/export/full").model.name == "runs/tiny/a/export/full"


def test_a_phase_replaces_a_model_and_columns_whole_and_other_groups_key_by_key():
    pair = {"prompt": "p", "completion": "c"}
    phases = [{"name": "b", "columns": pair, "model": {"name": "m"}, "optimizer": {"clip": 2}, "tokens": 512}]
    whole = config(columns={"text": "t", "id": "i"}, optimizer={"epsilon": 1e-6, "clip": 3}, phases=phases)
    phase = whole.phase(whole.phases[0])
    assert phase.columns.read.named == pair
    assert (phase.model.name, phase.model.tokenizer) == ("m", None)
    assert (phase.optimizer.epsilon, phase.optimizer.clip) == (1e-6, 2)
    assert (phase.steps, phase.tokens) == (None, 512)
    assert (phase.phases, phase.packed, whole.optimizer.clip) == ((), None, 3)


@pytest.mark.parametrize(
    ("changes", "weights", "results"),
    [
        ({"output": "elsewhere", "packed": "p", "storage": {"region": "r"}, "track": {"tensorboard": False}}, 0, 0),
        ({"engine": "zero3", "offload": "parameters", "compile": False, "deterministic": True}, 0, 0),
        ({"micro_batch": 1, "loss_chunk_tokens": 5, "device_memory_gib": 3, "workers": {"count": 2}}, 0, 0),
        ({"execution": {"attempts": 9}, "checkpoint": {"keep": 9}, "failures": {"max": 9}}, 0, 0),
        ({"name": "other"}, 0, 1),
        ({"generate": {"prompts": 2}}, 0, 1),
        ({"export": {"dtype": "bfloat16"}}, 0, 1),
        ({"phases": [{"name": "a"}]}, 0, 1),
        ({"precision": "bf16"}, 1, 1),
        ({"attention": "eager"}, 1, 1),
        ({"activation_checkpointing": True}, 1, 1),
        ({"evaluate": {"patience": 3}}, 1, 1),
        ({"tokens_per_step": 1024}, 1, 1),
        ({"split": {"train": 0.9, "validation": 0.1, "test": 0}}, 1, 1),
        ({"packing": {"mode": "none"}}, 1, 1),
        ({"lora": {"rank": 3}}, 1, 1),
        ({"corpus": "other"}, 1, 1),
    ],
)
def test_each_setting_is_among_those_that_decide_the_weights_or_the_results_or_neither(changes, weights, results):
    plain, changed = config(), config(**changes)
    assert (changed.fit_settings() != plain.fit_settings()) == bool(weights)
    assert (changed.run_settings() != plain.run_settings()) == bool(results)


def test_where_and_how_a_run_goes_is_no_part_of_what_decides_the_weights():
    plain = config().fit_settings()
    elsewhere = config(
        output="s3://x/y", engine="zero2", workers={"count": 4}, micro_batch=2, checkpoint={"keep": 9}, name="other"
    )
    assert elsewhere.fit_settings() == plain
    for changed in ({"seed": 2}, {"method": "lora"}, {"steps": 11}, {"optimizer": {"clip": 2}}):
        assert config(**changed).fit_settings() != plain


def test_auto_precision_is_bf16_only_on_gpus():
    assert not config().bf16
    assert config(workers={"gpus_each": 1}).bf16
    assert not config(workers={"gpus_each": 1}, precision="float32").bf16


KEYS = {"access_key_id": "AKIA1", "secret_access_key": "hunter2"}


def test_a_corpus_has_a_store_of_its_own_with_keys_that_are_in_no_record():
    corpus = [{"path": "s3://a/x", "name": "own", "storage": KEYS}, {"path": "s3://b/x"}]
    phases = [{"name": "b", "epochs": 2}, {"name": "c", "corpus": [{"path": "s3://c/x", "storage": KEYS}]}]
    whole = config(corpus=corpus, phases=phases, storage={"anonymous": True})
    own, usual = whole.corpus_stores
    assert (own.setting, own.options.secret_access_key.get_secret_value()) == ("corpus[0].storage", "hunter2")
    assert usual == whole.store and usual.options.anonymous
    for phase in whole.phases:
        (store, *_) = whole.phase(phase).corpus_stores
        assert store.options.secret_access_key.get_secret_value() == "hunter2"
    first = whole.phase(whole.phases[0])
    job = Job(first, TrainingFolder(first.store, "/run", {}), "/packed", (), 10)
    assert Job.from_json(job.to_json()).config.corpus[0].storage.access_key_id is None
    recorded = [whole.run_settings(), whole.fit_settings(), first.run_settings(), json.loads(job.to_json())]
    assert "storage" not in json.dumps(recorded[:3])
    shown = json.dumps(recorded) + repr(whole) + whole.model_dump_json() + str(whole.model_dump())
    assert "hunter2" not in shown and "AKIA1" not in shown


def test_keys_of_a_phases_corpus_come_from_the_environment_and_are_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "hunter2")
    path = tmp_path / "train.yaml"

    def phase(**storage: str) -> dict:
        return {"phases": [{"name": "a", "corpus": [{"path": "s3://a/x", "storage": storage}]}]}

    path.write_text(json.dumps(SMALLEST | phase(access_key_id="AKIA1", secret_access_key="${KEY}")))
    read = load(str(path))
    (store,) = read.phase(read.phases[0]).corpus_stores
    assert store.options.secret_access_key.get_secret_value() == "hunter2"
    for wrong, said in (
        (
            phase(secret_access_key="hunter2"),
            "a, corpus[0].storage: Value error, access_key_id and secret",
        ),
        (phase(access_key_id="AKIA1", secret_access_key="hunter2", x="hunter2"), "corpus[0].storage: x Extra inputs"),
        ({"phases": [{"name": "a", "storage": KEYS}]}, "give `storage` beside `phases`"),
    ):
        refused = refusal(tmp_path, **wrong)
        assert said in refused and "hunter2" not in refused


def test_a_config_of_another_kind_is_refused_with_the_verb_for_it(tmp_path):
    (path := tmp_path / "c.yaml").write_text("{kind: curate, name: x, inputs: [{path: /in}], output: /out}")
    with pytest.raises(ConfigError) as refused:
        config_of(str(path), kind="train")
    wanted = "wanted train. Give another config, or run `raymill.curate`."
    assert str(refused.value) == f"{path}, kind: curate given; {wanted}"


def test_a_probe_wants_a_label_of_every_corpus(tmp_path):
    plain = {"path": "a", "columns": {"text": "text", "label": "label"}}
    probe = {"method": "probe", "packing": {"mode": "none"}, "probe": {}}
    found = refusal(tmp_path, corpus=[plain, {"path": "b", "columns": {"messages": "messages"}}], **probe)
    assert "columns: method probe needs {text: COLUMN, label: COLUMN}" in found


@pytest.mark.parametrize(
    ("evaluate", "length", "rows"),
    [
        ({}, 1024, 512),
        ({}, 8192, 64),
        ({}, 3000, 175),
        ({"rows": 7}, 8192, 7),
        ({"tokens": None}, 8192, None),
        ({"tokens": 5}, 8192, 1),
    ],
)
def test_validation_measures_whole_rows_up_to_a_number_of_tokens(tmp_path, evaluate, length, rows):
    plain = {"kind": "train", "name": "n", "corpus": "c", "model": "m", "steps": 1, "output": "o"}
    given = plain | {"sequence_length": length, "tokens_per_step": length, "evaluate": evaluate}
    config = TrainConfig.model_validate(given)
    assert config.validation_rows == rows


def test_a_limit_of_rows_is_recorded_as_by_earlier_versions():
    plain = {"kind": "train", "name": "n", "corpus": "c", "model": "m", "steps": 1, "output": "o"}
    evaluate = TrainConfig.model_validate(plain | {"evaluate": {"rows": 512}}).fit_settings()["evaluate"]
    assert evaluate == {"every_steps": 50, "rows": 512, "patience": None, "least_gain": 0.0}


def test_a_number_of_rows_takes_the_place_of_a_number_of_tokens(tmp_path):
    plain = {"kind": "train", "name": "n", "corpus": "c", "model": "m", "steps": 1, "output": "o"}
    both = TrainConfig.model_validate(plain | {"evaluate": {"rows": 7, "tokens": 5}})
    assert both.without_effect == [
        "evaluate.tokens: has no effect, because evaluate.rows sets the number of rows. Remove it."
    ]
