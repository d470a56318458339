"""How an unknown key becomes a known one, and how it does not."""

import argparse
import stat
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ex4d_server.commands import keys_command
from ex4d_server.keys import FolderKeys, load_server_keys
from ex4d_server.pairing import Pairing, PairingTokens
from raw_client import RawClient, file_ref, new_id, random_bytes
from server_process import ServerProcess, make_key_pair

from ex4d.errors import InputError, ProtocolError
from ex4d.protocol.link import parse_link
from ex4d.protocol.messages import BlobOffer, Error, Pair, Paired, Ping, Pong

Connect = Callable[..., RawClient]


def pair(token: str) -> Pair:
    return Pair(request_id=new_id(), token=token, client_name="anna on studio-laptop")


def test_pairing_lets_a_new_key_in(
    own_server: Callable[..., ServerProcess], connect: Connect
) -> None:
    server = own_server()
    tokens = PairingTokens(server.data)
    token = tokens.make("anna")
    stranger = connect(server)
    assert stranger.ask(pair(token), Paired).user == "anna"
    assert stranger.hello().user == "anna"
    assert stranger.ask(Ping(request_id=new_id()), Pong)

    tokens.make("ben")
    late = connect(server)
    assert late.ask_error(pair(token)) == "pairing_refused", "the token was used"
    assert connect(server, stranger.keys).hello().user == "anna", "the key stays known"


def test_stranger_may_pair_and_nothing_else(
    own_server: Callable[..., ServerProcess], connect: Connect
) -> None:
    server = own_server()
    token = PairingTokens(server.data).make("anna")
    stranger = connect(server)
    assert stranger.ask_error(pair("A" * 32)) == "pairing_refused"
    assert stranger.ask_error(Ping(request_id=new_id())) == "key_unknown"
    offer = BlobOffer(request_id=new_id(), blobs=(file_ref("a", b"a"),))
    assert stranger.ask_error(offer) == "key_unknown"
    stranger.socket.send_multipart([b"EX4D\x01", random_bytes(100_000)])
    assert stranger.wait_for(Error).code == "key_unknown"
    stranger.socket.send_multipart([b"EX4D\x01", b"x", b"y", b"z"])
    assert stranger.wait_for(Error).code == "message_invalid"
    assert stranger.ask(pair(token), Paired).user == "anna", "it was not shut out too early"


def test_guessing_is_slowed_down(
    own_server: Callable[..., ServerProcess], connect: Connect
) -> None:
    server = own_server()
    token = PairingTokens(server.data).make("anna")
    codes = [connect(server).ask_error(pair("A" * 32)) for _ in range(12)]
    assert codes[:10] == ["pairing_refused"] * 10
    assert codes[-1] == "pairing_rate"
    assert connect(server).ask_error(pair(token)) == "pairing_rate"


@pytest.fixture
def tokens(tmp_path: Path) -> PairingTokens:
    return PairingTokens(tmp_path)


@pytest.mark.parametrize("life_s", [0.0, -1.0], ids=["now", "past"])
def test_expired_token_is_refused(tokens: PairingTokens, life_s: float) -> None:
    token = tokens.make("anna", life_s=life_s)
    assert not tokens.any_outstanding()
    with pytest.raises(ProtocolError, match="too old"):
        tokens.spend(token)


def test_token_is_good_once_even_at_the_same_time(tokens: PairingTokens) -> None:
    token = tokens.make("anna")

    def spend(_: int) -> str | None:
        try:
            return tokens.spend(token)
        except ProtocolError:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert sorted(filter(None, pool.map(spend, range(32)))) == ["anna"]
    assert not tokens.any_outstanding()


def test_folder_does_not_give_tokens_away(tokens: PairingTokens, tmp_path: Path) -> None:
    token = tokens.make("anna")
    (path,) = (tmp_path / "keys" / "pairing").iterdir()
    assert token not in path.name + path.read_text()
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_damaged_token_file_lets_nobody_in(tokens: PairingTokens, tmp_path: Path) -> None:
    token = tokens.make("anna")
    (path,) = (tmp_path / "keys" / "pairing").iterdir()
    path.write_text('{"user": "../root", "expires_s": 1e12}')
    with pytest.raises(ProtocolError):
        tokens.spend(token)


def test_known_key_may_paste_an_old_link_again(tmp_path: Path) -> None:
    keys, tokens = FolderKeys(tmp_path), PairingTokens(tmp_path)
    pairing, key = Pairing(keys, tokens), make_key_pair().public_key
    token = tokens.make("anna")
    assert pairing.pair(key, token, "laptop") == "anna"
    assert pairing.pair(key, token, "laptop") == "anna"


def test_two_machines_of_one_user(tmp_path: Path) -> None:
    keys, first, second = FolderKeys(tmp_path), make_key_pair(), make_key_pair()
    keys.authorise("anna", first.public_key, remark="laptop")
    keys.authorise("anna", second.public_key, remark="desk\nben forged-line")
    again = FolderKeys(tmp_path)
    assert again.user_of(first.public_key) == again.user_of(second.public_key) == "anna"
    assert again.users() == {"anna"}
    assert len(again.listing()) == 2


@pytest.mark.parametrize(
    ("user", "key", "code"),
    [
        ("Anna", None, "user_name"),
        ("../anna", None, "user_name"),
        ("", None, "user_name"),
        ("con", None, "user_name"),
        ("a" * 33, None, "user_name"),
        ("anna", "short", "key_invalid"),
        ("anna", "ü" * 40, "key_invalid"),
        ("anna", " " * 40, "key_invalid"),
        ("anna", "~" * 40, "key_invalid"),
    ],
)
def test_bad_names_and_keys_are_refused(
    tmp_path: Path, user: str, key: str | None, code: str
) -> None:
    with pytest.raises(InputError) as caught:
        FolderKeys(tmp_path).authorise(user, key or make_key_pair().public_key)
    assert caught.value.code == code


def test_key_of_another_user_is_not_taken_over(tmp_path: Path) -> None:
    keys, key = FolderKeys(tmp_path), make_key_pair().public_key
    keys.authorise("anna", key)
    with pytest.raises(InputError) as caught:
        keys.authorise("ben", key)
    assert caught.value.code == "key_taken"


def test_damaged_key_file_locks_out_nobody_else(tmp_path: Path) -> None:
    keys, key = FolderKeys(tmp_path), make_key_pair().public_key
    keys.authorise("anna", key)
    (tmp_path / "keys" / "authorised" / "ben.keys").write_text("rubbish\n")
    assert FolderKeys(tmp_path).user_of(key) == "anna"


def test_server_keys_are_private_and_stay(tmp_path: Path) -> None:
    first = load_server_keys(tmp_path)
    path = tmp_path / "keys" / "server.json"
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_server_keys(tmp_path) == first
    path.write_text("{}")
    with pytest.raises(InputError) as caught:
        load_server_keys(tmp_path)
    assert caught.value.code == "server_key"


def test_keys_command(tmp_path: Path) -> None:
    server, pair = ServerProcess(tmp_path / "data"), make_key_pair()
    server.keys("authorise", "anna", pair.public_key)
    assert pair.public_key in server.keys("list")
    server.keys("revoke", "anna")
    assert server.keys("list") == ""


@pytest.mark.parametrize("start", ["-", "--", "-h", "--data"])
@pytest.mark.parametrize("separator", [(), ("--",)])
def test_key_that_begins_with_a_hyphen(
    tmp_path: Path, start: str, separator: tuple[str, ...]
) -> None:
    parser = argparse.ArgumentParser()
    keys_command(parser.add_subparsers())
    key = start.ljust(40, "0")
    words = ["keys", "--data", str(tmp_path), "authorise", "anna", *separator, key]
    arguments = parser.parse_args(words)
    assert arguments.run(arguments) == 0
    assert FolderKeys(tmp_path).user_of(key) == "anna"


def test_pairing_link_of_the_command_works(
    own_server: Callable[..., ServerProcess], connect: Connect
) -> None:
    server = own_server()
    link = parse_link(server.pairing_link("anna"))
    assert (link.endpoint.host, link.endpoint.port) == ("127.0.0.1", server.port)
    assert link.endpoint.server_public_key == server.public_key
    assert connect(server).ask(pair(link.token), Paired).user == "anna"
    assert link.token not in server.log_text()


def test_nothing_listens_on_the_network_for_nobody(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", "--bind", "0.0.0.0")
    with pytest.raises(RuntimeError, match="nobody_authorised"):
        server.start()
