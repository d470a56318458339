"""The key pair that a client is known by."""

from dataclasses import dataclass, field

import zmq


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair in Z85. The secret key never shows in logs and messages."""

    public_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def create(cls) -> "KeyPair":
        """A new pair."""
        public_key, secret_key = zmq.curve_keypair()
        return cls(public_key.decode("ascii"), secret_key.decode("ascii"))
