"""A callback as a user of Ray Train writes one. Imported by Ray Train's controller, and where Ray has started."""

import json
import os
from pathlib import Path

from ray.train import UserCallback


class Reported(UserCallback):
    """Writes a line to the file $REPORTED for each report: [metrics of each worker, path of the checkpoint]."""

    def __init__(self) -> None:
        self.path = Path(os.environ["REPORTED"])

    def after_report(self, run_context, metrics, checkpoint) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([metrics, checkpoint.path]) + "\n")
