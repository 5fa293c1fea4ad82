"""The method of FineWeb-Edu: a model scores a sample by a rubric; a classifier trained on the scores filters the rest.

python educational.py INPUTS OUTPUT ENDPOINT MODEL [VECTORS]

ENDPOINT is a server with OpenAI's interface, such as http://127.0.0.1:8000/v1, and MODEL the judge's name there; a key
is read from LLM_KEY. With VECTORS, the name of a model for embeddings at the same server, the classifier is linear on
text vectors in place of words. The same command continues what was stopped, and sends no request twice.
"""

import os
import sys
from typing import Any

import raymill

RUBRIC = [
    "It has some information on a subject that is taught in schools.",
    "It explains something, and is not only an announcement, an advertisement or a list.",
    "It stays on its subject and is written so that a pupil can follow it.",
    "It explains step by step, with reasons or examples.",
    "It could be given to a class as it is.",
]
LEAST_F1 = 0.6  # minimum of the lower end of its 95% interval


def main(inputs: str, output: str, endpoint: str, model: str, vectors: str = "") -> None:
    server: dict[str, Any] = {"endpoint": endpoint}
    if "LLM_KEY" in os.environ:
        server["key_env"] = "LLM_KEY"
    embedding: dict[str, Any] = {"embedding": server | {"name": vectors}} if vectors else {}
    settings: dict[str, Any] = {
        "inputs": [{"path": inputs, "id": "id"}],
        "sample": 2000,
        "held_out": 0.3,
        "judges": [
            {
                "model": server | {"name": model, "prices": {"input": 0.10, "output": 0.40}},
                "make": {"template": "score", "rubric": RUBRIC},
            }
        ],
        "threshold": {"score": 3},
        "budget": 5.00,
        "output": f"{output}/classifier",
        **embedding,
    }
    print(raymill.plan(settings | {"kind": "distil"}))

    judged = raymill.distil(**settings)
    print(judged)
    report = judged.report
    if report["f1_low"] is None or report["f1_low"] < LEAST_F1:
        raise SystemExit(f"F1 may be below {LEAST_F1}: enlarge `sample`, or make the rubric clearer.")

    rules: Any = {"packs": [], "judge_score": {"classifier": judged.results["classifier"], **embedding}}
    lessons = raymill.curate(
        inputs=[{"path": inputs, "id": "id"}],
        rules=rules,
        output=f"{output}/lessons",
    )
    print(lessons)
    # The documents that another bound would keep, from the measurements of the run; no request is sent.
    print(lessons.what_if({"rules.judge_score.min_score": report["min_score"] + 0.5}))


if __name__ == "__main__":
    main(*sys.argv[1:])
