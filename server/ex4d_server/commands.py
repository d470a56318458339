"""`ex4d serve` and `ex4d keys`.

This module is imported whenever `ex4d` starts, so it loads what it needs only when it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex4d.errors import InputError

if TYPE_CHECKING:
    from .config import ServerConfig

    # argparse gives this type no public name.
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001

#: So many programs of one user may each have a local server.
_LOCAL_FOLDERS = 8
#: Of a CURVE key in Z85.
_KEY_LENGTH = 40
#: A PiB: the most that the protocol can name.
_MOST_GIB = 1 << 20
_ANY_ADDRESS = ("0.0.0.0", "::", "*")  # noqa: S104 - recognised here, not bound


class _KeyParser(argparse.ArgumentParser):
    """Takes a key that begins with a hyphen for a key: one in 85 does."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse, with `--` before such a key."""
        words: list[str] = list(args or ())
        if words and "--" not in words and len(words[-1]) == _KEY_LENGTH and words[-1][0] == "-":
            words.insert(-1, "--")
        return super().parse_known_args(words, namespace)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def _gib(text: str) -> float:
    value = _positive(text)
    if value > _MOST_GIB:
        raise argparse.ArgumentTypeError(f"expected at most {_MOST_GIB} GiB, found {text}")
    return value


def serve_command(subparsers: Subparsers) -> None:
    """Add `ex4d serve`."""
    parser = subparsers.add_parser("serve", help="run the server that does the jobs")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS")
    parser.add_argument("--port", type=int, help="0: any free one")
    parser.add_argument("--data", type=Path, help="folder of journal, blobs and keys")
    parser.add_argument("--executor", choices=("local", "fake"), default="local")
    parser.add_argument(
        "--devices",
        default="",
        help="CUDA devices, one worker each, for example 0,1; default: one worker",
    )
    parser.add_argument(
        "--idle-s", type=float, default=600.0, help="keep models so long after a job (600)"
    )
    parser.add_argument(
        "--silence-s",
        type=_positive,
        default=3600.0,
        help="a worker that tells nothing for so long is replaced (3600)",
    )
    parser.add_argument("--pair", metavar="NAME", help="print a link for a new client of NAME")
    parser.add_argument("--quota-gib", type=_gib, help="what each user may store (200)")
    parser.add_argument("--disk-gib", type=_positive, help="what all users may store (1024)")
    parser.add_argument(
        "--keep-days", type=_positive, help="remove what nobody used for so long (30)"
    )
    parser.add_argument(
        "--metrics-port", type=int, help="health and metrics over HTTP on loopback; default: none"
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="serve the program that started this one, by pipe: see the manual of the add-on",
    )
    fake = parser.add_argument_group("the fake executor")
    fake.add_argument("--fake-frame-s", type=float, default=0.02, help="time to make a frame")
    fake.add_argument("--fake-lost-attempts", type=int, default=0, help="attempts lost per job")
    fake.add_argument("--fake-fail-code", default="", help="fail every job with this code")
    parser.set_defaults(run=_serve)


def keys_command(subparsers: Subparsers) -> None:
    """Add `ex4d keys`."""
    parser = subparsers.add_parser("keys", help="who may use the server")
    parser.add_argument("--data", type=Path, help="the server's data folder")
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=_KeyParser
    )
    pair = actions.add_parser("pair", help="print a link that lets one new client in")
    pair.add_argument("name", help="user that the client belongs to")
    pair.add_argument("--host", help="name or address of this machine, as the client sees it")
    pair.set_defaults(run=_pair)
    authorise = actions.add_parser("authorise", help="let a client's public key in")
    authorise.add_argument("name", help="user that the key belongs to")
    authorise.add_argument("key", help="the client's public key, quoted for the shell")
    authorise.set_defaults(run=_authorise)
    revoke = actions.add_parser("revoke", help="shut a user out, running sessions included")
    revoke.add_argument("name")
    revoke.set_defaults(run=_revoke)
    limit = actions.add_parser("limit", help="let a user have less or more than everybody")
    limit.add_argument("name")
    limit.add_argument("--quota-gib", type=_gib, help="what the user may store")
    limit.add_argument("--jobs", type=int, help="how many of the user's jobs may wait or run")
    limit.add_argument("--none", action="store_true", help="what everybody may, no less, no more")
    limit.set_defaults(run=_limit)
    listing = actions.add_parser("list", help="show users, their public keys and their limits")
    listing.set_defaults(run=_list)


def _serve(arguments: argparse.Namespace) -> int:
    from .log import set_up_logging
    from .pairing import PairingTokens
    from .server import announce, identity_on_disk, run_server

    set_up_logging()
    if arguments.local:
        return _serve_local(arguments)
    config = _config(arguments, _data(arguments))
    identity = identity_on_disk(config.data)
    token = PairingTokens(config.data).make(arguments.pair) if arguments.pair else None

    def on_ready(port: int) -> None:
        announce(config.data, config.bind, port, identity.server.public_key)
        print(f"listening on {config.bind} port {port}, key {identity.server.public_key}")
        if token:
            host = _reachable_host(config.bind)
            print(_link(host, port, identity.server.public_key, token))
        sys.stdout.flush()

    run_server(config, identity, on_ready)
    return 0


def _serve_local(arguments: argparse.Namespace) -> int:
    """Serve the parent process: keys come and go by pipe, none touches the disk."""
    from .keys import MemoryKeys, make_server_keys
    from .limits import LimitsFile
    from .server import Identity, run_server

    try:
        handover = json.loads(sys.stdin.buffer.raw.readline(4096))  # pyright: ignore
        keys = MemoryKeys({str(handover["client_public_key"]): str(handover["user"])})
    except (ValueError, KeyError, TypeError) as error:
        msg = "expected one line of JSON with client_public_key and user on standard input"
        raise InputError("local_handover", msg) from error
    server = make_server_keys()

    def on_ready(port: int) -> None:
        greeting = {"endpoint": f"127.0.0.1:{port}", "server_public_key": server.public_key}
        print(json.dumps(greeting), flush=True)

    identity = Identity(server, keys, LimitsFile(None), None)
    for folder in _local_folders(arguments):
        try:
            config = _config(arguments, folder, local=True)
            run_server(config, identity, on_ready, ends_with_stdin=True)
        except InputError as error:
            if error.code != "data_in_use":
                raise
        else:
            return 0
    msg = f"expected at most {_LOCAL_FOLDERS} local servers at once; close one of their programs"
    raise InputError("data_in_use", msg)


def _pair(arguments: argparse.Namespace) -> int:
    from .config import DEFAULT_PORT
    from .keys import load_server_keys
    from .pairing import PairingTokens

    data = _data(arguments)
    try:
        where = json.loads((data / "server.json").read_text(encoding="utf-8"))
        bind, port = str(where["bind"]), int(where["port"])
    except FileNotFoundError:
        bind, port = "127.0.0.1", DEFAULT_PORT
    token = PairingTokens(data).make(arguments.name)
    host = arguments.host or _reachable_host(bind)
    print(_link(host, port, load_server_keys(data).public_key, token))
    print("valid for ten minutes, for one client", file=sys.stderr)
    return 0


def _authorise(arguments: argparse.Namespace) -> int:
    from .keys import FolderKeys

    FolderKeys(_data(arguments)).authorise(arguments.name, arguments.key)
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from .keys import FolderKeys

    FolderKeys(_data(arguments)).revoke(arguments.name)
    return 0


def _limit(arguments: argparse.Namespace) -> int:
    import msgspec

    from .config import GIB
    from .limits import MOST_UNFINISHED, LimitsFile, UserLimits

    is_set = arguments.quota_gib is not None or arguments.jobs is not None
    if is_set == arguments.none:
        msg = "expected --quota-gib, --jobs or both, or else --none; say what the limit shall be"
        raise InputError("limit_missing", msg)
    if arguments.jobs is not None and not 1 <= arguments.jobs <= MOST_UNFINISHED:
        msg = (
            f"expected 1 to {MOST_UNFINISHED} jobs, found {arguments.jobs}; revoke who may do none"
        )
        raise InputError("limit_jobs", msg)
    file = LimitsFile(_data(arguments))
    limits = UserLimits() if arguments.none else file.of(arguments.name)
    if arguments.quota_gib is not None:
        user_bytes = max(1, int(arguments.quota_gib * GIB))
        limits = msgspec.structs.replace(limits, user_bytes=user_bytes)
    if arguments.jobs is not None:
        limits = msgspec.structs.replace(limits, unfinished_jobs=arguments.jobs)
    file.set(arguments.name, limits)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from .keys import FolderKeys
    from .limits import LimitsFile

    for user, line in FolderKeys(_data(arguments)).listing():
        print(user, line)
    for user, limits in LimitsFile(_data(arguments)).listing().items():
        print(user, limits)
    return 0


def _config(arguments: argparse.Namespace, data: Path, *, local: bool = False) -> ServerConfig:
    from .config import DAY_S, DEFAULT_PORT, GIB, FakeOptions, Quotas, ServerConfig

    port = arguments.port
    if port is None:
        port = 0 if local else DEFAULT_PORT
    limits: dict[str, float] = {}
    if arguments.quota_gib is not None:
        limits["user_bytes"] = int(arguments.quota_gib * GIB)
    if arguments.disk_gib is not None:
        limits["total_bytes"] = int(arguments.disk_gib * GIB)
    if arguments.keep_days is not None:
        limits["keep_s"] = arguments.keep_days * DAY_S
    return ServerConfig(
        data=data,
        bind="127.0.0.1" if local else arguments.bind,
        port=port,
        executor=arguments.executor,
        devices=tuple(arguments.devices.split(",")),
        idle_s=arguments.idle_s,
        silence_s=arguments.silence_s,
        fake=FakeOptions(
            frame_s=arguments.fake_frame_s,
            lost_attempts=arguments.fake_lost_attempts,
            fail_code=arguments.fake_fail_code,
        ),
        quotas=Quotas(**limits),  # pyright: ignore[reportArgumentType]
        metrics_port=arguments.metrics_port,
    )


def _data(arguments: argparse.Namespace) -> Path:
    from platformdirs import user_data_path

    return arguments.data or user_data_path("ex4d", appauthor=False) / "server"


def _local_folders(arguments: argparse.Namespace) -> list[Path]:
    """Data folders for local servers: the first, and more for when it is in use already."""
    from platformdirs import user_data_path

    base: Path = arguments.data or user_data_path("ex4d", appauthor=False) / "local"
    others = (base.with_name(f"{base.name}-{number}") for number in range(2, _LOCAL_FOLDERS + 1))
    return [base, *others]


def _reachable_host(bind: str) -> str:
    return socket.getfqdn() if bind in _ANY_ADDRESS else bind


def _link(host: str, port: int, public_key: str, token: str) -> str:
    from ex4d.protocol.link import PairingLink, format_link

    return format_link(PairingLink(host, port, public_key, token))
