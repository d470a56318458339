"""An artist's first hour in a real Blender window: from the zip to strips, and back by undo.

Run by `run.py` inside Blender. Every step checks what Blender holds, and the screen where its look
is sure, and leaves a picture.
"""

# Blender 4.5 renamed the classes of strips, so that annotations must not be evaluated.
from __future__ import annotations

import sys
from pathlib import Path

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from hands import SETTLE_S, Steps, Window, plan

PLAN = plan()
PACKAGE = "bl_ext.user_default.ex4d"
#: sRGB of the marks, as Blender shows them with the Standard view transform, and how far off a
#: screen's colour may be.
MARK_SRGB, MARK_TOLERANCE = np.array([204, 26, 140]), 12
CLIP_FRAMES = 49
FILE = str(Path(PLAN["output"]) / "window.blend")


def module(name: str):
    """A module of the installed extension."""
    return sys.modules[f"{PACKAGE}.{name}"]


def shot() -> bpy.types.Object | None:
    """The shot of the scene."""
    return bpy.context.scene.ex4d.shot


def strips() -> list[bpy.types.Strip]:
    """All strips of the scene; Blender 4.5 renamed the collection, which may be empty."""
    editor = bpy.context.scene.sequence_editor
    if editor is None:
        return []
    return list(editor.strips if hasattr(editor, "strips") else editor.sequences)


def takes() -> list[bpy.types.Strip]:
    """The strips that are takes, without their colour and mask."""
    return [strip for strip in strips() if "ex4d_take" in strip]


def marked_share(rgb: np.ndarray) -> float:
    """Share of the pixels that are painted as never seen."""
    return float((np.abs(rgb.astype(int) - MARK_SRGB).max(axis=-1) <= MARK_TOLERANCE).mean())


def unseen_share(take: bpy.types.Strip, frame: int) -> float:
    """Share of a take's frame that its mask leaves to be invented."""
    folder = Path(bpy.path.abspath(take.directory)).parent
    image = bpy.data.images.load(str(folder / "mask" / f"{frame:04d}.png"))
    pixels = np.empty(len(image.pixels), dtype=np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    return 1.0 - float(pixels[::4].mean())


def view_of(window: Window, rgb: np.ndarray) -> np.ndarray:
    """The middle of the 3D view, where no header, tool or sidebar lies over it."""
    view = window.crop(rgb, window.region())
    height_px, width_px = view.shape[:2]
    return view[height_px // 4 : height_px * 3 // 4, width_px // 4 : width_px * 3 // 5]


def paste(window: Window, wanted: str, text: str) -> Steps:
    """Paste a text into a field of the sidebar."""
    bpy.context.window_manager.clipboard = text
    yield from window.click(wanted)
    yield from window.key("A", ctrl=True)
    yield from window.key("V", ctrl=True)
    yield from window.key("RET")


def installs(window: Window) -> Steps:
    """The zip, as dropped on Blender's window and confirmed."""
    bpy.ops.extensions.package_install_files(
        filepath=PLAN["addon"], repo="user_default", enable_on_install=True
    )
    assert PACKAGE in bpy.context.preferences.addons
    yield SETTLE_S


def clears_the_scene(window: Window) -> Steps:
    """A and X over the 3D view: the default cube stands where the source camera comes."""
    yield from window.move_over()
    yield from window.key("A")
    yield from window.key("DEL")
    assert not bpy.context.scene.objects


def saves_as(window: Window) -> Steps:
    """Under a name: results lie beside the file from now on."""
    with window.over():
        bpy.ops.wm.save_as_mainfile(filepath=FILE)
    assert bpy.data.filepath == FILE
    yield SETTLE_S


def opens_the_sidebar(window: Window) -> Steps:
    """N, then the tab."""
    yield from window.move_over()
    yield from window.key("N")
    assert window.area("VIEW_3D").spaces.active.show_region_ui
    before = window.crop(window.picture("start"), window.region("UI"))
    window.region("UI").active_panel_category = "EX-4D"
    window.region("UI").tag_redraw()
    yield SETTLE_S
    after = window.crop(window.picture("1_installed"), window.region("UI"))
    assert (before != after).any(axis=-1).mean() > 0.02, "the tab shows nothing"


def pairs(window: Window) -> Steps:
    """Another Computer, the pairing button, Return: the link is taken from the clipboard."""
    preferences = bpy.context.preferences.addons[PACKAGE].preferences
    yield from window.find("ex4d.connect")
    # The switch of the two kinds of server has no name that Blender tells: it lies above.
    offset_px = 0
    while preferences.mode != "REMOTE" and offset_px < 90:
        offset_px += 15
        yield from window.find("ex4d.connect", at=0.7)
        yield from window.nudge(0, offset_px)
        yield from window.key("LEFTMOUSE")
        yield from window.key("ESC")
    assert preferences.mode == "REMOTE", "the switch to another computer was not found"
    bpy.context.window_manager.clipboard = PLAN["link"]
    yield from window.click("ex4d.pair_server")
    window.picture("2_pairing")
    yield from window.key("RET")
    yield from window.wait_for(lambda: module("runtime").get().connection.is_ready, "a connection")
    window.picture("2_paired")
    endpoint = module("_vendor.protocol.link").parse_link(PLAN["link"]).endpoint
    assert preferences.server().public_key == endpoint.server_public_key


def drops_a_video(window: Window) -> Steps:
    """What Blender calls for a file that is dropped on the view; refused, it waits in the panel."""
    yield from window.move_over()
    with window.over():
        bpy.ops.ex4d.choose_video("INVOKE_DEFAULT", filepath=PLAN["clip"])
    yield SETTLE_S
    window.picture("3_dropped")
    yield from window.key("ESC")
    assert bpy.context.window_manager.ex4d_import.clip == PLAN["clip"]
    assert not any(module("runtime").get().jobs)


def imports(window: Window) -> Steps:
    """Depth, pasted into its field beside the dropped video's; then Send and Import."""
    yield from paste(window, "ex4d_import.depth\n", PLAN["depth"])
    chosen = bpy.context.window_manager.ex4d_import
    assert (chosen.clip, chosen.depth) == (PLAN["clip"], PLAN["depth"])
    window.picture("3_video")
    yield from window.click("ex4d.import_video")
    yield from window.wait_for(lambda: module("runtime").get().imports, "an import")
    window.picture("3_importing")
    yield from window.wait_for(shot, "the shot", timeout_s=150.0)
    clip = shot().ex4d_shot
    assert (clip.frame_count, clip.width_px, clip.height_px) == (CLIP_FRAMES, 512, 512)
    assert {"Toy room Mesh", "Toy room Proxy", "Toy room Camera"} <= set(bpy.data.objects.keys())
    scene = bpy.context.scene
    assert (scene.frame_start, scene.frame_end) == (1, 250), "the import changed the scene's range"


def matches_the_scene(window: Window) -> Steps:
    """All that the dialog offers."""
    scene = bpy.context.scene
    yield from window.click("ex4d.match_scene")
    window.picture("3_matching")
    assert (scene.frame_start, scene.frame_end) == (1, 250), "asking changed something"
    yield from window.key("RET")
    yield SETTLE_S
    assert (scene.frame_start, scene.frame_end) == (1, CLIP_FRAMES)
    rgb = view_of(window, window.picture("3_matched"))
    # The source camera sees what it filmed: colours, and next to nothing unseen.
    assert rgb.astype(int).std() > 20, "the view shows no video"
    assert marked_share(rgb) < 0.05
    window.figure("marked share from the source camera", marked_share(rgb))


def switches_the_proxy(window: Window) -> Steps:
    """Its tick swaps the meshes of the view, not of renders; Ctrl + Z swaps them back."""
    clip = shot().ex4d_shot
    assert (clip.mesh.hide_viewport, clip.proxy.hide_viewport) == (False, True)
    yield from window.unfold("ex4d_shot.use_proxy", below="ex4d.match_scene")
    yield from window.click("ex4d_shot.use_proxy")
    assert (clip.mesh.hide_viewport, clip.proxy.hide_viewport) == (True, False)
    assert (clip.mesh.hide_render, clip.proxy.hide_render) == (False, True)
    rgb = view_of(window, window.picture("3_proxy"))
    assert rgb.astype(int).std() > 20, "the view shows no proxy"
    yield from window.move_over()
    yield from window.key("Z", ctrl=True)
    clip = shot().ex4d_shot
    assert not clip.use_proxy
    assert (clip.mesh.hide_viewport, clip.proxy.hide_viewport) == (False, True)
    yield from window.click_header(below="ex4d.match_scene")


def aims(window: Window) -> Steps:
    """An orbit, as chosen from the menu of moves, and a look at its middle."""
    scene, camera = bpy.context.scene, shot().ex4d_shot.camera
    with window.over("UI"):
        # True: with an undo step, as from the menu.
        bpy.ops.ex4d.add_move("INVOKE_DEFAULT", True, move="orbit_right")
    yield SETTLE_S
    assert camera.animation_data is not None
    scene.frame_set(CLIP_FRAMES)
    yield SETTLE_S
    rgb = view_of(window, window.picture("4_aimed"))
    assert marked_share(rgb) > 0.01, "the end of an orbit shows nothing unseen"
    window.figure("marked share at the end of the orbit", marked_share(rgb))


def undoes_and_redoes_the_move(window: Window) -> Steps:
    """Ctrl + Z and Ctrl + Shift + Z over the 3D view."""
    yield from window.move_over()
    yield from window.key("Z", ctrl=True)
    assert shot() is not None
    assert shot().ex4d_shot.camera.animation_data is None
    yield from window.key("Z", ctrl=True, shift=True)
    assert shot().ex4d_shot.camera.animation_data.action is not None


def checks_coverage(window: Window) -> Steps:
    """The button; then there are a curve and markers."""
    yield from window.click("ex4d.check_coverage")
    runtime = module("runtime")
    yield from window.wait_for(lambda: runtime.get().coverage.work.is_over, "the coverage", 120.0)
    window.picture("4_coverage")
    found = runtime.get().coverage.work.result
    assert len(found.unseen) == CLIP_FRAMES
    # The orbit begins at the source's own view.
    assert 2 * found.unseen[0] < max(found.unseen) < 0.6, found.unseen
    assert bpy.context.scene.timeline_markers
    window.figure("unseen at the worst frame", max(found.unseen))


def cancels_a_take(window: Window) -> Steps:
    """The X in the list of jobs, right after Generate; what ended leaves the list."""
    with window.over("UI"):
        bpy.ops.ex4d.generate("INVOKE_DEFAULT")
    yield from window.click("ex4d.cancel_job", at=0.84)
    (job,) = [job for job in module("runtime").get().jobs if job.record.title == "Toy room take"]
    yield from window.wait_for(lambda: job.stage.value == "cancelled", "the end of the job")
    window.picture("5_cancelled")
    assert not module("panels").EX4D_PT_jobs.poll(bpy.context)


def generates(window: Window) -> Steps:
    """The button; the strips appear by themselves."""
    yield from window.find("ex4d.generate()")
    before = window.crop(window.picture("5_before"), window.region("UI"))
    yield from window.key("LEFTMOUSE")
    assert "Toy room take" in [job.record.title for job in module("runtime").get().jobs]
    # Panels slide to their new places.
    yield SETTLE_S
    during = window.crop(window.picture("5_generating"), window.region("UI"))
    assert (before != during).any(axis=-1).mean() > 0.005, "the panel does not show the job"
    yield from window.wait_for(lambda: len(strips()) == 3, "the strips", 150.0)
    window.picture("5_made")
    (take,) = takes()
    assert [strip.mute for strip in strips()] == [False, True, True]
    assert len(take.elements) == CLIP_FRAMES
    told = module("runtime").get().coverage.work.result.unseen
    for frame in (1, CLIP_FRAMES // 2, CLIP_FRAMES):
        unseen = unseen_share(take, frame)
        window.figure(f"unseen in the take's frame {frame}", unseen)
        window.figure(f"unseen in frame {frame} as told before", told[frame - 1])


def fits_the_sidebar(window: Window) -> Steps:
    """From the server to the takes, all is seen at once at Blender's own scale."""
    assert bpy.context.preferences.view.ui_scale == 1.0
    scrolls = yield from window.scrolls()
    window.picture("5_sidebar")
    assert not scrolls, "the panels do not fit the height of the sidebar"


def shows_the_strips(window: Window) -> Steps:
    """A sequencer below the view, a preview at its side: swapped in, as an artist would."""
    view = window.area("VIEW_3D")
    side = window.area("PROPERTIES")
    side.ui_type = "SEQUENCE_EDITOR"
    side.spaces.active.view_type = "PREVIEW"
    # The tools would hide a part of the take.
    side.spaces.active.show_region_toolbar = False
    with window.over(area=view):
        bpy.ops.screen.area_split(direction="HORIZONTAL", factor=0.4)
    yield SETTLE_S
    views = [area for area in window.window.screen.areas if area.type == "VIEW_3D"]
    lower = min(views, key=lambda area: area.height)
    lower.ui_type = "SEQUENCE_EDITOR"
    lower.spaces.active.view_type = "SEQUENCER"
    yield SETTLE_S
    with window.over(area=window.area("SEQUENCE_EDITOR", "SEQUENCER")):
        bpy.ops.sequencer.view_all()
    with window.over("PREVIEW", window.area("SEQUENCE_EDITOR", "PREVIEW")):
        bpy.ops.sequencer.view_all_preview()
    bpy.context.scene.frame_set(36)
    yield 3 * SETTLE_S
    rgb = window.picture("5_strips")
    preview = window.crop(rgb, window.region("PREVIEW", window.area("SEQUENCE_EDITOR", "PREVIEW")))
    assert preview.astype(int).std() > 20, "the sequencer's preview shows no take"
    assert marked_share(preview) < 0.001, "the take shows what it should have filled"


def plays_the_strips(window: Window) -> Steps:
    """Space over the preview plays the take, Space again stops it."""
    area = window.area("SEQUENCE_EDITOR", "PREVIEW")
    region, scene = window.region("PREVIEW", area), bpy.context.scene
    yield from window.move_over("PREVIEW", area)
    before, start = window.crop(window.picture("5_still"), region), scene.frame_current
    yield from window.key("SPACE")
    assert window.window.screen.is_animation_playing
    yield from window.wait_for(lambda: scene.frame_current != start, "another frame")
    yield from window.key("SPACE")
    assert not window.window.screen.is_animation_playing
    yield SETTLE_S
    after = window.crop(window.picture("5_played"), region)
    assert (before != after).any(axis=-1).mean() > 0.01, "the take stands still"


def fills_the_window(window: Window) -> Steps:
    """Ctrl + Space over the 3D view, and back: the tab stays."""
    yield from window.move_over()
    narrow_px = window.region().width
    yield from window.key("SPACE", ctrl=True)
    assert window.region().width > narrow_px
    assert window.region("UI").active_panel_category == "EX-4D"
    yield SETTLE_S
    window.picture("5_full")
    yield from window.move_over()
    yield from window.key("SPACE", ctrl=True)
    assert window.region().width == narrow_px
    assert window.region("UI").active_panel_category == "EX-4D"


def makes_it_again(window: Window) -> Steps:
    """Generate Again, and the file is saved and opened anew meanwhile."""
    first = takes()[0].name
    yield from window.move_over()
    yield from window.key("S", ctrl=True)
    assert not bpy.data.is_dirty
    yield from window.click("ex4d.generate_again")
    assert bpy.data.is_dirty, "closed unsaved, the file would not find the job again"
    yield from window.move_over()
    yield from window.key("S", ctrl=True)
    assert not bpy.data.is_dirty
    with window.over():
        bpy.ops.wm.open_mainfile(filepath=FILE)
    yield SETTLE_S
    window.picture("6_reopened_meanwhile")
    window.figure("takes when the file was opened with a job under way", len(takes()))
    yield from window.wait_for(lambda: len(takes()) == 2, "a second take", 150.0)
    window.picture("6_again")
    assert first in [take.name for take in takes()]
    assert len(strips()) == 6
    folders = {bpy.path.abspath(take.directory) for take in takes()}
    assert len(folders) == 2


def looks_at_the_next_take(window: Window) -> Steps:
    """Next Take, Ctrl + Z, Ctrl + Shift + Z."""
    yield from window.click("ex4d.next_take")
    shown = [take.name for take in takes() if not take.mute]
    assert len(shown) == 1
    yield from window.click("ex4d.next_take")
    other = [take.name for take in takes() if not take.mute]
    assert len(other) == 1
    assert other != shown
    window.picture("6_next")
    yield from window.move_over()
    yield from window.key("Z", ctrl=True)
    assert [take.name for take in takes() if not take.mute] == shown
    yield from window.key("Z", ctrl=True, shift=True)
    assert [take.name for take in takes() if not take.mute] == other


def undoes_and_redoes_the_take(window: Window) -> Steps:
    """Back to before the second take's strips, and forward again: its files stay."""
    names = {strip.name for strip in strips()}
    for _ in range(3):
        yield from window.key("Z", ctrl=True)
    assert len(takes()) == 1, "three steps back there is one take"
    for _ in range(3):
        yield from window.key("Z", ctrl=True, shift=True)
    assert {strip.name for strip in strips()} == names
    for take in takes():
        assert (Path(bpy.path.abspath(take.directory)) / "0001.png").is_file()


def saves_and_reopens(window: Window) -> Steps:
    """The file holds all of it, and finds its files; the connection outlives the change of file."""
    names = {strip.name for strip in strips()}
    assert all(take.directory.startswith("//") for take in takes())
    yield from window.move_over()
    yield from window.key("S", ctrl=True)
    assert not bpy.data.is_dirty
    with window.over():
        bpy.ops.wm.open_mainfile(filepath=FILE)
    yield 3 * SETTLE_S
    assert bpy.data.filepath == FILE
    assert {strip.name for strip in strips()} == names
    clip = shot().ex4d_shot
    assert Path(clip.folder, "scene.json").is_file()
    assert module("runtime").get().connection.is_ready
    for object_ in (clip.mesh, clip.proxy):
        (cache,) = [item for item in object_.modifiers if item.type == "MESH_CACHE"]
        assert Path(bpy.path.abspath(cache.filepath)).is_file()
    rgb = window.picture("7_reopened")
    assert window.crop(rgb, window.region()).astype(int).std() > 10


if __name__ == "__main__":
    Window(Path(PLAN["screen"]), Path(PLAN["output"])).run(
        [
            installs,
            clears_the_scene,
            saves_as,
            opens_the_sidebar,
            pairs,
            drops_a_video,
            imports,
            matches_the_scene,
            switches_the_proxy,
            aims,
            undoes_and_redoes_the_move,
            checks_coverage,
            cancels_a_take,
            generates,
            fits_the_sidebar,
            shows_the_strips,
            plays_the_strips,
            fills_the_window,
            makes_it_again,
            looks_at_the_next_take,
            undoes_and_redoes_the_take,
            saves_and_reopens,
        ]
    )
