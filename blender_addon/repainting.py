# SPDX-License-Identifier: GPL-3.0-or-later
"""The marked pictures of a shot follow its field of view.

Those of the import stay; another field of view gets a folder of its own beside them, painted in
slices once the slider has come to rest. Whenever something may have changed, which folder a shot
shows is compared with which it should, so that undo and redo need nothing of their own.
"""

import contextlib
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
    def shot_uid(self) -> int | None:
        """Of the shot that `error` and `fraction` are about."""
        return None if self._wish is None else self._wish.shot_uid

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
            failed = self._wish if self.error is not None else None
            wish = _next_wish(failed)
            # What failed is tried again: what it lacked may be there now.
            if wish != self._wish or failed is not None:
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


def _next_wish(failed: _Wish | None) -> _Wish | None:
    """Of the first shot that shows other pictures than it should; what failed comes last."""
    wishes: list[_Wish] = []
    images: list[bpy.types.Image] = []
    for shot in _shots():
        image, mesh = shot.ex4d_shot.marked_image, coverage.mesh_of(shot)
        # Copies of a shot share its image, which cannot follow two fields of view.
        if image in images:
            continue
        images.append(image)
        shown = Path(bpy.path.abspath(image.filepath)).parent
        wanted = _folder_for(mesh)
        is_lost = mesh.zoom != 1.0 and not wanted.is_dir()
        # A folder that is gone altogether is for the user to find.
        if (shown.name != wanted.name or is_lost) and wanted.parent.is_dir():
            wishes.append(_Wish(shot.session_uid, mesh))
    return min(wishes, key=lambda wish: wish == failed, default=None)


def _shots() -> list[bpy.types.Object]:
    """The shots of this file that have marked pictures."""
    return [
        item
        for item in bpy.data.objects
        if item.ex4d_shot.is_shot
        and item.library is None
        and item.ex4d_shot.marked_image is not None
    ]


def _folder_for(mesh: coverage.ShotMesh) -> Path:
    """Where the pictures of a field of view lie."""
    return marked_file(mesh.folder, 0, mesh.zoom).parent


def _show(wish: _Wish) -> None:
    for shot in _shots():
        if shot.session_uid == wish.shot_uid:
            image = shot.ex4d_shot.marked_image
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
    folder = _folder_for(mesh)
    if folder.is_dir():
        # Whether it may be removed next is all that this says: others' folders may be read alone.
        with contextlib.suppress(OSError):
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
    # Another shot of the same scene would have its own painted again, over and over.
    wanted = {_folder_for(coverage.mesh_of(shot)) for shot in _shots()}
    for old in newest_last[:-_KEPT]:
        if old not in wanted:
            shutil.rmtree(old, ignore_errors=True)
    return folder
