"""What is a secret by its name or its form is found and hidden; what only looks a little like one is left alone."""

import base64
import json
import random
import string
from urllib.parse import quote

import pytest

from raymill.cluster.errors import DataError
from raymill.cluster.secret_values import (
    is_secret_header,
    is_secret_pair,
    looks_random,
    masked,
    redacted,
    remember,
    secret_in,
    shortened,
    take_out,
    without_known,
)

WORD = "s3cret-W0rd"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:WORD@host/x", "https://me:***@host/x"),
        ("https://me:WO@RD@host/x", "https://me:***@host/x"),
        ("postgresql://me@host/db?options=-c%20password%3DWORD", "postgresql://me@host/db?options=***"),
        ("bigquery://project?credentials_base64=WORD", "bigquery://project?credentials_base64=***"),
        ("redis://:WORD@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://me:WO/RD ?#@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg://me%3AWORD@host/db", "postgresql+psycopg://***@host/db"),
        ("postgresql://me@host/db?password=WORD", "postgresql://me@host/db?password=***"),
        ("postgresql://me@host/db?sslpassword=WO#RD&sslmode=require",
         "postgresql://me@host/db?sslpassword=***&sslmode=require"),
        ("mysql://me@host/db?charset=utf8&passwd=WORD", "mysql://me@host/db?charset=utf8&passwd=***"),
        ("https://h/x?a=1&pass%77ord=WORD", "https://h/x?a=1&pass%77ord=***"),
        ("https://h/x?%2561pi_key=WORD", "https://h/x?%2561pi_key=***"),
        ("https://h/x?next=https%3A%2F%2Fme%3AWORD%40host", "https://h/x?next=***"),
        ("https://h/x#access_token=WORD&y=1", "https://h/x#access_token=***&y=1"),
        ("https://h/x?X-Amz-Signature=WORD#top", "https://h/x?X-Amz-Signature=***#top"),
        ("https://h/x;token=WORD?a=b", "https://h/x;token=***?a=b"),
        ("https://h/x?code=aB3dE6gH9&lang=de", "https://h/x?code=***&lang=de"),
        ("https://h/x?sv=2024&sig=WORD%3D", "https://h/x?sv=2024&sig=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC%7D%3BUID%3Dme%3BPWD%3DWORD",
         "mssql+pyodbc:///?odbc_connect=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER={ODBC};UID=me;PWD={WO;RD}",
         "mssql+pyodbc:///?odbc_connect=DRIVER={ODBC};UID=me;PWD=***"),
        ("DRIVER={ODBC};SERVER=h;UID=me;PWD={WO;R}}D}", "DRIVER={ODBC};SERVER=h;UID=me;PWD=***"),
        ("host=h user=me password='WO RD' dbname=x", "host=h user=me password=*** dbname=x"),
        ("jdbc:sqlserver://h;user=me;password=WORD", "jdbc:sqlserver://h;user=me;password=***"),
        ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=WORD==;EndpointSuffix=x",
         "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=***;EndpointSuffix=x"),
        ("Endpoint=sb://h/;SharedAccessKeyName=a;SharedAccessKey=WORD=",
         "Endpoint=sb://h/;SharedAccessKeyName=a;SharedAccessKey=***"),
        ("cannot open 'https://h/x?token=WORD', it is closed", "cannot open 'https://h/x?token=***', it is closed"),
        ("y?token=WORD", "y?token=***"), ("/tmp/out?api_key=WORD&a=b.jsonl", "/tmp/out?api_key=***&a=b.jsonl"),
        ("no file '/tmp/x?a=b&token=WORD' or https://h/x?a=b", "no file '/tmp/x?a=b&token=***' or https://h/x?a=b"),
        ("/tmp/x;Password=WORD", "/tmp/x;Password=***"),
        ("no file 'data/x;a=b;pwd=WORD'", "no file 'data/x;a=b;pwd=***'"),
        ("two: https://a:WORD@h and https://b:WORD@h", "two: https://a:***@h and https://b:***@h"),
    ],
)  # fmt: skip
def test_secrets_of_addresses_and_connection_strings_are_hidden_where_they_stand(text, shown):
    text = text.replace("WORD", WORD)
    assert masked(text) == shown and secret_in(text) and secret_in(shown) is None
    assert masked(shown) == shown, "what is hidden stays as it is"


@pytest.mark.parametrize(
    "text",
    [
        "AKIAABCDEFGHIJKLMNOP", "ASIAABCDEFGHIJKLMNOP", "hf_abcdefghijklmnopqrstuvwxyz", "glpat-abcdefghij0123456789",
        "ghp_abcdefghijklmnopqrstuvwxyz", "github_pat_11ABCDEFG0abcdefghijkl", "xoxb-1234567890-abcdefghij",
        "https://hooks.slack.com/services/T0000/B0000/abcdefghijkl", "sk-abcdefghijklmnopqrstuvwxyz0123456789",
        "sk-ant-api03-abcdefghijklmnop", "sk_live_abcdefghijklmnop", "npm_abcdefghijklmnopqrstuvwxyz0123456789",
        "AIzaSyA-abcdefghijklmnopqrstuvwxyz01234", "SG.abcdefghijklmnopqrst.abcdefghijklmnopqrst",
        "hvs.abcdefghijklmnopqrstuvwx", "dapi0123456789abcdef0123456789abcdef", "nvapi-abcdefghijklmnopqrstuv",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk", "Bearer abcdef0123456789abcdef",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_the_tokens_of_services_are_known_by_their_form(text):
    assert secret_in(text) and secret_in(f"the words before {text} and after")
    assert masked(f"before {text} after").startswith("before ") and text not in masked(f"before {text} after")


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a:b@c", "https://host:8080/@scope/package@1.2", "https://host:9000/x?list-type=2", "hf://org/name",
        "https://h/x?sort_key=createdAt&code=DE&page_token=abCd12345&max_tokens=5&tokenizer=x1y2z3&author=aB3dE6gH9",
        "https://h/x?key=&token=***&password=...", "https://{user}:{password}@host/?token={token}",
        "https://docs.example.com/d/1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74OgVE2upms/export?format=csv",
        "https://h/x?jql=key%3DDESK-12%20order%20by%20created&key=DESK&key=12",
        "data/part-?.jsonl", "data/x;part=1;a=b", "and/or; pass=x", "y?page=3&token=***",
        "git@github.com:org/repo.git", "repo@sha256:" + "a1" * 32, "docker://host:5000/image@sha256:" + "0f" * 32,
        "sqlite:////data/tickets.db", "postgresql+psycopg://reader@host:5432/desk?sslmode=require",
        "What is the difference between a token and a password? The secret is: pass=the test, code=blue.",
        "Basic understanding of authentication, bearer of good news", "key=value; a=b", "The pass code is 42.",
        "<|im_start|>{% for m in messages %}{{ m['role'] }}={{ m['content'] }}{% endfor %}", "author: A. Monkey",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "Helsinki-NLP/opus-mt-en-de",
        "2b6f0cc904d137be2e1730235f5664094b831186", "123e4567-e89b-12d3-a456-426614174000", "1e-4", "",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_left_alone(text):
    assert secret_in(text) is None and masked(text) == text
    assert take_out({"name": text}) == ({"name": text}, [])


@pytest.mark.parametrize(
    "name",
    [
        "password", "Passwd", "user_pwd", "pass", "api_key", "apiKey", "APIKEY", "X-Api-Key", "key", "token", "X-Token",
        "accesstoken", "auth[token]", "api_token2", "client_secret", "signature", "X-Amz-Signature", "sig", "jwt",
        "PRIVATE-TOKEN", "Ocp-Apim-Subscription-Key", "x-functions-key", "AWSAccessKeyId", "credential", "Cookie",
        "Authorization", "SharedAccessKey", "sslpassword", "refresh_token_value", "JSESSIONID", "secret", "auth_code",
    ],
)  # fmt: skip
def test_a_parameter_with_the_name_of_a_secret_is_one_whatever_its_value(name):
    assert is_secret_pair(name, "swordfish") and is_secret_header(name, "swordfish")
    assert not is_secret_pair(name, "") and not is_secret_pair(name, "***")


@pytest.mark.parametrize("name", ["code", "session", "auth", "sort_key", "project_key", "session_id", "appid"])
def test_the_value_decides_for_names_that_other_things_have_too(name):
    for secret in (WORD, "aB3dE6gH9", "TOPSECRET", "9f86d081884c7d659a2feaa0c55ad015", "a1b2c3d4e5"):
        assert is_secret_pair(name, secret), secret
    for ordinary in ("de", "DE", "en-US", "created_at", "createdAt", "open", "2026-11-25", "12345", "DESK-12", "none"):
        assert not is_secret_pair(name, ordinary), ordinary


@pytest.mark.parametrize(
    "name",
    [
        "author", "monkey", "keyboard", "tokenizer", "tokens_per_step", "max_tokens", "pad_token", "pageToken",
        "next_page_token", "design", "codec", "country", "X-Team", "compass", "secretary", "sessions", "keyword",
        "Accept", "passenger", "signal", "authority", "encode", "tokens", "key_count",
    ],
)  # fmt: skip
def test_names_that_begin_or_end_like_those_of_secrets_are_none(name):
    assert not is_secret_pair(name, WORD) and not is_secret_header(name, WORD)


def test_a_header_is_a_secret_by_its_value_too():
    assert is_secret_header("X-Upstream", "Bearer abc") and is_secret_header("X-Any", "Basic dTpw")
    assert is_secret_header("X-Session", "open") and not is_secret_header("X-Country-Code", "DE")


def test_texts_that_are_drawn_at_random_are_told_from_names():
    draw = random.Random(7)
    drawn = ["".join(draw.choices(string.ascii_letters + string.digits, k=32)) for _ in range(500)]
    assert sum(map(looks_random, drawn)) > 480
    names = ("Qwen2VL7BInstructGPTQInt4", "data/Run2024A/Part1/English/File2", "01HZX3K5M7N9P1Q3R5S7T9V1W3",
             "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ", "GPT4o-mini-2024-07-18-FineTune1",
             "FineWeb2HQ-CC-MAIN-2024-51", "/tmp/aB3xK9mQ2vR7tZ4wL8nB", "a" * 40,
             "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")  # fmt: skip
    assert [name for name in names if looks_random(name)] == []
    assert looks_random("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


def test_secrets_are_taken_out_of_settings_and_named_by_their_place():
    given = {
        "inputs": [
            {"columns": {"token": "token", "code": "code_2", "password": "p4ss"}, "path": "https://me:word@h/x"},
            {"api": {"headers": {"X-Token": "abc", "Accept": "x"}, "parameters": {"key": "abc", "page": "1"}}},
            {"api": {"parameters": {"filter": "token=abc", "jql": "key=DESK-12", "q": "a=b"}}},
        ],
        "model": {"config": {"pad_token": "<pad>", "tool_token": "<|tool|>", "hub_token": "abc123"}},
        "terminology": {"api_key": "access key", "access_token": "aB3dE6gH9jK2mN5p"},
        "hf_abcdefghijklmnopqrstuvwxyz": 1,
        "storage": {"secret_access_key": "word"},
    }
    before = json.dumps(given)
    taken, found = take_out(given, lambda at: at == ("storage", "secret_access_key"))
    assert json.dumps(given) == before and take_out(taken)[1] == []
    assert dict(found) == {
        ("inputs", 0, "path"): "a password in an address",
        ("inputs", 1, "api", "headers", "X-Token"): "by its name",
        ("inputs", 1, "api", "parameters", "key"): "by its name",
        ("inputs", 2, "api", "parameters", "filter"): "by its name",
        ("model", "config", "hub_token"): "by its name",
        ("terminology", "access_token"): "by its name",
        (): "a name in it",
    }
    assert taken["inputs"][0] == given["inputs"][0] | {"path": "https://me:***@h/x"}
    assert taken["storage"] == given["storage"] and taken["***"] == 1


def test_a_secret_setting_of_a_plugin_is_taken_out_however_ordinary_it_is():
    plain = {"use": "mine:Notify", "code": "ab" * 32, "column": "token", "session": "morning"}
    given = {"callbacks": [plain | {"password": "hunter2", "api_key": "abcdefgh", "token": ""}]}
    taken, found = take_out(given)
    assert taken == {"callbacks": [plain | {"password": "***", "api_key": "***", "token": ""}]}
    assert found == [(("callbacks", 0, name), "by its name") for name in ("password", "api_key")]


@pytest.mark.parametrize("value", ['{"password": "hunter2"}', '[{"a": {"b": [{"apiKey": "Tr0ub4dor"}]}}]'])
def test_a_secret_in_a_parameter_that_is_json_is_taken_out(value):
    assert take_out({"parameters": {"filter": value}}) == (
        {"parameters": {"filter": "***"}},
        [(("parameters", "filter"), "by its name")],
    )


@pytest.mark.parametrize("value", ['{"a": "open"}', '{"password": ""}', "[" * 100_000, '{"token"', "9" * 5000, '"x"'])
def test_a_parameter_that_is_json_without_a_secret_is_left_alone(value):
    assert take_out({"parameters": {"filter": value}})[1] == []


def test_a_secret_that_the_process_knows_is_hidden_in_every_spelling(monkeypatch):
    value = 'p w/"ü+1=&'
    remember(value)
    spelled = [value, quote(value, safe=""), json.dumps(value), base64.b64encode(value.encode()).decode(), repr(value)]
    assert [value in redacted(one) or quote(value, safe="") in redacted(one) for one in spelled] == [False] * 5
    assert all("***" in redacted(f"before {one} after") for one in spelled)
    monkeypatch.setenv("DESK_API_TOKEN", "an-opaque-Value-7")
    assert without_known("x=an-opaque-Value-7.") == "x=***." and str(DataError("an-opaque-Value-7")) == "***"
    monkeypatch.delenv("DESK_API_TOKEN")
    assert without_known("x=an-opaque-Value-7.") == "x=an-opaque-Value-7."


def test_ordinary_words_are_not_hidden_although_a_secret_is_one(monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/user/1000/agent")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for one in ("secret", "key", "test", "1234"):
        remember(one)
    text = "the secret key of the test in /run/user/1000/agent is 1234"
    assert redacted(text) == text


@pytest.mark.parametrize(
    "piece",
    ["a", "://", "a://", ";a=b", "?a=b", "&token=b", "a={", "a='", 'a="', " a=", "%25", "Bearer ", "a:b@", "//u:p@h;",
     "-----BEGIN PRIVATE KEY-----", "eyJ", "host=h password='", "?x=%3F", "-", "A1b", " "],
)  # fmt: skip
def test_long_texts_are_searched_in_linear_time(piece):
    """A quadratic search of these takes many minutes."""
    for text in (piece * (50_000 // len(piece)), "https://h/?" + piece * (50_000 // len(piece)) + "=host=x"):
        redacted(text)
        looks_random(text)
        is_secret_pair("code", text)
        is_secret_pair(text, "aB3dE6gH9")


def test_a_text_is_redacted_before_it_is_cut():
    remember("0pen-Sesame-for-the-desk")
    assert shortened("token 0pen-Sesame-for-the-desk is wrong", 20) == "token *** is wrong"
    assert shortened("token 0pen-Sesame-for", 100) == "token ***", "the answer of a server was cut in it"
    assert shortened("x" * 30_000 + "0pen-Sesame-for-the-desk", 5) == "xxxxx"
    assert shortened("the words of a server", 9) == "the words"


def test_values_that_are_no_utf8_are_hidden_too(monkeypatch):
    monkeypatch.setenv("DESK_PASSWORD", "W0rd-\udcff-\udc80-x")
    assert redacted("is W0rd-\udcff-\udc80-x") == "is ***"
