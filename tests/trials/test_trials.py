"""The trials of the server, in short; `run.py` runs them at full length."""

from pathlib import Path
from types import ModuleType

import fuzz
import killed_server
import long_clip
import pytest
import short_jobs
import sixteen_clients


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "trial",
    [killed_server, sixteen_clients, short_jobs, long_clip, fuzz],
    ids=lambda trial: trial.__name__,
)
def test_trial(trial: ModuleType, tmp_path: Path) -> None:
    assert trial.run(tmp_path, trial.SHORT)
