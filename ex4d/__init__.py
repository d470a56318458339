"""EX-4D: re-shoot a video with a new camera, through its depth-watertight mesh."""

__version__ = "0.1.0"
