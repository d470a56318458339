"""`ex4d`: the command line.

Each command lives in a module of its own that is light to import and loads what it needs when it
runs, so that `ex4d --help` answers at once. Other packages add commands through the entry-point
group `ex4d.commands`: a function that takes the subparsers and adds its own.
"""

import argparse
import sys
from importlib.metadata import entry_points

from . import __version__
from .commands import bench, demo, doctor, generate, models, recon, render, submit
from .errors import CancelledError, Ex4dError

_COMMANDS = (recon, render, generate, submit, demo, models, doctor, bench)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, those of installed packages included."""
    parser = argparse.ArgumentParser(
        prog="ex4d", description="Re-shoot a video with a new camera through its DW-mesh."
    )
    parser.add_argument("--version", action="version", version=f"ex4d {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    for entry_point in sorted(entry_points(group="ex4d.commands"), key=lambda entry: entry.name):
        entry_point.load()(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process where absent.

    Returns:
        The exit status: 0 done, 1 refused with a message, 130 interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (KeyboardInterrupt, CancelledError):
        print("ex4d: interrupted; what was finished stays as it is", file=sys.stderr)
        return 130
    except Ex4dError as error:
        print(f"ex4d: {error.message} [{error.code}]", file=sys.stderr)
        return 1
