"""curate, prepare and train on emulators of Azure and Google Cloud Storage: `make test-azure-gcs`."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from raymill.cluster.errors import StorageError
from raymill.cluster.stage import committed, publish, run_unit
from tests.support.emulators import container_token
from tests.support.stages import counting_stage

pytestmark = [pytest.mark.emulators, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scheme", ["az", "gs"])
def test_runs_that_are_killed_and_lose_requests_end_with_the_results_of_a_local_disk(request, scheme):
    address = request.getfixturevalue({"az": "azure", "gs": "gcs"}[scheme])
    bucket = request.getfixturevalue(f"{scheme}_root").partition("://")[2]
    command = [sys.executable, "-m", "tests.support.killed_on_stores", scheme, address, bucket, "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" faults") == 6 and ": 0 faults" not in done.stdout


def test_a_worker_of_azure_needs_no_right_to_list_or_delete(azure, az_root, az_store, monkeypatch):
    """With an access token that may read, create and write; the driver has the account's key."""
    name = az_root.partition("://")[2]
    stage = counting_stage(3, store=az_store)
    own = replace(az_store, options=az_store.options.model_copy(update={"timeout_s": 59}))  # connections of its own
    with monkeypatch.context() as patch:
        patch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
        patch.setenv("AZURE_STORAGE_SAS_TOKEN", container_token(name, "rcw"))
        for unit in stage.units:
            run_unit(replace(stage, store=own), f"{az_root}/run", unit, unit)
        for act in (own.list_files, lambda uri: own.delete([f"{uri}/x"])):
            with pytest.raises(StorageError, match=r"refused these credentials .* Check AZURE_STORAGE_ACCOUNT_NAME"):
                act(f"{az_root}/run")
    records = committed(stage, f"{az_root}/run")
    made = publish(stage, f"{az_root}/run", records)
    assert made["numbers"].manifest.rows == 3 and made["numbers"].damage(compare_sha256=True) == {}
