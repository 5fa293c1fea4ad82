"""How the settings of a store reach the libraries: each setting alone, with nothing sent."""

from types import SimpleNamespace

import pytest
from obstore import exceptions

from raymill.cluster.errors import StorageError
from raymill.cluster.store import aws, object_store
from raymill.cluster.store.interface import StorageOptions, checked_endpoint, first_line
from raymill.cluster.store.object_store import bucket
from raymill.cluster.store.store import Store

KEYS = {"access_key_id": "AKIA1", "secret_access_key": "hunter2"}


@pytest.fixture
def made(monkeypatch) -> list[tuple[str, str, dict]]:
    """(library's class, bucket, arguments) of every bucket that is made."""
    found: list[tuple[str, str, dict]] = []
    for kind in ("S3Store", "GCSStore", "AzureStore"):
        monkeypatch.setattr(
            object_store, kind, lambda name, kind=kind, **given: found.append((kind, name, given)) or object()
        )
    bucket.cache_clear()
    yield found
    bucket.cache_clear()


@pytest.fixture
def no_aws(monkeypatch, tmp_path):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


@pytest.mark.parametrize(("scheme", "kind"), [("gs", "GCSStore"), ("az", "AzureStore")])
@pytest.mark.parametrize(("timeout_s", "connect_s"), [(3, 3), (10, 10), (75, 10)])
@pytest.mark.parametrize("anonymous", [False, True])
def test_a_bucket_gets_its_times_and_retries(made, scheme, kind, timeout_s, connect_s, anonymous):
    options = StorageOptions(timeout_s=timeout_s, retries=7, retry_deadline_s=41, anonymous=anonymous)
    found = bucket(scheme, "name", options, "storage")
    assert found.root == f"{scheme}://name" and bucket(scheme, "name", options, "storage") is found
    ((made_kind, name, given),) = made
    assert (made_kind, name) == (kind, "name")
    times = {key: value.total_seconds() for key, value in given["client_options"].items()}
    assert times == {"timeout": timeout_s, "connect_timeout": connect_s}
    retry = given["retry_config"]
    assert (retry["max_retries"], retry["retry_timeout"].total_seconds()) == (7, 41)
    wait = retry["backoff"]
    assert 0 < wait["init_backoff"].total_seconds() < 1 < wait["max_backoff"].total_seconds() < 60 and wait["base"] > 1
    assert given.get("skip_signature") is (True if anonymous else None)


@pytest.mark.parametrize(
    ("scheme", "options", "wanted"),
    [
        ("gs", {"endpoint_url": "http://h:9"}, {"base_url": "http://h:9", "allow_http": True}),
        ("gs", {"endpoint_url": "https://h/"}, {"base_url": "https://h", "allow_http": False}),
        (
            "az",
            {"endpoint_url": "http://h:9/a"},
            {"endpoint": "http://h:9/a", "allow_http": True, "use_emulator": False},
        ),
        ("az", {"endpoint_url": "https://h"}, {"endpoint": "https://h", "allow_http": False, "use_emulator": False}),
        ("az", {"anonymous": True}, {"skip_signature": True}),
        ("gs", {}, {}),
    ],
)
def test_the_address_of_googles_and_azures_store_is_the_endpoint_of_the_options(made, scheme, options, wanted):
    bucket(scheme, "b", StorageOptions(**options), "storage")
    ((_, _, given),) = made
    given |= given.pop("client_options")
    for name in ("timeout", "connect_timeout", "retry_config"):
        del given[name]
    assert given == wanted


def test_an_anonymous_client_of_google_asks_nobody_for_a_token(made):
    bucket("gs", "b", StorageOptions(anonymous=True), "storage")
    ((_, _, given),) = made
    assert given["skip_signature"] and given["credential_provider"]() == {"token": "", "expires_at": None}


CAUSES = {
    "a token": "Generic GCS error: Error performing token request: Error performing GET http://169.254.169.254/x",
    "a right": "Server returned non-2xx status code: 403: <Error><Code>AuthorizationFailure</Code></Error>",
    "a right to delete": "Generic MicrosoftAzure error: Bulk delete failed for key x: Not authorized. (code: 403)",
    "the network": "Generic MicrosoftAzure error: HTTP error: error sending request",
    "a bucket": "Server returned non-2xx status code: 404 Not Found: <Error><Code>ContainerNotFound</Code></Error>",
    "https": "Generic GCS error: Error performing GET http://h/b/x in 5us - HTTP error: builder error",
}


@pytest.mark.parametrize(
    ("cause", "scheme", "said"),
    [
        ("a token", "gs", "refused these credentials .* Check GOOGLE_APPLICATION_CREDENTIALS "),
        (
            "a token",
            "az",
            "refused these credentials .* Check AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY",
        ),
        ("a right", "gs", "refused these credentials .* Check GOOGLE_APPLICATION_CREDENTIALS "),
        (
            "a right",
            "az",
            "refused these credentials .* Check AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY",
        ),
        ("a right to delete", "az", "refused these credentials .* Check AZURE_STORAGE_ACCOUNT_NAME"),
        ("a right", "s3", r"refused these credentials .* Check AWS_PROFILE or the keys under `inputs\[0\].storage:`"),
        ("the network", "gs", r"did not answer .* Check inputs\[0\].storage.endpoint_url and the network"),
        ("the network", "az", r"Check inputs\[0\].storage.endpoint_url, AZURE_STORAGE_ACCOUNT_NAME and the network"),
        ("the network", "s3", r"Check inputs\[0\].storage.endpoint_url, the region and the network"),
        ("a bucket", "az", r"^az://b: no such container\. .*storage.endpoint_url, AZURE_STORAGE_ACCOUNT_NAME\.$"),
        (
            "https",
            "gs",
            r"http://, which is used only where `inputs\[0\].storage: \{endpoint_url: http://",
        ),
        ("https", "az", r"http://, which is used only where"),
    ],
)
def test_errors_name_the_settings_and_credentials_of_the_store_at_hand(monkeypatch, cause, scheme, said):
    def fail(*_: object) -> None:
        raise exceptions.GenericError(CAUSES[cause])

    monkeypatch.setattr(object_store.obstore, "get", fail)
    with pytest.raises(StorageError, match=said) as refused:
        object_store.Bucket(f"{scheme}://b", object(), "inputs[0].storage", retries=0).read("x")
    others = {"s3": ("AZURE", "GOOGLE"), "gs": ("AWS", "AZURE", "region"), "az": ("AWS", "GOOGLE", "region")}
    assert not any(name in str(refused.value) for name in others[scheme])


@pytest.mark.parametrize(
    ("url", "http"), [("http://h:9", True), ("https://h", False), ("HTTP://h", True), (None, False)]
)
def test_plain_http_is_allowed_only_where_the_address_asks_for_it(made, no_aws, url, http):
    bucket("s3", "b", StorageOptions(endpoint_url=url, **KEYS), "storage")
    ((kind, _, given),) = made
    assert kind == "S3Store" and given["client_options"]["allow_http"] is http
    assert given["client_options"]["timeout"].total_seconds() == StorageOptions().timeout_s


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"anonymous": True}, {"virtual_hosted_style_request": True, "skip_signature": True}),
        (KEYS, {"virtual_hosted_style_request": True, **KEYS}),
        (KEYS | {"session_token": "t"}, {"virtual_hosted_style_request": True, **KEYS, "session_token": "t"}),
        (KEYS | {"region": "eu-1"}, {"region": "eu-1", "virtual_hosted_style_request": True, **KEYS}),
        (KEYS | {"path_style": True}, {"virtual_hosted_style_request": False, **KEYS}),
        (
            KEYS | {"endpoint_url": "http://h:9"},
            {"virtual_hosted_style_request": False, "endpoint": "http://h:9", **KEYS},
        ),
        (
            KEYS | {"endpoint_url": "http://h:9", "path_style": False},
            {"virtual_hosted_style_request": True, "endpoint": "http://b.h:9", **KEYS},
        ),
    ],
)
def test_each_setting_of_s3_is_an_argument_of_its_own(no_aws, options, settings):
    assert aws.s3_settings("b", StorageOptions(**options), "storage") == {"region": "us-east-1"} | settings


def test_the_endpoint_of_the_options_goes_before_the_one_of_s3_the_one_of_all_services_and_the_one_of_the_profile(
    no_aws, monkeypatch
):
    (no_aws / "config").write_text("[default]\nendpoint_url = http://profile\nregion = eu-2\n")

    def endpoint(**options) -> str:
        found = aws.s3_settings("b", StorageOptions(**KEYS, **options), "storage")
        assert found["region"] == "eu-2" and found["virtual_hosted_style_request"] is False
        return found["endpoint"]

    assert endpoint() == "http://profile"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all/")
    assert endpoint() == "http://all"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    assert endpoint() == "http://s3" and endpoint(endpoint_url="http://own") == "http://own"


def test_credentials_are_looked_for_only_where_none_are_given(no_aws, monkeypatch):
    asked = []
    session = SimpleNamespace(region_name=None, get_credentials=lambda: asked.append(1))
    monkeypatch.setattr(aws.boto3.session, "Session", lambda **_: session)
    for options in ({"anonymous": True}, KEYS):
        aws.s3_settings("b", StorageOptions(**options), "storage")
    assert asked == []
    with pytest.raises(StorageError, match=r"^s3://b: no AWS credentials found.*inputs\[0\].storage: \{profile"):
        aws.s3_settings("b", StorageOptions(), "inputs[0].storage")
    assert asked == [1]


@pytest.mark.parametrize(
    ("name", "least", "below", "most", "above"),
    [
        ("timeout_s", 0.001, 0, 86_400, 86_401),
        ("retries", 0, -1, 1000, 1001),
        ("retry_deadline_s", 0.001, 0, 86_400, 86_401),
    ],
)
def test_a_setting_is_taken_up_to_its_bounds(name, least, below, most, above):
    for value in (least, most):
        assert getattr(StorageOptions(**{name: value}), name) == value
    for value in (below, above):
        with pytest.raises(ValueError, match=name):
            StorageOptions(**{name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"anonymous": True, "access_key_id": "a", "secret_access_key": "b"},
        {"anonymous": True, "profile": "p"},
        {"access_key_id": "a"},
        {"secret_access_key": "a"},
        {"session_token": "a"},
        {"session_token": "a", "profile": "p"},
    ],
)
def test_each_contradiction_is_refused_alone(settings):
    with pytest.raises(ValueError, match=r"keep one of them|give both, or neither|give all three, or none"):
        StorageOptions(**settings)


def test_what_a_run_records_of_its_store_is_what_differs_from_the_defaults_without_keys():
    assert StorageOptions().without_secrets() == {}
    options = StorageOptions(**KEYS, session_token="t", region="r", retries=3)
    assert options.without_secrets() == {"region": "r", "retries": 3}


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("http://h", "http://h"), ("HTTPS://Host:8/", "https://Host:8"), ("http://h:1/a/b/", "http://h:1/a/b"),
        ("http://[::1]:9000", "http://[::1]:9000"), ("http://h:65535", "http://h:65535"),
        ("http://h:65536", None), ("http://h:0", None), ("http://h#x", None), ("http://é", None), ("http://h/ x", None),
    ],
)  # fmt: skip
def test_an_endpoint_is_kept_without_its_last_slash_or_refused(url, taken):
    if taken is None:
        with pytest.raises(ValueError, match="is not the address of a store"):
            checked_endpoint(url)
    else:
        assert checked_endpoint(url) == taken


@pytest.mark.parametrize("url", ["http://me@h", "http://me:secret@h", "http://:secret@h"])
def test_an_endpoint_with_a_user_or_a_password_is_refused(url):
    with pytest.raises(ValueError, match="user name or password"):
        checked_endpoint(url)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("it failed", "it failed"),
        ("it failed: .", "it failed"),
        ("first\nsecond", "first"),
        ("", "ValueError"),
        ("it failed\n\nDebug source: everything", "it failed"),
        ("no: <?xml?><Error><Code>Bad</Code><Message>Two words</Message></Error>", "no: Bad Two words"),
        ("no: <?xml?><Code>Bad</Code><Other/>", "no: Bad"),
        ('x\n\nDebug source: ConnectError("tcp", error: "refused")', "x: refused"),
        ("y" * 401, "y" * 400),
    ],
)
def test_the_first_line_of_an_error_has_its_message_its_code_and_the_cause(message, line):
    assert first_line(ValueError(message)) == line


def test_an_endpoint_is_part_of_the_name_of_an_object_and_not_of_a_local_file():
    store = Store(StorageOptions(endpoint_url="http://h:9"))
    found = {uri: store.endpoint_of(uri) for uri in ("s3://b/x", "S3://b/x", "gs://b/x", "/x", "az://c/x")}
    assert {uri for uri, endpoint in found.items() if endpoint == "http://h:9"} == found.keys() - {"/x"}
    assert found["/x"] == ""
    assert Store().endpoint_of("s3://b/x") == ""
