"""`ex4d bench`: measure this machine, each figure beside a bound measured in the same run."""

import argparse
from importlib import import_module
from pathlib import Path

_BENCHMARKS = {
    "raster": "DW-mesh build and rasterisation, against the memory traffic they cannot avoid",
    "geometry": "mask and colour against the truth of the rendered sample",
    "depth-quality": "mask and colour by true, degraded and refined depth of generated scenes",
    "preview": "the preview engine against the truth, against Telea inpainting and the clock",
    "generate": "the ex4d engine at full size, on random weights, against the card's own rates",
    "transfer": "a file to a server and back, against plain sockets, hashing and the disk",
    "load": "the transformer loaded from a converted file, against reading the file",
    "depth": "a depth estimator stage by stage, against plain matrix products",
}
#: Arguments of benchmarks that take any.
_OPTIONS = {
    "depth": (
        "estimator",
        "random_weights",
        "accept_research_licence",
        "size",
        "frames",
        "side_px",
    ),
    "load": ("folder", "blocks", "fp8", "quantise"),
    "generate": ("modes", "memory_cap_gib", "size", "frames", "steps", "preview", "cards"),
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench`."""
    parser = subparsers.add_parser("bench", help="measure this machine", description=__doc__)
    names = parser.add_subparsers(title="benchmarks", metavar="WHAT", required=True)
    for name, text in _BENCHMARKS.items():
        benchmark = names.add_parser(name, help=text, description=text)
        benchmark.set_defaults(run=run, benchmark=name)
        if name == "generate":
            _add_generate_arguments(benchmark)
        if name == "load":
            benchmark.add_argument("--folder", type=Path, help="where the file is written")
            benchmark.add_argument(
                "--blocks", type=int, default=40, help="0.7 GB each (default: %(default)s)"
            )
            types = benchmark.add_mutually_exclusive_group()
            types.add_argument(
                "--fp8", action="store_true", help="with large layers in 8 bits: 0.5 GB each"
            )
            types.add_argument(
                "--quantise", action="store_true", help="16 bits put into 8, as fast does"
            )
        if name == "depth":
            _add_depth_options(benchmark)


def _add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--random-weights",
        action="store_true",
        required=True,
        help="make the weights up: the only kind there is, said so that nobody is misled",
    )
    parser.add_argument(
        "--modes", nargs="+", choices=("exact", "fast", "draft"), default=["exact", "fast"]
    )
    parser.add_argument("--memory-cap-gib", type=float, metavar="N", help="hold the card to N GiB")
    parser.add_argument("--size", default="512x512", metavar="WxH", help="in pixels")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--preview", action="store_true", help="with the moving preview")
    parser.add_argument(
        "--cards", type=int, choices=(1, 2), default=1, help="2: one for each branch of guidance"
    )


def _add_depth_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--estimator",
        choices=("video-depth-anything", "depthcrafter"),
        default="video-depth-anything",
    )
    parser.add_argument(
        "--random-weights", action="store_true", help="of full size, instead of the published ones"
    )
    parser.add_argument("--accept-research-licence", action="store_true")
    parser.add_argument("--size", default="512x512", help="of the clip (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=49, help="default: %(default)s")
    parser.add_argument(
        "--side_px",
        type=int,
        default=518,
        help="shorter side of video-depth-anything's input (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run one benchmark; it prints its own table."""
    options = {name: getattr(arguments, name) for name in _OPTIONS.get(arguments.benchmark, ())}
    import_module(f"ex4d.bench.{arguments.benchmark.replace('-', '_')}").run(**options)
    return 0
