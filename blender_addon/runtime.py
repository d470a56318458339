# SPDX-License-Identifier: GPL-3.0-or-later
"""All that lives while the extension is enabled and is not Blender's data: one object."""

from dataclasses import dataclass, field

from . import paths
from ._vendor.client import KeyPair
from .condition import ConditionPlayer
from .connection import Connection
from .coverage import CoverageCheck
from .imports import SceneImport
from .jobs import JobBoard
from .preview import PreviewPlayer
from .repainting import Repainter
from .sending import SceneSizes, SentScenes


@dataclass
class Runtime:
    """Created at the first use, so that enabling the extension touches no file and no socket."""

    connection: Connection
    jobs: JobBoard
    sent: SentScenes
    sizes: SceneSizes = field(default_factory=SceneSizes)
    #: Scenes on their way into Blender, the first being worked on.
    imports: list[SceneImport] = field(default_factory=list)
    previews: PreviewPlayer = field(default_factory=PreviewPlayer)
    condition: ConditionPlayer = field(default_factory=ConditionPlayer)
    repainter: Repainter = field(default_factory=Repainter)
    #: The last measurement of a camera path, under way or over.
    coverage: CoverageCheck | None = None


_runtime: Runtime | None = None


def get() -> Runtime:
    """The runtime, made now if this is the first use.

    Raises:
        InputError: `identity_invalid` if this computer's key file is damaged.
    """
    global _runtime  # noqa: PLW0603 - what lives as long as the extension is enabled
    if _runtime is None:
        folder = paths.private_folder()
        # In a file of its own, never in Blender's preferences, which people share.
        keys = KeyPair.load_or_create(folder / "identity.json")
        jobs = JobBoard(folder / "jobs")
        jobs.drop_old_records()
        sent = SentScenes(folder / "sent.json")
        _runtime = Runtime(Connection(keys, paths.app_version()), jobs, sent)
    return _runtime


def peek() -> Runtime | None:
    """The runtime if there is one: panels and handlers must not make it."""
    return _runtime


def register() -> None:
    """Nothing to do before the first use."""


def unregister() -> None:
    """End the session and the local server."""
    global _runtime  # noqa: PLW0603 - as above
    if _runtime is not None:
        _runtime.connection.close()
        _runtime = None
