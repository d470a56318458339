# SPDX-License-Identifier: GPL-3.0-or-later
"""The marked pictures of a shot follow its field of view.

Those of the import stay; another field of view gets a folder of its own beside them, painted in
slices once the slider has come to rest. Whenever something may have changed, which folder a shot
shows is compared with which it should, so that undo and redo need nothing of their own.
"""

import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import bpy

from . import coverage, pictures
from ._vendor.errors import Ex4dError
from .redraw import redraw_views
from .scene_files import stored_path
from .scene_import import marked_file
from .sliced_work import SlicedWork

#: How long a field of view must stay as it is.
SETTLE_S = 0.4
#: Folders of changed fields of view that are kept beside a scene, the newest: undo may go back.
_KEPT = 3


@dataclass(frozen=True)
class _Wish:
    """The pictures that a shot should show and does not."""

    shot_uid: int
    mesh: coverage.ShotMesh


class Repainter:
    """Paints one shot at a time."""

    def __init__(self) -> None:
        self._wish: _Wish | None = None
        self._begins_s = 0.0
        self._work: SlicedWork[Path] | None = None
        # Once at the start, for the file that is open.
        self._looks = True

    def look(self) -> None:
        """Look at all shots at the next tick; otherwise a file full of objects would cost time."""
        self._looks = True

    @property
    def is_painting(self) -> bool:
        """Whether there is something to do."""
        return self._looks or (
            self._wish is not None and (self._work is None or self._work.error is None)
        )

    @property
    def error(self) -> Ex4dError | None:
        """Why the pictures are those of another field of view."""
        return None if self._work is None else self._work.error

    @property
    def fraction(self) -> float | None:
        """Share of the pictures that are painted, 0..1; None while none are."""
        return self._work.fraction if self._work is not None and not self._work.is_over else None

    def advance(self, deadline_s: float) -> bool:
        """Do what fits into the time; true if the panels must be drawn again.

        Args:
            deadline_s: Of `time.perf_counter`.
        """
        before = self.error, self.fraction
        if self._looks:
            self._looks = False
            wish = _next_wish()
            if wish != self._wish:
                self._begin(wish)
        if self._wish is not None and time.monotonic() >= self._begins_s:
            if self._work is None:
                self._work = SlicedWork(_paint(self._wish.mesh))
            self._paint_until(deadline_s, self._wish, self._work)
        return before != (self.error, self.fraction)

    def _paint_until(self, deadline_s: float, wish: _Wish, work: SlicedWork[Path]) -> None:
        while not work.is_over and time.perf_counter() < deadline_s - coverage.SLICE_S:
            work.step()
        if work.result is not None:
            _show(wish)
            self._begin(None)
            # Another shot may wait.
            self.look()

    def _begin(self, wish: _Wish | None) -> None:
        if self._work is not None:
            # What is half painted goes.
            self._work.slices.close()
        self._wish, self._work = wish, None
        self._begins_s = time.monotonic() + SETTLE_S


def _next_wish() -> _Wish | None:
    """Of the first shot that shows other pictures than it should."""
    for item in bpy.data.objects:
        shot = item.ex4d_shot
        if not shot.is_shot or item.library is not None or shot.marked_image is None:
            continue
        mesh = coverage.mesh_of(item)
        shown = Path(bpy.path.abspath(shot.marked_image.filepath)).parent
        wanted = marked_file(mesh.folder, 0, mesh.zoom).parent
        is_lost = mesh.zoom != 1.0 and not wanted.is_dir()
        # A folder that is gone altogether is for the user to find.
        if (shown.name != wanted.name or is_lost) and wanted.parent.is_dir():
            return _Wish(item.session_uid, mesh)
    return None


def _show(wish: _Wish) -> None:
    for item in bpy.data.objects:
        if item.session_uid == wish.shot_uid:
            image = item.ex4d_shot.marked_image
            image.filepath = stored_path(marked_file(wish.mesh.folder, 0, wish.mesh.zoom))
            image.reload()
    redraw_views("WINDOW")


def _paint(mesh: coverage.ShotMesh) -> Generator[float, None, Path]:
    """Paint all pictures of a field of view, unless that has been done.

    Returns:
        Their folder.

    Raises:
        InputError: As `ShotMesh.surface`.
        OSError: If nothing can be written to the scene's folder.
    """
    folder = marked_file(mesh.folder, 0, mesh.zoom).parent
    if folder.is_dir():
        folder.touch()
        return folder
    partial = folder.with_name(folder.name + ".part")
    partial.mkdir(exist_ok=True)
    try:
        for index in range(mesh.frame_count):
            fraction = index / mesh.frame_count
            surface = mesh.surface(index)
            while True:
                try:
                    next(surface)
                except StopIteration as end:
                    _, picture = end.value
                    break
                yield fraction
            path = partial / marked_file(mesh.folder, index).name
            for _ in pictures.write_png_blocks(path, picture):
                yield fraction
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    changed = folder.parent.glob("marked_*")
    newest_last = sorted(changed, key=lambda path: path.stat().st_mtime)
    for old in newest_last[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder
