"""For processes that tests start with this folder on their PYTHONPATH."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import torchvision_shim

torchvision_shim.install()
