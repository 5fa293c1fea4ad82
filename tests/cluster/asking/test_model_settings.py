"""What a model's settings decide: the requests, and whether a run is another one."""

from raymill.cluster.asking.settings import ModelSettings, Sampling

MESSAGES = [{"role": "user", "content": "Is it on?"}]


def at(endpoint, **more):
    return ModelSettings(endpoint=endpoint, name="m", **more)


def test_another_provider_is_another_model_and_another_port_price_or_way_of_asking_is_not():
    here = at("http://127.0.0.1:8000/v1")
    assert here.decisive == at("http://10.0.0.7:9000/v1", batch=True, tries=2, timeout_s=9).decisive
    assert here.decisive != at("https://api.example.com/v1").decisive
    assert here.decisive != at("http://127.0.0.1:8000/v1", revision="2").decisive
    assert here.decisive != at("http://127.0.0.1:8000/v1", extra={"top_k": 3}).decisive


def test_a_request_has_the_sampling_the_form_and_the_further_fields():
    body = at("http://127.0.0.1:8000/v1", extra={"top_k": 3}).request(
        Sampling(temperature=0.5, max_tokens=7, logprobs=2), MESSAGES, form={"type": "json_object"}
    ).plain  # fmt: skip
    assert body.pop("seed") >= 0
    assert body == {
        "model": "m", "messages": MESSAGES, "temperature": 0.5, "top_p": 1.0, "max_tokens": 7, "top_k": 3,
        "logprobs": True, "top_logprobs": 2, "response_format": {"type": "json_object"},
    }  # fmt: skip


def test_samples_and_providers_have_keys_of_their_own():
    model, sampling = at("http://127.0.0.1:8000/v1"), Sampling()
    keys = [
        model.request(sampling, MESSAGES).key,
        model.request(sampling, MESSAGES, 1).key,
        at("https://api.example.com/v1").request(sampling, MESSAGES).key,
    ]
    assert len({*keys}) == 3
    assert keys[0] == at("http://127.0.0.1:9000/v1").request(sampling, MESSAGES).key
