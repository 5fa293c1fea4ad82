"""How servers take an export: the command, the application of Ray Serve LLM, and adapters that they refuse."""

import re
import shlex

import pytest
import yaml

from raymill.training.export.card import card
from raymill.training.export.job import export
from raymill.training.export.servers import SERVE_FILE, serve_application
from raymill.training.export.training_content import FILE as CONTENT_FILE
from raymill.training.model_folder.loading import Base
from tests.support.card_cases import config, facts
from tests.support.export_runs import make_run

BASE = Base("org/model", "0a1b2c")


def command(text: str) -> list[str]:
    found = re.search(r"```shell\n(.*)\n```", text)
    return shlex.split(found[1]) if found else []


def adapter_command(base=BASE, experts=False, **lora):
    return command(card(facts(config(lora=lora), base=base, experts=experts), "adapter"))


def test_a_whole_model_is_served_from_its_folder_under_the_name_of_the_run():
    assert command(card(facts(), "merged")) == ["vllm", "serve", ".", "--served-model-name", "demo"]
    assert command(card(facts(config(method="full")), "full"))[2] == "."


def test_an_adapter_is_served_on_its_base_with_a_rank_that_vllm_knows():
    words = ["vllm", "serve", "org/model", "--revision", "0a1b2c", "--tokenizer", "."]
    words += ["--generation-config", ".", "--enable-lora"]
    assert adapter_command() == [*words, "--lora-modules", "demo=.", "--max-lora-rank", "16"]
    ranks = {rank: adapter_command(rank=rank)[-1] for rank in (1, 2, 16, 17, 48, 512)}
    assert ranks == {1: "1", 2: "8", 16: "16", 17: "32", 48: "64", 512: "512"}
    assert adapter_command(rank=16, init="pissa")[-1] == "32", "the exported adapter has twice the rank"
    assert adapter_command(Base("/models/b", shown="../base"))[2] == "../base"
    assert adapter_command(Base("s3://b/models/llama"))[2] == "llama"
    assert adapter_command(Base("/models/`rm`\n"))[2] == "BASE"


@pytest.mark.parametrize("name", ["--trust-remote-code", "-x", "~root", "~"])
def test_a_name_that_a_shell_or_the_command_reads_otherwise_is_no_word_of_it(name):
    for base in (Base(f"s3://b/{name}"), Base(name), Base("/models/b", shown=name)):
        assert adapter_command(base)[:5] == ["vllm", "serve", "BASE", "--tokenizer", "."]
    assert "--revision" not in adapter_command(Base("org/model", revision=name))
    assert adapter_command(Base(f"/models/{name}"))[2] == f"/models/{name}"


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"dora": True}, "it is a DoRA adapter"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "trained in full, embed\\_tokens, lm\\_head"),
        ({"target": ["q_proj", "lm_head"]}, "it has an adapter of the lm\\_head"),
        ({"rank": 640}, "its rank is 640, and vLLM takes at most 512"),
    ],
)
def test_an_adapter_that_vllm_refuses_has_the_reason_and_the_folder_to_serve_instead(lora, said):
    refused = config(lora=lora)
    text = card(facts(refused), "adapter")
    assert command(text) == [] and said in text and "Serve the folder merged beside it" in text
    assert command(card(facts(refused), "merged"))
    alone = card(facts(config(lora=lora, export={"merged": False})), "adapter")
    assert "merged beside it" not in alone and "raymill answer" in alone
    assert serve_application(refused, ["adapter"], BASE, False, "s3://b/run/export") == ""


def test_adapters_of_experts_and_of_virtual_tokens_are_refused():
    assert adapter_command(experts=True) == [] and adapter_command(experts=True, target=["q_proj"])
    text = card(facts(config(method="prompt", packing={"mode": "none"})), "adapter")
    assert "it has virtual tokens" in text and "raymill answer" in text and command(text) == []


def test_models_that_answer_with_no_text_have_no_command():
    reward = config(objective="reward", columns={"prompt": "p", "chosen": "c", "rejected": "r"})
    assert "## Serve" not in card(facts(reward), "merged")
    assert serve_application(reward, ["merged"], BASE, False, "s3://b/export") == ""


def loaded(text):
    (application,) = yaml.safe_load(text)["applications"]
    (one,) = application.pop("args")["llm_configs"]
    assert application == {"name": "demo", "route_prefix": "/", "import_path": "ray.serve.llm:build_openai_app"}
    return one


def test_the_application_serves_the_whole_model():
    found = serve_application(config(), ["adapter", "merged"], BASE, False, "s3://b/run/export")
    source = {"bucket_uri": "s3://b/run/export/merged"}
    assert loaded(found) == {"model_loading_config": {"model_id": "demo", "model_source": source}}
    assert "requests name the model demo." in found
    local = loaded(serve_application(config(method="full"), ["full"], BASE, False, "/runs/export"))
    assert local["model_loading_config"]["model_source"] == "/runs/export/full"
    assert serve_application(config(), ["merged"], BASE, False, "az://b/export") == ""


def test_the_application_of_an_adapter_alone_names_its_base_and_object_store():
    found = serve_application(config(lora={"rank": 48}), ["adapter"], BASE, False, "s3://b/run/export")
    one = loaded(found)
    copying = one.pop("callback_config")
    assert copying["callback_class"].endswith(".CloudDownloader")
    ((copied, folder),) = copying["callback_kwargs"]["paths"]
    assert copied == "s3://b/run/export/adapter", "it has the chat template and the tokens that end an answer"
    kwargs = one.pop("engine_kwargs")
    assert kwargs.pop("tokenizer") == kwargs.pop("generation_config") == folder
    assert kwargs == {"enable_lora": True, "max_lora_rank": 64, "max_loras": 16, "revision": "0a1b2c"}
    assert one == {
        "model_loading_config": {"model_id": "demo-base", "model_source": "org/model"},
        "lora_config": {"dynamic_lora_loading_path": "s3://b/run/export", "max_num_adapters_per_replica": 16},
    }
    assert "requests name the model demo-base:adapter." in found
    assert serve_application(config(), ["adapter"], BASE, False, "/runs/export") == "", "it is read from no disk"


def test_the_application_lies_beside_the_folders_and_stays(tmp_path):
    run = make_run(tmp_path)
    manifest = export(run.job, run.outcome, run.packed)
    one = yaml.safe_load((run.export / SERVE_FILE).read_text())["applications"][0]["args"]["llm_configs"][0]
    assert one["model_loading_config"]["model_source"] == str(run.export / "merged")
    assert [file["path"] for file in manifest["files"] if "/" not in file["path"]] == [SERVE_FILE, CONTENT_FILE]
