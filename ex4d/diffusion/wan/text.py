# pyright: reportMissingImports=false
"""Prompts and their embeddings, kept on disk so that the text encoder rarely has to be loaded."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ex4d.errors import InputError
from ex4d.weights.files import weights_identity

from .files import ModelFiles
from .precision import mixed_precision

#: The transformer looks at so many tokens; shorter prompts are padded with zeros.
MAX_TOKENS = 512
#: Kept prompts; the ones not used for longest go first. Each takes up to 8 MiB.
_MAX_KEPT = 200

_log = logging.getLogger(__name__)


class PromptEncoder:
    """Embeds prompts; loads the text encoder only for those that it never saw.

    Args:
        files: Where encoder and tokenizer are.
        cache: Folder of the embeddings.
        device: Where the encoder computes.
        dtype: float32, or bfloat16 for mixed precision.
    """

    def __init__(
        self, files: ModelFiles, cache: Path, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._files = files
        self._cache = cache
        self._device = device
        self._dtype = dtype
        self._weights = weights_identity(files.text_encoder)

    def embed(
        self,
        prompts: Sequence[str],
        *,
        before_loading: Callable[[], None] = lambda: None,
        on_tensor: Callable[[], None] = lambda: None,
    ) -> list[torch.Tensor]:
        """The embedding of each prompt: (tokens, text_dim) float32 on the encoder's device.

        Args:
            prompts: Of at most 512 tokens each.
            before_loading: Called if the text encoder has to be loaded.
            on_tensor: Called after each tensor of it; may raise to stop.

        Raises:
            InputError: `prompt_too_long`.
        """
        kept = {prompt: self._read(prompt) for prompt in prompts}
        unknown = [prompt for prompt, value in kept.items() if value is None]
        if unknown:
            before_loading()
            kept.update(self._encode(unknown, on_tensor))
        return [value.to(self._device) for prompt in prompts if (value := kept[prompt]) is not None]

    def token_ids(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask of each prompt, (prompts, 512) int64.

        Raises:
            InputError: `prompt_too_long`, or `checkpoint_damaged` for the tokenizer's files.
        """
        tokenizer = self._tokenizer()
        for prompt in prompts:
            count = len(tokenizer.tokenizer(tokenizer._clean(prompt)).input_ids)  # noqa: SLF001 - the tokenizer itself would cut the prompt without a word
            if count > MAX_TOKENS:
                msg = (
                    f"expected a prompt of at most {MAX_TOKENS} tokens, found one of {count}; "
                    f"shorten the one that begins with {prompt[:40]!r}"
                )
                raise InputError("prompt_too_long", msg)
        return tokenizer(list(prompts), return_mask=True, add_special_tokens=True)

    def _tokenizer(self) -> Any:
        from diffsynth.models.wan_video_text_encoder import HuggingfaceTokenizer

        folder = self._files.tokenizer
        try:
            return HuggingfaceTokenizer(
                str(folder), MAX_TOKENS, clean="whitespace", local_files_only=True
            )
        # The tokenizers' library raises nothing more special.
        except Exception as error:
            msg = (
                f"expected a tokenizer in the folder {folder.name}, found one that cannot be read "
                f"({str(error)[:200]}); fetch its files again"
            )
            raise InputError("checkpoint_damaged", msg) from error

    def _encode(
        self, prompts: Sequence[str], on_tensor: Callable[[], None]
    ) -> dict[str, torch.Tensor]:
        from .loading import load_text_encoder

        ids, attention = self.token_ids(prompts)
        encoder = load_text_encoder(
            self._files.text_encoder, device=self._device, dtype=self._dtype, on_tensor=on_tensor
        )
        found: dict[str, torch.Tensor] = {}
        for index, prompt in enumerate(prompts):
            with torch.no_grad(), mixed_precision(self._device, self._dtype):
                tokens = encoder(
                    ids[index : index + 1].to(self._device),
                    attention[index : index + 1].to(self._device),
                )
            value = tokens[0, : int(attention[index].sum())].float()
            self._write(prompt, value)
            found[prompt] = value
        return found

    def _path(self, prompt: str) -> Path:
        key = f"{self._weights}\0{self._dtype}\0{prompt}"
        return self._cache / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def _read(self, prompt: str) -> torch.Tensor | None:
        from ex4d.weights.checkpoints import tensors

        path = self._path(prompt)
        try:
            value = dict(tensors(path)).get("embedding")
            os.utime(path)
        except (InputError, OSError):
            # Never kept, or damaged: it is made again.
            return None
        return value

    def _write(self, prompt: str, value: torch.Tensor) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self._path(prompt)
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            save_file({"embedding": value.cpu().contiguous()}, temporary)
            temporary.replace(path)
            kept = sorted(self._cache.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
            for old in kept[:-_MAX_KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            # The take can be made without; the encoder is loaded again next time. Other workers
            # keep and remove prompts in the same folder.
            _log.warning("prompt not kept: %s", error)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def with_padding(embedding: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The tokens that the transformer looks at: the embedding, then zeros up to 512 tokens.

    Args:
        embedding: (tokens, text_dim).

    Returns:
        The embedding and, where it is shorter, a single token of zeros; and how many times the last
        token counts.
    """
    padding_count = MAX_TOKENS - len(embedding)
    if padding_count == 0:
        return embedding, 1
    return torch.cat([embedding, torch.zeros_like(embedding[:1])]), padding_count
