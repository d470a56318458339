"""Scenes come in slice by slice; what goes wrong is told and blocks nothing."""

import types

import pytest

pytestmark = pytest.mark.bpy


@pytest.fixture
def start(addon, empty_file, tmp_path, monkeypatch):
    """Put an import that takes the given steps into the queue."""
    import bpy

    def start(steps, title="flower"):
        module = addon("imports")
        monkeypatch.setattr(module, "scene_import", types.SimpleNamespace(import_scene=steps))
        item = module.SceneImport(title, tmp_path, bpy.context.scene.session_uid)
        addon("runtime").get().imports.append(item)
        return item

    return start


def tick_until_idle(addon):
    for _ in range(100):
        if addon("imports").next_import(addon("runtime").get().imports) is None:
            return
        addon("pump").tick()
    pytest.fail("the import did not end")


def test_steps_are_spread_over_ticks(addon, start):
    import time

    def steps(_context, _folder, *, proxy_step):
        assert proxy_step == 2
        for index in range(5):
            time.sleep(0.01)
            yield index / 5

    item = start(steps)
    pump = addon("pump")
    assert pump.tick() == pump.BUSY_S
    assert 0.0 <= item.fraction < 1.0
    assert not item.is_done, "one step takes longer than a tick may"
    tick_until_idle(addon)
    assert item.is_done
    assert addon("runtime").get().imports == []


def test_failed_import_stays_visible_and_blocks_no_other(addon, start, tmp_path):
    import bpy

    def steps(_context, folder, *, proxy_step):
        yield 0.0
        if folder == tmp_path:
            raise addon("_vendor.errors").InputError("scene_invalid", "expected a scene")
        bpy.data.objects.new("second", None)

    first = start(steps)
    second = start(steps)
    second.folder = tmp_path / "second"
    tick_until_idle(addon)
    assert first.error.message == "expected a scene"
    assert second.is_done
    assert "second" in bpy.data.objects
    assert addon("runtime").get().imports == [first]
    bpy.ops.ex4d.cancel_job(request_id=first.request_id)
    assert addon("runtime").get().imports == []


def test_unforeseen_error_does_not_repeat(addon, start, caplog):
    def steps(_context, _folder, *, proxy_step):
        yield 0.0
        raise ZeroDivisionError

    item = start(steps)
    for _ in range(3):
        addon("pump")._on_timer()
    assert item.error.code == "internal_error"
    assert caplog.text.count("a tick failed") == 1


def test_cancelled_import_is_dropped(addon, start):
    import bpy

    ended = []

    def steps(_context, _folder, *, proxy_step):
        try:
            while True:
                yield 0.5
        finally:
            ended.append(True)

    item = start(steps)
    addon("imports").step(addon("runtime").get().jobs, addon("runtime").get().imports, item)
    bpy.ops.ex4d.cancel_job(request_id=item.request_id)
    item.steps.close()
    assert ended == [True]
    assert addon("runtime").get().imports == []


def test_nothing_is_edited_while_rendering(addon, start, monkeypatch):
    import bpy

    def steps(_context, _folder, *, proxy_step):
        pytest.fail("a render reads what this would change")
        yield 0.0

    item = start(steps)
    app = types.SimpleNamespace(is_job_running=lambda kind: kind == "RENDER", timers=bpy.app.timers)
    monkeypatch.setattr(addon("pump"), "bpy", types.SimpleNamespace(app=app, context=bpy.context))
    addon("pump").tick()
    assert item.steps is None


def test_deleted_scene_is_named(addon, start):
    item = start(lambda *_args, **_settings: iter(()))
    item.scene_uid = -1
    addon("pump").tick()
    assert item.error.code == "scene_gone"


def test_opening_a_file_ends_imports(addon, start):
    import bpy

    start(lambda *_args, **_settings: iter((0.1, 0.2)))
    bpy.ops.wm.read_homefile(use_empty=True)
    assert addon("runtime").get().imports == []


def test_folder_without_a_scene_is_refused(addon, empty_file, tmp_path):
    import bpy

    with pytest.raises(RuntimeError, match=r"scene\.json"):
        bpy.ops.ex4d.import_scene(directory=str(tmp_path))
