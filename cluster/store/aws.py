"""Settings of S3: boto3 finds region, endpoint and credentials (profiles, SSO, IRSA, instance roles)."""

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import urllib3
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from raymill.cluster.entry import within
from raymill.cluster.errors import StorageError
from raymill.cluster.secret_values import remember
from raymill.cluster.store.interface import (
    FileInfo,
    StorageOptions,
    Upload,
    checked_endpoint,
    first_line,
    held_by,
    refuse_endless,
)

# Bytes and number of the parts of an upload; S3 takes no more.
_PART_BYTES, _MAX_PARTS = 5 << 20, 10_000
_PARTS_AT_ONCE = 4
_LARGEST_ANSWER = 64 << 20  # bytes: a page of a listing has 1,000 names of at most 1,024 bytes
_EMPTY_PAGES = 1_000  # S3 answers with one where it passed over deleted objects
_SPARSE_PAGES, _LEAST_OF_A_PAGE = 10_000, 10  # pages, and their entries on average
_MOST_UPLOADS = 100_000
_CHECKSUMS = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256")

# Errors of boto3 and the kinds of obstore's errors, for `_as_obstore`.
_KINDS = {
    401: UnauthenticatedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: AlreadyExistsError,
    412: AlreadyExistsError,
}
_LOST = (HTTPClientError, IncompleteReadError, TimeoutError)
_REFUSED = (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError, SSOError, TokenRetrievalError)

log = logging.getLogger(__name__)


def s3_settings(name: str, options: StorageOptions, setting: str) -> dict[str, Any]:
    """Arguments of obstore's S3Store: region, endpoint and credentials.

    They come from the options, else from the environment, the AWS files and the machine's role.

    Args:
        setting: where a config has the options, for error messages.

    Raises:
        StorageError: the AWS configuration cannot be used, an endpoint is no address, or there are no credentials.
    """
    try:
        aws = botocore.session.Session(profile=options.profile)
        session = boto3.session.Session(botocore_session=aws, region_name=options.region)
        # get_credentials may query the metadata service of a cloud machine, so it is called only where it is needed.
        credentials = None if options.anonymous or options.access_key_id else session.get_credentials()
        configured = aws.get_scoped_config().get("endpoint_url")
    except BotoCoreError as error:
        raise StorageError(
            f"s3://{name}: the AWS configuration cannot be used ({first_line(error)}). "
            f"Check ~/.aws/config, AWS_PROFILE and {setting}.profile."
        ) from error
    settings: dict[str, Any] = {"region": session.region_name or "us-east-1"}
    endpoint = options.endpoint_url
    found = {variable: os.environ.get(variable) for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}
    for where, url in (found | {"endpoint_url of the AWS profile": configured}).items():
        if url and not endpoint:
            try:
                endpoint = checked_endpoint(url)
            except ValueError as error:
                raise StorageError(f"s3://{name}: {where}: {error}.") from error
    path_style = options.path_style if options.path_style is not None else bool(endpoint)
    settings["virtual_hosted_style_request"] = not path_style
    if endpoint:
        # If the bucket is part of the host name, obstore takes the endpoint with it.
        settings["endpoint"] = endpoint if path_style else endpoint.replace("://", f"://{name}.", 1)
    if options.anonymous:
        return settings | {"skip_signature": True}
    if options.access_key_id and options.secret_access_key:
        settings["access_key_id"] = remember(options.access_key_id.get_secret_value())
        settings["secret_access_key"] = remember(options.secret_access_key.get_secret_value())
        if options.session_token:
            settings["session_token"] = remember(options.session_token.get_secret_value())
        return settings
    if credentials is None:
        raise StorageError(
            f"s3://{name}: no AWS credentials found. Set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"give `{setting}: {{profile: ...}}` in the config, or `{setting}: {{anonymous: true}}` for a public "
            "bucket."
        )
    return settings | {"credential_provider": Boto3CredentialProvider(session)}


def list_objects(name: str, options: StorageOptions, setting: str, folder: str) -> list[FileInfo]:
    """All objects below a folder of a bucket, also those with names that obstore cannot read.

    Raises:
        BaseError: as obstore raises it for its own requests.
    """
    with _as_obstore():
        objects, held = list[FileInfo](), 0
        for found_objects in _listed(
            name, options, setting, "list_objects_v2", "Contents", f"{folder}/" if folder else ""
        ):
            page = [
                FileInfo(
                    f"s3://{name}/{found['Key']}",
                    _size(found["Size"]),
                    found["ETag"].strip('"'),
                    found["LastModified"].timestamp(),
                )
                for found in found_objects
            ]
            held += held_by(page)
            refuse_endless(f"s3://{name}/{folder}", held)
            objects += page
        return objects


def _listed(
    name: str, options: StorageOptions, setting: str, operation: str, of: str, prefix: str
) -> Iterator[list[dict[str, Any]]]:
    """The entries `of` of each page of a listing.

    Raises:
        ValueError: too many empty pages in a row, or pages with few entries; or one as the page before.
        TimeoutError: a page takes too long. boto3's time-outs are those of single reads, and an answer may drip.
    """
    pages = iter(_client(name, options, setting).get_paginator(operation).paginate(Bucket=name, Prefix=prefix))
    empty_pages = number = entries = 0
    last = list[dict[str, Any]]()
    while page := within(options.timeout_s + options.retry_deadline_s, lambda: next(pages, None)):
        found = page.get(of, [])
        empty_pages = 0 if found else empty_pages + 1
        if empty_pages > _EMPTY_PAGES:
            raise ValueError(f"a listing with {empty_pages} empty pages in a row")
        number, entries = number + 1, entries + len(found)
        if number > _SPARSE_PAGES and entries < _LEAST_OF_A_PAGE * number:
            raise ValueError(f"a listing with {entries:,} entries on {number:,} pages")
        if found and found == last:
            raise ValueError("a listing with the same page twice")
        last = found
        yield found


def _size(stated: int) -> int:
    if not 0 <= stated < 1 << 63:
        raise ValueError(f"an object of {stated:.3g} bytes")
    return stated


def list_uploads(name: str, options: StorageOptions, setting: str, folder: str) -> list[Upload]:
    """The multipart uploads below a folder of a bucket. Killed processes leave them, and their parts cost money.

    If the store refuses the listing, that is logged and the list is empty: the bucket's lifecycle rules remove uploads.
    Of a listing of more than 100,000 uploads the others are left out.
    """
    try:
        with _as_obstore():
            pages = _listed(name, options, setting, "list_multipart_uploads", "Uploads", f"{folder}/")
            return [
                Upload(f"s3://{name}/{found['Key']}", found["Initiated"].timestamp(), found["UploadId"])
                for found in islice(chain.from_iterable(pages), _MOST_UPLOADS)
                if found["Key"].startswith(f"{folder}/")
            ]
    except BaseError as error:
        log.warning("s3://%s/%s: interrupted uploads were not looked for (%s)", name, folder, error)
        return []


def abort_uploads(name: str, options: StorageOptions, setting: str, uploads: Iterable[Upload]) -> None:
    """Abort multipart uploads. Those that have ended are skipped. A refusal is logged and raises no error."""
    try:
        for upload in uploads:
            key = upload.uri.removeprefix(f"s3://{name}/")
            with suppress(_client(name, options, setting).exceptions.NoSuchUpload):
                _client(name, options, setting).abort_multipart_upload(Bucket=name, Key=key, UploadId=upload.id)
    except (BotoCoreError, ClientError) as error:
        log.warning("s3://%s: interrupted uploads were not aborted (%s)", name, error)


def upload_new(name: str, options: StorageOptions, setting: str, path: Path, key: str) -> None:
    """Upload a large file in parts, unless the object exists. obstore has no condition for an upload in parts.

    Raises:
        BaseError: as obstore raises it for its own requests; AlreadyExistsError if the object exists, or if another
            write of it is in progress.
    """
    client, object = _client(name, options, setting), {"Bucket": name, "Key": key}
    size = path.stat().st_size
    part_bytes = max(_PART_BYTES, -(-size // _MAX_PARTS))

    def send(number: int) -> dict[str, Any]:
        with path.open("rb") as file:
            file.seek((number - 1) * part_bytes)
            answer = client.upload_part(**object, **upload, PartNumber=number, Body=file.read(part_bytes))
        return {"PartNumber": number} | {name: answer[name] for name in ("ETag", *_CHECKSUMS) if name in answer}

    with _as_obstore():
        upload = {"UploadId": client.create_multipart_upload(**object)["UploadId"]}
        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                parts = list(pool.map(send, range(1, -(-size // part_bytes) + 1)))
            whole = object | upload | {"MultipartUpload": {"Parts": parts}}
            try:
                client.complete_multipart_upload(**whole, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) != 501:  # the answer of a store without this condition
                    raise
                client.complete_multipart_upload(**whole)
        except BaseException:
            with suppress(BotoCoreError, ClientError):  # a worker may lack the right: the driver removes the parts
                client.abort_multipart_upload(**object, **upload)
            raise


@contextmanager
def _as_obstore() -> Iterator[None]:
    """Raise errors of boto3 as obstore raises those of its own requests."""
    try:
        yield
    except ClientError as error:
        status = _status(error)
        raise _KINDS.get(status, GenericError)(f"status code: {status}: {first_line(error)}") from error
    except _LOST as error:
        raise GenericError(f"HTTP error: {first_line(error)}") from error
    except _REFUSED as error:
        raise UnauthenticatedError(first_line(error)) from error
    except BotoCoreError as error:
        raise GenericError(first_line(error)) from error
    except (ResponseParserError, ValueError, KeyError, RecursionError) as error:  # boto3 follows redirects by recursion
        raise GenericError(f"not an answer of S3: {first_line(error)}") from error


def _status(error: ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


@cache
def _client(name: str, options: StorageOptions, setting: str) -> Any:
    settings = s3_settings(name, options, setting)
    style = "virtual" if settings["virtual_hosted_style_request"] else "path"
    signature = {"signature_version": UNSIGNED} if options.anonymous else {}
    keys = {"aws_session_token": settings["session_token"]} if "session_token" in settings else {}
    if "access_key_id" in settings:
        keys |= {name: settings[name.removeprefix("aws_")] for name in ("aws_access_key_id", "aws_secret_access_key")}
    aws = botocore.session.Session(profile=options.profile)
    aws.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    session = boto3.session.Session(botocore_session=aws, region_name=settings["region"])
    config = Config(
        s3={"addressing_style": style},
        connect_timeout=min(10, options.timeout_s),
        read_timeout=options.timeout_s,
        retries={"mode": "standard", "total_max_attempts": options.retries + 1},
        **signature,
    )
    # Without endpoint_url boto3 takes the address from the environment, then from the profile, as s3_settings does.
    client = session.client("s3", endpoint_url=options.endpoint_url, config=config, **keys)
    client._endpoint.http_session = _BoundedAnswers(client._endpoint.http_session)
    return client


class _BoundedAnswers:
    """The HTTP session of a client of boto3, which reads an answer whatever its size."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def send(self, request: Any) -> AWSResponse:
        request.stream_output = True  # else it is read there
        answer = self._session.send(request)
        found = AWSResponse(answer.url, answer.status_code, answer.headers, _BoundedBody(answer.raw))
        try:
            _ = found.content  # read now, within the time of the request
        except urllib3.exceptions.HTTPError as error:  # such as a lost connection: the request is tried again
            raise HTTPClientError(error=error) from error
        return found


class _BoundedBody:
    """The body of an answer up to a bound."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        size = 0
        for piece in self._body.stream():
            if (size := size + len(piece)) > _LARGEST_ANSWER:
                self._body.close()
                raise ValueError(f"over {_LARGEST_ANSWER >> 20} MiB")
            yield piece


def _timestamp(text: str) -> datetime:
    """The time in an answer. botocore's own parser takes two thirds of the time of a listing."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)
