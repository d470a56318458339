"""The condition's first frame, which the model continues: the source frame itself."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from ex4d.camera import Intrinsics, Trajectory, move
from ex4d.clip import Clip
from ex4d.condition import condition_frames
from ex4d.depth import Depth
from ex4d.dwmesh import default_rules
from ex4d.protocol.documents import DepthInfo
from ex4d.raster import ConditionFrame, create_rasteriser
from ex4d.scene import Scene, write_scene
from ex4d.task import Task

WIDTH_PX, HEIGHT_PX, FOCAL_PX = 96, 64, 90.0
CAMERA = Intrinsics.from_focal(WIDTH_PX, HEIGHT_PX, FOCAL_PX)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Three frames of soft stripes on a slanted wall."""
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    stripes = 127 + 120 * np.sin(x / 9.0) * np.cos(y / 7.0)
    frames = np.repeat(np.stack([stripes, 255 - stripes, x * 2.0], -1)[None], 3, 0).astype(np.uint8)
    depth = np.repeat((3.0 + x / WIDTH_PX)[None], 3, 0).astype(np.float32)
    info = DepthInfo(source="files", kind="depth", unit="metres", licence="ours")
    return write_scene(
        tmp_path_factory.mktemp("scene") / "scene",
        Clip(frames, Fraction(24)),
        Depth(depth, info),
        CAMERA,
        default_rules(4.0),
        name="wall",
        task=Task(),
    )


def first_frame(scene: Scene, camera: Intrinsics, offset: float = 0.0) -> ConditionFrame:
    """Frame 0 of an orbit whose every pose is moved aside."""
    orbit = move("orbit_left", frame_count=3, radius=3.0, intrinsics=camera)
    cam_to_world = orbit.cam_to_world.copy()
    cam_to_world[:, 0, 3] += offset
    moved = Trajectory(
        orbit.width_px, orbit.height_px, cam_to_world, orbit.intrinsics_px, orbit.source_time
    )
    return next(condition_frames(scene, moved, create_rasteriser(), task=Task()))


def test_same_camera_shows_the_source_frame(scene: Scene) -> None:
    frame = first_frame(scene, CAMERA)
    assert frame.mask.all()
    assert np.array_equal(frame.color, scene.frame(0))
    assert np.array_equal(frame.depth, scene.depth(0))


def test_rounding_of_a_pose_does_not_count(scene: Scene) -> None:
    assert np.array_equal(first_frame(scene, CAMERA, 1e-5).color, scene.frame(0))


@pytest.mark.parametrize(
    "camera",
    [
        CAMERA.resized(48, 32),
        CAMERA.resized(144, 96),
        Intrinsics.from_focal(64, 48, 80.0),
        CAMERA.resized(48, 32).shifted(1.5, -2.0),
    ],
    ids=["half", "larger", "cropped", "shifted lens"],
)
def test_another_picture_from_the_same_place_is_resampled(scene: Scene, camera: Intrinsics) -> None:
    if camera.cx_px != camera.width_px / 2:
        # The shift must stay within what the source saw: a longer lens leaves room for it.
        camera = Intrinsics(
            camera.width_px, camera.height_px, 60.0, 60.0, camera.cx_px, camera.cy_px
        )
    frame = first_frame(scene, camera)
    assert frame.mask.all()
    assert frame.color.shape == (camera.height_px, camera.width_px, 3)
    # Where each pixel's centre lies in the source, by the two cameras alone.
    x = (np.arange(camera.width_px) + 0.5 - camera.cx_px) / camera.fx_px * FOCAL_PX + WIDTH_PX / 2
    y = (np.arange(camera.height_px) + 0.5 - camera.cy_px) / camera.fy_px * FOCAL_PX + HEIGHT_PX / 2
    maps = np.meshgrid((x - 0.5).astype(np.float32), (y - 0.5).astype(np.float32))
    expected = cv2.remap(scene.frame(0), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(frame.color.astype(int) - expected).mean() < 2.0
    shifted = np.roll(expected.astype(int), 1, axis=1)
    assert (
        np.abs(frame.color - shifted).mean() > 2 * np.abs(frame.color - expected.astype(int)).mean()
    )
    assert np.abs(frame.depth - (3.0 + (x - 0.5)[None] / WIDTH_PX)).max() < 0.02


def test_extreme_lens_takes_no_more_memory_than_the_picture(scene: Scene) -> None:
    frame = first_frame(scene, Intrinsics.from_focal(WIDTH_PX, HEIGHT_PX, 1e8))
    assert frame.mask.all()
    assert np.ptp(frame.color.reshape(-1, 3), axis=0).max() <= 1


@pytest.mark.parametrize(
    ("camera", "offset"),
    [(CAMERA, 0.2), (Intrinsics.from_focal(WIDTH_PX, HEIGHT_PX, 70.0), 0.0)],
    ids=["moved", "wider lens"],
)
def test_what_the_source_did_not_see_is_not_claimed(
    scene: Scene, camera: Intrinsics, offset: float
) -> None:
    assert not first_frame(scene, camera, offset).mask.all()
