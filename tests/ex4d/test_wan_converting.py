"""Converted files: the same model, read once; and fetching from a hub on the loopback."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from engine_tests import GOLDEN_MODELS, needs_engine

needs_engine()

import huggingface_hub
import torch
from safetensors.torch import load_file, save_file

from ex4d.cli import main
from ex4d.diffusion.wan import fp8, loading
from ex4d.diffusion.wan.converting import check_models, convert_models
from ex4d.diffusion.wan.files import EX4D_MODEL, ModelFiles, find_models
from ex4d.errors import CancelledError, InputError
from ex4d.task import Progress, Task
from ex4d.weights.fetching import fetch_from_hub

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN_MODELS, tmp_path / "models")
    return tmp_path / "models"


def parameters(files: ModelFiles) -> dict[str, torch.Tensor]:
    models = loading.load_models(files, device=CPU, dtype=torch.bfloat16)
    text_encoder = loading.load_text_encoder(files.text_encoder, device=CPU, dtype=torch.bfloat16)
    parts = {
        "dit": models.dit,
        "camera": models.camera_encoder,
        "vae": models.vae,
        "image": models.image_encoder,
        "text": text_encoder,
    }
    return {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def adapter_of(files: ModelFiles) -> list[loading.adapter.Lora]:
    """What is still to be added to the transformer's weights."""
    _, lora = loading.read_adapter(files, loading.check_dit(files))
    return [lora] if lora else []


def test_converted_model_is_the_same(folder: Path) -> None:
    published = find_models(folder)
    before = parameters(published)
    told: list[Progress] = []
    converted = convert_models(published, folder, Task(told.append))
    assert find_models(folder) == converted
    assert told[-1].done == told[-1].total == len(told)
    after = parameters(converted)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype, name
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("is_from_converted", [False, True], ids=["published", "converted"])
def test_quantised_file_is_what_the_card_would_make(folder: Path, is_from_converted: bool) -> None:
    source = find_models(folder)
    if is_from_converted:
        source = convert_models(source, folder, Task())
    files = convert_models(source, folder, Task(), is_quantised=True)
    assert files.is_quantised
    shapes = loading.check_dit(files)
    expected = loading.load_dit(source, adapter_of(source), device=CPU, dtype=torch.bfloat16)
    for block in expected.blocks:
        fp8.quantise_block(block)
    wanted = expected.state_dict()
    from_16_bits = loading.load_dit(
        source, adapter_of(source), device=CPU, dtype=torch.bfloat16, quantise=True
    )
    for dit in (loading.load_dit(files, [], device=CPU, dtype=torch.bfloat16), from_16_bits):
        found = dit.state_dict()
        assert found.keys() == wanted.keys() == shapes.keys()
        for name, value in wanted.items():
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name].float(), value.float()), name
        assert isinstance(dit.blocks[0].ffn[0], fp8.Fp8Linear)


def test_which_files_a_mode_takes(folder: Path) -> None:
    published = find_models(folder)
    quantised = convert_models(published, folder, Task(), is_quantised=True)
    assert find_models(folder) == published
    assert find_models(folder, may_be_quantised=True) == quantised
    converted = convert_models(published, folder, Task())
    assert find_models(folder) == converted
    shutil.rmtree(converted.config.parent)
    shutil.rmtree(folder / "EX-4D")
    assert find_models(folder, may_be_quantised=True) == quantised
    with pytest.raises(InputError, match="found converted-fp8/ alone; choose the mode fast"):
        find_models(folder)


def test_quantised_files_serve_one_mode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = convert_models(find_models(folder), folder, Task(), is_quantised=True)
    with pytest.raises(InputError) as caught:
        loading.load_models(files, device=CPU, dtype=torch.bfloat16)
    assert caught.value.code == "weights_quantised"
    # As on a card that multiplies in 8 bits.
    monkeypatch.setattr(loading, "quantises", lambda mode, device: True)
    monkeypatch.setattr("ex4d.diffusion.wan.modes.quantises", lambda mode, device: True)
    for source in (files, find_models(folder)):
        told: list[tuple[int, int]] = []
        models = loading.load_models(
            source,
            device=CPU,
            dtype=torch.bfloat16,
            mode="fast",
            on_tensor=lambda *step, told=told: told.append(step),
        )
        assert models.blocks.is_resident
        assert isinstance(models.dit.blocks[0].ffn[0], fp8.Fp8Linear)
        assert told == [(done, len(told)) for done in range(1, len(told) + 1)]
    with pytest.raises(InputError) as caught:
        loading.load_models(files, device=CPU, dtype=torch.bfloat16, mode="fast", loras=("style",))
    assert caught.value.code == "weights_quantised"


def test_quantised_names_over_other_types_are_refused(folder: Path) -> None:
    files = convert_models(find_models(folder), folder, Task(), is_quantised=True)
    values = load_file(files.dit[0])
    name = "blocks.0.ffn.0.weight"
    save_file({**values, name: values[name].to(torch.bfloat16)}, files.dit[0])
    with pytest.raises(InputError, match=f"expected {name} of torch.float8_e4m3fn") as caught:
        loading.load_dit(files, [], device=CPU, dtype=torch.bfloat16)
    assert caught.value.code == "checkpoint_keys"
    del values["blocks.1.ffn.2.weight_scale"]
    save_file(values, files.dit[0])
    with pytest.raises(InputError, match=r"missing: blocks\.1\.ffn\.2\.weight_scale"):
        loading.check_dit(files)


def test_adapter_is_fused_before_rounding(folder: Path) -> None:
    """Rounding the weight first would lose most of a small change."""
    files = find_models(folder)
    converted = convert_models(files, folder, Task())
    shapes = loading.check_dit(files)
    assert files.adapter is not None
    lora = loading.adapter.read_adapter(files.adapter, shapes).lora
    bare = dict(loading.fused_tensors(files, [], device=CPU))
    fused = load_file(converted.dit[0])
    for name, change in lora.items():
        exact = bare[name].double() + change.up.double() @ change.down.double()
        rounded = exact.float().bfloat16()
        # Of two neighbouring values either may come out where the sum lies between them.
        assert (fused[name] == rounded).float().mean() > 0.999, name


def test_cancelled_conversion_leaves_nothing(folder: Path) -> None:
    told: list[Progress] = []
    with pytest.raises(CancelledError):
        convert_models(find_models(folder), folder, Task(told.append, lambda: len(told) == 50))
    assert sorted(path.name for path in folder.iterdir()) == ["EX-4D", "Wan2.1-I2V-14B-480P"]
    assert find_models(folder).adapter is not None


def test_no_second_conversion(folder: Path) -> None:
    convert_models(find_models(folder), folder, Task())
    with pytest.raises(InputError) as caught:
        convert_models(find_models(folder), folder, Task())
    assert caught.value.code == "converted_already"


def test_damaged_converted_file_is_refused(folder: Path) -> None:
    converted = convert_models(find_models(folder), folder, Task())
    path = converted.dit[0]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError) as caught:
        loading.load_models(converted, device=CPU, dtype=torch.bfloat16)
    assert caught.value.code == "checkpoint_damaged"


def test_check_names_every_part(folder: Path) -> None:
    (folder / "loras").mkdir()
    lora = {
        "blocks.0.ffn.0.lora_A.weight": torch.zeros(4, 96),
        "blocks.0.ffn.0.lora_B.weight": torch.zeros(192, 4),
    }
    save_file(lora, folder / "loras" / "style.safetensors")
    parts = {part.name: part.detail for part in check_models(find_models(folder))}
    assert parts["adapter"].endswith("changes 30 layers")
    assert parts["LoRA style"] == "changes 1 layers"
    assert set(parts) == {
        *("transformer", "adapter", "text encoder", "image encoder", "autoencoder", "LoRA style"),
    }


def test_commands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(folder))
    assert main(["models", "check"]) == 0
    assert "ok  adapter: 68 tensors" in capsys.readouterr().out
    assert main(["models", "convert"]) == 0
    assert main(["models", "convert", "--fp8"]) == 0
    assert main(["models", "list", "ex4d"]) == 0
    listed = capsys.readouterr().out
    assert "converted/, which is used\n" in listed
    assert "converted-fp8/, which is used by the mode fast" in listed
    assert main(["models", "check"]) == 0
    assert "ok  camera encoder" in capsys.readouterr().out
    shutil.rmtree(folder / "converted")
    shutil.rmtree(folder / "converted-fp8")
    adapter = folder / "EX-4D" / "ex4d.ckpt"
    adapter.write_bytes(adapter.read_bytes()[:1000])
    assert main(["models", "check"]) == 1
    assert "[checkpoint_damaged]" in capsys.readouterr().err


# --- a hub on the loopback -----------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Serves the small model as the Hugging Face hub would; counts the bytes it sent."""

    daemon_threads = True
    sent_bytes = 0
    #: What it says about every file, if not the truth.
    false_sha256 = ""
    #: Ends each answer after so many bytes.
    cut_bytes: int | None = None


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        # A proxy is asked for the whole address.
        asked = urlsplit(self.path).path
        repository, _, name = asked.removeprefix("/").partition("/resolve/main/")
        files = {(file.repository, file.name): file.relative_path for file in EX4D_MODEL.files}
        path = GOLDEN_MODELS / files[repository, name]
        content = path.read_bytes()
        digest = self.server.false_sha256 or hashlib.sha256(content).hexdigest()
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            total = len(content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if with_body:
            body = content[start:]
            if self.server.cut_bytes is not None:
                body = body[: self.server.cut_bytes]
                self.close_connection = True
            self.server.sent_bytes += len(body)
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), HubHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def endpoint(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_address[1]}"


VAE = next(file for file in EX4D_MODEL.files if "VAE" in file.name)


def test_fetched_from_a_hub(hub: Hub, tmp_path: Path) -> None:
    path = fetch_from_hub(tmp_path, VAE, endpoint(hub))
    assert path == tmp_path / VAE.relative_path
    assert path.read_bytes() == (GOLDEN_MODELS / VAE.relative_path).read_bytes()


def test_goes_on_where_the_connection_broke(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda duration_s: None)
    # Of what comes it keeps whole blocks, whose usual size is larger than this file.
    block_bytes = 1 << 16
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", block_bytes)
    size_bytes = (GOLDEN_MODELS / VAE.relative_path).stat().st_size
    hub.cut_bytes = size_bytes // 4
    path = fetch_from_hub(tmp_path, VAE, endpoint(hub))
    assert path.read_bytes() == (GOLDEN_MODELS / VAE.relative_path).read_bytes()
    assert size_bytes <= hub.sent_bytes <= size_bytes + 5 * block_bytes


def test_fetched_through_a_proxy(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, endpoint(hub))
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    huggingface_hub.close_session()
    try:
        # No such host: only the proxy can answer.
        path = fetch_from_hub(tmp_path, VAE, "http://hub.invalid")
    finally:
        huggingface_hub.close_session()
    assert path.read_bytes() == (GOLDEN_MODELS / VAE.relative_path).read_bytes()


def test_wrong_checksum_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.false_sha256 = "0" * 64
    with pytest.raises(InputError) as caught:
        fetch_from_hub(tmp_path, VAE, endpoint(hub))
    assert caught.value.code == "checksum"
    assert "0" * 64 in caught.value.message


def test_no_hub_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetch_from_hub(tmp_path, VAE, "http://127.0.0.1:9")
    assert caught.value.code == "fetch_failed"
