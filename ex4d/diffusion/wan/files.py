"""The model's files: which ones, where they lie, how large they are and who made them.

Two layouts are understood, both inside one models folder:

- as published: `Wan2.1-I2V-14B-480P/` and `EX-4D/`, exactly as they are downloaded;
- `converted/`: what `ex4d models convert` makes of them, read once and faster.

This module loads no torch: the server and `ex4d doctor` ask it.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ex4d.errors import InputError

#: Names the models folder.
MODELS_VARIABLE = "EX4D_MODELS"
BASE_FOLDER = "Wan2.1-I2V-14B-480P"
ADAPTER_FOLDER = "EX-4D"
CONVERTED_FOLDER = "converted"
LORA_FOLDER = "loras"
DOWNLOAD_COMMAND = "ex4d models download"
LICENCE = "Apache-2.0"

_SHARD_COUNT = 7
_SAMPLE_BYTES = 64 << 10
_SAMPLES = 64


@dataclass(frozen=True)
class PublishedFile:
    """A file as its makers publish it.

    Attributes:
        repository: On the Hugging Face hub.
        name: Path in the repository.
        folder: Where it lies in the models folder.
        size_gb: About how large it is, in 10^9 bytes.
    """

    repository: str
    name: str
    folder: str
    size_gb: float

    @property
    def relative_path(self) -> Path:
        """Where it lies in the models folder."""
        return Path(self.folder) / self.name


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
PUBLISHED_FILES = (
    _CONFIG,
    *_SHARDS,
    _TEXT_ENCODER,
    _IMAGE_ENCODER,
    _VAE,
    *_TOKENIZER,
    _ADAPTER,
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


def models_folder() -> Path:
    """The folder named by EX4D_MODELS, or else the user's own."""
    named = os.environ.get(MODELS_VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("ex4d", appauthor=False) / "models"


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


def converted_layout(folder: Path) -> ModelFiles:
    """The files that `ex4d models convert` makes, whether they are there or not."""
    converted = folder / CONVERTED_FOLDER
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
    )


def find_models(folder: Path) -> ModelFiles:
    """The converted files where there are any, else the published ones.

    Raises:
        InputError: `model_missing`, with the command that fetches them, their size and licence.
    """
    converted = converted_layout(folder)
    if (folder / CONVERTED_FOLDER).is_dir():
        _require(converted, "run `ex4d models convert` again after removing what it made")
        return converted
    published = published_layout(folder)
    missing_gb = sum(
        file.size_gb for file in PUBLISHED_FILES if not (folder / file.relative_path).is_file()
    )
    _require(
        published,
        f"run `{DOWNLOAD_COMMAND}`, which fetches what is missing: about {missing_gb:.0f} GB "
        f"(licence: {LICENCE}), or name another folder with {MODELS_VARIABLE}",
    )
    return published


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


def weights_identity(path: Path) -> str:
    """16 hexadecimal digits that differ between files of different weights.

    They come from the size and 64 samples over the file's length: of tens of gigabytes, reading
    all would take longer than the work that the identity saves.
    """
    size_bytes = path.stat().st_size
    digest = hashlib.sha256(str(size_bytes).encode())
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(max(0, size_bytes - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _require(files: ModelFiles, remedy: str) -> None:
    missing = [path for path in files.all_paths() if not path.is_file()]
    if missing:
        names = ", ".join(path.name for path in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        msg = f"expected the model's files in the models folder, found no {names}{more}; {remedy}"
        raise InputError("model_missing", msg)
