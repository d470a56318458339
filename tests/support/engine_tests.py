"""What the tests of the ex4d engine and of the depth estimators share.

They need torch and more, which the development environment lacks: there they are skipped. In the
environment that has it, EX4D_REQUIRE_ENGINE makes a missing package an error.
"""

import os
from pathlib import Path

import pytest
import torchvision_shim

GOLDEN_MODELS = Path(__file__).parents[1] / "golden" / "models"


def needs_engine() -> None:
    """Skip the test file that calls this where torch or diffsynth is missing."""
    _needs("torch", "diffsynth")


def needs_torch() -> None:
    """Skip the test file that calls this where torch is missing."""
    _needs("torch")


def needs_estimators() -> None:
    """Skip the test file that calls this where torch, diffusers or transformers is missing."""
    _needs("torch", "diffusers", "transformers")
    import torch

    # Small networks are quicker on one thread, many times so on a machine that is busy.
    torch.set_num_threads(1)


def _needs(*packages: str) -> None:
    torchvision_shim.install()
    for package in packages:
        if "EX4D_REQUIRE_ENGINE" in os.environ:
            __import__(package)
        else:
            pytest.importorskip(package, reason=f"{package} is missing: run `nox -s engine`")
