"""An endpoint whose judge gives a point for each `yes` in an answer, and says nothing readable of a `garbled` one."""

import json
import random
from collections.abc import Mapping
from typing import Any

from raymill.cluster.asking.faulty_server import FaultyServer


class PointsServer(FaultyServer):
    """The server."""

    def said(self, schema: Mapping[str, Any] | None, text: str, draw: random.Random) -> str:
        answer = text.rpartition("Answer:\n")[2]
        if "garbled" in answer:
            return "I would say two points"
        return json.dumps({"reason": "so it is", "score": answer.count("yes")})


def judge(server: FaultyServer, **more: Any) -> dict[str, Any]:
    """The settings of a judge with a rubric of two statements."""
    model = {"endpoint": server.url, "name": "judge", "prices": {"input": 1.0, "output": 1.0}}
    return {"model": model, "rubric": ["The answer is right.", "The answer is polite."]} | more
