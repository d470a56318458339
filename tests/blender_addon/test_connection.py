"""Identity, preferences, sources and the online rule, inside Blender."""

import stat
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bpy


def preferences():
    import bpy

    return bpy.context.preferences.addons["bl_ext.user_default.ex4d"].preferences


def test_enabling_touches_no_socket_and_makes_no_identity(addon, empty_file):
    assert addon("runtime").peek() is None
    assert not addon("pump").is_running()


def test_identity_is_made_once_and_is_private(addon, empty_file):
    runtime = addon("runtime")
    first = runtime.get().connection.keys
    runtime.unregister()
    assert runtime.get().connection.keys == first
    if sys.platform != "win32":
        mode = (addon("paths").private_folder() / "identity.json").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


def test_damaged_identity_is_reported(addon, empty_file):
    import bpy

    path = addon("paths").private_folder() / "identity.json"
    path.write_text("{}")
    try:
        with pytest.raises(RuntimeError, match="delete the file"):
            bpy.ops.ex4d.connect()
    finally:
        path.unlink()


def test_secret_key_is_not_in_the_preferences(addon, empty_file):
    import bpy

    keys = addon("runtime").get().connection.keys
    bpy.ops.wm.save_userpref()
    saved = list(Path(bpy.utils.resource_path("USER")).rglob("userpref.blend"))
    assert saved
    assert all(keys.secret_key.encode() not in file.read_bytes() for file in saved)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("server.example", False),
        ("127.0.0.1.example", False),
    ],
)
def test_only_this_computer_needs_no_online_access(addon, host, is_loopback):
    assert addon("connection").is_loopback(host) is is_loopback


def test_remote_connection_honours_online_access(addon, empty_file):
    import bpy

    bpy.context.preferences.system.use_online_access = False
    chosen = preferences()
    chosen.remember(addon("_vendor.client").Endpoint("10.0.0.1", 5555, "s" * 40))
    try:
        with pytest.raises(RuntimeError, match="Online access is off"):
            bpy.ops.ex4d.connect()
        assert addon("runtime").get().connection.client is None
    finally:
        chosen.servers.clear()
        chosen.mode = "LOCAL"


def test_known_server_is_remembered_once(addon, empty_file):
    endpoint = addon("_vendor.client").Endpoint
    chosen = preferences()
    chosen.remember(endpoint("first", 1, "a" * 40))
    chosen.remember(endpoint("second", 2, "b" * 40))
    chosen.remember(endpoint("first.moved", 3, "a" * 40))
    try:
        assert [(server.host, server.port) for server in chosen.servers] == [
            ("first.moved", 3),
            ("second", 2),
        ]
        assert chosen.server().host == "first.moved"
    finally:
        chosen.servers.clear()
        chosen.mode = "LOCAL"


def test_missing_program_is_reported_with_the_remedy(addon, empty_file):
    import bpy

    preferences().executable = ""
    with pytest.raises(RuntimeError, match="preferences"):
        bpy.ops.ex4d.connect()


def test_single_file_gets_a_name_without_the_users(addon, tmp_path):
    path = tmp_path / "my secret holiday.MP4"
    path.write_bytes(b"12345")
    source = addon("sources").collect(path, "clip")
    assert source.files == {"clip/clip.mp4": path}
    assert source.first == "clip/clip.mp4"
    assert source.size_bytes == 5


def test_sequence_is_taken_from_its_first_image(addon, tmp_path):
    for number in (10, 9, 11):
        (tmp_path / f"shot_v2.{number}.png").write_bytes(b"x")
    (tmp_path / "shot_v3.0001.png").write_bytes(b"another")
    (tmp_path / "shot_v2.9.exr").write_bytes(b"another")
    source = addon("sources").collect(tmp_path / "shot_v2.10.png", "depth")
    assert [path.name for path in source.files.values()] == [
        "shot_v2.9.png",
        "shot_v2.10.png",
        "shot_v2.11.png",
    ]
    assert list(source.files) == sorted(source.files), "the server sorts by name"
    assert "3 files" in source.description


def test_missing_source_is_refused(addon, tmp_path):
    with pytest.raises(addon("_vendor.errors").InputError, match="choose another"):
        addon("sources").collect(tmp_path / "nothing.mp4", "clip")


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0.2, "1 s"), (42.4, "42 s"), (89, "89 s"), (120, "2 min"), (7200, "2 h")],
)
def test_durations_are_rounded_for_people(addon, duration_s, text):
    assert addon("wording").duration_text(duration_s) == text


def test_text_is_wrapped_and_nothing_is_lost(addon):
    text = (
        "expected a folder with scene.json, found none in /a/very/long/path/that/has/no/blank/x\nx"
    )
    lines = addon("wording").wrapped(text, 30)
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= 30 or " " not in line for line in lines)
