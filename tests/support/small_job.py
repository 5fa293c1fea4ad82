"""A job of a second that stands for `raymill VERB CONFIG`: its config says what it prints and how it ends.

lines      this number of lines, `line 0`, `line 1`, ...
every_s    seconds between two lines
bytes      at last, these bytes as hexadecimal digits
code       exit code
stop       what SIGTERM does: "commit" prints a line and ends with 130 a moment later; "ignore" nothing
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    source = sys.argv[2]
    text = os.environ[source.removeprefix("env:")] if source.startswith("env:") else Path(source).read_text()
    config = json.loads(text)

    def stop(number: int, frame: object) -> None:
        if config.get("stop") == "commit":
            time.sleep(0.3)
            print("committed what was done", flush=True)
            sys.exit(130)
        if config.get("stop") != "ignore":
            sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
    for number in range(config.get("lines", 0)):
        print(f"line {number}", flush=True)
        time.sleep(config.get("every_s", 0))
    sys.stdout.buffer.write(bytes.fromhex(config.get("bytes", "")))
    sys.stdout.flush()
    sys.exit(config.get("code", 0))


if __name__ == "__main__":
    main()
