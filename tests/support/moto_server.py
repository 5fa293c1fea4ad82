"""A moto server that writes one object at a time: python -m tests.support.moto_server PORT.

moto looks whether an object exists and writes it after that, in a thread for each request, so of two conditional writes
at once both may win. No store does that.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

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
