"""A config as it travels with a job: without secrets, and not too large."""

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

from raymill.cluster.errors import ConfigError
from raymill.cluster.submit.work import job_config
from raymill.pipelines.curate.config import CurateConfig
from raymill.training.config import TrainConfig

ADDRESS = "https://user:word@host/x"
CURATE = CurateConfig(kind="curate", name="x", inputs=[{"path": "a"}, {"path": ADDRESS}], output="o")
TRAIN = TrainConfig(kind="train", name="x", corpus=ADDRESS, model="m", steps=1, output="o")


class AnySettings(BaseModel):
    model_config = ConfigDict(extra="allow")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("AKIAABCDEFGHIJKLMNOP", "an access key of AWS"),
        ("ASIAABCDEFGHIJKLMNOP", "an access key of AWS"),
        ("ghp_abcdefghijklmnopqrstuvwxyz", "a token of GitHub"),
        ("hf_abcdefghijklmnopqrstuvwxyz", "a token of Hugging Face"),
        ("https://user:word@host/x", "a password in an address"),
        ("https://host/x?X-Amz-Signature=abc", "`X-Amz-Signature` in an address"),
        ("gs://host/x?a=b&X-Goog-Signature=abc", "`X-Goog-Signature` in an address"),
        ("az://host/x?sig=abc", "`sig` in an address"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
    ],
)
def test_secrets_in_a_config_are_refused_without_printing_them(value, what):
    with pytest.raises(ConfigError, match=rf"inputs\[1\]\.path \({what}\)") as caught:
        job_config(AnySettings(inputs=[{"path": "fine"}, {"path": value}]))
    assert value not in str(caught.value)


def test_keys_of_a_store_are_refused_by_their_setting_together_with_other_secrets():
    settings = AnySettings(storage=AnySettings(secret=SecretStr("a-word")), inputs=["https://user:word@host/x"])
    with pytest.raises(ConfigError) as caught:
        job_config(settings)
    assert "inputs[0] (a password in an address), storage.secret (a key of a store)" in str(caught.value)
    assert "word@" not in str(caught.value) and "a-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "where"), [(CURATE, r"inputs\[1\]"), (TRAIN, r"corpus\[0\]")], ids=["curate", "train"]
)
def test_secrets_in_the_lists_of_a_real_config_are_refused(config, where):
    with pytest.raises(ConfigError, match=rf"^{where}\.path \(a password in an address\): "):
        job_config(config)


def test_ordinary_addresses_are_no_secrets():
    plain = {"output": "s3://bucket/a:b@c", "endpoint": "https://host:9000/x?list-type=2", "model": "hf_short"}
    assert job_config(AnySettings(**plain)) == plain


def test_a_config_that_is_too_large_to_travel_is_refused():
    with pytest.raises(ConfigError, match="Name files by a folder or a pattern"):
        job_config(AnySettings(inputs=["s3://bucket/file-with-a-name"] * 5000))


def test_only_the_settings_that_were_given_travel_and_their_bytes_count():
    given = {"kind": "curate", "name": "x", "inputs": [{"path": "s3://b/a"}], "output": "s3://b/o"}
    assert job_config(CurateConfig.model_validate(given)) == given
    job_config(AnySettings(a="x" * 60_000))
    with pytest.raises(ConfigError, match=r"the config has 120,008 bytes; .* at most 100,000"):
        job_config(AnySettings(a="ä" * 60_000))
