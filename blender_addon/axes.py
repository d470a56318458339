# SPDX-License-Identifier: GPL-3.0-or-later
"""The change of axes between scenes and Blender: here and nowhere else in the extension.

A scene's axes are OpenCV's: x right, y down, z forward, the source camera at the origin. In Blender
the same scene hangs from the shot's object: x right, y away from the source camera, z up. A camera
of Blender looks along its own -z, with its y up.
"""

import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray

#: Points of the scene to points of the shot: (x, y, z) -> (x, z, -y).
_SHOT_FROM_SCENE = Matrix(
    (
        (1.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 1.0, 0.0),
        (0.0, -1.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 1.0),
    )
)
#: Between an OpenCV camera and Blender's, either way.
_CAMERA_FLIP = Matrix.Diagonal((1.0, -1.0, -1.0, 1.0))


def points_in_shot(points_scene: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn points or directions of a scene, (..., 3) float32, into the shot's axes."""
    rotation = np.array(_SHOT_FROM_SCENE.to_3x3(), dtype=np.float32)
    return points_scene @ rotation.T


def camera_in_shot(cam_to_world: Matrix) -> Matrix:
    """The 4x4 pose of a Blender camera, relative to the shot, from `cam_to_world` of a scene."""
    return _SHOT_FROM_SCENE @ cam_to_world @ _CAMERA_FLIP


def cam_to_world(camera_in_shot: Matrix) -> Matrix:
    """The 4x4 `cam_to_world` of a scene, from a Blender camera's pose relative to the shot."""
    return _SHOT_FROM_SCENE.transposed() @ camera_in_shot @ _CAMERA_FLIP
