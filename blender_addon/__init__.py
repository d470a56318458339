# SPDX-License-Identifier: GPL-3.0-or-later
"""EX-4D for Blender: turn a video into a scene and shoot it again with a new camera."""

from .registration import register, unregister

__all__ = ["register", "unregister"]
