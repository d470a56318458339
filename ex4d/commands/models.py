"""`ex4d models`: the weights of the ex4d engine.

ex4d models list       what is there, how large it is and under which licence
ex4d models download   fetch what is missing, going on where it stopped
ex4d models check      compare every file with the model by name and shape
ex4d models convert    write the files anew for a quicker start
"""

import argparse
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `models`."""
    parser = subparsers.add_parser(
        "models",
        help="the weights of the ex4d engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, help="default: EX4D_MODELS, or the user's own")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="what is there")
    listing.set_defaults(run=run_list)
    download = actions.add_parser("download", help="fetch what is missing")
    download.add_argument(
        "--mirror", type=Path, help="copy from this models folder instead of the hub"
    )
    download.set_defaults(run=run_download)
    check = actions.add_parser("check", help="compare every file with the model")
    check.set_defaults(run=run_check)
    convert = actions.add_parser("convert", help="write the files anew for a quicker start")
    convert.set_defaults(run=run_convert)


def run_list(arguments: argparse.Namespace) -> int:
    """Print every file with its state; the status is 1 if the engine lacks one."""
    from ex4d.diffusion.wan.files import (
        LICENCE,
        PUBLISHED_FILES,
        converted_layout,
        lora_names,
    )

    folder = _folder(arguments)
    print(f"{folder} ({LICENCE})")
    is_complete = True
    for file in PUBLISHED_FILES:
        path = folder / file.relative_path
        if path.is_file():
            print(f"   found {path.stat().st_size / 1e9:7.3f} GB  {file.relative_path}")
        else:
            is_complete = False
            print(f" missing ~{file.size_gb:6.1f} GB  {file.relative_path}  ({file.repository})")
    converted = converted_layout(folder)
    has_converted = all(path.is_file() for path in converted.all_paths())
    if has_converted:
        size_gb = sum(path.stat().st_size for path in converted.all_paths()) / 1e9
        print(f"   found {size_gb:7.3f} GB  {converted.config.parent.name}/, which is used")
    for name in lora_names(converted):
        print(f"   found LoRA {name}")
    return int(not (is_complete or has_converted))


def run_download(arguments: argparse.Namespace) -> int:
    """Fetch what is missing."""
    from ex4d.diffusion.wan.fetching import (
        check_room,
        fetch_from_hub,
        fetch_from_mirror,
        missing_files,
    )
    from ex4d.diffusion.wan.files import LICENCE

    from .progress import progress_bars

    folder = _folder(arguments)
    missing = missing_files(folder)
    check_room(folder, missing, arguments.mirror)
    print(f"{len(missing)} files are missing in {folder} (licence: {LICENCE})")
    for file in missing:
        if arguments.mirror is None:
            path = fetch_from_hub(folder, file)
        else:
            with progress_bars() as task:
                path = fetch_from_mirror(folder, file, arguments.mirror, task)
        print(path)
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Compare every file with the model; the first that is wrong ends it."""
    from ex4d.diffusion import check_packages
    from ex4d.diffusion.wan.files import find_models

    check_packages()
    from ex4d.diffusion.wan.converting import check_models

    for part in check_models(find_models(_folder(arguments))):
        print(f"ok  {part.name}: {part.detail}")
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Write the converted files."""
    from ex4d.diffusion import check_packages
    from ex4d.diffusion.wan.files import find_models

    from .progress import progress_bars

    check_packages()
    from ex4d.diffusion.wan.converting import convert_models

    folder = _folder(arguments)
    with progress_bars() as task:
        files = convert_models(find_models(folder), folder, task)
    size_gb = sum(path.stat().st_size for path in files.all_paths()) / 1e9
    print(f"{files.config.parent}: {size_gb:.1f} GB, used from now on")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    from ex4d.diffusion.wan.files import models_folder

    return arguments.folder or models_folder()
