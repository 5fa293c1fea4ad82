"""The settings of sources that are not files. None of them holds a password: these are in environment variables."""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from raymill.cluster.secret_values import VARIABLE, is_secret_header, is_secret_pair, secret_in
from raymill.cluster.store import paths
from raymill.cluster.web_address import WebAddress

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


class _Fetched(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    snapshot: str = Field("", description="Cache key of the fetched answers; change it to fetch them again")
    max_gib: float = Field(
        32,
        gt=0,
        description="Maximum size of all fetched records of a source in GiB, as JSON; each answer is at least 64 KiB",
    )


class Database(_Fetched):
    """A query of a relational database, by SQLAlchemy."""

    for_secrets: ClassVar = (
        "Name an environment variable that has it: `database: {password: NAME}`, or for a parameter of the URL "
        "`database: {secrets: {PARAMETER: NAME}}`."
    )

    url: str = Field(
        min_length=1,
        description="SQLAlchemy URL of the database, without password: DIALECT+DRIVER://USER@HOST/NAME, or "
        "sqlite:////PATH",
    )
    password: Variable | None = Field(
        None, description="Name of the environment variable with the database's password; null: none"
    )
    secrets: dict[str, Variable] = Field(
        {},
        description="Names of environment variables for parameters of the database's URL, as {sslpassword: "
        "KEY_PASSWORD} or {odbc_connect: CONNECTION_STRING}",
    )
    timeout_s: float = Field(
        3600,
        gt=0,
        le=86_400,
        description="Longest time until the next 1,000 rows of the query are there, in seconds",
    )
    query: str = Field(description="SELECT statement whose rows are the records; its transaction is rolled back")

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

    allow_private: bool = Field(
        False, description="Whether addresses of this machine and of private networks may be requested"
    )
    timeout_s: float = Field(
        30, gt=0, le=3600, description="Seconds that a request to a web server may take, from beginning to end"
    )
    attempts: int = Field(
        5,
        ge=1,
        le=100,
        description="Maximum number of tries of a web request that is refused for a while or ends early",
    )
    longest_wait_s: float = Field(
        300,
        ge=0,
        le=86_400,
        description="Maximum wait in seconds before a request is repeated; a server whose `Retry-After` is longer is "
        "not asked again",
    )
    max_redirects: int = Field(5, ge=0, le=50, description="Maximum number of redirects of a web request")
    max_mib: float = Field(20, gt=0, le=1024, description="Maximum size of a response in MiB, decompressed")


class Auth(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    """A secret that is sent with every request, in a header or in the query string."""

    variable: Variable = Field(
        description="Name of the environment variable with the secret; for scheme Basic its value is USER:PASSWORD"
    )
    scheme: Literal["Bearer", "Basic", "none"] = Field(
        "Bearer",
        description="Word before the secret in the header: Bearer, Basic (the secret is then sent in base64), or none",
    )
    header: _HeaderName = Field("Authorization", description="Name of the header that has the secret")
    parameter: str | None = Field(
        None,
        min_length=1,
        description="Name of the query parameter that has the secret; null: a header has it",
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
        description="Position of the next page: a page number, an offset in records (both until a page without "
        "records), a cursor from the response, the address of the next page (next), or none",
    )
    parameter: str | None = Field(
        None,
        min_length=1,
        description="Name of the query parameter with the page number, offset or cursor; null: page, offset or cursor",
    )
    field: str | None = Field(
        None,
        min_length=1,
        description="Path in the response of the cursor, or of the next page's address, as meta.next; null: none, "
        "and for `by: next` the Link header",
    )
    more: str | None = Field(
        None, min_length=1, description="Path in the response of a value that is false on the last page; null: none"
    )
    total: str | None = Field(
        None,
        min_length=1,
        description="Path in the response of the number of all records, for `by: offset`; null: none",
    )
    first: int = Field(1, ge=0, description="Number of the first page, for `by: page`")
    size: int | None = Field(
        None, ge=1, description="Number of records of a page that is requested; null: the server's default"
    )
    size_parameter: str = Field(
        "limit", min_length=1, description="Name of the query parameter with the number of records of a page"
    )

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

    url: WebAddress = Field(description="Address of the API, without secrets")
    parameters: dict[str, str] = Field({}, description="Query parameters of the API's requests, without secrets")
    headers: dict[_HeaderName, _HeaderValue] = Field({}, description="Headers of the API's requests, without secrets")
    auth: Auth | tuple[Auth, ...] | None = Field(
        None, description="Secret that is sent with every request of the API, or a list of several; null: none"
    )
    records: str = Field(
        "", description="Path in the response of the list of records, as data.items; empty: the response is the list"
    )
    paging: Paging = Field(Paging(), description="Requests for further pages of the API")
    requests_per_s: float = Field(2.0, gt=0, le=1000, description="Maximum number of requests per second to the API")

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
        description="Addresses of web pages: a list, or the path of a text file with one a line and # comments"
    )
    delay_s: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="Minimum number of seconds between two requests to one web server; its robots.txt may want more",
    )


def variables_of(source: Database | Api | Pages) -> tuple[str, ...]:
    """The environment variables that fetching a source needs."""
    if isinstance(source, Database):
        return (*([source.password] if source.password else []), *source.secrets.values())
    return tuple(one.variable for one in source.auths) if isinstance(source, Api) else ()
