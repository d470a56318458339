"""A long shot takes a worker no more memory than a short one, at rendering and with an engine."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
from ex4d_server.keys import FolderKeys
from raw_client import RawClient, file_ref
from server_process import ServerProcess, make_key_pair

from ex4d.camera import Intrinsics, move
from ex4d.clip import Clip
from ex4d.depth import Depth
from ex4d.dwmesh import default_rules
from ex4d.protocol.documents import DepthInfo, PreviewSettings, TrajectoryDocument
from ex4d.protocol.messages import GenerateJob, JobRequest, RenderJob
from ex4d.scene import Scene, write_scene
from ex4d.task import Task

FULL = 500
SHORT = 49
WIDTH_PX, HEIGHT_PX = 640, 360
#: With this length the others are compared.
_FEW_FRAMES = 9
_SCENE_FRAMES = 3
#: What the system keeps or gives back as it likes. Colour, mask and depth of a frame are 1.8 MB:
#: those of a long shot would be far more.
_GROWTH_BYTES = 48 << 20


def run(folder: Path, count: int) -> dict[str, float]:
    """Render a short and a long shot, and make takes of them with the engine `preview`.

    Args:
        folder: An empty one.
        count: Frames of the long shot.
    """
    scene = _write_scene(folder / "scene")
    contents = {name: (scene.folder / name).read_bytes() for name in scene.file_names()}
    files = tuple(file_ref(name, content) for name, content in contents.items())
    figures: dict[str, float] = {"frames": count}
    with ServerProcess(folder / "data", "--executor", "local") as server:
        pair = make_key_pair()
        FolderKeys(server.data).authorise("anna", pair.public_key)
        with RawClient(server, pair) as client:
            client.hello()
            client.upload(contents.values())
            for kind in ("render", "generate"):
                peaks_bytes: list[int] = []
                # The first time, what is made once is made.
                for frame_count in (_FEW_FRAMES, _FEW_FRAMES, count):
                    trajectory = _trajectory(scene.intrinsics, frame_count)
                    job: JobRequest = RenderJob(scene=files, trajectory=trajectory)
                    if kind == "generate":
                        settings = PreviewSettings()
                        job = GenerateJob(scene=files, trajectory=trajectory, settings=settings)
                    started_s = time.monotonic()
                    with _peak_of_worker(server.pid, peaks_bytes):
                        event = client.wait_for_end(client.submit(job), timeout_s=3600)
                    assert event.state == "done", event
                    client.unread.clear()
                figures[f"{kind}, s"] = time.monotonic() - started_s
                figures[f"{kind}, MiB for {_FEW_FRAMES} frames"] = peaks_bytes[1] / 2**20
                figures[f"{kind}, MiB"] = peaks_bytes[2] / 2**20
                assert peaks_bytes[2] - peaks_bytes[1] < _GROWTH_BYTES, figures
        assert "internal_error" not in server.log_text()
    return figures


def _write_scene(folder: Path) -> Scene:
    """A striped wall that leans, with a box before it."""
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    stripes = 127 + 120 * np.sin(x / 9.0) * np.cos(y / 7.0)
    picture = np.stack([stripes, 255 - stripes, x / WIDTH_PX * 255], -1).astype(np.uint8)
    depth = (3.0 + x / WIDTH_PX).astype(np.float32)
    depth[100:200, 200:350] = 1.5
    return write_scene(
        folder,
        Clip(np.repeat(picture[None], _SCENE_FRAMES, 0), Fraction(24)),
        Depth(
            np.repeat(depth[None], _SCENE_FRAMES, 0),
            DepthInfo(source="files", kind="depth", unit="metres", licence="ours"),
        ),
        Intrinsics.from_focal(WIDTH_PX, HEIGHT_PX, 500.0),
        default_rules(4.0),
        name="wall",
        task=Task(),
    )


def _trajectory(camera: Intrinsics, frame_count: int) -> TrajectoryDocument:
    orbit = move("orbit_left", frame_count=frame_count, radius=3.0, intrinsics=camera)
    orbit.source_time[:] = np.arange(frame_count) % _SCENE_FRAMES
    return orbit.to_document()


@contextmanager
def _peak_of_worker(server_pid: int, peaks_bytes: list[int]) -> Iterator[None]:
    """Add the most memory that the server's workers had together while the block ran."""
    done = threading.Event()
    peak_bytes = 0

    def watch() -> None:
        nonlocal peak_bytes
        while not done.wait(0.01):
            workers = psutil.Process(server_pid).children(recursive=True)
            peak_bytes = max(peak_bytes, sum(worker.memory_info().rss for worker in workers))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    peaks_bytes.append(peak_bytes)
