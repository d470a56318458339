# pyright: reportMissingImports=false
"""Checks the model's files by their headers, and writes them anew for a quicker start.

Converted, the adapter is fused into the transformer in float32 and everything is rounded to
bfloat16, so that a start reads half the bytes of the published files, each of them once. The
transformer's large layers can be put into e4m3 as well, which leaves two thirds of it.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ex4d import __version__
from ex4d.errors import InputError
from ex4d.folders import whole_folder
from ex4d.task import Task
from ex4d.weights.checkpoints import Shape, tensor_shapes, tensors, write_safetensors
from ex4d.weights.files import weights_identity

from . import adapter, fp8, loading
from .files import (
    ModelFiles,
    converted_layout,
    lora_names,
    lora_path,
)

_KEPT_TYPE = torch.bfloat16
_CPU = torch.device("cpu")


class Checked(NamedTuple):
    """A part of the model whose file is as it should be."""

    name: str
    #: For people: how many tensors, and of how many numbers.
    detail: str


def check_models(files: ModelFiles) -> Iterable[Checked]:
    """Compare each file with the model, name by name and shape by shape; reads headers only.

    Raises:
        InputError: `checkpoint_keys`, `checkpoint_damaged` or `lora_invalid`, for the first file
            that is not as it should be.
    """
    shapes = loading.check_dit(files)
    yield Checked("transformer", _size(shapes))
    if files.adapter is not None:
        adapter.check_adapter(files.adapter, shapes)
        layers = len(adapter.TARGETS) * adapter.block_count(shapes)
        found = _size(tensor_shapes(files.adapter))
        yield Checked("adapter", f"{found}, changes {layers} layers")
    if files.camera_encoder is not None:
        adapter.check_camera_encoder(files.camera_encoder, shapes)
        yield Checked("camera encoder", _size(tensor_shapes(files.camera_encoder)))
    checks: tuple[tuple[str, Path, Callable[[Path], object]], ...] = (
        ("text encoder", files.text_encoder, loading.check_text_encoder),
        ("image encoder", files.image_encoder, loading.check_image_encoder),
        ("autoencoder", files.vae, loading.check_vae),
    )
    for name, path, check in checks:
        check(path)
        yield Checked(name, _size(tensor_shapes(path)))
    for name in lora_names(files):
        lora = adapter.read_lora(lora_path(files, name), shapes)
        yield Checked(f"LoRA {name}", f"changes {len(lora)} layers")


def convert_models(
    files: ModelFiles, folder: Path, task: Task, *, is_quantised: bool = False
) -> ModelFiles:
    """Write the converted files; they appear when all are whole.

    Args:
        files: The published ones, or those in bfloat16.
        folder: The models folder.
        task: Told about every tensor, stage `converting`.
        is_quantised: Put the transformer's large layers into e4m3, as the mode `fast` does.

    Raises:
        InputError: As `check_models`; `converted_already`; `folder_exists`; `disk_full`.
    """
    target = converted_layout(folder, is_quantised=is_quantised)
    if target.config.parent.is_dir():
        name = target.config.parent.name
        msg = f"expected no {name}/ yet, found one; remove it from the models folder first"
        raise InputError("converted_already", msg)
    for _ in check_models(files):
        task.check()
    shapes = loading.check_dit(files)
    camera_encoder, lora = loading.read_adapter(files, shapes)
    camera = camera_encoder.state_dict()
    dit_values = loading.fused_tensors(files, [lora] if lora else [], device=_CPU)
    if is_quantised:
        shapes, dit_values = fp8.quantised_shapes(shapes), fp8.quantised_tensors(dit_values)
    image_encoder = loading.check_image_encoder(files.image_encoder).state_dict()
    image_shapes = {
        loading.IMAGE_PREFIX + name: tuple(value.shape) for name, value in image_encoder.items()
    }
    camera_shapes = {name: tuple(value.shape) for name, value in camera.items()}
    # Each written file: its shapes, and what goes into it.
    parts: dict[str, tuple[Mapping[str, Shape], Iterable[tuple[str, torch.Tensor]]]] = {
        "dit": (shapes, dit_values),
        "camera_encoder": (camera_shapes, camera.items()),
        "text_encoder": (tensor_shapes(files.text_encoder), tensors(files.text_encoder)),
        "image_encoder": (
            image_shapes,
            (
                (loading.IMAGE_PREFIX + name, value)
                for name, value in loading.image_encoder_tensors(files.image_encoder)
            ),
        ),
        "vae": (tensor_shapes(files.vae), tensors(files.vae)),
    }

    def type_of(part: str, name: str) -> torch.dtype:
        if part != "dit":
            return _KEPT_TYPE
        return loading.stored_type(name, _KEPT_TYPE, is_quantised=is_quantised)

    layouts = {
        part: {name: (shape, type_of(part, name)) for name, shape in part_shapes.items()}
        for part, (part_shapes, _) in parts.items()
    }
    _check_room(folder, layouts)
    done, total = 0, sum(len(layout) for layout in layouts.values())
    origin = {
        "format": "pt",
        "ex4d_version": __version__,
        "base": weights_identity(files.dit[0]),
        "adapter": weights_identity(files.adapter_file),
    }

    def counted(
        values: Iterable[tuple[str, torch.Tensor]],
    ) -> Iterable[tuple[str, torch.Tensor]]:
        nonlocal done
        for value in values:
            yield value
            done += 1
            task.step("converting", done, total)

    with whole_folder(target.config.parent) as temporary:
        for part, (_, values) in parts.items():
            path = temporary / f"{part}.safetensors"
            write_safetensors(path, layouts[part], counted(values), origin)
        shutil.copyfile(files.config, temporary / target.config.name)
        shutil.copytree(files.tokenizer, temporary / target.tokenizer.name)
    return target


def _check_room(
    folder: Path, layouts: Mapping[str, Mapping[str, tuple[Shape, torch.dtype]]]
) -> None:
    needed_bytes = sum(
        torch.Size(shape).numel() * dtype.itemsize
        for layout in layouts.values()
        for shape, dtype in layout.values()
    )
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        msg = (
            f"expected {needed_bytes / 1e9:.0f} GB free for the converted files, found "
            f"{free_bytes / 1e9:.0f}; free some space"
        )
        raise InputError("disk_full", msg)


def _size(shapes: Mapping[str, Shape]) -> str:
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    return f"{len(shapes)} tensors of {numbers:,} numbers"
