"""Secrets: which names and texts hold one, and the one redaction of everything that is printed or written.

The settings of a config are recorded, printed and sent with jobs, so a config with a secret is refused (`take_out`); a
secret is given as the name of an environment variable. Whatever reaches a message, a log or a record of a source passes
`redacted`: it hides the values that this process has read as secrets (`remember`), those of environment variables with
the name of a secret, and what has the form of one.

Forms are: a password in an address, also percent-encoded; a parameter of a query string or a pair of a connection
string (libpq, ODBC, Azure) whose name is a secret's; the tokens of well-known services by their first characters;
private keys. A text that looks random is taken for one only where it is the whole value of a setting. Digests, commit
hashes and UUIDs are none.
"""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from itertools import islice, pairwise
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

# Pattern of settings that name an environment variable with a secret.
VARIABLE = r"^[A-Z_][A-Z0-9_]*$"

HIDDEN = "***"

Loc = tuple[str | int, ...]

# --- names

# The last word of a name that is always one of a secret.
_LAST_WORD = re.compile(
    "passwords?|passwd|passphrase|passcode|passwort|kennwort|pwd|pw|pass|secrets?|token|jwt|signature|sig|credentials?|"
    "authorization|authentication|cookies?|bearer|sas|hmac|otp|apikey|appkey|psk"
)
# Last words that names of other things have too: the value decides. `key` alone is a secret.
_UNSURE = re.compile("key|auth|oauth|code|session|sid|appid|pat|assertion")
# Words before `key` and before `code` with which the whole is a secret.
_OF_A_KEY = re.compile(
    "x|api|app|application|access|account|secret|private|client|auth|authentication|authorization|shared|subscription|"
    "functions?|master|encryption|signing|signature|license|licence|service|developer|user|admin|storage|session|rest|"
    "security|webhook"
)
_OF_A_CODE = re.compile("auth|authorization|access|verification|otp|device|security")
# Words before `token` with which it is a place in a listing, or a piece of text.
_OF_A_PLACE = re.compile(
    "page|next|prev|previous|continuation|continue|sync|delta|cursor|skip|resume|resumption|pad|padding|eos|bos|unk|"
    "sep|cls|mask|special|start|end|stop|eot|image|audio|boundary|first|last"
)
# Words that follow the one which decides.
_TRAILING = re.compile("value|text|string|plain|raw|header|param|parameter|base|info|json")
_JOINED = re.compile(
    r"(?:password|passwd|passphrase|passwort|secret|signature|credentials?|apikey|appkey|userpwd|userpass|"
    r"(?:access|secret|private|account|shared|sharedaccess|subscription|auth|client|master|signing|encryption|license)"
    r"key|(?:access|auth|refresh|id|session|private|security|api|user|bearer|personal|oauth|secret|csrf|xsrf|ws)token|"
    r"accesskeyid|googleaccessid|keypairid|phpsessid|jsessionid|connectsid|jwt|cookie)$"
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LONGEST_NAME = 200
_SURE, _DECIDED_BY_VALUE, _NONE = 2, 1, 0


@lru_cache(4096)
def _grade(name: str) -> int:
    name = name[-_LONGEST_NAME:]
    joined = re.sub(r"[^a-z]", "", name.lower())
    words = [word.lower() for word in _WORDS.findall(name) if not word.isdigit()]
    while len(words) > 1 and _TRAILING.fullmatch(words[-1]):
        words.pop()
    if not words:
        return _NONE
    before, last = words[-2] if len(words) > 1 else "", words[-1]
    if last == "token" and _OF_A_PLACE.fullmatch(before):
        return _NONE
    if last == "key":
        return _SURE if not before or _OF_A_KEY.fullmatch(before) else _DECIDED_BY_VALUE
    if _LAST_WORD.fullmatch(last) or _JOINED.search(joined) or (last == "code" and _OF_A_CODE.fullmatch(before)):
        return _SURE
    return _DECIDED_BY_VALUE if _UNSURE.fullmatch(last) or words[-2:] == ["session", "id"] else _NONE


def is_secret_name(name: str) -> bool:
    """Whether a parameter or a header of this name is a secret whatever its value is, such as `api_key`."""
    return _grade(name) == _SURE


# --- values

_NO_VALUE = re.compile(
    r"(?i)|\**|\.\.\.|…|true|false|none|null|yes|no|on|off|basic|bearer|digest|oauth2?|[01]|<[^<>]{1,60}>"
)
_PLACEHOLDER = re.compile(r"\{\s*(\w+)\s*\}")
# Values under a name such as `code`, `session` or `sort_key` that are no secrets: words, numbers and dates, codes of
# countries, keys of issues.
_ORDINARY = re.compile(
    r".{1,4}|[A-Za-z][a-z]{0,15}(?:[ _.,/-][A-Za-z][a-z]{0,15}|[A-Z][a-z]{1,15})*|[A-Z]{1,5}|[a-z]{2,3}[-_][A-Z]{2}"
    r"|[A-Z]{2,10}-\d{1,6}|[-+]?\d{1,12}(?:[-.:/T ]\d{1,9})*Z?",
    re.DOTALL,
)
_LONGEST_ORDINARY = 200
_KEY_OF_AN_ISSUE = re.compile(r"[A-Z][A-Z0-9]{1,9}(?:-\d{1,7})?|\d{1,7}")
_DIGEST = re.compile(r"(?:sha\d+[:-])?[0-9a-fA-F]{6,128}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)(?![./])[A-Za-z0-9+/_=-]{20,200}|(?=.*\d)[a-z0-9]{24,200}")
_KEY_OF_AWS = re.compile(r"[A-Za-z0-9+/]{40}")
# Changes between capital, small letter and digit inside words, by characters: 0.62 on average in a random text of
# base 62; below 0.35 in names with capitals and numbers.
_CHANGES_OF_RANDOM, _CHANGES_OF_KEY = 0.38, 0.28

# What -> (texts of which one is in it, the form). Most texts have none of the former, which are looked for first.
_KNOWN: dict[str, tuple[tuple[str, ...], re.Pattern[str]]] = {
    "an access key of AWS": (("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    "a token of Hugging Face": (("hf_", "api_org_"), re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}\b")),
    "a token of GitHub": (
        ("ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_"),
        re.compile(r"\b(?:gh[posur]|github_pat)_[A-Za-z0-9_]{20,}\b"),
    ),
    "a token of GitLab": (("gl",), re.compile(r"\bgl[a-z]{2,5}-[A-Za-z0-9_-]{20,}")),
    "a token of Slack": (
        ("xox", "xapp-", "hooks.slack.com"),
        re.compile(
            r"\bxox[a-z]-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{10,}"
        ),
    ),
    "a webhook of Discord": (
        ("/api/webhooks/",), re.compile(r"discord(?:app)?\.com/api/webhooks/\d+/[\w-]{20,}")
    ),
    "a token of Telegram": ((":AA",), re.compile(r"(?<!\d)\d{8,10}:AA[A-Za-z0-9_-]{33}\b")),
    "a key of an AI service": (
        ("sk-", "gsk_", "nvapi-", "r8_", "pplx-", "xai-"),
        re.compile(
            r"\b(?:sk-(?:ant|proj|or|svcacct|admin)-[\w-]{16,}|sk-[A-Za-z0-9]{20,}|gsk_[A-Za-z0-9]{20,}"
            r"|nvapi-[\w-]{20,}|r8_[A-Za-z0-9]{20,}|pplx-[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,})"
        ),
    ),
    "a key of Stripe": (
        ("k_live_", "k_test_", "whsec_"), re.compile(r"\b(?:[sr]k_(?:live|test)|whsec)_[A-Za-z0-9]{10,}")
    ),
    "a key of Google": (
        ("AIza", "ya29.", "GOCSPX-"),
        re.compile(r"\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{20,}"),
    ),
    "a key of SendGrid": (("SG.",), re.compile(r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}")),
    "a token of a registry": (
        ("npm_", "pypi-", "dckr_pat_", "rubygems_"),
        re.compile(
            r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|dckr_pat_[\w-]{20,}|rubygems_[0-9a-f]{40,})"
        ),
    ),
    "a token of a cloud service": (
        ("dop_v1_", "dapi", "hvs.", "hvb.", "shp", "ATATT3", "lin_api_", "tskey-", "ntn_", "secret_", "figd_", "glsa_",
         "pat-", "sq0", "rpa_"),
        re.compile(
            r"\b(?:dop_v1_[0-9a-f]{40,}|dapi[0-9a-f]{32}|hv[sb]\.[A-Za-z0-9_-]{20,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{20,}"
            r"|ATATT3[A-Za-z0-9_=-]{20,}|lin_api_[A-Za-z0-9]{20,}|tskey-[A-Za-z0-9-]{20,}|ntn_[A-Za-z0-9]{30,}"
            r"|secret_[A-Za-z0-9]{40,}|figd_[\w-]{20,}|glsa_[A-Za-z0-9_]{20,}|pat-[a-z]{2,3}\d-[0-9a-f-]{30,}"
            r"|sq0[a-z]{3}-[\w-]{20,}|rpa_[A-Za-z0-9]{30,})"
        ),
    ),
    "a JSON web token": (
        ("eyJ",), re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?")
    ),
    "a private key": (
        ("PRIVATE KEY", "AGE-SECRET-KEY-1"),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[\s\S]{0,8000}?-----END [A-Z0-9 ]{0,40}-----|[A-Za-z0-9+/=\s\\]*)|AGE-SECRET-KEY-1[A-Z0-9]{20,}"
        ),
    ),
    "a value of Authorization": (
        ("earer ", "asic "),
        re.compile(
            r"\b(?:[Bb]earer|[Bb]asic) (?=[^\s\"']*\d)(?=[^\s\"']*[A-Za-z])[A-Za-z0-9+/=._~-]{16,}"
        ),
    ),
}  # fmt: skip
_ADDRESS = re.compile("://")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*$")
_REST = re.compile(r"[^\s\"'<>`]*")
# A password with `/`, `?` or blanks, which SQLAlchemy and libpq take in the address of a database.
_DATABASE = re.compile(r"(?!https?:|s3:|gs:|az:|hf:|file:)[A-Za-z][\w+.-]*://[^/:@\s?#]*:(?!\d{1,5}[/?#])([^@]+)@")
_PAIR = re.compile(r"[?&;#]([^=&;#?\s\"']{1,80})=([^&;#?\s\"'<>`]*)")
# Of a local path, such as a file that wget named after the address of its content. Behind `;` as in a
# connection string.
_QUERY = re.compile(r"(?<=[^\s?=&])\?[^\s\"'<>`?]+|(?<![^\s\"'<>`(])[^\s\"'<>`?;=/]*+/[^\s\"'<>`?;=]*+;[^\s\"'<>`?]+")
_WHOLE_VALUE = re.compile(r"[^&\s\"'<>`]*")
_DSN_PAIR = re.compile(
    r"(?:^|[;\s\"'(])([A-Za-z][A-Za-z_]*(?: [A-Za-z]+)?)\s*=\s*"
    r"(\{(?:[^}]|\}\}){0,1000}\}|'(?:\\.|[^'\\]){0,1000}'|\"[^\"]{0,1000}\"|[^;\s\"')]*)"
)
_DSN_NAME = re.compile(
    "host|hostaddr|hostname|port|user|uid|username|dbname|database|db|server|driver|dsn|service|address|addr|"
    "accountname|defaultendpointsprotocol|endpoint|blobendpoint|sharedaccesskeyname|sslmode|data source|"
    "initial catalog|user id",
    re.IGNORECASE,
)
# Parts of the names of secrets: without one, no pair of a connection string is looked for.
_SOME_SECRET = re.compile("(?i)pass|pwd|pw|secret|token|key|sig|jwt|cred|auth|cookie|bearer|sas|hmac|otp|psk|wort")
_MOST_DECODED = 3
_LONGEST_SCHEME = 31


def looks_random(text: str) -> bool:
    """Whether a whole text looks as if it were drawn at random. Digests, commit hashes and UUIDs do not."""
    return _RANDOM.fullmatch(text) is not None and not _DIGEST.fullmatch(text) and _is_mixed(text)


def _is_mixed(text: str) -> bool:
    """Whether capitals, small letters and digits follow each other as in no name."""
    words = re.findall(r"[A-Za-z0-9]+", text)
    kinds = [[0 if one.islower() else 1 if one.isupper() else 2 for one in word] for word in words]
    changes = sum(one != other for word in kinds for one, other in pairwise(word))
    least = _CHANGES_OF_KEY if _KEY_OF_AWS.fullmatch(text) or text.islower() else _CHANGES_OF_RANDOM
    return changes >= max(1, least * sum(map(len, words)))


def secret_in(text: str) -> str | None:
    """What of a text is a secret, in words and without its value; None if nothing is."""
    return next((what for _, _, what in _spans(text)), None)


def masked(text: str) -> str:
    """The text with `***` in place of what has the form of a secret."""
    end, parts = 0, []
    for start, stop, _ in sorted(_spans(text)):
        if stop > end:
            parts += [text[end : max(start, end)], HIDDEN if start >= end else ""]
            end = stop
    return "".join(parts) + text[end:] if parts else text


def _spans(text: str, depth: int = 0) -> Iterator[tuple[int, int, str]]:
    """(start, end, what) of each secret in a text."""
    for what, (marks, form) in _KNOWN.items():
        for mark in marks:  # not any(), which takes six times as long, and all marks are looked for in each text
            if mark in text:
                yield from ((*found.span(), what) for found in form.finditer(text))
                break
    addresses, of_address = list[int](), set[int]()  # where they begin and end; where they begin
    if "://" in text:
        whole = _DATABASE.match(text) if depth == 0 and "\n" not in text else None
        if whole is not None and not _is_none(whole[1]):
            yield *whole.span(1), "a password in an address"
        places = [found.start() for found in _ADDRESS.finditer(text)]
        for at, following in pairwise([*places, len(text)]):
            if scheme := _SCHEME.search(text[max(0, at - _LONGEST_SCHEME) : at]):
                rest = _REST.match(text, at, following)
                assert rest is not None, "it matches nothing too"
                addresses += [at, rest.end()]
                of_address.add(at)
                yield from _spans_of_address(scheme[0] + rest[0], at - len(scheme[0]), depth)
    if "=" not in text or not _SOME_SECRET.search(text):
        return
    for start, stop in pairwise([0, *addresses, len(text)]) if depth == 0 else ():
        if start not in of_address:
            for query in _QUERY.finditer(text, start, stop):
                yield from _spans_of_pairs(query[0], query.start(), depth)
    if depth > 0 or text[:1] in "?&":
        yield from _spans_of_pairs(f"?{text}", -1, depth)
    pairs = list(_DSN_PAIR.finditer(text))
    if depth > 0 or any(_DSN_NAME.fullmatch(pair[1]) for pair in pairs):
        for pair in pairs:
            value = pair[2].strip("'\"")
            if _grade(pair[1]) == _SURE and is_secret_pair(pair[1], value):
                yield *pair.span(2), f"`{pair[1]}` in a connection string"


def _spans_of_address(url: str, offset: int, depth: int) -> Iterator[tuple[int, int, str]]:
    begin = url.index("://") + 3
    stop = next((at for at in range(begin, len(url)) if url[at] in "/?#\\;"), len(url))
    user, at, _ = url[begin:stop].rpartition("@")
    if at:
        name, colon, password = user.partition(":")
        start = offset + begin
        if colon and password and not _is_none(_decoded(password)):
            yield start + len(name) + 1, start + len(user), "a password in an address"
        elif not colon and (":" in _decoded(user) or looks_random(user)):
            yield start, start + len(user), "a password in an address"
    yield from _spans_of_pairs(url, offset, depth)


def _spans_of_pairs(text: str, offset: int, depth: int) -> Iterator[tuple[int, int, str]]:
    at = 0
    while found := _PAIR.search(text, at):
        name, value = _decoded(found[1]), _decoded(found[2])
        start, at = found.span(2)
        if is_secret_pair(name, value):
            # In the address of a database, `?`, `#` and `;` are part of a value.
            if _grade(name) == _SURE and not text.startswith("http") and (whole := _WHOLE_VALUE.match(text, start)):
                at = whole.end()
            yield offset + start, offset + at, f"`{_short(name)}` in an address"
        elif depth < _MOST_DECODED and value != found[2]:
            for _, _, what in islice(_spans(value, depth + 1), 1):
                yield offset + start, offset + at, what


def _decoded(text: str) -> str:
    """The text without percent-encoding, also if it was encoded several times."""
    for _ in range(_MOST_DECODED):
        if (plain := unquote_plus(text)) == text:
            break
        text = plain
    return text


def _is_none(value: str) -> bool:
    """Whether a value stands for a secret, such as `***` or `{password}`, or is empty."""
    if found := _PLACEHOLDER.fullmatch(value):
        return _grade(found[1]) != _NONE
    return _NO_VALUE.fullmatch(value) is not None


def is_secret_pair(name: str, value: str) -> bool:
    """Whether a parameter of a request, with its value, is a secret."""
    grade = _grade(name)
    if grade == _NONE or _is_none(value):
        return False
    if name.lower() == "key" and _KEY_OF_AN_ISSUE.fullmatch(value):
        return False
    return grade == _SURE or len(value) > _LONGEST_ORDINARY or _ORDINARY.fullmatch(value) is None


def is_secret_header(name: str, value: str) -> bool:
    """Whether a header of a request, with its value, is a secret."""
    if _is_none(value):
        return False
    if re.match(r"(?i)(?:bearer|basic|digest|token|apikey|negotiate|aws4-hmac-sha256)\s+\S", value):
        return True
    last = _WORDS.findall(name)[-1:]
    return is_secret_pair(name, value) or (_grade(name) != _NONE and last[0].lower() != "code")


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."


# --- settings

# Groups of settings whose names are those of parameters; those of other groups are columns, labels and words too.
_OF_A_REQUEST = {"headers": is_secret_header, "parameters": is_secret_pair}
_OF_PARAMETERS = _OF_A_REQUEST | dict.fromkeys(("config", "chat_template_kwargs"), is_secret_pair)


def take_out(
    value: Any, is_own: Callable[[Loc], bool] = lambda at: False, at: Loc = ()
) -> tuple[Any, list[tuple[Loc, str]]]:
    """(the settings with `***` for each secret, [(setting, what of it is a secret, without the value) of each]).

    Args:
        value: settings as JSON values.
        is_own: whether a setting is for a secret; it is left as it is.
        at: where `value` is in the config.
    """
    if is_own(at):
        return value, []
    found: list[tuple[Loc, str]] = []
    if isinstance(value, Mapping):
        taken = {}
        for key, inner in value.items():
            name, where = key, (*at, key)
            if isinstance(key, str) and _is_secret_text(key):
                name, where = HIDDEN, at
                found.append((at, "a name in it"))
            if (
                isinstance(key, str)
                and isinstance(inner, str)
                and not is_own((*at, key))
                and (_is_secret_setting(at, key, inner) or ("use" in value and _is_secret_of_plugin(key, inner)))
            ):
                found.append((where, "by its name"))
                taken[name] = HIDDEN
            else:
                taken[name], inside = take_out(inner, is_own, where)
                found += inside
        return (taken if found else value), found
    if isinstance(value, list | tuple):
        several = [take_out(inner, is_own, (*at, number)) for number, inner in enumerate(value)]
        found = [one for _, inside in several for one in inside]
        return ([taken for taken, _ in several] if found else value), found
    if isinstance(value, str):
        if (what := secret_in(value)) is not None:
            return masked(value), [(at, what)]
        if looks_random(value):
            return HIDDEN, [(at, "a text that looks random")]
    return value, []


def _is_secret_text(text: str) -> bool:
    return secret_in(text) is not None or looks_random(text)


def _is_secret_setting(at: Loc, name: str, value: str) -> bool:
    """Whether a value is a secret by the names of its group and its setting."""
    if at and (judge := _OF_PARAMETERS.get(str(at[-1]))):
        return judge(name, value) or any(_spans(value, 1)) or _names_one_in_json(value)
    return (
        _grade(name) != _NONE
        and not _DIGEST.fullmatch(value)
        and looks_random(value.ljust(20, "_"))
        and len(value) > 11
    )


def _is_secret_of_plugin(name: str, value: str) -> bool:
    """Whether a setting of a plug-in, whose names are those of its author, is a secret."""
    return is_secret_pair(name, value) and not _DIGEST.fullmatch(value)


def _names_one_in_json(value: str) -> bool:
    """Whether a value is JSON, such as a filter, with a member that is a secret by its name."""
    members: list[tuple[str, Any]] = []
    try:
        json.loads(value, object_pairs_hook=members.extend)
    except (ValueError, RecursionError):
        return False
    return any(isinstance(inner, str) and is_secret_pair(name, inner) for name, inner in members)


def without_secrets(value: Any, name: str = "") -> Any:
    """Settings as JSON values for a message: without anything that may be a secret, by its name or its form."""
    if isinstance(value, Mapping):
        hide = name in _OF_A_REQUEST
        return {
            masked(str(key)): HIDDEN
            if (hide or is_secret_name(str(key))) and isinstance(inner, str | int | float) and inner is not None
            else without_secrets(inner, str(key))
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner, name) for inner in value]
    if isinstance(value, str):
        return HIDDEN if looks_random(value) else masked(value)
    return value


# --- redaction

_known: set[str] = set()
_SEARCHED = 10_000  # characters after the beginning of a text that are searched for the rest of a secret
# Variables whose values are secrets although their names may not say so.
_VARIABLES = frozenset(("AWS_ACCESS_KEY_ID", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"))
_PLAIN_WORD = re.compile(r"[a-z]{1,8}|[A-Za-z]{1,5}|\d{1,5}")


def remember(value: str) -> str:
    """The value of a secret, which `redacted` hides from now on in this process.

    Values of up to 8 lower-case letters, and others of up to 5 characters, are not hidden: messages have such words.
    """
    if len(value) > 5 and not _PLAIN_WORD.fullmatch(value):
        _known.add(value)
    return value


def redacted(text: str) -> str:
    """The text without secrets: those that this process knows, and what has the form of one."""
    return masked(without_known(text))


def redacting() -> Callable[[str], str]:
    """The function `redacted` for several texts at once, with the secrets that are known now."""
    forms = _forms()
    return cache(lambda text: masked(_without(forms, text)))


def without_known(text: str) -> str:
    """The text without the secrets that this process knows; what only has the form of one stays, as documents may."""
    return _without(_forms(), text)


def _without(forms: tuple[str, ...], text: str) -> str:
    return _any_of(forms).sub(HIDDEN, text) if any(form in text for form in forms) else text


def shortened(text: str, most: int) -> str:
    """The first `most` characters of a text for a message, redacted; a secret at the end may be cut already."""
    text = text[: _SEARCHED + most]
    for form in _forms():
        cut = next((size for size in range(len(form) - 1, 5, -1) if text.endswith(form[:size])), 0)
        text = text[: len(text) - cut] + (HIDDEN if cut else "")
    return redacted(text)[:most]


def _forms() -> tuple[str, ...]:
    """The known secrets as they are, percent-encoded, in JSON and in base64, the longest first."""
    variables = {os.environ[name] for name in os.environ if _is_secret_variable(name)}
    return _spelled(frozenset(_known.union(filter(_is_hidden, variables))))


@lru_cache(1024)
def _is_secret_variable(name: str) -> bool:
    return name in _VARIABLES or is_secret_name(name)


@lru_cache(1024)
def _is_hidden(value: str) -> bool:
    """Whether the value of a variable with the name of a secret can be one, and no word or path."""
    if len(value) < 8 or value.startswith(("/", "~")) or _PLAIN_WORD.fullmatch(value) or _is_none(value):
        return False
    return len(value) > _LONGEST_ORDINARY or _ORDINARY.fullmatch(value) is None


@lru_cache(16)
def _spelled(known: frozenset[str]) -> tuple[str, ...]:
    forms = set[str]()
    for value in known:
        encoded = base64.b64encode(value.encode("utf-8", "surrogatepass")).decode().rstrip("=")
        forms |= {quote(value, safe, errors="surrogatepass") for safe in ("", "/")}
        forms |= {value, quote_plus(value, errors="surrogatepass"), json.dumps(value)[1:-1], encoded}
        forms |= {repr(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return tuple(sorted((form for form in forms if len(form) > 5), key=len, reverse=True))


@lru_cache(16)
def _any_of(forms: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, forms)))
