"""Write the golden files anew: `make golden`, or python -m tests.golden."""

import json
import tempfile
from pathlib import Path

from tests.golden import typed_settings
from tests.golden.cases import CASES, FOLDER

for name, (make, _) in CASES.items():
    with tempfile.TemporaryDirectory() as scratch:
        (FOLDER / name).write_text(json.dumps(make(Path(scratch)), indent=1, ensure_ascii=False) + "\n")
        print(f"written: {FOLDER / name}")

typed_settings.FILE.write_text(typed_settings.module_text())
print(f"written: {typed_settings.FILE}")
