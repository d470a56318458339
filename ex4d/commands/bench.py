"""`ex4d bench`: measure this machine, each figure beside a bound measured in the same run."""

import argparse
from importlib import import_module

_BENCHMARKS = {
    "raster": "DW-mesh build and rasterisation, against the memory traffic they cannot avoid",
    "geometry": "mask and colour against the truth of the rendered sample",
    "preview": "the preview engine against the truth, against Telea inpainting and the clock",
    "transfer": "a file to a server and back, against plain sockets, hashing and the disk",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench`."""
    parser = subparsers.add_parser("bench", help="measure this machine", description=__doc__)
    names = parser.add_subparsers(title="benchmarks", metavar="WHAT", required=True)
    for name, text in _BENCHMARKS.items():
        benchmark = names.add_parser(name, help=text, description=text)
        benchmark.set_defaults(run=run, benchmark=name)


def run(arguments: argparse.Namespace) -> int:
    """Run one benchmark; it prints its own table."""
    import_module(f"ex4d.bench.{arguments.benchmark}").run()
    return 0
