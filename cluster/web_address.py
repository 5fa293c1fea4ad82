"""Addresses of web servers in settings, which hold no secret."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from raymill.cluster.secret_values import masked, secret_in

_INSTEAD = "put it into an environment variable, and name that in the setting for it (`auth`, or `key_env` of a model)"


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
        raise ValueError(f"the address holds a user name or password; {_INSTEAD}")
    if what := secret_in(url):
        raise ValueError(f"the address holds a secret ({what}); {_INSTEAD}")
    return url


WebAddress = Annotated[str, AfterValidator(web_address)]
