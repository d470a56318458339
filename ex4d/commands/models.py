"""`ex4d models`: the weights of the ex4d engine and of the depth estimators.

ex4d models list [MODEL ...]       what is there, how large it is and under which licence
ex4d models download [MODEL ...]   fetch what is missing, going on where it stopped
ex4d models check [MODEL ...]      compare every file with its model by name and shape
ex4d models convert [--fp8]        write the engine's files anew for a quicker start
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ex4d.weights.files import PublishedFile, PublishedModel


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `models`."""
    parser = subparsers.add_parser(
        "models",
        help="the weights of the ex4d engine and of the depth estimators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, help="default: EX4D_MODELS, or the user's own")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="what is there")
    _add_models(listing, [])
    listing.set_defaults(run=run_list)
    download = actions.add_parser("download", help="fetch what is missing")
    _add_models(download, ["ex4d"])
    download.add_argument(
        "--mirror", type=Path, help="copy from this models folder instead of the hub"
    )
    download.add_argument(
        "--accept-research-licence",
        action="store_true",
        help="for models whose licence forbids production: you use them for research alone",
    )
    download.set_defaults(run=run_download)
    check = actions.add_parser("check", help="compare every file with the model")
    _add_models(check, ["ex4d"])
    check.set_defaults(run=run_check)
    convert = actions.add_parser("convert", help="write the files anew for a quicker start")
    convert.add_argument(
        "--fp8",
        action="store_true",
        help="with the transformer's large layers in 8 bits: for the mode fast alone",
    )
    convert.set_defaults(run=run_convert)


def _add_models(parser: argparse.ArgumentParser, default: list[str]) -> None:
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        default=default,
        help=f"default: {' '.join(default) or 'all'}; `ex4d models list` shows the names",
    )


def run_list(arguments: argparse.Namespace) -> int:
    """Print every file with its state; the status is 1 if a model lacks one."""
    folder = _folder(arguments)
    print(folder)
    # A list, since each model shall be shown.
    are_complete = [_list_model(model, folder) for model in _chosen(arguments)]
    return int(not all(are_complete))


def _list_model(model: "PublishedModel", folder: Path) -> bool:
    """Print the files of a model; true if it can be used."""
    from ex4d.diffusion.wan.files import EX4D_MODEL, converted_layout, lora_names

    print(f"{model.name} ({model.licence})")
    for file in model.files:
        path = folder / file.relative_path
        if path.is_file():
            print(f"   found {path.stat().st_size / 1e9:7.3f} GB  {file.relative_path}")
        else:
            print(f" missing ~{file.size_gb:6.1f} GB  {file.relative_path}  ({file.repository})")
    is_complete = not model.missing_files(folder)
    if model is not EX4D_MODEL:
        return is_complete
    for is_quantised in (False, True):
        files = converted_layout(folder, is_quantised=is_quantised)
        if all(path.is_file() for path in files.all_paths()):
            size_gb = sum(path.stat().st_size for path in files.all_paths()) / 1e9
            used = "used by the mode fast" if is_quantised else "used"
            print(f"   found {size_gb:7.3f} GB  {files.config.parent.name}/, which is {used}")
            is_complete = True
    for name in lora_names(converted_layout(folder)):
        print(f"   found LoRA {name}")
    return is_complete


def run_download(arguments: argparse.Namespace) -> int:
    """Fetch what is missing."""
    from ex4d.weights.fetching import check_room, fetch_from_hub, fetch_from_mirror
    from ex4d.weights.files import check_research_licence

    from .progress import progress_bars

    folder = _folder(arguments)
    models = _chosen(arguments)
    for model in models:
        check_research_licence(model, is_accepted=arguments.accept_research_licence)
    missing = [file for model in models for file in _needed_files(model, folder)]
    check_room(folder, missing, arguments.mirror)
    for model in models:
        files = _needed_files(model, folder)
        print(f"{model.name}: {len(files)} files are missing in {folder} ({model.licence})")
        for file in files:
            if arguments.mirror is None:
                path = fetch_from_hub(folder, file)
            else:
                with progress_bars() as task:
                    path = fetch_from_mirror(folder, file, arguments.mirror, task)
            print(path)
    return 0


def _needed_files(model: "PublishedModel", folder: Path) -> "list[PublishedFile]":
    """Files to be fetched: none where all modes have converted ones, which are used instead."""
    from ex4d.diffusion.wan.files import EX4D_MODEL

    if model is EX4D_MODEL and _has_converted(folder):
        return []
    return model.missing_files(folder)


def _has_converted(folder: Path) -> bool:
    from ex4d.diffusion.wan.files import converted_layout

    return all(path.is_file() for path in converted_layout(folder).all_paths())


def run_check(arguments: argparse.Namespace) -> int:
    """Compare every file with its model; the first that is wrong ends it."""
    from ex4d.diffusion import check_packages
    from ex4d.diffusion.wan.files import EX4D_MODEL, all_models

    folder = _folder(arguments)
    for model in _chosen(arguments):
        if model is EX4D_MODEL:
            check_packages()
            from ex4d.diffusion.wan.converting import check_models

            for files in all_models(folder):
                print(files.config.parent)
                for part in check_models(files):
                    print(f"ok  {part.name}: {part.detail}")
        else:
            from ex4d.depth import check_estimator

            print(f"ok  {model.name}: {check_estimator(model.name, folder)}")
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
        files = convert_models(find_models(folder), folder, task, is_quantised=arguments.fp8)
    size_gb = sum(path.stat().st_size for path in files.all_paths()) / 1e9
    used = "used by the mode fast" if arguments.fp8 else "used"
    print(f"{files.config.parent}: {size_gb:.1f} GB, {used} from now on")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    from ex4d.weights.files import models_folder

    return arguments.folder or models_folder()


def _chosen(arguments: argparse.Namespace) -> "list[PublishedModel]":
    """The models that were named, or all.

    Raises:
        InputError: `model_unknown`.
    """
    from ex4d.depth.models import DEPTH_MODELS
    from ex4d.diffusion.wan.files import EX4D_MODEL
    from ex4d.errors import InputError

    known = {model.name: model for model in (EX4D_MODEL, *DEPTH_MODELS)}
    for name in arguments.models:
        if name not in known:
            msg = f"expected one of the models {', '.join(known)}, found {name}; choose one"
            raise InputError("model_unknown", msg)
    return [known[name] for name in arguments.models or known]
