"""Secrets: which names and texts hold one, and the one redaction of everything that is printed or written.

The settings of a config are recorded, printed and sent with jobs, so a config with a secret is refused (`take_out`); a
secret is given as the name of an environment variable. Whatever reaches a message, a log or a record of a source passes
`redacted`: it hides the values that this process has read as secrets (`remember`), those of environment variables with
the name of a secret, and what has the form of one.

Forms are: a password in an address, also percent-encoded; a parameter of a query string or a pair of a connection
string (libpq, ODBC, Azure) whose name is that of a secret; the tokens of well-known services by their first characters;
private keys. A text that looks random is taken for one only where it is the whole value of a setting. Digests, commit
hashes and UUIDs are none.
"""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
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
_TRAILING = re.compile("value|text|string|plain|raw|header|param|parameter")
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
    r"(?i)|\**|\.\.\.|…|true|false|none|null|yes|no|on|off|basic|bearer|digest|oauth2?|[01]|<[\w .-]+>"
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
_DIGEST = re.compile(r"(?:sha\d+[:-])?[0-9a-fA-F]{6,128}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)(?![./])[A-Za-z0-9+/_=-]{20,200}|(?=.*\d)[a-z0-9]{24,200}")
_KEY_OF_AWS = re.compile(r"[A-Za-z0-9+/]{40}")
# Changes between capital, small letter and digit inside words, by characters: 0.62 on average in a random text of
# base 62; below 0.35 in names with capitals and numbers.
_CHANGES_OF_RANDOM, _CHANGES_OF_KEY = 0.38, 0.28

_KNOWN = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in {
            "an_access_key_of_AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
            "a_token_of_Hugging_Face": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}\b",
            "a_token_of_GitHub": r"\b(?:gh[posur]|github_pat)_[A-Za-z0-9_]{20,}\b",
            "a_token_of_GitLab": r"\bgl[a-z]{2,5}-[A-Za-z0-9_-]{20,}",
            "a_token_of_Slack": r"\bxox[a-z]-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}"
            r"|hooks\.slack\.com/services/[A-Za-z0-9/]{10,}",
            "a_webhook_of_Discord": r"discord(?:app)?\.com/api/webhooks/\d+/[\w-]{20,}",
            "a_token_of_Telegram": r"\b\d{8,10}:[A-Za-z0-9_-]{35}\b",
            "a_key_of_an_AI_service": r"\b(?:sk-(?:ant|proj|or|svcacct|admin)-[\w-]{16,}|sk-[A-Za-z0-9]{20,}"
            r"|gsk_[A-Za-z0-9]{20,}|nvapi-[\w-]{20,}|r8_[A-Za-z0-9]{20,}|pplx-[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,})",
            "a_key_of_Stripe": r"\b(?:[sr]k_(?:live|test)|whsec)_[A-Za-z0-9]{10,}",
            "a_key_of_Google": r"\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{20,}",
            "a_key_of_SendGrid": r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
            "a_token_of_a_registry": r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|dckr_pat_[\w-]{20,}"
            r"|rubygems_[0-9a-f]{40,})",
            "a_token_of_a_cloud_service": r"\b(?:dop_v1_[0-9a-f]{40,}|dapi[0-9a-f]{32}|hv[sb]\.[A-Za-z0-9_-]{20,}"
            r"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{20,}|ATATT3[A-Za-z0-9_=-]{20,}|lin_api_[A-Za-z0-9]{20,}"
            r"|tskey-[A-Za-z0-9-]{20,}|ntn_[A-Za-z0-9]{30,}|secret_[A-Za-z0-9]{40,}|figd_[\w-]{20,}"
            r"|glsa_[A-Za-z0-9_]{20,}|pat-[a-z]{2,3}\d-[0-9a-f-]{30,}|sq0[a-z]{3}-[\w-]{20,}|rpa_[A-Za-z0-9]{30,})",
            "a_JSON_web_token": r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
            "a_private_key": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[\s\S]{0,8000}?-----END [A-Z0-9 ]*-----|[A-Za-z0-9+/=\s\\]*)|AGE-SECRET-KEY-1[A-Z0-9]{20,}",
            "a_value_of_Authorization": r"\b(?:[Bb]earer|[Bb]asic) (?=[^\s\"']*\d)(?=[^\s\"']*[A-Za-z])"
            r"[A-Za-z0-9+/=._~-]{16,}",
        }.items()
    )
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s\"'<>`]*")
# A password with `/`, `?` or blanks, which SQLAlchemy and libpq take in the address of a database.
_DATABASE = re.compile(r"(?!https?:|s3:|gs:|az:|hf:|file:)[A-Za-z][\w+.-]*://[^/:@\s?#]*:(?!\d{1,5}[/?#])([^@]+)@")
_PAIR = re.compile(r"[?&;#]([^=&;#?\s\"']{1,80})=([^&;#?\s\"'<>`]*)")
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
_MOST_DECODED = 3


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
    for found in _KNOWN.finditer(text):
        yield *found.span(), str(found.lastgroup).replace("_", " ")
    if "://" in text:
        whole = _DATABASE.match(text) if depth == 0 and "\n" not in text else None
        if whole is not None and not _is_none(whole[1]):
            yield *whole.span(1), "a password in an address"
        for found in _URL.finditer(text):
            yield from _spans_of_address(found[0], found.start(), depth)
    if "=" not in text:
        return
    if depth > 0 or text[:1] in "?&":
        yield from _spans_of_pairs(f"?{text}", -1, depth)
    pairs = list(_DSN_PAIR.finditer(text))
    if any(_DSN_NAME.fullmatch(pair[1]) for pair in pairs):
        for pair in pairs:
            value = pair[2].strip("'\"")
            if _grade(pair[1]) == _SURE and not _is_none(value):
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

# Groups of settings whose names are those of a request.
_OF_A_REQUEST = {"headers": is_secret_header, "parameters": is_secret_pair}


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
                and _is_secret_setting(at, key, inner)
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
    if at and (judge := _OF_A_REQUEST.get(str(at[-1]))):
        return judge(name, value)
    # Elsewhere names are those of columns and labels too.
    return (
        _grade(name) != _NONE
        and not _DIGEST.fullmatch(value)
        and looks_random(value.ljust(20, "_"))
        and len(value) > 11
    )


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


def without_known(text: str) -> str:
    """The text without the secrets that this process knows; what only has the form of one stays, as documents may."""
    known = frozenset(_known | {value for name, value in os.environ.items() if _is_secret_variable(name, value)})
    return _pattern(known).sub(HIDDEN, text) if known else text


@lru_cache(1024)
def _is_secret_variable(name: str, value: str) -> bool:
    if len(value) < 8 or value.startswith(("/", "~")) or _PLAIN_WORD.fullmatch(value) or _is_none(value):
        return False
    return name in _VARIABLES or (is_secret_name(name) and _ORDINARY.fullmatch(value) is None)


@lru_cache(16)
def _pattern(known: frozenset[str]) -> re.Pattern[str]:
    """Matches the values as they are, percent-encoded, in JSON and in base64."""
    forms = set[str]()
    for value in known:
        encoded = base64.b64encode(value.encode("utf-8", "surrogateescape")).decode().rstrip("=")
        forms |= {value, quote(value, safe=""), quote(value), quote_plus(value), json.dumps(value)[1:-1], encoded}
        forms |= {repr(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True) if len(form) > 5))
