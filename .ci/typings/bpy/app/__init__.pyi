# Blender's module has no types: everything in it is `Any`, and what surrounds it is checked.
from typing import Any

def __getattr__(name: str) -> Any: ...
