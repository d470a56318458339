"""`ex4d submit`: jobs for a server, from the command line.

ex4d submit pair 'ex4d://…'      once: the server learns to know this computer
ex4d submit recon ...            a clip becomes a scene
ex4d submit generate SCENE ...   a scene and a camera path become a take
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ex4d.client import Client, Endpoint, KeyPair
    from ex4d.protocol.documents import FileRef
    from ex4d.protocol.messages import JobRequest

    JobBuilder = Callable[[tuple[FileRef, ...]], JobRequest]

_CONNECT_TIMEOUT_S = 30.0
#: How long an interrupted command waits for the server to let go of the job.
_CANCEL_TIMEOUT_S = 10.0


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `submit`."""
    from .cameras import add_camera_arguments
    from .engines import add_engine_arguments
    from .estimators import add_depth_arguments

    parser = subparsers.add_parser(
        "submit",
        help="send jobs to a server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    pair = actions.add_parser("pair", help="make this computer known to a server")
    pair.add_argument("link", help="what `ex4d keys pair` printed on the server")
    pair.set_defaults(run=run_pair)
    recon = actions.add_parser("recon", help="a clip becomes a scene")
    recon.add_argument("--input_video", type=Path, required=True)
    add_depth_arguments(recon)
    recon.add_argument(
        "--focal_px",
        type=float,
        help="what the clip says of its lens, else 60 degrees on the long side, where absent",
    )
    recon.add_argument("--output", type=Path, required=True, help="folder of the scene")
    recon.set_defaults(run=run_recon)
    generate = actions.add_parser("generate", help="a scene and a camera path become a take")
    generate.add_argument("scene", type=Path, help="folder of the scene")
    generate.add_argument("--output", type=Path, required=True, help="folder of the take")
    add_camera_arguments(generate)
    add_engine_arguments(generate)
    generate.set_defaults(run=run_generate)


def run_pair(arguments: argparse.Namespace) -> int:
    """Pair with a server and remember it as the one that jobs go to."""
    from ex4d.client import ConnectionState, run_until
    from ex4d.protocol.link import parse_link

    link = parse_link(arguments.link)
    client = _client(link.endpoint)
    try:
        client.pair(link.token)
        run_until(
            client, lambda: client.state is ConnectionState.READY, timeout_s=_CONNECT_TIMEOUT_S
        )
    finally:
        client.close()
    _remember(link.endpoint)
    print(f"paired with {link.endpoint.host}:{link.endpoint.port}")
    return 0


def run_recon(arguments: argparse.Namespace) -> int:
    """Send the clip and its depth, if any; fetch the scene."""
    from ex4d.clip import sequence_paths
    from ex4d.protocol.messages import ReconstructJob

    sources: dict[str, Path] = {}
    names: dict[str, str] = {}
    for kind, path in (("clip", arguments.input_video), ("depth", arguments.depth)):
        if path is None:
            continue
        is_sequence = path.suffix.lower() in (".png", ".exr")
        paths = sequence_paths(path) if is_sequence else [path]
        # Names of files here are nobody's business there.
        named = [f"{kind}/{index + 1:06d}{file.suffix.lower()}" for index, file in enumerate(paths)]
        sources.update(zip(named, paths, strict=True))
        names[kind] = named[0]

    def build(files: "tuple[FileRef, ...]") -> ReconstructJob:
        return ReconstructJob(
            files=files,
            clip=names["clip"],
            depth=names.get("depth"),
            depth_kind=arguments.depth_kind,
            estimator=arguments.estimator,
            depth_range=arguments.depth_range,
            accepts_research_licence=arguments.accept_research_licence,
            refines=arguments.refine,
            name=arguments.input_video.stem[:64],
            focal_px=arguments.focal_px,
        )

    return _send(build, sources, arguments.output)


def run_generate(arguments: argparse.Namespace) -> int:
    """Send the scene, unless the server has it, and the camera path; fetch the take."""
    from ex4d.protocol.messages import GenerateJob
    from ex4d.scene import Scene

    from .cameras import chosen_trajectory
    from .engines import chosen_settings

    settings = chosen_settings(arguments)
    scene = Scene(arguments.scene)
    trajectory = chosen_trajectory(arguments, scene).to_document()

    def build(files: "tuple[FileRef, ...]") -> GenerateJob:
        return GenerateJob(scene=files, trajectory=trajectory, settings=settings)

    return _send(
        build, {name: scene.folder / name for name in scene.file_names()}, arguments.output
    )


def _send(build: "JobBuilder", sources: Mapping[str, Path], output: Path) -> int:
    """Submit a job to the remembered server and wait for its results, showing progress."""
    from contextlib import suppress

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ex4d.client import ConnectionState, run_until
    from ex4d.errors import TransferError
    from ex4d.folders import check_free

    # Before the server works for it.
    check_free(output)
    client = _client(_remembered())
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>12}"), BarColumn(), TimeElapsedColumn())
    try:
        client.connect()
        # Later the server may come and go; one that is not there at first is told at once.
        run_until(
            client, lambda: client.state is ConnectionState.READY, timeout_s=_CONNECT_TIMEOUT_S
        )
        job = client.submit(build, sources, output)
        with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
            bar = bars.add_task("connecting", total=1.0)

            def show() -> None:
                text = job.stage or job.phase.value
                bars.update(bar, description=text, completed=job.fraction)

            try:
                run_until(client, lambda: job.is_over, on_change=show)
            except KeyboardInterrupt:
                client.cancel(job)
                # Interrupted is what the command was, whatever the server still says.
                with suppress(TransferError):
                    run_until(client, lambda: job.is_over, timeout_s=_CANCEL_TIMEOUT_S)
                raise
    finally:
        client.close()
    if job.error is not None:
        raise job.error
    print(output)
    return 0


def _client(endpoint: "Endpoint") -> "Client":
    import getpass
    import socket

    from ex4d import __version__
    from ex4d.allocator import keep_freed_memory
    from ex4d.client import Client

    keep_freed_memory()
    name = f"{getpass.getuser()} on {socket.gethostname()}"
    return Client(endpoint, _keys(), app_version=__version__, client_name=name)


def _config_folder() -> Path:
    from platformdirs import user_config_path

    return user_config_path("ex4d", ensure_exists=True)


def _keys() -> "KeyPair":
    from ex4d.client import KeyPair

    return KeyPair.load_or_create(_config_folder() / "identity.json")


def _remember(endpoint: "Endpoint") -> None:
    import json

    text = json.dumps(
        {"host": endpoint.host, "port": endpoint.port, "key": endpoint.server_public_key}
    )
    (_config_folder() / "server.json").write_text(text, encoding="utf-8")


def _remembered() -> "Endpoint":
    """The server that this computer was paired with last.

    Raises:
        InputError: `no_server`.
    """
    import json

    from ex4d.client import Endpoint
    from ex4d.errors import InputError

    path = _config_folder() / "server.json"
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return Endpoint(plain["host"], plain["port"], plain["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            "expected a server that this computer is paired with, found none; run "
            "`ex4d submit pair LINK` first"
        )
        raise InputError("no_server", msg) from error
