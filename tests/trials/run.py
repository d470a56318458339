"""Run trials of the server at full length and print what they measured.

    python tests/trials/run.py [NAME ...]

Names are those of the files beside this one; all of them where none is given. `test_trials.py` runs
the same, shorter. `docs/reliability.md` holds the figures.
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("killed_server", "sixteen_clients", "short_jobs", "long_clip", "fuzz")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trials of the server, at full length.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--count", type=int, help="instead of the full length")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"expected names among {', '.join(NAMES)}, found {', '.join(unknown)}")
    sys.path.insert(0, str(HERE.parent / "support"))
    for name in arguments.names or NAMES:
        trial = importlib.import_module(name)
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ex4d-trial-") as folder:
            figures = trial.run(Path(folder), arguments.count or trial.FULL)
        words = ", ".join(f"{what} {value:.4g}" for what, value in figures.items())
        print(f"{name}: {words} ({time.monotonic() - started_s:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
