"""The client of the server: jobs sent, watched and fetched, without ever blocking.

Uses the standard library, ZeroMQ and `protocol` alone, by relative imports, and starts no threads:
the build copies this package into the Blender extension as it stands.
"""

from ..protocol.link import Endpoint
from .client import Client, ConnectionState
from .jobs import JobPhase, RemoteJob
from .keys import KeyPair

__all__ = ["Client", "ConnectionState", "Endpoint", "JobPhase", "KeyPair", "RemoteJob"]
