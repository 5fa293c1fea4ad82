"""A moto server that writes one object at a time: python -m tests.support.moto_server PORT.

moto looks whether an object exists and writes it after that, in a thread for each request, so of two conditional writes
at once both may win. No store does that.

moto evaluates the policies of users, but no condition of a request for S3. Those of deploy/s3/ are evaluated here, by
the rules of AWS: a statement whose condition does not hold is as if it were not there.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from flask import request
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

_permitted = IAMPolicyStatement.is_action_permitted


def _values_of_request() -> dict[str, str]:
    """The keys of conditions that the request has. An upload in parts creates the object with its last request."""
    values = {}
    if "If-None-Match" in request.headers:
        values["s3:if-none-match"] = request.headers["If-None-Match"]
    if request.method in ("PUT", "POST"):
        is_part = "uploads" in request.args or "partNumber" in request.args
        values["s3:ObjectCreationOperation"] = "false" if is_part else "true"
    return values


def _holds(operator: str, key: str, wanted: str, values: dict[str, str]) -> bool:
    if operator == "Null":
        return (key not in values) == (wanted == "true")
    assert operator == "Bool", f"{operator} is not evaluated here"
    return values.get(key) == wanted


def _permitted_under_conditions(self: IAMPolicyStatement, action: str, *rest: Any) -> PermissionResult:
    statement = self._statement
    for operator, keys in statement.get("Condition", {}).items() if action.startswith("s3:") else ():
        values = _values_of_request()
        if not all(_holds(operator, key, wanted, values) for key, wanted in keys.items()):
            return PermissionResult.NEUTRAL
    plain = {name: value for name, value in statement.items() if name != "Condition"}
    return _permitted(IAMPolicyStatement(plain), action, *rest)


IAMPolicyStatement.is_action_permitted = _permitted_under_conditions  # type: ignore[method-assign]

_writing = threading.Lock()
_app = DomainDispatcherApplication(create_backend_app)


def _one_write(environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] != "PUT" or not environ.get("CONTENT_LENGTH"):
        return _app(environ, start_response)
    # The body is read first: a client that never sends all of it must not keep the others waiting.
    environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    with _writing:
        return list(_app(environ, start_response))


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), _one_write, threaded=True)
