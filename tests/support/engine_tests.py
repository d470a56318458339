"""What the tests of the ex4d engine share.

They need torch and diffsynth, which the development environment lacks: there they are skipped. In
the environment that has them, EX4D_REQUIRE_ENGINE makes a missing package an error.
"""

import os
from pathlib import Path

import pytest
import torchvision_shim

GOLDEN_MODELS = Path(__file__).parents[1] / "golden" / "models"


def needs_engine() -> None:
    """Skip the test file that calls this where torch or diffsynth is missing."""
    torchvision_shim.install()
    for package in ("torch", "diffsynth"):
        if "EX4D_REQUIRE_ENGINE" in os.environ:
            __import__(package)
        else:
            pytest.importorskip(package, reason=f"{package} is missing: run `nox -s engine`")
