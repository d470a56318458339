"""What a server is told at its start, and the limits it keeps."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MIB = 1 << 20
GIB = 1 << 30
DAY_S = 86400.0
DEFAULT_PORT = 5474


@dataclass(frozen=True)
class Quotas:
    """How much may be stored; checked when blobs are offered, before a byte is sent."""

    blob_bytes: int = 64 * GIB
    user_bytes: int = 200 * GIB
    total_bytes: int = 1024 * GIB
    #: What must stay free on the disk.
    disk_reserve_bytes: int = GIB
    #: Blobs and parts that nothing used for so long are removed.
    keep_s: float = 30 * DAY_S
    #: Younger blobs are never removed to make room: their job may be about to be submitted.
    young_s: float = 3600.0


@dataclass(frozen=True)
class FakeOptions:
    """How the `fake` executor behaves."""

    #: Time to make each frame.
    frame_s: float = 0.02
    #: How many attempts at each job are lost, as if the worker had died.
    lost_attempts: int = 0
    #: Fail every job with this code; empty: do not.
    fail_code: str = ""


@dataclass(frozen=True)
class ServerConfig:
    """Everything that one server is told."""

    #: Journal, blobs and keys live here; nobody else may read it.
    data: Path
    bind: str = "127.0.0.1"
    #: 0: any free port.
    port: int = DEFAULT_PORT
    executor: Literal["local", "fake"] = "local"
    #: One worker process each: the value of CUDA_VISIBLE_DEVICES, or empty to leave it alone.
    devices: tuple[str, ...] = ("",)
    #: Health and metrics on loopback; 0: any free port; None: none.
    metrics_port: int | None = None
    #: A worker that tells nothing for so long counts as hung; far beyond the longest stage without
    #: progress, which is weights read from a slow disk.
    silence_s: float = 3600.0
    #: How long a worker keeps models without a job, before it leaves the card to others.
    idle_s: float = 600.0
    fake: FakeOptions = field(default_factory=FakeOptions)
    quotas: Quotas = field(default_factory=Quotas)


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may enter."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # An older folder, or a parent made above, follows the umask.
    folder.chmod(0o700)
    return folder


def write_private(path: Path, text: str) -> None:
    """Replace a file, readable by its owner alone, in one step: never half of it is seen."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
