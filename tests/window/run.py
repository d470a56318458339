"""Work in a real Blender window as an artist would, look at each step, and check it.

Needs a Blender program (4.2 or newer), the built extension for this platform, and Xvfb on the PATH
(`apt install xvfb`), which gives Blender a screen of its own; no card. Run with the Python that
`ex4d` is installed in:

    python tests/window/run.py --blender /path/to/blender --zip dist/*linux_x64.zip --output window

The folder then holds a picture of each step, `report.json` and what Blender printed. The exit code
is 0 if every step held, 1 if not. Under pytest: EX4D_BLENDER_WINDOW and EX4D_ADDON_ZIP name the two
files.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ex4d.bench.sample import SAMPLE_FOLDER
from ex4d.demo.play import paired_server

FOLDER = Path(__file__).parent
#: The smallest screen that artists commonly work at.
SIZE_PX = (1920, 1080)
TIMEOUT_S = 900.0
#: What Blender prints by itself; all else came from the extension.
BLENDERS_OWN = re.compile(
    r"""
    # What an operator reports to the user.
    Info:\ | \d\d:\d\d\.\d+\s+(operator|reports)\s+\|\s(?!Error|Warning)
    |
    # Said once after redo, of a sequence that the next redraw shows; why has not been found out.
    GPUTexture:\ Blender\ Texture\ Not\ Loaded!
    | \d\d:\d\d\.\d+\s+gpu.texture\s+\|\sERROR\ Failed\ to\ create\ GPU\ texture\ from\ Blender
    |
    # 5.2 says when and who.
    (\d\d:\d\d\.\d+\s+blend\s+\|\s)?
    (
        Blender\ (\d|quit) | Saved\ session\ recovery | Saved\ (as\ )?" | Read\ blend
        | Writing\ user(prefs|\ preferences)
    )
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Found:
    """What came of a run.

    Attributes:
        report: Of the steps: `steps` in seconds, `figures`, `problem`.
        printed: Lines that Blender does not print by itself.
        exit_code: Blender's.
    """

    report: dict
    printed: list[str]
    exit_code: int

    @property
    def problems(self) -> list[str]:
        """Why the run failed; empty if it did not."""
        found = [self.report["problem"]] if self.report["problem"] else []
        if self.exit_code:
            found.append(f"expected Blender to end well, found exit code {self.exit_code}")
        if self.printed:
            found.append(
                "expected nothing in Blender's console, found:\n" + "\n".join(self.printed)
            )
        return found


def run(blender: Path, addon: Path, output: Path, script: str = "artist.py") -> Found:
    """Start a screen, a server and Blender, and let a script work there.

    Args:
        blender: Blender's program.
        addon: The extension's zip.
        output: Folder for pictures and reports; made if it does not exist.
        script: Of this folder; runs inside Blender.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="ex4d-window-") as private,
        virtual_screen(Path(private)) as (display, screen_path),
        paired_server(Path(private)) as link,
    ):
        plan = {
            "addon": str(addon.resolve()),
            "clip": shutil.copy(SAMPLE_FOLDER / "source.mp4", Path(private, "Toy room.mp4")),
            "depth": shutil.copy(SAMPLE_FOLDER / "depth.npz", Path(private, "Toy depth.npz")),
            "link": link,
            "screen": str(screen_path),
            "output": str(output),
        }
        # Blender passes over a folder that is not there, and takes the user's own.
        resources = Path(private, "blender")
        resources.mkdir()
        plan_path = Path(private, "plan.json")
        plan_path.write_text(json.dumps(plan, default=str))
        # Two cores draw the window, and no card is asked for.
        environment = {
            **os.environ,
            "DISPLAY": display,
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "BLENDER_USER_RESOURCES": str(resources),
        }
        command = [str(blender), "--enable-event-simulate", "--window-geometry", "0", "0"]
        command += [
            *map(str, SIZE_PX),
            "--python-exit-code",
            "1",
            "--python",
            str(FOLDER / script),
            "--",
            str(plan_path),
        ]
        console = output / "blender.log"
        with console.open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                exit_code = process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                exit_code = process.wait()
    lines = console.read_text(errors="replace").splitlines()
    printed = [line for line in lines if line.strip() and not BLENDERS_OWN.match(line)]
    report_path = output / "report.json"
    if report_path.is_file():
        report = json.loads(report_path.read_text())
    else:
        report = {"problem": "expected a report of the steps, found none", "steps": {}}
    return Found(report, printed, exit_code)


@contextmanager
def virtual_screen(folder: Path) -> Iterator[tuple[str, Path]]:
    """A screen of its own; yields its display and the file that holds its picture."""
    screen = f"{SIZE_PX[0]}x{SIZE_PX[1]}x24"
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", screen, "-fbdir", str(folder)]
    process = subprocess.Popen(
        [*command, "-nolisten", "tcp", "-nocursor"], pass_fds=(writer,), stderr=subprocess.DEVNULL
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as lines:
            number = lines.readline().strip()
        if not number:
            raise RuntimeError("expected Xvfb to open a screen, found none; is it installed?")
        yield f":{number}", folder / "Xvfb_screen0"
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blender", type=Path, required=True, help="Blender's program")
    parser.add_argument("--zip", type=Path, required=True, help="the extension for this platform")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--script", default="artist.py", help="what happens (default: artist.py)")
    arguments = parser.parse_args()
    found = run(arguments.blender, arguments.zip, arguments.output, arguments.script)
    print(json.dumps(found.report, indent=2))
    for problem in found.problems:
        print(problem, file=sys.stderr)
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
