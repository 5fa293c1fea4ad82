"""Settings files that libraries would read from the working folder, which may hold downloaded data."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A program that is started in a folder, which is on no path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-P", "-c", code]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=True)


def test_numba_reads_no_settings_of_the_working_folder(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".numba_config.yaml").write_text(f"chrome_trace: {tmp_path}/precious\ndisable_jit: 1\n")
    code = (
        "import raymill.pipelines.text.lines, numba\n"
        "numba.njit(lambda a: a)(1)\n"  # reads the settings again
        "print(numba.config.CHROME_TRACE, numba.config.DISABLE_JIT)"
    )
    done = python(tmp_path, code)
    assert done.stdout.split() == ["0"]  # no file is named
    assert (tmp_path / "precious").read_text() == "precious"
    assert ".numba_config.yaml: numba's settings in the working folder are not read" in done.stderr
