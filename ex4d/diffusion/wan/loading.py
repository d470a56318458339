# pyright: reportMissingImports=false
"""Builds the model's parts from their files, with diffsynth's modules.

Each part is built without memory, its dimensions read from the shapes in its file, and compared
with the file name by name and shape by shape before a value is read. Then each value is read once,
changed (the adapter, the additional LoRAs), rounded and put where it belongs.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ex4d.errors import InputError
from ex4d.weights.checkpoints import Shape, check_names_and_shapes, tensor_shapes, tensors

from . import adapter, fp8
from .files import ModelFiles, lora_path
from .modes import Mode, PreparedDit, prepare, quantises

#: Parts of the transformer that the reference computes in float32, whatever the rest is in.
FLOAT32_PARTS = ("time_embedding.", "time_projection.", "head.")
#: Of the picture that CLIP looks at.
CLIP_SIDE_PX = 224
#: Width of an attention head of the CLIP encoder ViT-H/14. Heads leave no trace in the shapes, so a
#: width that is no multiple belongs to a small encoder for tests, whose heads are 16 wide.
_CLIP_HEAD_DIM = 80
_SMALL_CLIP_HEAD_DIM = 16
#: Begins the names of the vision half's weights in the published CLIP file.
IMAGE_PREFIX = "visual."
#: The rest of that file describes text, which nothing here needs.
_CLIP_UNUSED = ("textual.", "log_scale")


@dataclass
class WanModels:
    """What makes frames from a condition, in one place so that a mode can change its parts.

    Attributes:
        dit: diffsynth's `WanModel`, the adapter and all LoRAs fused.
        blocks: Runs its blocks, in a mode.
        camera_encoder: The adapter's other half.
        vae: diffsynth's `WanVideoVAE`.
        image_encoder: The vision half of CLIP.
        device: Where all of it lies and computes.
        dtype: float32, or bfloat16 for mixed precision.
        second: The same with the transformer on another card, which takes the negative branch of
            guidance (`two_cards`).
    """

    dit: Any
    blocks: PreparedDit
    camera_encoder: adapter.CameraEncoder
    vae: Any
    image_encoder: nn.Module
    device: torch.device
    dtype: torch.dtype
    second: "WanModels | None" = None


def load_models(
    files: ModelFiles,
    *,
    device: torch.device,
    dtype: torch.dtype,
    loras: tuple[str, ...] = (),
    mode: Mode = "exact",
    tokens: int = 0,
    memory_cap_bytes: int | None = None,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> WanModels:
    """Build all parts but the text encoder, which most takes do not need.

    Every file is checked before the first value is read.

    Args:
        files: Where they are.
        device: Where they shall be.
        dtype: What their weights are rounded to, but for `FLOAT32_PARTS`.
        loras: Names of registered LoRAs to fuse on top.
        mode: How the transformer computes.
        tokens: Of the longest video, which decides what must be left free under a cap.
        memory_cap_bytes: For everything on the device, where given: weights that do not fit are
            fetched from main memory block by block.
        on_tensor: Told how many of how many tensors are in place; may raise to stop.

    Raises:
        InputError: `checkpoint_keys`, `checkpoint_damaged`, `lora_missing`, `lora_invalid`,
            `weights_quantised`, or of `modes.prepare`.
    """
    in_8_bits = quantises(mode, device)
    if files.is_quantised and (loras or not in_8_bits):
        msg = (
            f"expected weights in 16 bits for the mode {mode} with {len(loras)} LoRAs, found "
            f"{files.dit[0].parent.name}; choose fast without LoRAs, or other files"
        )
        raise InputError("weights_quantised", msg)
    dit_shapes = check_dit(files)
    quantises_now = in_8_bits and not files.is_quantised
    vae = check_vae(files.vae)
    image_encoder = check_image_encoder(files.image_encoder)
    added = [adapter.read_lora(lora_path(files, name), dit_shapes) for name in loras]
    camera_encoder, own_lora = read_adapter(files, dit_shapes)
    all_loras = [own_lora, *added] if own_lora else added
    done = 0
    loaded = fp8.quantised_shapes(dit_shapes) if quantises_now else dit_shapes
    total = len(loaded) + len(vae.state_dict()) + len(image_encoder.state_dict())

    def count() -> None:
        nonlocal done
        done += 1
        on_tensor(done, total)

    # What is streamed stays in main memory.
    home = device if memory_cap_bytes is None else torch.device("cpu")
    dit = load_dit(
        files,
        all_loras,
        # A card quantises far faster than the processor.
        device=device if quantises_now else home,
        home=home,
        dtype=dtype,
        quantise=quantises_now,
        on_tensor=count,
    )
    _fill(vae.model, tensors(files.vae), device=device, dtype=dtype, on_tensor=count)
    if device.type == "cuda":
        put_channels_last(vae.model)
    _fill(
        image_encoder,
        image_encoder_tensors(files.image_encoder),
        device=device,
        dtype=dtype,
        on_tensor=count,
    )
    camera_encoder.to(device, dtype).eval().requires_grad_(False)
    models = (_frozen(vae), _frozen(image_encoder))
    # Last, when it is known what else lies on the device.
    blocks = prepare(dit, mode, device, tokens=tokens, memory_cap_bytes=memory_cap_bytes)
    return WanModels(dit, blocks, camera_encoder, *models, device, dtype)


# --- diffusion transformer -----------------------------------------------------------------------


def check_dit(files: ModelFiles) -> dict[str, Shape]:
    """Shapes of the transformer's weights, if they are exactly those of a model of its kind.

    Raises:
        InputError: `checkpoint_keys` or `checkpoint_damaged`.
    """
    found: dict[str, Shape] = {}
    for path in files.dit:
        found.update(tensor_shapes(path))
    _compare(_file_label(files.dit), build_dit(read_config(files.config), found), found)
    return found


def load_dit(
    files: ModelFiles,
    loras: Iterable[adapter.Lora],
    *,
    device: torch.device,
    dtype: torch.dtype,
    home: torch.device | None = None,
    quantise: bool = False,
    on_tensor: Callable[[], None] = lambda: None,
) -> Any:
    """Build the transformer, whose files were checked, with LoRAs fused in.

    Args:
        files: Where its weights are.
        loras: What is added to its weights.
        device: Where its weights are rounded.
        dtype: What they are rounded to, but for `FLOAT32_PARTS`.
        home: Where they are kept; where they are rounded if absent.
        quantise: Put its large layers into 8 bits, each as soon as it is read.
        on_tensor: Called after each tensor.

    Returns:
        diffsynth's `WanModel`, frozen.
    """
    shapes = {name: shape for path in files.dit for name, shape in tensor_shapes(path).items()}
    values = fused_tensors(files, list(loras), device=device)
    if quantise:
        shapes = fp8.quantised_shapes(shapes)
        values = fp8.quantised_tensors((name, value.to(device)) for name, value in values)
    model = build_dit(read_config(files.config), shapes)
    state: dict[str, torch.Tensor] = {}
    for name, value in values:
        kept_type = stored_type(name, dtype, is_quantised=quantise or files.is_quantised)
        if fp8.FP8 in (kept_type, value.dtype) and kept_type != value.dtype:
            msg = f"expected {name} of {kept_type}, found {value.dtype}; convert the model again"
            raise InputError("checkpoint_keys", msg)
        state[name] = value.to(device).to(kept_type).to(home or device)
        on_tensor()
    model.load_state_dict(state, assign=True)
    return _frozen(model)


def fused_tensors(
    files: ModelFiles, loras: list[adapter.Lora], *, device: torch.device
) -> Iterable[tuple[str, torch.Tensor]]:
    """Each weight of the transformer with the LoRAs added: float32 where one was, else as stored.

    Raises:
        InputError: `lora_not_fused` if a LoRA names a weight that did not come by.
    """
    todo = [set(lora) for lora in loras]
    for path in files.dit:
        for name, stored in tensors(path, is_for_card=device.type == "cuda"):
            value = stored
            for lora, left in zip(loras, todo, strict=True):
                if name in lora:
                    value = lora[name].add_to(value.to(device))
                    left.remove(name)
            yield name, value
    if any(todo):
        names = sorted(set().union(*todo))
        msg = f"expected to change every layer of the LoRAs, found no {', '.join(names[:5])}"
        raise InputError("lora_not_fused", msg)


def stored_type(name: str, dtype: torch.dtype, *, is_quantised: bool = False) -> torch.dtype:
    """The type that the transformer's weight `name` is kept in, where others are in `dtype`."""
    if is_quantised and (own_type := fp8.quantised_type(name)) is not None:
        return own_type
    return torch.float32 if name.startswith(FLOAT32_PARTS) else dtype


def read_config(path: Path) -> dict[str, Any]:
    """The published `config.json`, which tells what shapes cannot.

    Raises:
        InputError: `checkpoint_damaged`.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if int(config["num_heads"]) < 1 or not float(config["eps"]) > 0:
            raise ValueError("its numbers are out of range")  # noqa: TRY301
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"expected num_heads and eps in {path.name} of the model, found none that can be "
            f"read ({error}); fetch the file again"
        )
        raise InputError("checkpoint_damaged", msg) from error
    return config


def build_dit(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Any:
    """A `WanModel` of diffsynth without values, as wide and deep as the shapes say.

    Raises:
        InputError: `checkpoint_keys` if the shapes do not say it.
    """
    from diffsynth.models import wan_video_dit

    dim, in_dim, *patch_size = _shape(shapes, "patch_embedding.weight", 5)
    patch_volume = math.prod(patch_size)
    clip_dim = _shape(shapes, "img_emb.proj.1.weight", 2)[1]
    heads = int(config["num_heads"])
    with torch.device("meta"):
        model = wan_video_dit.WanModel(
            dim=dim,
            in_dim=in_dim,
            ffn_dim=_shape(shapes, "blocks.0.ffn.0.weight", 2)[0],
            out_dim=_shape(shapes, "head.head.weight", 2)[0] // max(1, patch_volume),
            text_dim=_shape(shapes, "text_embedding.0.weight", 2)[1],
            freq_dim=_shape(shapes, "time_embedding.0.weight", 2)[1],
            eps=float(config["eps"]),
            patch_size=tuple(patch_size),
            num_heads=heads,
            num_layers=adapter.block_count(shapes),
            has_image_input=True,
        )
        # diffsynth knows the published encoder's width alone.
        model.img_emb = wan_video_dit.MLP(clip_dim, dim)
        if fp8.has_quantised(shapes):
            for block in model.blocks:
                fp8.quantise_block(block)
    # No weights but a table, which must have values.
    model.freqs = wan_video_dit.precompute_freqs_cis_3d(dim // heads)
    return model


# --- the other parts -----------------------------------------------------------------------------


def put_channels_last(model: nn.Module) -> None:
    """Lay a convolutional model's weights out as a card's tensor cores take them, in place.

    The first convolution then hands its output on in this order: a tenth less time.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            order = torch.channels_last_3d
        elif isinstance(module, nn.Conv2d):
            order = torch.channels_last
        else:
            continue
        module.weight.data = module.weight.data.contiguous(memory_format=order)


def check_vae(path: Path) -> Any:
    """The autoencoder without values, if the file is exactly one of its kind."""
    from diffsynth.models import wan_video_vae

    found = tensor_shapes(path)
    dim = _shape(found, "encoder.conv1.weight", 5)[0]
    latent_channels = _shape(found, "conv2.weight", 5)[0]
    model = wan_video_vae.WanVideoVAE(z_dim=latent_channels)
    with torch.device("meta"):
        model.model = wan_video_vae.VideoVAE_(dim=dim, z_dim=latent_channels)
    _compare(path.name, model.model, found)
    return model


def image_encoder_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """What of the published CLIP file the vision transformer needs."""
    for name, value in tensors(path):
        if name.startswith(IMAGE_PREFIX):
            yield name.removeprefix(IMAGE_PREFIX), value


def check_image_encoder(path: Path) -> nn.Module:
    """CLIP's vision transformer without values, if the file holds exactly one."""
    from diffsynth.models.wan_video_image_encoder import VisionTransformer

    found = {
        name: shape
        for name, shape in tensor_shapes(path).items()
        if not name.startswith(_CLIP_UNUSED)
    }
    dim, _, patch_size, _ = _shape(found, "visual.patch_embedding.weight", 4)
    head_dim = _CLIP_HEAD_DIM if dim % _CLIP_HEAD_DIM == 0 else _SMALL_CLIP_HEAD_DIM
    with torch.device("meta"):
        model = VisionTransformer(
            image_size=CLIP_SIDE_PX,
            patch_size=patch_size,
            dim=dim,
            mlp_ratio=_shape(found, "visual.transformer.0.mlp.0.weight", 2)[0] / dim,
            out_dim=_shape(found, "visual.head", 2)[1],
            num_heads=dim // head_dim,
            num_layers=len({name.split(".")[2] for name in found if ".transformer." in name}),
            activation="gelu",
        )
    _compare(path.name, model, found, prefix=IMAGE_PREFIX)
    return model


def load_text_encoder(
    path: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_tensor: Callable[[], None] = lambda: None,
) -> nn.Module:
    """A `WanTextEncoder` of diffsynth (the encoder of umT5), frozen.

    Args:
        path: Its file.
        device: Where it shall be.
        dtype: What its weights are rounded to.
        on_tensor: Called after each tensor; may raise to stop.

    Raises:
        InputError: `checkpoint_keys` or `checkpoint_damaged`.
    """
    model = check_text_encoder(path)
    _fill(model, tensors(path), device=device, dtype=dtype, on_tensor=on_tensor)
    return _frozen(model)


def check_text_encoder(path: Path) -> nn.Module:
    """The text encoder without values, if the file is exactly one of its kind."""
    from diffsynth.models.wan_video_text_encoder import WanTextEncoder

    found = tensor_shapes(path)
    vocabulary, dim = _shape(found, "token_embedding.weight", 2)
    buckets, heads = _shape(found, "blocks.0.pos_embedding.embedding.weight", 2)
    with torch.device("meta"):
        model = WanTextEncoder(
            vocab=vocabulary,
            dim=dim,
            dim_attn=_shape(found, "blocks.0.attn.q.weight", 2)[0],
            dim_ffn=_shape(found, "blocks.0.ffn.fc1.weight", 2)[0],
            num_heads=heads,
            num_layers=adapter.block_count(found),
            num_buckets=buckets,
        )
    _compare(path.name, model, found)
    return model


def read_adapter(
    files: ModelFiles, dit_shapes: Mapping[str, Shape]
) -> tuple[adapter.CameraEncoder, adapter.Lora | None]:
    """The camera encoder, and what is still to be added to the transformer's weights.

    Raises:
        InputError: `checkpoint_keys`, `checkpoint_damaged` or `lora_not_fused`.
    """
    if files.camera_encoder is not None:
        adapter.check_camera_encoder(files.camera_encoder, dit_shapes)
        return adapter.camera_encoder_of(dict(tensors(files.camera_encoder))), None
    assert files.adapter is not None  # noqa: S101 - one of the two is always there
    found = adapter.read_adapter(files.adapter, dit_shapes)
    expected = len(adapter.TARGETS) * adapter.block_count(dit_shapes)
    if len(found.lora) != expected:
        msg = f"expected the adapter to change {expected} layers, found {len(found.lora)}"
        raise InputError("lora_not_fused", msg)
    return found.camera_encoder, found.lora


def _fill(
    model: nn.Module,
    values: Iterable[tuple[str, torch.Tensor]],
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_tensor: Callable[[], None],
) -> None:
    """Give a model that was checked its values."""
    state: dict[str, torch.Tensor] = {}
    for name, value in values:
        state[name] = value.to(device, dtype)
        on_tensor()
    model.load_state_dict(state, assign=True)


def _frozen(model: Any) -> Any:
    """Ready for use: autocast keeps copies of weights that could still be trained."""
    return model.eval().requires_grad_(False)


def _compare(label: str, model: nn.Module, found: Mapping[str, Shape], *, prefix: str = "") -> None:
    expected = {prefix + name: tuple(value.shape) for name, value in model.state_dict().items()}
    check_names_and_shapes(label, expected, found)


def _shape(shapes: Mapping[str, Shape], name: str, dimensions: int) -> Shape:
    """The shape that tells a dimension of the model.

    Raises:
        InputError: `checkpoint_keys` if it is not there.
    """
    shape = shapes.get(name, ())
    if len(shape) != dimensions or min(shape) < 1:
        msg = (
            f"expected a weight {name} of {dimensions} dimensions, found "
            f"{list(shape) or 'none'}; the file belongs to another model: fetch it again"
        )
        raise InputError("checkpoint_keys", msg)
    return shape


def _file_label(paths: tuple[Path, ...]) -> str:
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and its other shards"
