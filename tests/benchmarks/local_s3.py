"""An S3 server on this machine with the bucket `crawl`, for benchmarks."""

from collections.abc import Iterator
from contextlib import contextmanager

import boto3

from tests.conftest import CREDENTIALS, moto

KEYS = {"access_key_id": "key", "secret_access_key": "secret"}


@contextmanager
def local_s3() -> Iterator[str]:
    """The address of the server; it ends with the context."""
    with moto() as url:
        boto3.client("s3", endpoint_url=url, region_name="us-east-1", **CREDENTIALS).create_bucket(Bucket="crawl")
        yield url
