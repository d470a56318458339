# SPDX-License-Identifier: GPL-3.0-or-later
"""The preferences: which server, where files go. Secrets are kept elsewhere (`runtime`)."""

from pathlib import Path

import bpy

from . import pie_menu, runtime
from ._vendor.client import Endpoint
from ._vendor.errors import InputError
from .connection import is_loopback


class EX4D_PG_server(bpy.types.PropertyGroup):
    """A server that knows this computer, by what identifies it to everybody."""

    # `name` comes with every PropertyGroup.
    host: bpy.props.StringProperty(name="Host", options=set())
    port: bpy.props.IntProperty(name="Port", min=1, max=65535, options=set())
    public_key: bpy.props.StringProperty(name="Server Key", options=set())


class EX4D_UL_servers(bpy.types.UIList):
    """The known servers."""

    def draw_item(
        self, _context, layout, _data, item, _icon, _active_data, _active_property
    ) -> None:
        """Draw the name, which can be edited, and the address."""
        layout.prop(item, "name", text="", emboss=False, icon="WORLD")
        layout.label(text=f"{item.host}:{item.port}")


class EX4D_AP_preferences(bpy.types.AddonPreferences):
    """Server and files."""

    bl_idname = __package__

    mode: bpy.props.EnumProperty(
        name="Server",
        description="Where scenes and takes are made",
        items=(
            ("LOCAL", "This Computer", "Start a server here; it ends together with Blender"),
            ("REMOTE", "Another Computer", "Use a server that somebody runs, over the network"),
        ),
        options=set(),
    )
    executable: bpy.props.StringProperty(
        name="ex4d Program",
        description="The ex4d program, installed on this computer, that runs the local server",
        subtype="FILE_PATH",
        options=set(),
    )
    start_on_connect: bpy.props.BoolProperty(
        name="Start on Connect",
        description="Start the local server when connecting, if it does not run",
        default=True,
        options=set(),
    )
    servers: bpy.props.CollectionProperty(type=EX4D_PG_server)
    active_server: bpy.props.IntProperty(
        name="Active Server", description="The server to connect to", options=set()
    )
    cache: bpy.props.StringProperty(
        name="Cache Folder",
        description=(
            "Where scenes and takes of files that were never saved go, and the log of the local "
            "server. Empty: a folder of the extension's own"
        ),
        subtype="DIR_PATH",
        options=set(),
    )

    def draw(self, _context: bpy.types.Context) -> None:
        """Draw what concerns the chosen kind of server, then identity and files."""
        layout = self.layout
        layout.use_property_split = True
        layout.row().prop(self, "mode", expand=True)
        if self.mode == "LOCAL":
            layout.prop(self, "executable")
            layout.prop(self, "start_on_connect")
        else:
            self._draw_servers(layout)
        layout.prop(self, "cache")
        row = layout.row()
        current = runtime.peek()
        key = (
            "made at the first connection"
            if current is None
            else current.connection.keys.public_key
        )
        row.label(text=f"Public key of this computer: {key}")
        row.operator("ex4d.copy_public_key", text="", icon="COPYDOWN")
        layout.operator("ex4d.open_folder", icon="FILE_FOLDER")
        pie_menu.draw_button(layout)

    def _draw_servers(self, layout: bpy.types.UILayout) -> None:
        row = layout.row()
        row.template_list("EX4D_UL_servers", "", self, "servers", self, "active_server", rows=3)
        buttons = row.column(align=True)
        buttons.operator("ex4d.pair_server", text="", icon="ADD")
        buttons.operator("ex4d.forget_server", text="", icon="REMOVE")
        server = self.server()
        if server is not None:
            layout.label(text=f"Key of {server.name}: {server.public_key}")
            if not is_loopback(server.host) and not bpy.app.online_access:
                layout.label(text=offline_reason(), icon="ERROR")

    def server(self) -> EX4D_PG_server | None:
        """The chosen remote server."""
        if 0 <= self.active_server < len(self.servers):
            return self.servers[self.active_server]
        return None

    def remember(self, endpoint: Endpoint) -> None:
        """Add a server that knows this computer, or find it, and choose it."""
        for index, server in enumerate(self.servers):
            if server.public_key == endpoint.server_public_key:
                self.active_server = index
                break
        else:
            server = self.servers.add()
            server.name = endpoint.host
            server.public_key = endpoint.server_public_key
            self.active_server = len(self.servers) - 1
        server.host = endpoint.host
        server.port = endpoint.port
        self.mode = "REMOTE"


def get(context: bpy.types.Context) -> EX4D_AP_preferences:
    """The preferences of this extension."""
    return context.preferences.addons[__package__].preferences


def offline_reason() -> str:
    """Why the network may not be used, and what to do."""
    if bpy.app.online_access_override:
        return "Blender was started in offline mode; start it without --offline-mode"
    return "Online access is off; turn it on in Preferences, System, Network"


def check_online(host: str) -> None:
    """Honour Blender's setting for everything beyond this computer.

    Raises:
        InputError: `online_access` with the reason.
    """
    if not is_loopback(host) and not bpy.app.online_access:
        raise InputError("online_access", offline_reason())


def executable_path(preferences: EX4D_AP_preferences) -> Path:
    """The chosen ex4d program.

    Raises:
        InputError: `server_executable` if none is chosen or it is not there.
    """
    path = Path(bpy.path.abspath(preferences.executable))
    if not preferences.executable or not path.is_file():
        message = (
            f"expected the ex4d program, found {preferences.executable or 'none chosen'}; choose "
            "it as Program, under Server or in the extension's preferences"
        )
        raise InputError("server_executable", message)
    return path


register, unregister = bpy.utils.register_classes_factory(
    (EX4D_PG_server, EX4D_UL_servers, EX4D_AP_preferences)
)
