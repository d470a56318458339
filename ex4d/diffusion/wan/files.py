"""The model's files: which ones, where they lie, how large they are and who made them.

Three layouts are understood, all inside one models folder:

- as published: `Wan2.1-I2V-14B-480P/` and `EX-4D/`, exactly as they are downloaded;
- `converted/`: what `ex4d models convert` makes of them, read once and faster;
- `converted-fp8/`: the same with the transformer's large layers in 8 bits, for the mode `fast`.

This module loads no torch: the server and `ex4d doctor` ask it.
"""

from dataclasses import dataclass
from pathlib import Path

from ex4d.errors import InputError
from ex4d.weights.files import PublishedFile, PublishedModel, model_missing

BASE_FOLDER = "Wan2.1-I2V-14B-480P"
ADAPTER_FOLDER = "EX-4D"
CONVERTED_FOLDER = "converted"
QUANTISED_FOLDER = "converted-fp8"
LORA_FOLDER = "loras"

_SHARD_COUNT = 7


def _of_base(name: str, size_gb: float) -> PublishedFile:
    return PublishedFile("Wan-AI/Wan2.1-I2V-14B-480P", name, BASE_FOLDER, size_gb)


_CONFIG = _of_base("config.json", 0.0)
_SHARDS = tuple(
    _of_base(f"diffusion_pytorch_model-{number:05d}-of-{_SHARD_COUNT:05d}.safetensors", 9.4)
    for number in range(1, _SHARD_COUNT + 1)
)
_TEXT_ENCODER = _of_base("models_t5_umt5-xxl-enc-bf16.pth", 11.4)
_IMAGE_ENCODER = _of_base("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", 4.8)
_VAE = _of_base("Wan2.1_VAE.pth", 0.5)
_TOKENIZER_FOLDER = "google/umt5-xxl"
_TOKENIZER = tuple(
    _of_base(f"{_TOKENIZER_FOLDER}/{name}", 0.0)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
)
_ADAPTER = PublishedFile("yihouxiang/EX-4D", "ex4d.ckpt", ADAPTER_FOLDER, 0.4)

#: All that the engine needs.
EX4D_MODEL = PublishedModel(
    name="ex4d",
    files=(
        _CONFIG,
        *_SHARDS,
        _TEXT_ENCODER,
        _IMAGE_ENCODER,
        _VAE,
        *_TOKENIZER,
        _ADAPTER,
    ),
    licence="Apache-2.0",
)


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of the model lie.

    Attributes:
        config: `config.json` of the diffusion transformer (DiT).
        dit: Its weights, one file or several.
        adapter: `ex4d.ckpt`; None where it is fused into `dit` already.
        camera_encoder: The adapter's camera part; None where it is still in `adapter`.
        text_encoder: The T5 encoder.
        image_encoder: The CLIP vision encoder.
        vae: The video autoencoder.
        tokenizer: Folder of the T5 encoder's tokenizer.
        loras: Folder of the additional LoRAs.
        is_quantised: Whether the large layers of `dit` are stored in 8 bits.
    """

    config: Path
    dit: tuple[Path, ...]
    adapter: Path | None
    camera_encoder: Path | None
    text_encoder: Path
    image_encoder: Path
    vae: Path
    tokenizer: Path
    loras: Path
    is_quantised: bool = False

    @property
    def adapter_file(self) -> Path:
        """What tells one adapter from another: its file, or the part that is not fused."""
        path = self.adapter or self.camera_encoder
        assert path is not None  # noqa: S101 - one of the two is always there
        return path

    def all_paths(self) -> tuple[Path, ...]:
        """Every file; the tokenizer by its main one."""
        optional = (self.adapter, self.camera_encoder)
        return (
            self.config,
            *self.dit,
            *(path for path in optional if path is not None),
            self.text_encoder,
            self.image_encoder,
            self.vae,
            self.tokenizer / "tokenizer.json",
        )


def published_layout(folder: Path) -> ModelFiles:
    """The files as downloaded, whether they are there or not."""
    base = folder / BASE_FOLDER
    return ModelFiles(
        config=folder / _CONFIG.relative_path,
        dit=tuple(folder / shard.relative_path for shard in _SHARDS),
        adapter=folder / _ADAPTER.relative_path,
        camera_encoder=None,
        text_encoder=folder / _TEXT_ENCODER.relative_path,
        image_encoder=folder / _IMAGE_ENCODER.relative_path,
        vae=folder / _VAE.relative_path,
        tokenizer=base / _TOKENIZER_FOLDER,
        loras=folder / LORA_FOLDER,
    )


def converted_layout(folder: Path, *, is_quantised: bool = False) -> ModelFiles:
    """The files that `ex4d models convert` makes, whether they are there or not."""
    converted = folder / (QUANTISED_FOLDER if is_quantised else CONVERTED_FOLDER)
    return ModelFiles(
        config=converted / "config.json",
        dit=(converted / "dit.safetensors",),
        adapter=None,
        camera_encoder=converted / "camera_encoder.safetensors",
        text_encoder=converted / "text_encoder.safetensors",
        image_encoder=converted / "image_encoder.safetensors",
        vae=converted / "vae.safetensors",
        tokenizer=converted / "tokenizer",
        loras=folder / LORA_FOLDER,
        is_quantised=is_quantised,
    )


def all_models(folder: Path) -> list[ModelFiles]:
    """Every layout that can be used, the quickest to load first.

    Raises:
        InputError: `model_missing`, with the command that fetches them, their size and licence.
    """
    found = []
    for is_quantised in (True, False):
        files = converted_layout(folder, is_quantised=is_quantised)
        if not files.config.parent.is_dir():
            continue
        missing = [path for path in files.all_paths() if not path.is_file()]
        if missing:
            name, option = files.config.parent.name, " --fp8" if is_quantised else ""
            remedy = f"run `ex4d models convert{option}` again after removing {name}/"
            raise model_missing(missing, remedy)
        found.append(files)
    # Where they were converted, the published ones have no more use.
    has_converted = bool(found) and not found[-1].is_quantised
    if not has_converted and not EX4D_MODEL.missing_files(folder):
        found.append(published_layout(folder))
    if not found:
        EX4D_MODEL.require(folder)
    return found


def find_models(folder: Path, *, may_be_quantised: bool = False) -> ModelFiles:
    """The converted files where there are any, else the published ones.

    Args:
        folder: The models folder.
        may_be_quantised: Whether files in 8 bits will do.

    Raises:
        InputError: `model_missing`, with the command that fetches them, their size and licence.
    """
    for files in all_models(folder):
        if may_be_quantised or not files.is_quantised:
            return files
    msg = (
        f"expected the model in 16 bits for this take, found {QUANTISED_FOLDER}/ alone; choose the "
        f"mode fast and no LoRA, or run `{EX4D_MODEL.download_command}`"
    )
    raise InputError("model_missing", msg)


def lora_path(files: ModelFiles, name: str) -> Path:
    """The additional LoRA that was registered under a name: a file in the folder `loras`.

    Raises:
        InputError: `lora_missing`, with the names that there are.
    """
    path = files.loras / f"{name}.safetensors"
    if not path.is_file():
        found = ", ".join(lora_names(files)) or "none"
        msg = (
            f"expected a LoRA registered as {name}, found {found}; the server's owner registers "
            "one by putting it into the models folder as loras/NAME.safetensors"
        )
        raise InputError("lora_missing", msg)
    return path


def lora_names(files: ModelFiles) -> list[str]:
    """Names of the registered LoRAs."""
    return sorted(path.stem for path in files.loras.glob("*.safetensors"))
