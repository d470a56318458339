"""Who gets through the CURVE handshake."""

import logging

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from .keys import KeyRing
from .pairing import Pairing

ZAP_DOMAIN = "ex4d"


class Gatekeeper:
    """Answers libzmq's question at each handshake: may this key come in?

    A known key may. An unknown one may while somebody is expected to pair; the front then takes
    nothing but `pair` from it.

    Args:
        keys: The known keys.
        pairing: Who is expected to pair; None where nobody can pair.
    """

    def __init__(self, keys: KeyRing, pairing: Pairing | None) -> None:
        self._keys = keys
        self._pairing = pairing

    def callback(self, domain: str, key: bytes) -> bool:
        """The method that `zmq.auth` calls.

        Args:
            domain: ZAP domain; there is one.
            key: Client's public key in Z85.
        """
        self._keys.refresh()
        if self._keys.user_of(key.decode("ascii")) is not None:
            return True
        try:
            return self._pairing is not None and self._pairing.is_expected()
        except OSError:
            # An error would end the authenticator, and nobody could connect any more.
            return False


def start_authenticator(
    context: zmq.Context[zmq.Socket[bytes]], keys: KeyRing, pairing: Pairing | None
) -> AsyncioAuthenticator:
    """Start answering handshakes; to be called before the socket is bound."""
    log = logging.getLogger("zmq.auth")
    # It names keys at every level.
    log.setLevel(logging.CRITICAL)
    authenticator = AsyncioAuthenticator(zmq.asyncio.Context(context), log=log)
    authenticator.start()
    authenticator.configure_curve_callback(ZAP_DOMAIN, Gatekeeper(keys, pairing))
    return authenticator
