# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators for the server: connect, pair, start, stop, and what belongs to it."""

import time
from collections.abc import Callable

import bpy

from . import paths, preferences, pump, runtime, scene_jobs
from ._vendor.client import Endpoint
from ._vendor.errors import Ex4dError, InputError
from ._vendor.protocol.link import parse_link
from .connection import LinkState
from .local_server import ServerState

CONNECT_TIMEOUT_S = 90.0


class OperatorBase(bpy.types.Operator):
    """What this extension's operators share: errors become reports that say what to do."""

    def reported(self, action: Callable[[], None]) -> set[str]:
        """Run the operator's work and report what the user can mend.

        Returns:
            What Blender wants to hear.
        """
        try:
            action()
        except Ex4dError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        return {"FINISHED"}


class StartOperator(OperatorBase):
    """What operators share that start something long: buttons start it, scripts also wait."""

    wait: bpy.props.BoolProperty(
        name="Wait",
        description="Return when it is over, not when it has begun: for scripts",
        default=True,
        options={"HIDDEN", "SKIP_SAVE"},
    )

    def start(self, context: bpy.types.Context) -> Callable[[], None]:
        """Start it; what is returned waits for the end of it."""
        raise NotImplementedError

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Start it; the panel shows how it goes."""
        self.wait = False
        return self.execute(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start it, and wait for the end where that is wanted."""
        return self.reported(lambda: self._execute(context))

    def _execute(self, context: bpy.types.Context) -> None:
        wait_for_end = self.start(context)
        pump.wake()
        if self.wait:
            wait_for_end()


def wait_until(is_over: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Tick until something happened: for scripts, which want results and have no timers.

    Raises:
        InputError: `timeout` if it did not happen in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not is_over():
        pause_s = pump.tick()
        if time.monotonic() > deadline_s:
            message = f"expected {what} within {timeout_s:.0f} s, found it not over; try again"
            raise InputError("timeout", message)
        # Short enough for full speed while bytes move, since each tick does 8 ms of work.
        time.sleep(0.001 if pause_s is not None and pause_s <= pump.BUSY_S else 0.01)


class EX4D_OT_connect(StartOperator):
    """Connect to the server that is chosen in the preferences"""

    bl_idname = "ex4d.connect"
    bl_label = "Connect"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only while there is no session."""
        current = runtime.peek()
        if current is not None and current.connection.client is not None:
            cls.poll_message_set("There is a connection already")
            return False
        chosen = preferences.get(context)
        if chosen.mode == "REMOTE":
            server = chosen.server()
            if server is None:
                cls.poll_message_set("No server is known: pair with one first")
                return False
        return True

    def start(self, context: bpy.types.Context) -> Callable[[], None]:
        """Begin to connect."""
        begin_connection(context)
        return wait_for_connection


def begin_connection(context: bpy.types.Context) -> None:
    """Connect as the preferences say, without waiting.

    Raises:
        InputError: If the preferences or Blender's settings do not allow it.
    """
    chosen = preferences.get(context)
    current = runtime.get()
    if chosen.mode == "LOCAL":
        server = current.connection.server
        runs = server is not None and server.state is ServerState.READY
        if not runs and not chosen.start_on_connect:
            message = "expected the local server to run, found it stopped; start it first"
            raise InputError("server_stopped", message)
        start_server(context, connect=True)
    else:
        server = chosen.server()
        if server is None:
            message = "expected a known server, found none; pair with one first"
            raise InputError("no_server", message)
        preferences.check_online(server.host)
        current.connection.connect(Endpoint(server.host, server.port, server.public_key))
    if not any(current.jobs):
        # The extension was enabled after the file was opened.
        scene_jobs.restore()


def start_server(context: bpy.types.Context, *, connect: bool) -> None:
    """Start the local server, unless it runs.

    Raises:
        InputError: `server_executable` if it cannot be started.
    """
    chosen = preferences.get(context)
    executable = preferences.executable_path(chosen)
    log_path = paths.cache_folder(chosen.cache) / "local_server.log"
    runtime.get().connection.start_server(executable, log_path, connect=connect)


def wait_for_connection() -> None:
    """Tick until the session is ready.

    Raises:
        Ex4dError: Why it did not become ready.
    """
    connection = runtime.get().connection
    failed = (LinkState.OFFLINE, LinkState.REFUSED)
    wait_until(
        lambda: connection.is_ready or connection.status().state in failed,
        CONNECT_TIMEOUT_S,
        "a connection",
    )
    if not connection.is_ready:
        raise InputError("not_connected", connection.status().advice or "There is no connection.")


class EX4D_OT_disconnect(bpy.types.Operator):
    """End the connection; jobs go on at the server and are found again"""

    bl_idname = "ex4d.disconnect"
    bl_label = "Disconnect"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Only while there is a session."""
        current = runtime.peek()
        if current is None or current.connection.client is None:
            cls.poll_message_set("There is no connection")
            return False
        return True

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Disconnect."""
        runtime.get().connection.disconnect()
        pump.wake()
        return {"FINISHED"}


class EX4D_OT_pair_server(StartOperator):
    """Make this computer known to a server, with the link that its owner gave you"""

    bl_idname = "ex4d.pair_server"
    bl_label = "Pair with Server"
    bl_options = {"REGISTER"}

    link: bpy.props.StringProperty(
        name="Link",
        description="The link that the server printed: ex4d://…; it works once",
        options={"SKIP_SAVE"},
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        """Offer the link in the clipboard, if there is one, for the user to confirm."""
        clipboard = context.window_manager.clipboard.strip()
        if not self.link and clipboard.startswith("ex4d://"):
            self.link = clipboard
        self.wait = False
        return context.window_manager.invoke_props_dialog(self, width=480)

    def draw(self, _context: bpy.types.Context) -> None:
        """Draw the link and what will happen."""
        layout = self.layout
        layout.prop(self, "link")
        layout.label(text="The server learns this computer's public key and its name.")

    def start(self, context: bpy.types.Context) -> Callable[[], None]:
        """Begin to pair."""
        link = parse_link(self.link)
        preferences.check_online(link.endpoint.host)
        runtime.get().connection.pair(link.endpoint, link.token)
        return wait_for_connection


class EX4D_OT_forget_server(bpy.types.Operator):
    """Remove the chosen server from the list; it keeps knowing this computer"""

    bl_idname = "ex4d.forget_server"
    bl_label = "Forget Server"
    bl_options = {"REGISTER", "INTERNAL"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where a server is chosen."""
        return preferences.get(context).server() is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Forget it."""
        chosen = preferences.get(context)
        chosen.servers.remove(chosen.active_server)
        chosen.active_server = max(0, chosen.active_server - 1)
        return {"FINISHED"}


class EX4D_OT_start_server(OperatorBase):
    """Start a server on this computer; it ends together with Blender"""

    bl_idname = "ex4d.start_server"
    bl_label = "Start Local Server"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where it does not run and a program is chosen."""
        if not preferences.get(context).executable:
            cls.poll_message_set(
                "Choose the ex4d program first, under Server or in the extension's preferences"
            )
            return False
        if _server_runs():
            cls.poll_message_set("The local server runs already")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Start it; the panel shows when it is ready."""
        result = self.reported(lambda: start_server(context, connect=False))
        pump.wake()
        return result


class EX4D_OT_stop_server(bpy.types.Operator):
    """Stop the server on this computer; its jobs go on when it is started again"""

    bl_idname = "ex4d.stop_server"
    bl_label = "Stop Local Server"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        """Only while it runs."""
        if not _server_runs():
            cls.poll_message_set("The local server does not run")
            return False
        return True

    def execute(self, _context: bpy.types.Context) -> set[str]:
        """Stop it."""
        runtime.get().connection.stop_server()
        pump.wake()
        return {"FINISHED"}


def _server_runs() -> bool:
    current = runtime.peek()
    server = None if current is None else current.connection.server
    return server is not None and server.state in (ServerState.STARTING, ServerState.READY)


class EX4D_OT_copy_public_key(OperatorBase):
    """Copy this computer's public key, for the owner of a server to authorise"""

    bl_idname = "ex4d.copy_public_key"
    bl_label = "Copy Public Key"
    bl_options = {"REGISTER"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Copy it."""
        return self.reported(lambda: self._copy(context))

    def _copy(self, context: bpy.types.Context) -> None:
        context.window_manager.clipboard = runtime.get().connection.keys.public_key


class EX4D_OT_open_folder(bpy.types.Operator):
    """Show the extension's cache folder in the system's file browser"""

    bl_idname = "ex4d.open_folder"
    bl_label = "Open Cache Folder"
    bl_options = {"REGISTER", "INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Open it."""
        folder = paths.cache_folder(preferences.get(context).cache)
        return bpy.ops.wm.path_open(filepath=str(folder))


register, unregister = bpy.utils.register_classes_factory(
    (
        EX4D_OT_connect,
        EX4D_OT_disconnect,
        EX4D_OT_pair_server,
        EX4D_OT_forget_server,
        EX4D_OT_start_server,
        EX4D_OT_stop_server,
        EX4D_OT_copy_public_key,
        EX4D_OT_open_folder,
    )
)
