"""A scene on disk: a clip with depth and intrinsics, in formats that other programs read.

scene.json            what it is: `protocol.documents.SceneDocument`
frames/0001.png       8-bit RGB
depth/0001.exr        float32 z-depth, channel Y, ZIP
occluded/0001.png     8-bit grey: 255 where the DW-mesh vertex of that pixel is occluded
"""

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from .camera import Intrinsics
from .clip import Clip
from .depth import Depth
from .dwmesh import DWMesh, build_dwmesh
from .errors import InputError
from .folders import whole_folder
from .images import read_depth_exr, read_png, write_depth_exr, write_png
from .protocol.documents import FrameRate, MeshRules, SceneDocument
from .task import Task

DOCUMENT_NAME = "scene.json"
_MAX_DOCUMENT_BYTES = 1 << 20
#: Folders of a scene and the extension of their files.
_SEQUENCES = {"frames": ".png", "depth": ".exr", "occluded": ".png"}


class Scene:
    """A scene in a folder, opened for reading; frames are read when they are asked for.

    Args:
        folder: What `write_scene` made, here or elsewhere.

    Raises:
        InputError: `scene_invalid` if the document is missing or wrong, or a file is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            with self._file(DOCUMENT_NAME).open("rb") as file:
                text = file.read(_MAX_DOCUMENT_BYTES + 1)
            self.document = msgspec.json.decode(text, type=SceneDocument)
        except (OSError, msgspec.DecodeError) as error:
            msg = f"expected a scene in {folder}, found none that can be read: {error}"
            raise InputError("scene_invalid", msg) from error
        self.intrinsics = Intrinsics.from_document(self.document.intrinsics)
        self.sha256 = hashlib.sha256(text).hexdigest()
        """SHA-256 of the document."""
        for name in self.file_names():
            self._file(name)

    def __len__(self) -> int:
        return self.document.frame_count

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second."""
        rate = self.document.frame_rate
        return Fraction(rate.numerator, rate.denominator)

    def file_names(self) -> Iterator[str]:
        """Relative paths of all files of the scene, the document first."""
        yield DOCUMENT_NAME
        for index in range(len(self)):
            for sequence in _SEQUENCES:
                yield _file_name(sequence, index)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Source frame `index`: (height, width, 3) uint8 sRGB."""
        image = read_png(self._file(_file_name("frames", index)))
        self._check_shape(image, (*self._size, 3), "frames", index)
        return image

    def depth(self, index: int) -> NDArray[np.float32]:
        """z-depth of frame `index`: (height, width) float32, positive and finite."""
        depth = read_depth_exr(self._file(_file_name("depth", index)))
        self._check_shape(depth, self._size, "depth", index)
        if not (np.isfinite(depth).all() and (depth > 0).all()):
            name = _file_name("depth", index)
            msg = f"expected positive, finite depth in {name}, found other values"
            raise InputError("scene_invalid", msg)
        return depth

    def occluded(self, index: int) -> NDArray[np.bool_]:
        """Whether the DW-mesh vertex of each pixel is occluded: (height, width) bool."""
        image = read_png(self._file(_file_name("occluded", index)))
        self._check_shape(image, self._size, "occluded", index)
        return image > 127

    def mesh(self, index: int) -> DWMesh:
        """The DW-mesh of frame `index`."""
        return build_dwmesh(
            self.depth(index), self.frame(index), self.intrinsics, self.document.mesh
        )

    @property
    def _size(self) -> tuple[int, int]:
        return self.intrinsics.height_px, self.intrinsics.width_px

    def _file(self, name: str) -> Path:
        path = self.folder / name
        # A scene from elsewhere must not lead to files outside its folder.
        if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
            msg = f"expected the file {name} in the scene {self.folder}, found none; copy it again"
            raise InputError("scene_invalid", msg)
        return path

    def _check_shape(
        self, image: NDArray[np.generic], expected: tuple[int, ...], sequence: str, index: int
    ) -> None:
        if image.shape != expected:
            name = _file_name(sequence, index)
            msg = f"expected {expected} in {name}, as {DOCUMENT_NAME} says, found {image.shape}"
            raise InputError("scene_invalid", msg)


def write_scene(
    folder: Path,
    clip: Clip,
    depth: Depth,
    intrinsics: Intrinsics,
    rules: MeshRules,
    *,
    name: str,
    task: Task,
) -> Scene:
    """Write a scene; the folder appears when it is whole.

    Args:
        folder: Where the scene shall be.
        clip: Its frames.
        depth: As many frames of z-depth, of the same size.
        intrinsics: Of the clip.
        rules: How depth becomes a DW-mesh.
        name: For people.
        task: Told about every frame, stage `meshing`.

    Raises:
        InputError: `folder_exists`, or `depth_size` if clip, depth and intrinsics do not fit.
    """
    frame_count, height_px, width_px, _ = clip.frames.shape
    if (
        depth.values.shape != clip.frames.shape[:3]
        or (intrinsics.height_px, intrinsics.width_px) != clip.frames.shape[1:3]
    ):
        msg = (
            f"expected depth of {frame_count} frames of {width_px} x {height_px} as the clip has, "
            f"found {depth.values.shape[0]} of {depth.values.shape[2]} x {depth.values.shape[1]}"
        )
        raise InputError("depth_size", msg)
    # The border is pushed back by the mesh rules, so its own depth says nothing.
    inner = depth.values[:, 1:-1, 1:-1] if min(height_px, width_px) > 2 else depth.values
    document = SceneDocument(
        name=name,
        frame_count=frame_count,
        first_source_frame=clip.first_frame,
        stride=clip.stride,
        frame_rate=FrameRate(
            numerator=clip.frame_rate.numerator, denominator=clip.frame_rate.denominator
        ),
        intrinsics=intrinsics.to_document(),
        depth=depth.info,
        mesh=rules,
        nearest_depth_first_frame=float(inner[0].min()),
        nearest_depth=float(inner.min()),
        farthest_depth=float(inner.max()),
    )
    with whole_folder(folder) as temporary:
        for sequence in _SEQUENCES:
            (temporary / sequence).mkdir()
        for index, (frame, frame_depth) in enumerate(zip(clip.frames, depth.values, strict=True)):
            mesh = build_dwmesh(frame_depth, frame, intrinsics, rules)
            write_png(temporary / _file_name("frames", index), frame)
            write_depth_exr(temporary / _file_name("depth", index), frame_depth)
            occluded = mesh.occluded().astype(np.uint8) * 255
            write_png(temporary / _file_name("occluded", index), occluded)
            task.step("meshing", index + 1, frame_count)
        text = msgspec.json.format(msgspec.json.encode(document), indent=1)
        (temporary / DOCUMENT_NAME).write_bytes(text)
    return Scene(folder)


def _file_name(sequence: str, index: int) -> str:
    return f"{sequence}/{index + 1:04d}{_SEQUENCES[sequence]}"
