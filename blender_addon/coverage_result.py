# SPDX-License-Identifier: GPL-3.0-or-later
"""A measured coverage becomes an F-curve of the shot and markers on the timeline."""

import bpy

from . import compat, coverage, scene_jobs
from .imports import in_scene

#: Custom property of the shot's object that the F-curve drives: share of the frame, 0..1.
PROPERTY = "ex4d_unseen"
MARKER = "EX-4D: "
#: More than this is called mostly unseen.
MOSTLY = 0.5
_MAX_MARKERS = 3
#: Of the progress bar.
_SHOWN_STEPS = 20


def write_result(scene: bpy.types.Scene, shot: bpy.types.Object, found: coverage.Coverage) -> None:
    """Write the F-curve and the markers; those of the last check go."""
    shot[PROPERTY] = found.unseen[0]
    shot.id_properties_ui(PROPERTY).update(
        min=0.0, max=1.0, description="Share of the frame that the video never saw"
    )
    curve = compat.ensure_fcurve(shot, f'["{PROPERTY}"]', 0)
    curve.keyframe_points.clear()
    curve.keyframe_points.add(len(found.unseen))
    for index, share in enumerate(found.unseen):
        point = curve.keyframe_points[index]
        point.co = (found.frames[index], share)
        # With a Step, the strip holds each picture until the next.
        point.interpolation = "LINEAR" if found.frames.step == 1 else "CONSTANT"
    curve.update()
    markers = scene.timeline_markers
    for marker in [marker for marker in markers if marker.name.startswith(MARKER)]:
        # One to which the artist bound a camera is theirs by now.
        if marker.camera is None:
            markers.remove(marker)
    for index in worst_indices(found.unseen):
        name = f"{MARKER}{found.unseen[index]:.0%} unseen"
        markers.new(name, frame=found.frames[index])


def worst_indices(unseen: tuple[float, ...]) -> list[int]:
    """The peaks above `MOSTLY`, the highest first, and at least the highest of all."""
    padded = (-1.0, *unseen, -1.0)
    peaks = [
        index for index, share in enumerate(unseen) if padded[index] < share >= padded[index + 2]
    ]
    peaks.sort(key=lambda index: -unseen[index])
    return [index for place, index in enumerate(peaks) if place == 0 or unseen[index] > MOSTLY][
        :_MAX_MARKERS
    ]


def advance(check: coverage.CoverageCheck | None) -> bool:
    """Do one slice of a measurement, and write it where it belongs when it is over.

    Returns:
        Whether there is something new to draw: drawing takes longer than a slice.
    """
    if check is None or check.work.is_over:
        return False
    shown = int(check.work.fraction * _SHOWN_STEPS)
    check.work.step()
    if check.work.result is not None:
        scene = scene_jobs.find_scene(check.scene_uid)
        shot = next((item for item in bpy.data.objects if item.session_uid == check.shot_uid), None)
        if scene is not None and shot is not None:
            with in_scene(check.scene_uid):
                write_result(scene, shot, check.work.result)
                bpy.ops.ed.undo_push(message="Check Coverage")
    return check.work.is_over or int(check.work.fraction * _SHOWN_STEPS) != shown
