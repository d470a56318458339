# SPDX-License-Identifier: GPL-3.0-or-later
"""The heartbeat: one timer that moves bytes, follows jobs and brings results in, in small slices.

Blender offers add-ons no threads. Everything that takes long is therefore cut into slices, and each
tick of the timer does as many as fit into its time.
"""

import logging
import time

import bpy
from bpy.app.handlers import persistent

from . import (
    camera_pictures,
    condition,
    coverage_result,
    imports,
    preferences,
    repainting,
    runtime,
    scene_jobs,
    thumbnails,
)
from ._vendor.client import ConnectionState
from .coverage import SLICE_S
from .redraw import redraw_views
from .runtime import Runtime

BUDGET_S = 0.008
#: Pauses between ticks: while bytes move or a scene is imported, while jobs run, and otherwise.
BUSY_S = 1 / 125
WAITING_S = 0.1
IDLE_S = 1.0

_log = logging.getLogger(__name__)


def tick() -> float | None:
    """Do what is due, for at most `BUDGET_S` beyond a single step.

    Returns:
        Seconds until the next tick is worth its while; None if nothing is left to wait for.
    """
    current = runtime.peek()
    if current is None:
        return None
    deadline_s = time.perf_counter() + BUDGET_S
    changed = current.connection.poll(BUDGET_S)
    paired = current.connection.take_paired()
    if paired is not None:
        preferences.get(bpy.context).remember(paired)
        bpy.context.preferences.is_dirty = True
    changed = current.jobs.advance(current.connection) or changed
    changed = current.sent.note(current.jobs) or changed
    if current.sizes.is_counting:
        changed = current.sizes.advance() or changed
    # A render reads the data that is written here.
    if is_rendering():
        current.condition.hide_old()
    else:
        if imports.advance(current.jobs, current.imports, deadline_s):
            changed = True
            # Importing a scene anew takes what was painted of it before.
            current.repainter.look()
        if changed:
            scene_jobs.store()
        current.previews.advance(current.jobs)
        changed = current.condition.advance(deadline_s) or changed
        changed = current.repainter.advance(deadline_s) or changed
        # Nobody waits for it as for a transfer: a slice must fit into what is left.
        while is_measuring(current) and time.perf_counter() < deadline_s - SLICE_S:
            changed = coverage_result.advance(current.coverage) or changed
    if changed:
        redraw()
    return _pause_s(current)


def wake() -> None:
    """Start the timer, or have it tick now."""
    stop()
    bpy.app.timers.register(_on_timer, first_interval=0.0, persistent=True)
    redraw()


def stop() -> None:
    """End the timer; `wake` starts it again."""
    if is_running():
        bpy.app.timers.unregister(_on_timer)


def is_running() -> bool:
    """Whether the timer is set."""
    return bpy.app.timers.is_registered(_on_timer)


def is_rendering() -> bool:
    """Whether a render works beside the user interface."""
    return bpy.app.is_job_running("RENDER")


def is_measuring(current: Runtime) -> bool:
    """Whether the coverage of a camera path is being measured."""
    return current.coverage is not None and not current.coverage.work.is_over


def redraw() -> None:
    """Have the sidebars of the 3D views drawn again."""
    redraw_views("UI")


def _pause_s(current: Runtime) -> float | None:
    client = current.connection.client
    is_working = imports.next_import(current.imports) is not None or is_measuring(current)
    is_working = is_working or current.sizes.is_counting or current.condition.is_drawing
    is_working = is_working or current.repainter.is_painting
    if is_working or current.jobs.is_transferring:
        return BUSY_S
    if condition.is_shown_anywhere():
        return WAITING_S
    if current.connection.is_idle:
        return None
    connecting = client is None or client.state not in (
        ConnectionState.READY,
        ConnectionState.REFUSED,
    )
    return WAITING_S if connecting or current.jobs.has_unfinished else IDLE_S


def _on_timer() -> float | None:
    """Call `tick` for Blender, which would drop a timer that raises.

    The one place where every error is caught: it is logged, and the next tick goes on.
    """
    try:
        return tick()
    except Exception:
        _log.exception("a tick failed")
        return IDLE_S


@persistent
def _on_load(_path: str) -> None:
    """Another file: what the last one waited for goes on at the server, its imports end here."""
    thumbnails.clear()
    # A file that Blender saved by itself may hold one.
    camera_pictures.remove_all()
    current = runtime.peek()
    if current is not None:
        current.imports.clear()
        current.coverage = None
        current.condition = condition.ConditionPlayer()
        current.repainter = repainting.Repainter()
    # To show it reads files and writes our own: not for a file that somebody else may have saved.
    condition.switch_off()
    if scene_jobs.restore() or current is not None:
        wake()


@persistent
def _before_save(_path: str) -> None:
    scene_jobs.store()
    # The next tick shows it again.
    camera_pictures.remove_all()


@persistent
def _after_save(_path: str) -> None:
    current = runtime.peek()
    if current is not None:
        current.jobs.drop_ended_records()


@persistent
def _around_undo(_scene: bpy.types.Scene) -> None:
    """Before a step, so that it leaves nothing half shown; after it, since it may bring some back.

    The next tick shows again what still runs.
    """
    camera_pictures.remove_all()
    current = runtime.peek()
    if current is None:
        # From before the file was opened.
        condition.switch_off()
        return
    # It may have changed a field of view, or asks for the condition after the pump has stopped.
    current.repainter.look()
    if not is_running():
        wake()


@persistent
def _on_frame(_scene: bpy.types.Scene, _depsgraph: bpy.types.Depsgraph | None = None) -> None:
    """At once, not at the next tick: in playback several frames pass until then."""
    current = runtime.peek()
    # In a render this is called from its own thread; the next tick does it.
    if current is not None and not is_rendering():
        current.condition.hide_old()


_HANDLERS = (
    (bpy.app.handlers.load_post, _on_load),
    (bpy.app.handlers.save_pre, _before_save),
    (bpy.app.handlers.save_post, _after_save),
    (bpy.app.handlers.undo_pre, _around_undo),
    (bpy.app.handlers.undo_post, _around_undo),
    (bpy.app.handlers.redo_pre, _around_undo),
    (bpy.app.handlers.redo_post, _around_undo),
    (bpy.app.handlers.frame_change_post, _on_frame),
)


def register() -> None:
    """Listen to loading, saving and undo; the timer starts with the first connection."""
    for handlers, handler in _HANDLERS:
        handlers.append(handler)


def unregister() -> None:
    """Stop the timer and listen no more."""
    stop()
    for handlers, handler in _HANDLERS:
        handlers.remove(handler)
