"""An executor that makes up results: deterministic, no numpy, no model, no GPU.

It is for tests and for trying the add-on: every job ends as the real one would, with files of the
same names and formats, but the pictures are plain ramps.
"""

import asyncio
import hashlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from ex4d import __version__
from ex4d.errors import CancelledError, InputError
from ex4d.protocol.documents import FrameRate, TakeDocument, UsedPart
from ex4d.protocol.messages import (
    EngineInfo,
    EstimatorInfo,
    GenerateJob,
    JobRequest,
    ReconstructJob,
    RenderJob,
)
from ex4d.task import Progress
from ex4d_server.config import FakeOptions
from ex4d_server.executors import Preview, Work, WorkerLostError

_LICENCE = "Apache-2.0"
#: Of previews: the longer side at most, and how many frames.
_PREVIEW_SIDE_PX = 24
_PREVIEW_FRAMES = 8


class FakeExecutor:
    """Runs one job at a time.

    Args:
        options: How long it takes and how it fails.
    """

    name = "fake"
    slots = 1
    engines = (EngineInfo(name="preview", available=True, reason="", licence=_LICENCE),)
    estimators = (
        EstimatorInfo(
            name="video-depth-anything",
            available=False,
            reason="This server only pretends to work; choose a depth file, or another server.",
            licence=_LICENCE,
            for_research_only=False,
        ),
    )

    def __init__(self, options: FakeOptions) -> None:
        self._options = options
        self._attempts: dict[str, int] = {}

    def weights_state(self, request: JobRequest) -> str:
        """There are none."""
        return ""

    def start(self) -> None:
        """Nothing to make ready."""

    async def run(
        self,
        work: Work,
        report: Callable[[Progress], None],
        cancel: asyncio.Event,
        *,
        show: Callable[[Preview], None],
    ) -> None:
        """Make up the results of a job. See `Executor.run`."""
        attempt = self._attempts[work.job_id] = self._attempts.get(work.job_id, 0) + 1
        if attempt <= self._options.lost_attempts:
            raise WorkerLostError("the fake worker was told to be lost")
        if self._options.fail_code:
            raise InputError(self._options.fail_code, "The fake worker was told to fail.")
        match work.request:
            case ReconstructJob():
                await self._copy(work, report, cancel)
            case RenderJob() | GenerateJob():
                await self._frames(work, work.request, report, cancel, show=show)
        self._attempts.pop(work.job_id, None)

    async def close(self) -> None:
        """Nothing outlives `run`."""

    async def _copy(
        self, work: Work, report: Callable[[Progress], None], cancel: asyncio.Event
    ) -> None:
        """Hand the inputs back: making up a scene takes what this executor does without."""
        paths = sorted(path for path in work.inputs.rglob("*") if path.is_file())
        for index, path in enumerate(paths):
            await self._unit(Progress("copying", index + 1, len(paths)), report, cancel)
            target = work.output / path.relative_to(work.inputs)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())

    async def _frames(
        self,
        work: Work,
        request: RenderJob | GenerateJob,
        report: Callable[[Progress], None],
        cancel: asyncio.Event,
        *,
        show: Callable[[Preview], None],
    ) -> None:
        trajectory = request.trajectory
        count = len(trajectory.poses)
        folders = ["color", "mask"]
        if isinstance(request, GenerateJob):
            folders.append("frames")
        for folder in folders:
            (work.output / folder).mkdir(parents=True)
        for index in range(count):
            await self._unit(Progress("pretending", index + 1, count), report, cancel)
            if isinstance(request, GenerateJob):
                show(_preview(trajectory.width_px, trajectory.height_px, (index + 1) / count))
            for folder in folders:
                path = work.output / folder / f"{index + 1:04d}.png"
                _write_ramp(path, trajectory.width_px, trajectory.height_px, index, folder)
        if isinstance(request, GenerateJob):
            document = _take_document(work, request)
            (work.output / "take.json").write_bytes(msgspec.json.encode(document))

    async def _unit(
        self, progress: Progress, report: Callable[[Progress], None], cancel: asyncio.Event
    ) -> None:
        """Spend the time of one frame."""
        await asyncio.sleep(self._options.frame_s)
        if cancel.is_set():
            raise CancelledError
        report(progress)


def _take_document(work: Work, request: GenerateJob) -> TakeDocument:
    scene = work.inputs / "scene.json"
    scene_bytes = scene.read_bytes() if scene.exists() else b""
    return TakeDocument(
        scene_name="fake",
        scene_sha256=hashlib.sha256(scene_bytes).hexdigest(),
        frame_count=len(request.trajectory.poses),
        frame_rate=FrameRate(numerator=24, denominator=1),
        width_px=request.trajectory.width_px,
        height_px=request.trajectory.height_px,
        trajectory=request.trajectory,
        settings=request.settings,
        coverage=(1.0,) * len(request.trajectory.poses),
        parts=(UsedPart(role="engine", name="fake", version=__version__, licence=_LICENCE),),
        app_version=__version__,
    )


def _preview(width_px: int, height_px: int, share: float) -> Preview:
    """A preview that grows brighter as the work goes on, and in which a white column moves.

    Red grows from left to right, green from the top down.
    """
    step = max(1, -(-max(width_px, height_px) // _PREVIEW_SIDE_PX))
    width_px, height_px = max(1, width_px // step), max(1, height_px // step)
    frames: list[bytes] = []
    for frame in range(_PREVIEW_FRAMES):
        white = frame * width_px // _PREVIEW_FRAMES
        for row in range(height_px):
            green = round(255 * share * row / height_px)
            for column in range(width_px):
                red = round(255 * share * column / width_px)
                frames.append(b"\xff\xff\xff" if column == white else bytes((red, green, 0)))
    return Preview(width_px, height_px, _PREVIEW_FRAMES, b"".join(frames))


def _write_ramp(path: Path, width_px: int, height_px: int, index: int, kind: str) -> None:
    """Write an 8-bit PNG: white for masks, else a colour ramp that moves with the frame."""
    if kind == "mask":
        colour_type, row = 0, b"\xff" * width_px
    else:
        colour_type = 2
        blue = 255 if kind == "frames" else 0
        row = b"".join(
            bytes(((column * 255 // width_px + index * 8) % 256, index * 5 % 256, blue))
            for column in range(width_px)
        )
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, colour_type, 0, 0, 0)
    # Each row starts with its filter: none.
    pixels = zlib.compress((b"\0" + row) * height_px, 1)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )
