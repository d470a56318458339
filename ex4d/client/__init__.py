"""The non-blocking client of the server, for the command line and for Blender.

No threads, no numpy, no bpy, and relative imports only: the build copies this package into the
Blender extension as it stands.
"""

from ..protocol.link import Endpoint
from .client import Client, run_until
from .jobs import JobPhase, Preview, RemoteJob
from .keys import KeyPair
from .session import ConnectionState

__all__ = [
    "Client",
    "ConnectionState",
    "Endpoint",
    "JobPhase",
    "KeyPair",
    "Preview",
    "RemoteJob",
    "run_until",
]
