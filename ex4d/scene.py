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
from .framestore import each_frame, value_range
from .images import exr_size, png_size, read_depth_exr, read_png, write_depth_exr, write_png
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
        InputError: `scene_invalid` if the document is missing or wrong, a file is missing, or of
            another size; `image_invalid` if one is no image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = self._read_document()
        try:
            self.document = msgspec.json.decode(text, type=SceneDocument)
        # Bytes that are no text are a ValueError of their own.
        except ValueError as error:
            msg = (
                f"expected a scene's document in {folder / DOCUMENT_NAME}, found: {error}; "
                "copy the scene again, or make it with this version"
            )
            raise InputError("scene_invalid", msg) from error
        self.intrinsics = Intrinsics.from_document(self.document.intrinsics)
        self.sha256 = hashlib.sha256(text).hexdigest()
        """SHA-256 of the document."""
        self._check_folders()
        for index in range(len(self)):
            for sequence in _SEQUENCES:
                self._check_header(sequence, index)

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
        self._check_shape(image.shape, (*self._size, 3), "frames", index)
        return image

    def depth(self, index: int) -> NDArray[np.float32]:
        """z-depth of frame `index`: (height, width) float32, positive and finite."""
        depth = read_depth_exr(self._file(_file_name("depth", index)))
        self._check_shape(depth.shape, self._size, "depth", index)
        if not (np.isfinite(depth).all() and (depth > 0).all()):
            name = _file_name("depth", index)
            msg = f"expected positive, finite depth in {name}, found other values; make it again"
            raise InputError("scene_invalid", msg)
        return depth

    def occluded(self, index: int) -> NDArray[np.bool_]:
        """Whether the DW-mesh vertex of each pixel is occluded: (height, width) bool."""
        image = read_png(self._file(_file_name("occluded", index)))
        self._check_shape(image.shape, self._size, "occluded", index)
        return image > 127

    def mesh(self, index: int) -> DWMesh:
        """The DW-mesh of frame `index`."""
        return build_dwmesh(
            self.depth(index), self.frame(index), self.intrinsics, self.document.mesh
        )

    @property
    def _size(self) -> tuple[int, int]:
        return self.intrinsics.height_px, self.intrinsics.width_px

    def _read_document(self) -> bytes:
        path = self._file(DOCUMENT_NAME)
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_DOCUMENT_BYTES + 1)
        except OSError as error:
            msg = f"expected to read {path}, found: {error.strerror}; permit it"
            raise InputError("scene_invalid", msg) from error
        if len(text) > _MAX_DOCUMENT_BYTES:
            msg = f"expected at most {_MAX_DOCUMENT_BYTES} bytes in {path}, found more; copy again"
            raise InputError("scene_invalid", msg)
        return text

    def _check_folders(self) -> None:
        for sequence in _SEQUENCES:
            path = self.folder / sequence
            if path.is_symlink() or not path.is_dir():
                msg = f"expected a folder {sequence} in the scene {self.folder}, found none"
                raise InputError("scene_invalid", msg + "; copy the scene again")

    def _file(self, name: str) -> Path:
        path = self.folder / name
        # A scene from elsewhere must not lead to files outside its folder.
        if path.is_symlink() or not path.is_file():
            msg = f"expected the file {name} in the scene {self.folder}, found none; copy it again"
            raise InputError("scene_invalid", msg)
        return path

    def _check_header(self, sequence: str, index: int) -> None:
        name = _file_name(sequence, index)
        size_of = exr_size if name.endswith(".exr") else png_size
        self._check_shape(size_of(self._file(name)), self._size, sequence, index)

    def _check_shape(
        self, shape: tuple[int, ...], expected: tuple[int, ...], sequence: str, index: int
    ) -> None:
        if shape != expected:
            name = _file_name(sequence, index)
            msg = (
                f"expected an image of {expected} in {name}, as {DOCUMENT_NAME} says, found "
                f"{shape}; copy the scene again"
            )
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
    replaces: bool = False,
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
        replaces: Whether an earlier scene in that place gives way to this one.

    Raises:
        InputError: `folder_exists`, `depth_size` if clip, depth and intrinsics do not fit,
            `scene_invalid` if no document can say what the scene is, or `image_write`.
    """
    _check_sizes(clip, depth, intrinsics)
    text = _document_text(clip, depth, intrinsics, rules, name)
    with whole_folder(folder, replaces=DOCUMENT_NAME if replaces else None) as temporary:
        for sequence in _SEQUENCES:
            (temporary / sequence).mkdir()
        pairs = zip(each_frame(clip.frames), each_frame(depth.values), strict=True)
        for index, (frame, frame_depth) in enumerate(pairs):
            mesh = build_dwmesh(frame_depth, frame, intrinsics, rules)
            write_png(temporary / _file_name("frames", index), frame)
            write_depth_exr(temporary / _file_name("depth", index), frame_depth)
            occluded = mesh.occluded().astype(np.uint8) * 255
            write_png(temporary / _file_name("occluded", index), occluded)
            task.step("meshing", index + 1, len(clip.frames))
        (temporary / DOCUMENT_NAME).write_bytes(text)
    return Scene(folder)


def _check_sizes(clip: Clip, depth: Depth, intrinsics: Intrinsics) -> None:
    frame_count, height_px, width_px, _ = clip.frames.shape
    if depth.values.shape != clip.frames.shape[:3]:
        found, height, width = depth.values.shape
        msg = (
            f"expected depth of {frame_count} frames of {width_px} x {height_px}, as the clip has, "
            f"found {found} of {width} x {height}; read it for this clip"
        )
        raise InputError("depth_size", msg)
    if (intrinsics.height_px, intrinsics.width_px) != (height_px, width_px):
        msg = (
            f"expected intrinsics for {width_px} x {height_px}, as the clip has, found "
            f"{intrinsics.width_px} x {intrinsics.height_px}; resize them"
        )
        raise InputError("depth_size", msg)


def _document_text(
    clip: Clip, depth: Depth, intrinsics: Intrinsics, rules: MeshRules, name: str
) -> bytes:
    frame_count, height_px, width_px, _ = clip.frames.shape
    # The border is pushed back by the mesh rules, so its own depth says nothing.
    inner = depth.values[:, 1:-1, 1:-1] if min(height_px, width_px) > 2 else depth.values
    nearest_depth, farthest_depth = value_range(inner)
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
        nearest_depth=nearest_depth,
        farthest_depth=farthest_depth,
    )
    text = msgspec.json.format(msgspec.json.encode(document), indent=1)
    try:
        # Structs are checked when they are decoded, not when they are made.
        msgspec.json.decode(text, type=SceneDocument)
    except msgspec.ValidationError as error:
        msg = f"expected a clip that a scene can hold, found: {error}; choose other frames"
        raise InputError("scene_invalid", msg) from error
    return text


def _file_name(sequence: str, index: int) -> str:
    return f"{sequence}/{index + 1:04d}{_SEQUENCES[sequence]}"
