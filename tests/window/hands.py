"""Eyes and hands in a real Blender window: find buttons, click, type, look. Runs inside Blender.

What waits for Blender is a generator that yields seconds: Blender draws and handles events between
two steps. Needs `--enable-event-simulate`; a person's mouse is ignored then.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path

import bpy
import numpy as np
import screen

Steps = Generator[float, None, None]
#: Drawn in software on two cores, a click shows after this.
SETTLE_S = 1.0
_EVENT_S = 0.06
#: Buttons are 20 pixels high.
_SWEEP_PX = 9
#: From the middle of a button to that of the header below it.
_HEADER_PX = 32


class Window:
    """The only window, on a screen of its own size.

    Args:
        screen_path: File that Xvfb keeps the screen's picture in.
        output: Folder that pictures and `report.json` are written to.
    """

    def __init__(self, screen_path: Path, output: Path) -> None:
        self._screen_path = screen_path
        self._output = output
        self._started_s = time.monotonic()
        self._mouse = (0, 0)
        self.report: dict[str, object] = {
            "blender": bpy.app.version_string,
            "steps": {},
            "figures": {},
            "problem": "",
        }

    # What is there

    @property
    def window(self) -> bpy.types.Window:
        """Blender's."""
        return bpy.context.window_manager.windows[0]

    def area(self, kind: str, view_type: str | None = None) -> bpy.types.Area:
        """The largest area of a kind; for a sequencer also of what it shows."""
        found = [
            area
            for area in self.window.screen.areas
            if area.type == kind
            and (view_type is None or area.spaces.active.view_type == view_type)
        ]
        assert found, f"expected an area of the kind {kind}, found none"
        return max(found, key=lambda area: area.width * area.height)

    def region(self, kind: str = "WINDOW", area: bpy.types.Area | None = None) -> bpy.types.Region:
        """A region, of the 3D view where no other area is given."""
        area = area or self.area("VIEW_3D")
        return next(region for region in area.regions if region.type == kind)

    def over(self, kind: str = "WINDOW", area: bpy.types.Area | None = None):
        """The context that an operator finds whose button or key is pressed over a region."""
        area = area or self.area("VIEW_3D")
        return bpy.context.temp_override(
            window=self.window, screen=self.window.screen, area=area, region=self.region(kind, area)
        )

    # Hands

    def move(self, x: int, y: int) -> Steps:
        """Move the mouse; (0, 0) is the window's lower left corner."""
        self._mouse = (x, y)
        self.window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)
        yield _EVENT_S

    def nudge(self, right: int, up: int) -> Steps:
        """Move the mouse a little."""
        yield from self.move(self._mouse[0] + right, self._mouse[1] + up)

    def move_over(self, kind: str = "WINDOW", area: bpy.types.Area | None = None) -> Steps:
        """Move the mouse into the middle of a region."""
        region = self.region(kind, area)
        yield from self.move(region.x + region.width // 2, region.y + region.height // 2)

    def key(self, kind: str, text: str = "", **modifiers: bool) -> Steps:
        """Press and release a key or a mouse button where the mouse is."""
        x, y = self._mouse
        for value in ("PRESS", "RELEASE"):
            extra = {"unicode": text} if text and value == "PRESS" else {}
            self.window.event_simulate(type=kind, value=value, x=x, y=y, **extra, **modifiers)
            yield _EVENT_S
        yield SETTLE_S

    def find(self, wanted: str, kind: str = "UI", at: float = 0.5) -> Steps:
        """Move the mouse down a region until it is over a button; scrolls on to its end.

        Args:
            wanted: What Ctrl + C copies over the button: part of an operator's Python command, or
                of a property's path.
            kind: Of the 3D view's region.
            at: Where across the region the button is hit, 0 to 1.
        """
        region = self.region(kind)
        x = region.x + round(region.width * at)
        yield from self.move(x, region.y + region.height // 2)
        for _ in range(8):
            yield from self._wheel("WHEELUPMOUSE")
        seen: list[str] = []
        for _ in range(4):
            for y in range(region.y + region.height - 8, region.y + 4, -_SWEEP_PX):
                yield from self.move(x, y)
                # A line of its own, so that the end of a property's path can be told.
                text = f"{self._under_mouse(kind)}\n"
                if wanted in text and (yield from self._stays(wanted, kind)):
                    return
                if text.strip() not in ("", *seen):
                    seen.append(text.strip())
            for _ in range(8):
                yield from self._wheel("WHEELDOWNMOUSE")
        raise AssertionError(f"expected a button for {wanted}, found only {seen}")

    def click(self, wanted: str, kind: str = "UI", at: float = 0.5) -> Steps:
        """Click on the button that `find` finds."""
        yield from self.find(wanted, kind, at)
        yield from self.key("LEFTMOUSE")

    def scrolls(self, kind: str = "UI") -> Generator[float, None, bool]:
        """Whether a region holds more than it shows, which the wheel then moves."""
        region = self.region(kind)
        # Over the topmost header: an empty part would leave the wheel to the view behind it.
        yield from self.move(region.x + region.width // 2, region.y + region.height - 12)
        shown = []
        for turn in ("WHEELUPMOUSE", "WHEELDOWNMOUSE"):
            for _ in range(8):
                yield from self._wheel(turn)
            yield SETTLE_S
            shown.append(self.crop(screen.read(self._screen_path), region))
        return bool((shown[0] != shown[1]).any())

    def unfold(self, wanted: str, below: str) -> Steps:
        """Open the folded panel that holds a button, by its header below another button."""
        try:
            yield from self.find(wanted)
        except AssertionError:
            yield from self.click_header(below)

    def click_header(self, below: str) -> Steps:
        """Open or close the panel whose header is below a button."""
        yield from self.find(below)
        yield from self.nudge(0, -_HEADER_PX)
        yield from self.key("LEFTMOUSE")

    def _stays(self, wanted: str, kind: str) -> Generator[float, None, bool]:
        """Whether the button is under the mouse, and not the one that was before it scrolled."""
        yield from self.nudge(1, 0)
        yield 4 * _EVENT_S
        return wanted in f"{self._under_mouse(kind)}\n"

    def _wheel(self, kind: str) -> Steps:
        x, y = self._mouse
        self.window.event_simulate(type=kind, value="PRESS", x=x, y=y)
        yield _EVENT_S

    def _under_mouse(self, kind: str) -> str:
        manager = bpy.context.window_manager
        kept = manager.clipboard
        try:
            with self.over(kind):
                for copy in (
                    bpy.ops.ui.copy_python_command_button,
                    bpy.ops.ui.copy_data_path_button,
                ):
                    if copy.poll():
                        copy()
                        return manager.clipboard
        finally:
            manager.clipboard = kept
        return ""

    # Eyes

    def picture(self, name: str) -> np.ndarray:
        """Write what the screen shows: (height, width, 3) uint8."""
        rgb = screen.read(self._screen_path)
        screen.write_png(self._output / f"{name}.png", rgb)
        return rgb

    def crop(self, rgb: np.ndarray, region: bpy.types.Region) -> np.ndarray:
        """The part of a picture that shows a region."""
        bottom = rgb.shape[0] - region.y
        return rgb[bottom - region.height : bottom, region.x : region.x + region.width]

    def wait_for(self, is_true: Callable[[], object], what: str, timeout_s: float = 90.0) -> Steps:
        """Wait until something holds, as an artist would, watching."""
        deadline_s = time.monotonic() + timeout_s
        while not is_true():
            assert time.monotonic() < deadline_s, f"expected {what} within {timeout_s:.0f} s"
            yield 0.2
        yield SETTLE_S

    def figure(self, name: str, value: float) -> None:
        """Note a number."""
        self.report["figures"][name] = round(value, 4)

    def run(self, steps: list[Callable[["Window"], Steps]]) -> None:
        """Run steps one after the other, then write `report.json` and end Blender."""
        # It would take the first click.
        bpy.context.preferences.view.show_splash = False
        bpy.app.timers.register(_Runner(self, steps).tick, first_interval=1.5, persistent=True)

    def finish(self) -> None:
        """Write what was found and end Blender."""
        self.report["seconds"] = round(time.monotonic() - self._started_s, 1)
        path = self._output / "report.json"
        path.write_text(json.dumps(self.report, indent=2))
        bpy.ops.wm.quit_blender()


class _Runner:
    """Takes one step of a list of generator functions at each tick of Blender's timer."""

    def __init__(self, window: Window, steps: list[Callable[[Window], Steps]]) -> None:
        self._window = window
        self._steps = list(steps)
        self._current: Steps | None = None
        self._began_s = 0.0

    def tick(self) -> float | None:
        """Go on; None once all is over."""
        try:
            return self._advance()
        except Exception:
            # Whatever goes wrong must end Blender and show, or the run would hang.
            name = self._steps[0].__name__ if self._steps else "the end"
            self._window.report["problem"] = f"{name}: {traceback.format_exc()}"
            self._window.report["mouse"] = self._window._mouse
            self._window.picture("problem")
            self._window.finish()
            return None

    def _advance(self) -> float | None:
        if not self._steps:
            self._window.finish()
            return None
        if self._current is None:
            self._current = self._steps[0](self._window)
            self._began_s = time.monotonic()
        try:
            return next(self._current)
        except StopIteration:
            name = self._steps.pop(0).__name__
            seconds = time.monotonic() - self._began_s
            self._window.report["steps"][name] = round(seconds, 1)
            self._current = None
            return 0.1


def plan() -> dict:
    """What `run.py` wants: the JSON file behind `--`."""
    return json.loads(Path(sys.argv[-1]).read_text())
