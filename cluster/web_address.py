"""Addresses of web servers in settings, which hold no secret."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from raymill.cluster.secret_values import masked, secret_in


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
