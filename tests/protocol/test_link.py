"""Pairing links: strict to read, round trip, and silent about the secrets in them."""

import os

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from ex4d.errors import InputError
from ex4d.protocol.keys import key_from_bytes, key_to_bytes
from ex4d.protocol.link import Endpoint, PairingLink, format_link, parse_link

TOKEN = "abcdefghijklmnopqrstuvwxyz-_0123"
KEY_HEX = bytes(range(32)).hex()
KEY = key_from_bytes(bytes(range(32)))
QUERY = f"?key={KEY_HEX}&token={TOKEN}"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (f"ex4d://127.0.0.1:5555{QUERY}", "127.0.0.1", 5555),
        (f"ex4d://[::1]:1{QUERY}", "::1", 1),
        (f"ex4d://[fd00::abcd:1]:65535{QUERY}", "fd00::abcd:1", 65535),
        (f"ex4d://[::ffff:10.0.0.1]:80{QUERY}", "::ffff:10.0.0.1", 80),
        (f"ex4d://gpu-box.example.com:5555{QUERY}", "gpu-box.example.com", 5555),
        (f"ex4d://localhost:5555/{QUERY}", "localhost", 5555),
        (f"ex4d://localhost:5555?key={KEY_HEX.upper()}&token={TOKEN}", "localhost", 5555),
        (f"\n ex4d://localhost:5555{QUERY}\r\n", "localhost", 5555),
    ],
    ids=["IPv4", "loopback", "IPv6", "mapped", "name", "slash", "upper case", "spaces"],
)
def test_link_is_read(text: str, host: str, port: int) -> None:
    link = parse_link(text)
    assert link == PairingLink(host, port, KEY, TOKEN)
    assert link.endpoint == Endpoint(host, port, KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ex4d://",
        f"http://localhost:5555{QUERY}",
        f"ex4d://localhost{QUERY}",
        f"ex4d://localhost:0{QUERY}",
        f"ex4d://localhost:65536{QUERY}",
        f"ex4d://localhost:05555{QUERY}",
        f"ex4d://:5555{QUERY}",
        f"ex4d://user@localhost:5555{QUERY}",
        f"ex4d://local host:5555{QUERY}",
        f"ex4d://-bad:5555{QUERY}",
        f"ex4d://bad..name:5555{QUERY}",
        f"ex4d://999.1.1.1:5555{QUERY}",
        f"ex4d://::1:5555{QUERY}",
        f"ex4d://[::1:5555{QUERY}",
        f"ex4d://[:::1]:5555{QUERY}",
        f"ex4d://[fe80::1%eth0]:5555{QUERY}",
        f"ex4d://[127.0.0.1]:5555{QUERY}",
        f"ex4d://localhost:5555?token={TOKEN}&key={KEY_HEX}",
        f"ex4d://localhost:5555?key={KEY_HEX}",
        f"ex4d://localhost:5555?key={KEY_HEX[:-2]}&token={TOKEN}",
        f"ex4d://localhost:5555?key={KEY_HEX}&token=short",
        f"ex4d://localhost:5555{QUERY}&more=1",
        f"ex4d://localhost:5555{QUERY}#part",
        f"ex4d://localhost:5555/path{QUERY}",
        f"ex4d://localhost:5555{QUERY}\nex4d://localhost:5555{QUERY}",
        f"ex4d://{'a' * 64}:5555{QUERY}",
        f"ex4d://{'a.' * 5000}a:5555{QUERY}",
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InputError, match="expected") as caught:
        parse_link(text)
    assert caught.value.code in ("link_invalid", "endpoint_invalid")
    assert TOKEN not in str(caught.value)


@given(
    st.sampled_from(["10.0.0.7", "fd00::7", "box.example"]),
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32),
    st.from_regex(r"[A-Za-z0-9_-]{22,64}", fullmatch=True),
)
def test_link_survives_being_written(host: str, port: int, key: bytes, token: str) -> None:
    link = PairingLink(host, port, key_from_bytes(key), token)
    assert parse_link(format_link(link)) == link


def test_token_stays_out_of_logs() -> None:
    assert TOKEN not in repr(PairingLink("localhost", 5555, KEY, TOKEN))


@pytest.mark.parametrize(
    ("host", "port", "key", "code"),
    [
        ("", 5555, KEY, "endpoint_invalid"),
        ("a b", 5555, KEY, "endpoint_invalid"),
        ("[::1]", 5555, KEY, "endpoint_invalid"),
        ("localhost", 0, KEY, "endpoint_invalid"),
        ("localhost", 65536, KEY, "endpoint_invalid"),
        ("localhost", 5555, "", "key_invalid"),
        ("localhost", 5555, KEY[:-1] + "\\", "key_invalid"),
        ("localhost", 5555, "#" * 40, "key_invalid"),
    ],
)
def test_endpoint_that_cannot_be_is_refused(host: str, port: int, key: str, code: str) -> None:
    with pytest.raises(InputError, match="expected") as caught:
        Endpoint(host, port, key)
    assert caught.value.code == code


def test_address_of_ipv6_has_brackets() -> None:
    assert Endpoint("::1", 5, KEY).address == "[::1]:5"
    assert Endpoint("10.0.0.1", 5, KEY).address == "10.0.0.1:5"


@given(st.binary(min_size=32, max_size=32))
def test_keys_as_text_are_those_of_zeromq(raw: bytes) -> None:
    key = key_from_bytes(raw)
    assert key == z85.encode(raw).decode()
    assert key_to_bytes(key) == raw


def test_real_key_is_read() -> None:
    public_key, _ = zmq.curve_keypair()
    assert key_from_bytes(key_to_bytes(public_key.decode())) == public_key.decode()


@pytest.mark.parametrize("length", [0, 31, 33])
def test_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InputError, match="expected a key"):
        key_from_bytes(os.urandom(length))


def test_secret_is_not_repeated_in_an_error() -> None:
    with pytest.raises(InputError) as caught:
        key_to_bytes(KEY + "x")
    assert KEY not in str(caught.value)
