"""Jobs hold a few frames at a time, however long the shot is."""

import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ex4d import pipeline
from ex4d.camera import Intrinsics, move
from ex4d.clip import Clip
from ex4d.depth import Depth
from ex4d.dwmesh import default_rules
from ex4d.errors import InputError
from ex4d.protocol.documents import DepthInfo, PreviewSettings, TrajectoryDocument
from ex4d.protocol.messages import GenerateJob, RenderJob
from ex4d.scene import Scene, write_scene
from ex4d.take import Take
from ex4d.task import Progress, Task

WIDTH_PX, HEIGHT_PX, SCENE_FRAMES = 160, 96, 3
CAMERA = Intrinsics.from_focal(WIDTH_PX, HEIGHT_PX, 150.0)
FEW, MANY = 40, 120
#: Colour alone of the frames more.
GROWTH_BYTES = (MANY - FEW) * WIDTH_PX * HEIGHT_PX * 3


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A leaning wall."""
    x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX][1]
    picture = np.repeat((x * 255 // WIDTH_PX)[..., None], 3, -1).astype(np.uint8)
    depth = (3.0 + x / WIDTH_PX).astype(np.float32)
    info = DepthInfo(source="files", kind="depth", unit="metres", licence="ours")
    return write_scene(
        tmp_path_factory.mktemp("scene") / "scene",
        Clip(np.repeat(picture[None], SCENE_FRAMES, 0), Fraction(24)),
        Depth(np.repeat(depth[None], SCENE_FRAMES, 0), info),
        CAMERA,
        default_rules(4.0),
        name="wall",
        task=Task(),
    )


def trajectory(frame_count: int) -> TrajectoryDocument:
    orbit = move("orbit_left", frame_count=frame_count, radius=3.0, intrinsics=CAMERA)
    orbit.source_time[:] = np.arange(frame_count) % SCENE_FRAMES
    return orbit.to_document()


def render(scene: Scene, frame_count: int, output: Path, task: Task) -> None:
    job = RenderJob(scene=(), trajectory=trajectory(frame_count))
    assert len(pipeline.render(job, scene.folder, output, task)) == frame_count


def generate(scene: Scene, frame_count: int, output: Path, task: Task) -> None:
    job = GenerateJob(scene=(), trajectory=trajectory(frame_count), settings=PreviewSettings())
    assert len(pipeline.generate(job, scene.folder, output, task)) == frame_count


@pytest.mark.parametrize("run", [render, generate])
def test_memory_does_not_grow_with_the_length(
    run: Callable[[Scene, int, Path, Task], None], scene: Scene, tmp_path: Path
) -> None:
    # What is made once is made.
    run(scene, 3, tmp_path / "first", Task())

    def peak_bytes(frame_count: int) -> int:
        tracemalloc.start()
        try:
            run(scene, frame_count, tmp_path / f"{frame_count}", Task())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(MANY) - peak_bytes(FEW) < GROWTH_BYTES // 4


def test_take_says_what_was_seen_and_progress_goes_on(scene: Scene, tmp_path: Path) -> None:
    told: list[Progress] = []
    generate(scene, 5, tmp_path / "take", Task(told.append))
    take = Take(tmp_path / "take")
    assert take.document.coverage == tuple(float(take.mask(index).mean()) for index in range(5))
    assert take.document.coverage[0] == 1.0 > take.document.coverage[4] > 0.3
    # Stages that take turns would tell no time that is left.
    assert list(dict.fromkeys(progress.stage for progress in told)) == ["backdrop", "rendering"]
    assert [progress.done for progress in told if progress.stage == "rendering"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("run", [render, generate])
@pytest.mark.parametrize(
    ("width_px", "height_px", "frame_count"),
    [(8192, 8192, 1), (4096, 4096, 400)],
    ids=["picture", "all together"],
)
def test_shots_larger_than_a_clip_may_be_are_refused(
    run: Callable[[Scene, int, Path, Task], None],
    width_px: int,
    height_px: int,
    frame_count: int,
    scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = trajectory(frame_count)
    larger = msgspec.structs.replace(plain, width_px=width_px, height_px=height_px)
    monkeypatch.setattr(f"{__name__}.trajectory", lambda _: larger)
    with pytest.raises(InputError) as caught:
        run(scene, frame_count, tmp_path / "output", Task())
    assert caught.value.code == "clip_too_large"
    assert not list(tmp_path.iterdir())
