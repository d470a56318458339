"""Start a real server, play the artist in Blender against it, and show what came of it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from ex4d.clip import read_clip, write_video
from ex4d.errors import Ex4dError, InputError
from ex4d.images import read_png, write_png
from ex4d.take import Take

_SCRIPT = Path(__file__).with_name("in_blender.py")
_SERVER_START_S = 60.0
_SHEET_COLUMNS = 6
_SHEET_TILE_PX = 256
_CAPTION_PX = 26


@dataclass(frozen=True)
class Shot:
    """A clip and what to do with it.

    Attributes:
        clip: The video.
        depth: Its depth.
        depth_kind: What the depth file holds.
        focal_px: Of the clip.
        radius: Distance of the pivot, in scene units.
        move: A key of `moves.MOVES`.
        strength: How far the move goes against its default.
        title: For people.
    """

    clip: Path
    depth: Path
    depth_kind: str
    focal_px: float
    radius: float
    move: str
    strength: float
    title: str


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        blend: The saved file.
        take: The take that its strips show.
        times_s: Seconds of each step in Blender.
        picture: The mesh from aside; None where none was asked for.
    """

    blend: Path
    take: Take
    times_s: dict[str, float]
    picture: Path | None


def play(
    shot: Shot, *, blender: Path, addon: Path, folder: Path, with_picture: bool = True
) -> Outcome:
    """Take a shot through Blender and a server.

    Args:
        shot: What to do.
        blender: Blender, or a Python that has Blender as a module.
        addon: The extension's zip for this platform.
        folder: Where the results go; made if it does not exist.
        with_picture: Whether to render the mesh from aside.

    Raises:
        Ex4dError: `demo_failed` with what Blender or the server said last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    picture = folder / "mesh.png" if with_picture else None
    with (
        tempfile.TemporaryDirectory(prefix="ex4d-demo-") as private,
        paired_server(Path(private)) as link,
    ):
        plan = {
            **{name: str(value) for name, value in asdict(shot).items()},
            "focal_px": shot.focal_px,
            "radius": shot.radius,
            "strength": shot.strength,
            "clip": str(shot.clip.resolve()),
            "depth": str(shot.depth.resolve()),
            "addon": str(addon.resolve()),
            "link": link,
            "blend": str(folder / "demo.blend"),
            "picture": str(picture or ""),
        }
        plan_path = Path(private) / "plan.json"
        plan_path.write_bytes(msgspec.json.encode(plan))
        _run_blender(blender, plan_path, Path(private))
        times_s = msgspec.json.decode(
            plan_path.with_name("done.json").read_bytes(), type=dict[str, float]
        )
    takes = sorted((folder / "ex4d_takes").iterdir())
    return Outcome(folder / "demo.blend", Take(takes[-1]), times_s, picture)


@contextmanager
def paired_server(folder: Path) -> Iterator[str]:
    """A server process on a free port of the loopback; the pairing link that it printed.

    Args:
        folder: For its data and its log.

    Raises:
        Ex4dError: `demo_failed` with the server's log if it does not start.
    """
    log_path = folder / "server.log"
    command = [sys.executable, "-m", "ex4d", "serve", "--port", "0", "--pair", "demo"]
    command += ["--data", str(folder / "server")]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        lines = iter(process.stdout or ())
        link = next((line.strip() for line in lines if line.startswith("ex4d://")), None)
        if link is None:
            msg = f"expected the server to print a link, found: {log_path.read_text()[-2000:]}"
            raise Ex4dError("demo_failed", msg)
        yield link
    finally:
        process.terminate()
        process.communicate(timeout=_SERVER_START_S)


def _run_blender(blender: Path, plan_path: Path, private: Path) -> None:
    """Run the script in Blender, with settings of its own."""
    if "python" in blender.name:
        command = [str(blender), str(_SCRIPT), str(plan_path)]
    else:
        command = [str(blender), "--background", "--online-mode", "--python-exit-code", "1"]
        command += ["--python", str(_SCRIPT), "--", str(plan_path)]
    # Blender passes over a folder that is not there, and takes the user's own.
    resources = private / "blender"
    resources.mkdir()
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(resources)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0 or not plan_path.with_name("done.json").is_file():
        msg = f"expected Blender to finish, found: {(result.stdout + result.stderr)[-3000:]}"
        raise Ex4dError("demo_failed", msg)


def contact_sheet(outcome: Outcome, shot: Shot) -> NDArray[np.uint8]:
    """(height, width, 3) uint8: source, condition, mask and take side by side over time."""
    take = outcome.take
    indices = np.linspace(0, len(take) - 1, _SHEET_COLUMNS).round().astype(int)
    source = read_clip(shot.clip).frames
    rows = {
        "source": [source[min(index, len(source) - 1)] for index in indices],
        "what it shows from there": [take.color(index) for index in indices],
        "seen": [np.repeat(take.mask(index)[..., None], 3, 2) * np.uint8(255) for index in indices],
        f"engine: {take.document.settings.__struct_config__.tag}": [
            take.frame(index) for index in indices
        ],
    }
    strips = []
    for name, images in rows.items():
        strips.append(_caption(name, _SHEET_COLUMNS * _SHEET_TILE_PX))
        strips.append(np.concatenate([_tile(image) for image in images], axis=1))
    return np.concatenate(strips)


def _tile(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fitted into a square, never squeezed."""
    height_px, width_px = image.shape[:2]
    scale = _SHEET_TILE_PX / max(height_px, width_px)
    size = (round(width_px * scale), round(height_px * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tile = np.zeros((_SHEET_TILE_PX, _SHEET_TILE_PX, 3), np.uint8)
    top, left = (_SHEET_TILE_PX - size[1]) // 2, (_SHEET_TILE_PX - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile


def _caption(text: str, width_px: int) -> NDArray[np.uint8]:
    strip = np.full((_CAPTION_PX, width_px, 3), 32, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, text, (8, _CAPTION_PX - 8), font, 0.5, (220, 220, 220), 1, cv2.LINE_AA)
    return strip


def write_results(outcome: Outcome, shot: Shot, folder: Path) -> None:
    """Write `demo.mp4`, the take, and `contact_sheet.png`, with the mesh where there is one."""
    take = outcome.take
    rate = take.document.frame_rate
    frames = [take.frame(index) for index in range(len(take))]
    write_video(folder / "demo.mp4", frames, Fraction(rate.numerator, rate.denominator))
    sheet = contact_sheet(outcome, shot)
    if outcome.picture is not None:
        mesh = read_png(outcome.picture)
        scale = sheet.shape[0] / mesh.shape[0]
        size = (round(mesh.shape[1] * scale), sheet.shape[0])
        sheet = np.hstack([sheet, cv2.resize(mesh, size).astype(np.uint8)])
    write_png(folder / "contact_sheet.png", sheet)


def clear(folder: Path) -> None:
    """Remove what an earlier demo left.

    Raises:
        InputError: `folder_exists` if the folder holds something else.
    """
    if not folder.exists():
        return
    if not (folder / "demo.blend").exists() and any(folder.iterdir()):
        msg = f"expected {folder} to be new or an earlier demo, found other files; choose another"
        raise InputError("folder_exists", msg)
    shutil.rmtree(folder)
