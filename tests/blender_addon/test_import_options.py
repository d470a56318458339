"""A video, where its depth comes from, and what the server is told of it."""

import types

import pytest
from test_registration import draw

pytestmark = pytest.mark.bpy


@pytest.fixture
def options(addon, empty_file, tmp_path):
    """The panel, with a video chosen and depth to be estimated."""
    import bpy

    panel = bpy.context.window_manager.ex4d_import
    for name in ("clip", *addon("import_settings").OPTION_NAMES):
        panel.property_unset(name)
    clip = tmp_path / "beach.mp4"
    clip.write_bytes(b"not looked into")
    panel.clip = str(clip)
    panel.depth_source = "ESTIMATOR"
    yield panel
    for name in ("clip", *addon("import_settings").OPTION_NAMES):
        panel.property_unset(name)


@pytest.fixture
def connected(addon, options, monkeypatch):
    """A session with a server that has two estimators and lacks the weights of the third."""
    messages = addon("_vendor.protocol.messages")
    estimators = tuple(
        messages.EstimatorInfo(
            name=name,
            available=not reason,
            reason=reason,
            licence=licence,
            for_research_only=name == "depthcrafter",
        )
        for name, reason, licence in (
            ("video-depth-anything", "", "Apache-2.0"),
            ("video-depth-anything-metric", "run `ex4d models download`", "Apache-2.0"),
            ("depthcrafter", "", "academic use only"),
        )
    )
    connection = addon("runtime").get().connection
    client = types.SimpleNamespace(
        state=addon("_vendor.client").ConnectionState.READY,
        problem=None,
        welcome=types.SimpleNamespace(estimators=estimators, engines=(), user="anna"),
        endpoint=types.SimpleNamespace(server_public_key="key", host="render"),
        poll=lambda _budget_s: False,
        close=lambda: None,
    )
    monkeypatch.setattr(connection, "client", client)
    return client


def record(addon, options):
    import bpy

    return addon("ops_import").video_record(bpy.context, options.clip, options)


def test_job_without_a_depth_file_names_the_estimator(addon, options, connected):
    options.first_frame, options.frame_count, options.stride = 4, 20, 2
    options.depth_range = "min_max"
    request = record(addon, options).request
    assert (request.depth, request.estimator) == (None, "video-depth-anything")
    assert request.depth_range == "min_max"
    assert (request.first_frame, request.frame_count, request.stride) == (4, 20, 2)
    assert request.focal_px is None
    assert not request.accepts_research_licence


def test_depth_file_names_no_estimator(addon, options, connected, tmp_path):
    (tmp_path / "depth.npz").write_bytes(b"")
    options.depth_source, options.depth = "FILE", str(tmp_path / "depth.npz")
    options.accepts_research_licence = True
    options.lens, options.focal_px = "PIXELS", 700.0
    request = record(addon, options).request
    assert (request.depth, request.estimator) == ("depth/depth.npz", None)
    assert not request.accepts_research_licence
    assert request.focal_px == 700.0


@pytest.mark.parametrize(
    ("chosen", "code", "words"),
    [
        ({"estimator": "video-depth-anything-metric"}, "estimator_unavailable", "models download"),
        ({"depth_range": "calibrated"}, "estimator_unavailable", "models download"),
        ({"estimator": "depthcrafter"}, "licence_not_accepted", "academic use only"),
        ({"depth_source": "FILE"}, "source_missing", "let the server estimate"),
    ],
    ids=["weights", "calibrated needs metric", "research licence", "no file"],
)
def test_what_cannot_be_done_is_said(addon, options, connected, chosen, code, words):
    for name, value in chosen.items():
        setattr(options, name, value)
    with pytest.raises(addon("_vendor.errors").InputError, match=words) as caught:
        record(addon, options)
    assert caught.value.code == code


def test_research_licence_is_accepted_by_its_tick(addon, options, connected):
    options.estimator, options.accepts_research_licence = "depthcrafter", True
    request = record(addon, options).request
    assert request.estimator == "depthcrafter"
    assert request.accepts_research_licence


def test_older_server_is_known_to_lack_estimators(addon, options, connected):
    connected.welcome.estimators = ()
    with pytest.raises(addon("_vendor.errors").InputError, match="choose a depth file"):
        record(addon, options)


def test_panel_shows_the_licence_before_anything_runs(addon, options, connected):
    words = " ".join(draw(addon("panels").EX4D_PT_shot))
    assert "Apache-2.0" in words
    assert "accepts_research_licence" not in words
    options.estimator = "depthcrafter"
    words = " ".join(draw(addon("panels").EX4D_PT_shot))
    assert "academic use only" in words
    assert "must be accepted" in words


def test_chosen_video_waits_in_the_panel_without_a_connection(addon, options, tmp_path):
    import bpy

    other = tmp_path / "other.mp4"
    other.write_bytes(b"x")
    assert bpy.ops.ex4d.choose_video(filepath=str(other)) == {"FINISHED"}
    assert options.clip == str(other)
    assert not any(addon("runtime").get().jobs)


def test_chosen_video_is_sent_with_the_options_of_the_panel(addon, options, connected, tmp_path):
    import bpy

    other = tmp_path / "other.mp4"
    other.write_bytes(b"x")
    assert not bpy.data.is_saved
    result = bpy.ops.ex4d.choose_video(filepath=str(other), wait=False)
    assert result == {"FINISHED"}
    (job,) = addon("runtime").get().jobs
    assert job.record.request.estimator == "video-depth-anything"
    assert job.record.sources == {"clip/clip.mp4": str(other)}


def test_videos_can_be_dropped_on_the_3d_view(addon, empty_file):
    import bpy

    handler = bpy.types.EX4D_FH_video
    assert handler.bl_import_operator == "ex4d.choose_video"
    assert ".mp4" in handler.bl_file_extensions.split(";")
    for kind, taken in (("VIEW_3D", True), ("TEXT_EDITOR", False)):
        context = types.SimpleNamespace(area=types.SimpleNamespace(type=kind))
        assert handler.poll_drop(context) is taken


def test_operator_with_the_same_options_has_no_summary(addon, options):
    # In a window Blender calls this with the operator's bare properties, which have no methods.
    operator = types.SimpleNamespace(depth="depth.npz")
    addon("import_settings")._describe(operator, None)
    assert vars(operator) == {"depth": "depth.npz"}


def test_another_estimators_licence_is_not_accepted_yet(options):
    options.estimator = "depthcrafter"
    options.accepts_research_licence = True
    options.estimator = "video-depth-anything"
    assert not options.accepts_research_licence
