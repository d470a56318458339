# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures that hang before a camera for a while and are never part of a file.

All that is made here carries a mark, so that it is found and removed whatever undo, redo or a file
brings back. Nothing refers to Blender's data between two calls: undo would pull it away.
"""

import bpy

from . import camera
from ._vendor.errors import InputError

#: Custom property of our images: what the picture is of.
MARK = "ex4d_preview"
#: Custom property of cameras whose background images were switched on here.
SWITCHED = "ex4d_preview_switched"


def find(mark: str) -> bpy.types.Image | None:
    """The image with this mark, whatever its name is by now."""
    return next((image for image in bpy.data.images if image.get(MARK) == mark), None)


def hang(
    image: bpy.types.Image, camera_data: bpy.types.Camera, render: bpy.types.RenderSettings
) -> None:
    """Show an image through a camera, where `refusal` has nothing against it."""
    if refusal(camera_data) is not None:
        return
    if not camera_data.show_background_images:
        camera_data.show_background_images = True
        camera_data[SWITCHED] = True
    slot = camera_data.background_images.new()
    slot.image = image
    slot.alpha = 1.0
    # Behind, the scene itself would hide it.
    slot.display_depth = "FRONT"
    slot.frame_method = "FIT"
    slot.show_expanded = False
    width_px, height_px = image.size
    image.display_aspect = (render.pixel_aspect_x, render.pixel_aspect_y)
    slot.scale = fit_scale(camera_data, render, width_px, height_px)


def set_hidden(image: bpy.types.Image, value: bool) -> None:
    """Hide an image of ours that hangs somewhere, or show it again."""
    for camera_data in bpy.data.cameras:
        if camera_data.library is None:
            for slot in camera_data.background_images:
                if slot.image == image:
                    slot.show_background_image = not value


def refusal(camera_data: bpy.types.Camera) -> InputError | None:
    """Why no picture can hang before a camera without something else changing; None if one can."""
    if camera_data.library is not None or camera_data.override_library is not None:
        return linked(camera_data)
    others = [slot for slot in camera_data.background_images if not _is_ours(slot.image)]
    if not camera_data.show_background_images and any(
        slot.show_background_image for slot in others
    ):
        # The user has switched these off together; they would come into view.
        message = (
            f"expected the background images of {camera_data.name} to show, found them switched "
            "off; switch Background Images on in the camera's properties"
        )
        return InputError("backgrounds_off", message)
    return None


def linked(camera_data: bpy.types.Camera) -> InputError:
    """What to say of a camera whose changes would not be saved, or are not ours to make."""
    message = (
        f"expected a camera of this file, found {camera_data.name} of another, which is not "
        "changed; make it local"
    )
    return InputError("camera_linked", message)


def _is_ours(image: bpy.types.Image | None) -> bool:
    return image is not None and MARK in image


def fit_scale(
    camera_data: bpy.types.Camera,
    render: bpy.types.RenderSettings,
    width_px: int,
    height_px: int,
) -> float:
    """How much larger than fitted into the camera's frame a take lies right upon the scene.

    A take of another aspect than the render's sees less than the frame, or more.

    Args:
        camera_data: The camera of both.
        render: Size and pixel aspect of the frame.
        width_px: Of the take, or in the same proportion to its height.
        height_px: As above.
    """
    frame_width_px, frame_height_px = render.resolution_x, render.resolution_y
    view_width = width_px / camera.fitted_side_px(camera_data, render, width_px, height_px)
    frame_view_width = frame_width_px / camera.fitted_side_px(
        camera_data, render, frame_width_px, frame_height_px
    )
    # Of the frame's width, what the picture covers when it is fitted into the frame.
    fitted_width = min(1.0, width_px * frame_height_px / (height_px * frame_width_px))
    return view_width / frame_view_width / fitted_width


def remove(images: list[bpy.types.Image]) -> None:
    """Remove images of ours and what shows them."""
    if not images:
        return
    for camera_data in bpy.data.cameras:
        if camera_data.library is not None:
            continue
        slots = camera_data.background_images
        for slot in [slot for slot in slots if slot.image in images]:
            slots.remove(slot)
        if SWITCHED in camera_data and not any(slot.image and MARK in slot.image for slot in slots):
            del camera_data[SWITCHED]
            # Otherwise the user has added some in the meantime.
            if not any(slot.show_background_image for slot in slots):
                camera_data.show_background_images = False
    for image in images:
        bpy.data.images.remove(image)


def remove_all() -> None:
    """Leave nothing of any such picture in the open file."""
    remove([image for image in bpy.data.images if MARK in image and image.library is None])


def register() -> None:
    """Nothing to do before the first picture."""


def unregister() -> None:
    """Remove what is shown."""
    remove_all()
