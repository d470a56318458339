"""The systemd unit starts what the program understands."""

import argparse
from configparser import RawConfigParser
from pathlib import Path

from ex4d_server.commands import serve_command

UNIT = Path(__file__).parents[2] / "docs" / "ex4d.service"


def test_unit_starts_the_server_with_options_that_exist() -> None:
    unit = RawConfigParser(strict=True)
    unit.optionxform = str  # pyright: ignore - names keep their case
    unit.read(UNIT)
    program, *words = unit["Service"]["ExecStart"].split()
    parser = argparse.ArgumentParser()
    serve_command(parser.add_subparsers())
    arguments = parser.parse_args(words)
    assert Path(program).name == "ex4d"
    assert arguments.bind == "0.0.0.0"
    assert str(arguments.data).startswith("/var/lib/" + unit["Service"]["StateDirectory"])
