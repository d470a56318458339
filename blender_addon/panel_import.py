# SPDX-License-Identifier: GPL-3.0-or-later
"""How the options of a video are drawn, in the panel and in the dialogs. Drawing never works."""

import bpy

from . import import_settings, runtime
from .wording import draw_text


def draw_video(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Draw the video, its options, and the button that sends it."""
    options = context.window_manager.ex4d_import
    layout.use_property_split = True
    layout.use_property_decorate = False
    layout.prop(options, "clip")
    problem = draw_options(layout, context)
    row = layout.row()
    row.enabled = not problem
    row.operator("ex4d.import_video", icon="EXPORT")


def draw_options(layout: bpy.types.UILayout, context: bpy.types.Context) -> str:
    """Draw the options of a video.

    Returns:
        Why it cannot be sent as chosen, drawn already; empty where it can.
    """
    options = context.window_manager.ex4d_import
    layout.use_property_split = True
    layout.use_property_decorate = False
    layout.row().prop(options, "depth_source", expand=True)
    problem = ""
    if options.depth_source == "FILE":
        column = layout.column()
        column.prop(options, "depth")
        column.prop(options, "depth_kind")
    else:
        problem = _draw_estimator(layout, options)
    column = layout.column(align=True)
    column.prop(options, "first_frame")
    column.prop(options, "frame_count", text="Frames (0: All)")
    column.prop(options, "stride")
    column = layout.column()
    column.prop(options, "lens")
    if options.lens == "ANGLE":
        column.prop(options, "angle")
    elif options.lens == "PIXELS":
        column.prop(options, "focal_px")
    column.prop(options, "title")
    summaries = [options.clip_summary]
    if options.depth_source == "FILE":
        summaries.append(options.depth_summary)
    if any(summaries):
        box = layout.box().column(align=True)
        box.label(text="Sent to the server:", icon="EXPORT")
        for summary in summaries:
            draw_text(box, summary)
    return problem


def _draw_estimator(layout: bpy.types.UILayout, options: import_settings.EX4D_PG_import) -> str:
    column = layout.column()
    column.prop(options, "estimator")
    if options.estimator != import_settings.METRIC_ESTIMATOR:
        column.prop(options, "depth_range")
    current = runtime.peek()
    if current is None or not current.connection.is_ready:
        draw_text(layout, "Licenses show when connected to a server", icon="INFO")
        return ""
    for name in import_settings.needed_estimators(options):
        info = current.connection.estimator(name)
        if info is not None:
            draw_text(layout, f"License of {name}: {info.licence}", icon="INFO")
            if info.for_research_only:
                layout.prop(options, "accepts_research_licence")
        problem = current.connection.estimator_problem(name)
        needs_word = info is not None and info.for_research_only
        if not problem and needs_word and not options.accepts_research_licence:
            problem = "Its license must be accepted first"
        if problem:
            draw_text(layout, problem, icon="ERROR")
            return problem
    return ""
