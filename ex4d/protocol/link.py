"""Where a server is, and the pairing link: one line that introduces a client to it.

`ex4d://HOST:PORT?key=KEY&token=TOKEN`: KEY is the server's public key in 64 hexadecimal digits,
TOKEN lets one client in, once. An IPv6 host stands in brackets.
"""

import ipaddress
import re
from dataclasses import dataclass, field

from ..errors import InputError
from .keys import key_from_bytes, key_to_bytes

MAX_LINK_CHARACTERS = 512

_LINK = re.compile(
    r"ex4d://(?:\[(?P<ipv6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]{1,44})\]|(?P<host>[A-Za-z0-9.-]{1,253}))"
    r":(?P<port>[1-9][0-9]{0,4})/?"
    r"\?key=(?P<key>[0-9A-Fa-f]{64})&token=(?P<token>[A-Za-z0-9_-]{22,64})"
)
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,64}")


@dataclass(frozen=True)
class Endpoint:
    """A server's address and the only key that it may answer with.

    Raises:
        InputError: `endpoint_invalid` or `key_invalid`.
    """

    #: A name, which is resolved to IPv4, or an IPv4 or IPv6 address without brackets.
    host: str
    #: TCP port, 1..65535.
    port: int
    #: In Z85.
    server_public_key: str

    def __post_init__(self) -> None:
        """Refuse what cannot be an address or a key."""
        if not _is_host(self.host):
            message = (
                f"expected the name or address of a server, found {self.host[:100]!r}; give for "
                "example 192.168.1.20, fd00::20 or gpu-box.example.com"
            )
            raise InputError("endpoint_invalid", message)
        if not 0 < self.port < 65536:
            message = f"expected a port from 1 to 65535, found {self.port}; see the server's output"
            raise InputError("endpoint_invalid", message)
        key_to_bytes(self.server_public_key)

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is an IPv6 address."""
        return ":" in self.host

    @property
    def address(self) -> str:
        """`HOST:PORT`, with brackets round an IPv6 address."""
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class PairingLink:
    """What a pairing link says.

    Raises:
        InputError: `endpoint_invalid`, `key_invalid` or `link_invalid`.
    """

    host: str
    port: int
    #: In Z85.
    server_public_key: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what a link cannot carry."""
        _ = self.endpoint
        if not _TOKEN.fullmatch(self.token):
            message = (
                "expected a token of 22 to 64 letters, digits, - and _, found another; make a new "
                "one"
            )
            raise InputError("link_invalid", message)

    @property
    def endpoint(self) -> Endpoint:
        """The server, without the token."""
        return Endpoint(self.host, self.port, self.server_public_key)


def format_link(link: PairingLink) -> str:
    """Write a pairing link as one line of ASCII."""
    key = key_to_bytes(link.server_public_key).hex()
    return f"ex4d://{link.endpoint.address}?key={key}&token={link.token}"


def parse_link(text: str) -> PairingLink:
    """Read a pairing link; spaces round it do not matter.

    Raises:
        InputError: `link_invalid` or `endpoint_invalid`; the text is not repeated, since it holds a
            secret.
    """
    text = text.strip()
    match = _LINK.fullmatch(text) if len(text) <= MAX_LINK_CHARACTERS else None
    if match is None:
        message = (
            "expected a link like ex4d://HOST:PORT?key=KEY&token=TOKEN, found something else; copy "
            "the whole line that `ex4d keys pair` prints"
        )
        raise InputError("link_invalid", message)
    return PairingLink(
        host=match["ipv6"] or match["host"],
        port=int(match["port"]),
        server_public_key=key_from_bytes(bytes.fromhex(match["key"])),
        token=match["token"],
    )


def _is_host(host: str) -> bool:
    """Whether this is an address or could be a name."""
    if ":" in host:
        return _is_address(host)
    labels = host.split(".")
    if labels[-1].isdigit():
        # Names do not end in a number, so this has to be an address.
        return _is_address(host)
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels))


def _is_address(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # A zone (`%eth0`) means something on one computer only.
    return getattr(address, "scope_id", None) is None
