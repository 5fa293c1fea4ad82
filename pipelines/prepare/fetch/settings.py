"""The settings of sources that are not files. None of them holds a password: these are in environment variables."""

import re
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from raymill.cluster.secret_values import VARIABLE, is_secret_header, is_secret_pair, masked, secret_in
from raymill.cluster.store import paths

# Comments and quoted text of a query, the brackets before its first word, and what changes data.
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)
_FIRST_WORD = re.compile(r"[\s(]*(\w*)")
_READS = ("select", "with", "values", "table")
_WRITES = re.compile(r"\b(into|delete\s+from|update\s+\S+\s+set)\b", re.IGNORECASE)
# What a SELECT can write, read or end on the server beside rows, wherever it stands: quotes and comments differ between
# databases, and MySQL runs the comments of the last kind.
_BESIDE_ROWS = re.compile(
    r"\b(outfile|dumpfile|load_file|load_extension|lo_export|lo_import|dblink\w*|pg_(?:read|write|ls|stat)_\w+|"
    r"pg_file_\w+|pg_(?:terminate|cancel)_backend|pg_reload_conf|xp_\w+|sp_\w+|openrowset|opendatasource|openquery|"
    r"utl_file|utl_http|sys_exec|sys_eval)\b|/\*M?!",
    re.IGNORECASE,
)
_HeaderValue = Annotated[str, Field(pattern=r"^([!-~]([ -~]*[!-~])?)?$")]
Variable = Annotated[str, Field(pattern=VARIABLE)]


def _no_framing(name: str) -> str:
    if name.lower() in ("connection", "content-length", "transfer-encoding", "te", "upgrade"):
        raise ValueError(f"{name} is set by each request itself; leave it out")
    return name


_HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$"), AfterValidator(_no_framing)]


def web_address(url: str) -> str:
    """The address of a page or an API.

    Raises:
        ValueError: it is none, or holds a secret.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"{masked(url)} is not the address of a web server; wanted http://HOST/PATH or https://HOST/PATH"
        )
    if parts.username or parts.password:
        raise ValueError("the address holds a user name or password; give `auth` with an environment variable instead")
    if what := secret_in(url):
        raise ValueError(f"the address holds a secret ({what}); give `auth` with an environment variable instead")
    return url


WebAddress = Annotated[str, AfterValidator(web_address)]


class _Fetched(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    snapshot: str = Field("", description="cache key of the fetched answers; change it to fetch them again")


class Database(_Fetched):
    """A query of a relational database, by SQLAlchemy."""

    for_secrets: ClassVar = (
        "Name an environment variable that has it: `database: {password: NAME}`, or for a parameter of the URL "
        "`database: {secrets: {PARAMETER: NAME}}`."
    )

    url: str = Field(
        min_length=1,
        description="SQLAlchemy URL of the database, without password: DIALECT+DRIVER://USER@HOST/NAME; sqlite:////PATH",
    )
    password: Variable | None = Field(None, description="environment variable with the password")
    secrets: dict[str, Variable] = Field(
        {},
        description="parameter of the URL's query string -> environment variable with its value, as in {sslpassword: "
        "KEY_PASSWORD} or {odbc_connect: CONNECTION_STRING}",
    )
    query: str = Field(description="one SELECT; it is run in a transaction that is rolled back")

    @field_validator("url")
    @classmethod
    def _has_no_password(cls, url: str) -> str:
        if "://" not in url:
            raise ValueError("not a URL of SQLAlchemy; wanted DIALECT+DRIVER://USER@HOST/NAME")
        if what := secret_in(url):
            raise ValueError(
                f"the URL holds a password or another secret ({what}); name an environment variable in `password` or "
                "`secrets` instead"
            )
        if (local := url.removeprefix("sqlite:///")) != url:
            return f"sqlite:///{paths.absolute(local)}" if local else url
        return url

    @field_validator("query")
    @classmethod
    def _reads(cls, query: str) -> str:
        plain = _COMMENTS.sub(" ", query)
        found = _FIRST_WORD.match(plain)
        if found is None or found[1].lower() not in _READS:
            seen = f"the query begins with {found[1].upper()}" if found and found[1] else "the query has no first word"
            raise ValueError(f"{seen}; wanted SELECT or WITH, because a source is only read")
        if written := _WRITES.search(plain):
            word = written[1].split()[0].upper()
            raise ValueError(f"the query changes data ({word}); wanted SELECT alone, because a source is only read")
        if beside := _BESIDE_ROWS.search(query):
            raise ValueError(f"the query has `{beside[0]}`, which reaches more than rows; a source is only read")
        if ";" in plain.strip().rstrip(";"):
            raise ValueError("the query has several statements; wanted one SELECT")
        return query


class Web(_Fetched):
    """Bounds of the requests to web servers."""

    allow_private: bool = Field(False, description="allow addresses of this machine and of private networks")
    timeout_s: float = Field(30, gt=0, le=3600, description="seconds for a request, from beginning to end")
    attempts: int = Field(5, ge=1, le=100, description="tries of a request that is refused for a while or ends early")
    longest_wait_s: float = Field(
        300, ge=0, le=86_400, description="longest wait, in seconds, that is granted to a `Retry-After` of the server"
    )
    max_redirects: int = Field(5, ge=0, le=50)
    max_mib: float = Field(20, gt=0, le=1024, description="largest answer in MiB, decompressed")


class Auth(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    """A secret that is sent with every request, in a header or in the query string."""

    variable: Variable = Field(description="environment variable with the secret; for Basic, USER:PASSWORD")
    scheme: Literal["Bearer", "Basic", "none"] = Field("Bearer", description="none: the secret alone")
    header: _HeaderName = "Authorization"
    parameter: str | None = Field(
        None,
        min_length=1,
        description="parameter of the query string that holds the secret; null: it is sent in a header",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.parameter and self.model_fields_set & {"scheme", "header"}:
            raise ValueError("parameter: the query string has the secret alone; leave scheme and header out")
        return self


class Paging(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    """How the next page is asked for."""

    by: Literal["none", "page", "offset", "cursor", "next"] = Field(
        "none",
        description="page: a number in `parameter`, up to a page without records; offset: the number of records before "
        "it in `parameter`, up to a page without records; cursor: the value at `field` of the answer, in `parameter`; "
        "next: the address at `field` of the answer, or in its Link header",
    )
    parameter: str | None = Field(None, min_length=1, description="default: the word of `by`")
    field: str | None = Field(None, min_length=1, description="path of the cursor or of the next address in the answer")
    more: str | None = Field(None, min_length=1, description="path of a value that is false on the last page")
    total: str | None = Field(None, min_length=1, description="path of the number of all records")
    first: int = Field(1, ge=0, description="number of the first page")
    size: int | None = Field(None, ge=1, description="records of a page, sent as `size_parameter`")
    size_parameter: str = Field("limit", min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.by == "cursor" and not self.field:
            raise ValueError("by cursor needs `field`, the path of the next cursor in the answer")
        if self.field and self.by not in ("cursor", "next"):
            raise ValueError(f"field is of cursor and next, and the pages go by {self.by}")
        return self


class Api(Web):
    """A JSON API, page by page."""

    for_secrets: ClassVar = (
        "Name an environment variable that has it in `auth` (a list, if there are several): `{variable: NAME}` sends "
        "it as `Authorization: Bearer`, `{variable: NAME, scheme: none, header: HEADER}` in another header, "
        "`{variable: NAME, parameter: PARAMETER}` in the query string."
    )

    url: WebAddress
    parameters: dict[str, str] = Field({}, description="parameters of the query string; no secrets")
    headers: dict[_HeaderName, _HeaderValue] = Field({}, description="headers of the request; no secrets")
    auth: Auth | tuple[Auth, ...] | None = Field(None, description="secrets of the requests; several as a list")
    records: str = Field(
        "", description="path of the list of records in the answer, as data.items; default: the answer"
    )
    paging: Paging = Paging()
    requests_per_s: float = Field(2.0, gt=0, le=1000)

    @property
    def auths(self) -> tuple[Auth, ...]:
        """The secrets of the requests."""
        return self.auth if isinstance(self.auth, tuple) else (self.auth,) if self.auth else ()

    @model_validator(mode="after")
    def _has_no_secret(self) -> Self:
        for judge, group in ((is_secret_header, self.headers), (is_secret_pair, self.parameters)):
            for name, value in group.items():
                if judge(name, value) or secret_in(value):
                    raise ValueError(f"{name} is a secret, and settings are recorded. {self.for_secrets}")
        return self


class Pages(Web):
    """A list of web pages."""

    for_secrets: ClassVar = (
        "Pages that need one are not fetched by `pages`: use `api` with `auth`, or download them and give their folder "
        "as `path`."
    )

    urls: tuple[WebAddress, ...] | paths.AbsolutePath = Field(
        description="a list, or a text file with an address a line (# begins a comment)"
    )
    delay_s: float = Field(
        1.0, ge=0, le=3600, description="seconds between two requests to one server; robots.txt may want more"
    )


def variables_of(source: Database | Api | Pages) -> tuple[str, ...]:
    """The environment variables that fetching a source needs."""
    if isinstance(source, Database):
        return (*([source.password] if source.password else []), *source.secrets.values())
    return tuple(one.variable for one in source.auths) if isinstance(source, Api) else ()
