"""The arguments by which several commands choose an engine and tell it things."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ex4d.protocol.documents import EngineSettings

#: Arguments that are fields of the settings, each left out where it is not given.
_FIELDS = ("mode", "steps", "guidance", "seed", "prompt", "negative_prompt", "loras")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and what the engines can be told."""
    parser.add_argument("--engine", choices=("preview", "ex4d"), default="preview")
    group = parser.add_argument_group("the engine", "what is not given is as in the reference")
    group.add_argument("--seed", type=int, help="the same seed makes the same take")
    group.add_argument("--mode", choices=("exact", "fast", "draft"), help="ex4d only")
    group.add_argument("--steps", type=int, help="ex4d only: of denoising (25)")
    group.add_argument("--guidance", type=float, help="ex4d only: 1 is none (5)")
    group.add_argument("--prompt", help="ex4d only")
    group.add_argument("--negative_prompt", help="ex4d only")
    group.add_argument(
        "--lora", dest="loras", action="append", help="ex4d only: a registered name; repeatable"
    )


def chosen_settings(arguments: argparse.Namespace) -> "EngineSettings":
    """What the arguments tell the engine.

    Raises:
        InputError: `settings_invalid`.
    """
    import msgspec

    from ex4d.errors import InputError
    from ex4d.protocol.documents import EngineSettings

    given = {name: getattr(arguments, name) for name in _FIELDS}
    plain = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert({"engine": arguments.engine, **plain}, EngineSettings)
    except msgspec.ValidationError as error:
        msg = (
            f"expected arguments that the engine {arguments.engine} takes, found others: {error}; "
            "see --help"
        )
        raise InputError("settings_invalid", msg) from error
