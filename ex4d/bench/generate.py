# pyright: reportMissingImports=false
"""The ex4d engine at full size with random weights: time, memory, and the bounds of both.

Nothing is read or downloaded. Every figure stands beside a bound that is measured in the same run:
the rates of the largest matrix product and of attention, kept up for seconds as a take keeps them
up (a card at its power limit is a fifth slower than in its first milliseconds), and the rate of
copies from main memory.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ex4d import trained
from ex4d.errors import InputError

_GIB = 1 << 30
_TERA = 1e12
#: Of the reference's prompt and negative prompt.
_PROMPT_TOKENS = (54, 220)
_IMAGE_TOKENS = 257
_SUSTAINED_S = 2.0
_COPY_BYTES = 1 << 29
_SEED = 7
#: The reference's; it changes the time only by being more than 1.
_GUIDANCE = 5.0
#: What CUDA itself takes beside PyTorch's allocator under a cap.
_CUDA_BYTES = 1 << 30


@dataclass(frozen=True)
class Architecture:
    """Sizes of the model; the defaults are Wan2.1-I2V-14B's and EX-4D's."""

    dim: int = 5120
    ffn_dim: int = 13824
    heads: int = 40
    layers: int = 40
    text_dim: int = 4096
    camera_dim: int = 1024
    vae_dim: int = 96
    clip: dict[str, int] = field(
        default_factory=lambda: {"dim": 1280, "num_heads": 16, "num_layers": 32}
    )


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    width_px: int = 512
    height_px: int = 512
    frame_count: int = 49
    steps: int = 25
    guided: bool = True
    cap_bytes: int | None = None
    preview: bool = False
    cards: int = 1

    @property
    def tokens(self) -> int:
        """Of a forward pass."""
        return trained.token_count(self.frame_count, self.height_px, self.width_px)


@dataclass(frozen=True)
class Rates:
    """What the card does at best, kept up for seconds; operations or bytes a second."""

    bf16: float
    fp8: float | None
    attention: float
    copy: float


@dataclass
class Measured:
    """One take in one mode."""

    stages_s: dict[str, float]
    forward_s: float
    take_s: float
    peak_bytes: int
    first_velocity: Any
    latents: Any


def run(
    *,
    modes: list[str],
    memory_cap_gib: float | None,
    size: str,
    frames: int,
    steps: int,
    preview: bool,
    cards: int,
) -> None:
    """Print all figures.

    Args:
        modes: Names of modes, measured one after the other.
        memory_cap_gib: Most that the card may give; all of it where absent.
        size: Of the take in pixels, such as `512x512`.
        frames: Of the take.
        steps: Of denoising.
        preview: Whether the moving preview is made as well.
        cards: 2: a card for each branch of guidance.

    Raises:
        InputError: `cuda_missing`, or `second_card_missing`.
    """
    import torch

    if not torch.cuda.is_available():
        msg = "expected a CUDA card to measure, found none; run it on the machine that has the card"
        raise InputError("cuda_missing", msg)
    width_px, height_px = map(int, size.split("x"))
    plan = Plan(
        width_px,
        height_px,
        frames,
        steps,
        cap_bytes=None if memory_cap_gib is None else int(memory_cap_gib * _GIB),
        preview=preview,
        cards=cards,
    )
    device = torch.device("cuda")
    cap = "" if memory_cap_gib is None else f", held to {memory_cap_gib:g} GiB"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}{cap}")
    print(f"{width_px} x {height_px}, {plan.frame_count} frames: {plan.tokens} tokens")
    architecture = Architecture()
    rates = measure_rates(architecture, plan, device)
    print_rates(rates)
    if plan.cap_bytes is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((plan.cap_bytes - _CUDA_BYTES) / total)
    exact: Measured | None = None
    for mode in modes:
        measured = measure_take(architecture, plan, mode, device)
        torch.cuda.empty_cache()
        print_take(architecture, plan, mode, rates, measured)
        if exact is not None:
            for what in ("first_velocity", "latents"):
                error = _relative_error(getattr(measured, what), getattr(exact, what))
                print(f"  error against exact, {what.replace('_', ' ')}: {error:.4f}")
        elif mode == "exact":
            exact = measured


# --- bounds --------------------------------------------------------------------------------------


def forward_operations(architecture: Architecture, tokens: int) -> tuple[float, float]:
    """Of one forward pass of one branch: in linear layers, and in attention.

    Keys and values of the context are made once a take and not counted; the padding of the prompt
    is one token.
    """
    dim, ffn_dim, layers = architecture.dim, architecture.ffn_dim, architecture.layers
    linear = 2 * tokens * (6 * dim * dim + 2 * dim * ffn_dim)
    prompt_tokens = sum(_PROMPT_TOKENS) / len(_PROMPT_TOKENS) + 1
    attention = 4 * tokens * dim * (tokens + prompt_tokens + _IMAGE_TOKENS)
    return float(layers * linear), float(layers * attention)


def measure_rates(architecture: Architecture, plan: Plan, device: Any) -> Rates:
    """The rates that bound a forward pass, on random numbers: zeros are faster."""
    import torch

    from ex4d.diffusion.wan.attention import choose_attention
    from ex4d.diffusion.wan.fp8 import Fp8Linear, check_card
    from ex4d.diffusion.wan.fused import quantise_rows

    dtype = torch.bfloat16
    tokens, dim, ffn_dim = plan.tokens, architecture.dim, architecture.ffn_dim
    with torch.no_grad():
        rows = torch.randn(tokens, dim, device=device, dtype=dtype)
        linear = torch.nn.Linear(dim, ffn_dim, device=device, dtype=dtype)
        operations = 2.0 * tokens * dim * ffn_dim
        bf16 = operations / _sustained_s(lambda: linear(rows), device)
        fp8 = None
        try:
            check_card(device)
        except InputError:
            pass
        else:
            quantised, quick = quantise_rows(rows), Fp8Linear(linear)
            fp8 = operations / _sustained_s(lambda: quick(quantised), device)
        heads = torch.randn(
            1, tokens, architecture.heads, dim // architecture.heads, device=device, dtype=dtype
        )
        attention = choose_attention(device, dtype)
        operations = 4.0 * tokens * tokens * dim
        attention_rate = operations / _sustained_s(lambda: attention(heads, heads, heads), device)
        host = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")
        card = torch.empty_like(host, device=device)
        copy = _COPY_BYTES / _sustained_s(lambda: card.copy_(host, non_blocking=True), device)
    return Rates(bf16, fp8, attention_rate, copy)


def _sustained_s(call: Callable[[], object], device: Any) -> float:
    """Seconds a call, in the last half of as long as a card needs to reach its power limit."""
    for _ in range(3):
        call()
    _wait(device)
    first_s = _timed(call, device)[1]
    count = max(1, int(_SUSTAINED_S / 2 / max(first_s, 1e-6)))
    for _ in range(count):
        call()
    _wait(device)
    start_s = time.perf_counter()
    for _ in range(count):
        call()
    _wait(device)
    return (time.perf_counter() - start_s) / count


def print_rates(rates: Rates) -> None:
    """Print the bounds."""
    fp8 = "none" if rates.fp8 is None else f"{rates.fp8 / _TERA:.0f}"
    print(
        f"kept up: bf16 product {rates.bf16 / _TERA:.0f} TFLOP/s, fp8 product {fp8}, attention "
        f"{rates.attention / _TERA:.0f}, main memory to card {rates.copy / 1e9:.1f} GB/s"
    )


def bound_s(architecture: Architecture, tokens: int, mode: str, rates: Rates) -> float:
    """Seconds of a forward pass that does its products and attention and nothing else."""
    linear, attention = forward_operations(architecture, tokens)
    # A draft computes in bfloat16 where the card has nothing else.
    product_rate = rates.fp8 if mode != "exact" and rates.fp8 is not None else rates.bf16
    return linear / product_rate + attention / rates.attention


# --- the model -----------------------------------------------------------------------------------


def build_models(architecture: Architecture, plan: Plan, mode: Any, device: Any) -> Any:
    """All parts of the engine with random weights, ready to compute in a mode.

    The same seed gives the same weights in every mode.
    """
    import torch
    from diffsynth.models import wan_video_image_encoder, wan_video_vae

    from ex4d.diffusion.wan import adapter, loading
    from ex4d.diffusion.wan.fp8 import quantise_block
    from ex4d.diffusion.wan.modes import prepare, quantises

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    home = device if plan.cap_bytes is None else torch.device("cpu")
    dit = empty_dit(architecture)
    with torch.device("meta"):
        camera_encoder = adapter.CameraEncoder(architecture.camera_dim, architecture.dim)
        vae_model = wan_video_vae.VideoVAE_(dim=architecture.vae_dim, z_dim=16)
        image_encoder = wan_video_image_encoder.VisionTransformer(
            image_size=224, patch_size=14, mlp_ratio=4, out_dim=1024, activation="gelu",
            **architecture.clip,
        )  # fmt: skip
    vae = wan_video_vae.WanVideoVAE()
    vae.model = vae_model
    generator = torch.Generator(device).manual_seed(_SEED)
    for name, child in dit.named_children():
        if name != "blocks":
            _fill(child, device, dtype, generator)
    for part in (dit.time_embedding, dit.time_projection, dit.head):
        part.float()
    for block in dit.blocks:
        _fill(block, device, dtype, generator)
        if quantises(mode, device):
            quantise_block(block)
        block.to(home)
    for part in (camera_encoder, vae.model, image_encoder):
        _fill(part, device, dtype, generator)
    if device.type == "cuda":
        loading.put_channels_last(vae.model)
    return loading.WanModels(
        dit=dit,
        blocks=prepare(
            dit.eval(), mode, device, tokens=plan.tokens, memory_cap_bytes=plan.cap_bytes
        ),
        camera_encoder=camera_encoder,
        vae=vae,
        image_encoder=image_encoder.eval(),
        device=device,
        dtype=dtype,
    )


def empty_dit(architecture: Architecture) -> Any:
    """The transformer without values, on the device `meta`."""
    import torch
    from diffsynth.models import wan_video_dit

    with torch.device("meta"):
        dit = wan_video_dit.WanModel(
            dim=architecture.dim,
            in_dim=36,
            ffn_dim=architecture.ffn_dim,
            out_dim=16,
            text_dim=architecture.text_dim,
            freq_dim=256,
            eps=1e-6,
            patch_size=(1, 2, 2),
            num_heads=architecture.heads,
            num_layers=architecture.layers,
            has_image_input=True,
        )
        dit.img_emb = wan_video_dit.MLP(architecture.clip["dim"], architecture.dim)
    # No weights but a table, which must have values.
    dit.freqs = wan_video_dit.precompute_freqs_cis_3d(architecture.dim // architecture.heads)
    return dit


def _fill(module: Any, device: Any, dtype: Any, generator: Any) -> None:
    """Give a module without values random ones of a trained model's order of magnitude."""
    import torch

    module.to_empty(device=device)
    module.to(dtype).requires_grad_(False)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if (parameter.ndim < 2 and name.endswith("weight")) or name.endswith("gamma"):
                parameter.fill_(1.0)
            elif parameter.ndim < 2:
                parameter.normal_(0.0, 0.01, generator=generator)
            else:
                fan_in = parameter[0].numel()
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)


# --- a take --------------------------------------------------------------------------------------


def measure_take(architecture: Architecture, plan: Plan, mode: Any, device: Any) -> Measured:
    """Build the model, make a take to warm up and one to measure."""
    import torch

    from ex4d.diffusion.wan import conditioning, two_cards
    from ex4d.diffusion.wan.latent_preview import LatentPreview

    models = build_models(architecture, plan, mode, device)
    if plan.cards > 1:
        two_cards.use_second_card(models, plan.tokens)
        if models.second is None:
            msg = (
                "expected a second card like the first, with room for the transformer, found none; "
                "measure with --cards 1"
            )
            raise InputError("second_card_missing", msg)
    with torch.no_grad():
        preview = None
        if plan.preview:
            preview = LatentPreview.fit(
                lambda clip: conditioning.encode_video(models, clip), device
            )
        try:
            _take(architecture, plan, models, preview, steps=1)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            return _take(architecture, plan, models, preview, steps=plan.steps)
        finally:
            models.blocks.close()


def _take(
    architecture: Architecture, plan: Plan, models: Any, preview: Any, *, steps: int
) -> Measured:
    """One take from a condition to frames, with everything that the engine does for it."""
    import torch

    from ex4d.condition import Condition
    from ex4d.diffusion.wan import conditioning, denoise

    random = np.random.default_rng(_SEED)
    size = (plan.frame_count, plan.height_px, plan.width_px)
    mask = random.random(size) < 0.6
    color = random.integers(0, 256, (*size, 3), np.uint8) * mask[..., None]
    condition = Condition(color, mask, np.ones(size, np.float32), mask.mean(axis=(1, 2)))
    generator = torch.Generator().manual_seed(_SEED)
    embeddings = [
        torch.randn(length, architecture.text_dim, generator=generator).to(models.dtype)
        for length in _PROMPT_TOKENS[: 2 if plan.guided else 1]
    ]
    stages_s: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        _wait(models.device)
        start_s = time.perf_counter()
        yield
        _wait(models.device)
        stages_s[name] = time.perf_counter() - start_s

    first_velocity: list[torch.Tensor] = []
    preview_s = 0.0

    def on_step(step: denoise.Step) -> None:
        nonlocal preview_s
        if not first_velocity:
            first_velocity.append(step.velocity.float().cpu())
        if preview is not None:
            _wait(models.device)
            preview_start_s = time.perf_counter()
            preview.frames(step.denoised())
            preview_s += time.perf_counter() - preview_start_s

    start_s = time.perf_counter()
    with stage("encode: three videos, CLIP"):
        inputs = conditioning.prepare_inputs(models, condition, seed=_SEED)
    with stage("context: cached prompts, keys, values"):
        guidance = denoise.embed_guidance(models, embeddings, inputs.image_tokens, _GUIDANCE)
    with stage("denoise"):
        latents = denoise.denoise(
            models,
            denoise.make_noise(_SEED, *size),
            inputs,
            guidance,
            steps=steps,
            on_step=on_step,
        )
    if preview is not None:
        stages_s["of that, the moving preview"] = preview_s
    models.blocks.park()
    with stage("decode"):
        conditioning.frames_of(conditioning.decode_latents(models, latents))
    take_s = time.perf_counter() - start_s
    forwards = steps * len(embeddings)
    peak = torch.cuda.max_memory_reserved() if models.device.type == "cuda" else 0
    return Measured(
        stages_s,
        (stages_s["denoise"] - preview_s) / forwards,
        take_s,
        peak,
        first_velocity[0],
        latents.cpu(),
    )


def print_take(
    architecture: Architecture, plan: Plan, mode: str, rates: Rates, measured: Measured
) -> None:
    """Print the figures of one mode."""
    bound = bound_s(architecture, plan.tokens, mode, rates)
    print(f"{mode}")
    print(
        f"  DiT forward {measured.forward_s * 1e3:.0f} ms, bound {bound * 1e3:.0f} ms: "
        f"{measured.forward_s / bound:.2f} times"
    )
    for name, stage_s in measured.stages_s.items():
        print(f"  {name}: {stage_s:.2f} s")
    print(f"  take of {plan.steps} steps: {measured.take_s:.2f} s")
    print(f"  peak memory: {measured.peak_bytes / _GIB:.1f} GiB")


def _relative_error(found: Any, expected: Any) -> float:
    return float((found - expected).norm() / expected.norm())


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(call: Callable[[], object], device: Any) -> tuple[object, float]:
    _wait(device)
    start_s = time.perf_counter()
    result = call()
    _wait(device)
    return result, time.perf_counter() - start_s
