"""An S3 server on this machine with the bucket `crawl`, for benchmarks."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import boto3

from tests.conftest import CREDENTIALS, free_port, wait_for_port

KEYS = {"access_key_id": "key", "secret_access_key": "secret"}


@contextmanager
def local_s3() -> Iterator[str]:
    """The address of the server; it ends with the context."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.moto_server", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, server)
        url = f"http://127.0.0.1:{port}"
        boto3.client("s3", endpoint_url=url, region_name="us-east-1", **CREDENTIALS).create_bucket(Bucket="crawl")
        yield url
    finally:
        server.terminate()
        server.wait()
