"""The extension comes and goes without a trace, and every panel draws in every state."""

import types

import pytest

pytestmark = pytest.mark.bpy


def traces():
    """Everything in Blender that an extension may leave behind."""
    import bpy

    handlers = {
        name: len(found)
        for name in dir(bpy.app.handlers)
        if isinstance(found := getattr(bpy.app.handlers, name), list)
    }
    owners = (bpy.types.Scene, bpy.types.Object, bpy.types.WindowManager)
    menus = [getattr(bpy.types, name) for name in dir(bpy.types) if "_MT_" in name]
    keymaps = {
        (config.name, keymap.name): len(keymap.keymap_items)
        for config in bpy.context.window_manager.keyconfigs
        for keymap in config.keymaps
    }
    return {
        "keymaps": keymaps,
        "types": set(dir(bpy.types)),
        "operators": set(dir(bpy.ops.ex4d)),
        "handlers": handlers,
        "properties": {p.identifier for owner in owners for p in owner.bl_rna.properties},
        "menu entries": sum(len(getattr(menu.draw, "_draw_funcs", [])) for menu in menus),
    }


def test_register_unregister_register_leaves_no_trace(addon, empty_file):
    registration = addon("registration")
    enabled = traces()
    addon("pump").wake()
    registration.unregister()
    disabled = traces()
    assert not addon("pump").is_running()
    registration.register()
    assert traces() == enabled
    registration.unregister()
    assert traces() == disabled
    registration.register()
    assert not [name for name in disabled["types"] if name.startswith("EX4D_")]
    assert not [name for name in disabled["properties"] if name.startswith("ex4d")]
    assert disabled["operators"] == set()
    assert enabled["keymaps"] == disabled["keymaps"], "no key is taken"


def test_failure_in_the_middle_registers_nothing(addon, empty_file, monkeypatch):
    registration = addon("registration")
    registration.unregister()
    before = traces()

    def fail():
        raise RuntimeError("no")

    broken = types.SimpleNamespace(register=fail, unregister=fail)
    with monkeypatch.context() as patch:
        patch.setattr(registration, "MODULES", (*registration.MODULES, broken))
        with pytest.raises(RuntimeError, match="no"):
            registration.register()
    assert traces() == before
    registration.register()


def test_every_operator_is_named_and_described(addon):
    import bpy

    names = dir(bpy.ops.ex4d)
    assert {"connect", "pair_server", "import_video", "import_scene", "generate"} <= set(names)
    for name in names:
        operator = getattr(bpy.ops.ex4d, name).get_rna_type()
        assert operator.identifier == f"EX4D_OT_{name}"
        assert operator.description, name
        assert not operator.description.endswith("."), name
        for prop in operator.properties:
            if prop.identifier != "rna_type" and not prop.is_hidden:
                assert prop.name, (name, prop.identifier)


def test_every_property_that_is_shown_has_a_tooltip(addon):
    import bpy

    missing = []
    groups = [getattr(bpy.types, name) for name in dir(bpy.types) if name.startswith("EX4D_PG_")]
    operators = [getattr(bpy.ops.ex4d, name).get_rna_type() for name in dir(bpy.ops.ex4d)]
    for rna in [group.bl_rna for group in groups] + operators:
        for prop in rna.properties:
            is_own = prop.identifier not in ("rna_type", "name") and not prop.is_hidden
            # Without a name of its own a property is shown nowhere.
            is_named = prop.name not in ("", prop.identifier)
            if is_own and is_named and not prop.description:
                missing.append((rna.identifier, prop.identifier))
    assert missing == []


class Layout:
    """Stands in for `UILayout`, which exists only while Blender draws: checks and remembers."""

    def __init__(self, words=None):
        self.words = [] if words is None else words

    def _sub(self, **_settings):
        return Layout(self.words)

    row = column = box = menu_pie = _sub

    def label(self, *, text="", icon="NONE", icon_value=0):
        assert icon in icons()
        assert icon_value >= 0
        self.words.append(text)

    def prop(self, data, name, **_settings):
        assert name in data.bl_rna.properties, name
        self.words.append(name)

    def operator(self, name, *, text=None, icon="NONE"):
        assert icon in icons()
        rna = getattr(__import__("bpy").ops, name.split(".")[0])
        properties = getattr(rna, name.split(".")[1]).get_rna_type().properties
        self.words.append(name if text is None else text)
        return Properties(properties)

    def operator_menu_enum(self, name, prop, *, icon="NONE"):
        self.operator(name, icon=icon)
        operator = getattr(__import__("bpy").ops.ex4d, name.partition(".")[2])
        assert operator.get_rna_type().properties[prop].type == "ENUM"

    def operator_enum(self, name, prop):
        self.operator_menu_enum(name, prop)

    def menu(self, name, *, text=None, icon="NONE"):
        assert hasattr(__import__("bpy").types, name), name
        assert icon in icons()
        self.words.append(name if text is None else text)

    def progress(self, *, factor, text):
        assert 0.0 <= factor <= 1.0
        self.words.append(text)

    def template_list(self, list_type, _id, data, name, active_data, active_name, *, rows):
        assert hasattr(__import__("bpy").types, list_type)
        assert name in data.bl_rna.properties
        assert active_name in active_data.bl_rna.properties
        assert rows > 0

    def template_icon(self, *, icon_value, scale):
        assert icon_value > 0
        assert scale > 0

    def separator(self, **_settings):
        pass


class Properties:
    """Refuses to set what the operator does not have."""

    def __init__(self, known):
        object.__setattr__(self, "known", {p.identifier for p in known})

    def __setattr__(self, name, value):
        assert name in self.known


def icons():
    import bpy

    return set(bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items.keys())


def draw(panel):
    """Draw a panel if it wants to be drawn and return its words."""
    import bpy

    if hasattr(panel, "poll") and not panel.poll(bpy.context):
        return []
    layout = Layout()
    names = [name for name in dir(panel) if name.startswith("_draw")]
    fake = types.SimpleNamespace(layout=layout)
    for name in names:
        setattr(fake, name, types.MethodType(getattr(panel, name), fake))
    panel.draw(fake, bpy.context)
    return layout.words


def panels(module):
    return [found for name, found in vars(module).items() if name.startswith("EX4D_PT_")]


def test_panels_of_a_fresh_blender_offer_to_connect(addon, empty_file):
    words = draw(addon("panels").EX4D_PT_connection)
    assert "Not connected" in words
    assert "ex4d.connect" in words
    assert "ex4d.disconnect" not in words
    for panel in panels(addon("panels")):
        draw(panel)
    assert addon("runtime").peek() is None, "drawing must not begin anything"


@pytest.mark.parametrize("state", ["CONNECTING", "PAIRING", "READY", "LOST", "REFUSED"])
def test_panels_show_every_state_and_its_reason(addon, empty_file, monkeypatch, state):
    connection = addon("connection")
    current = addon("runtime").get()
    reason = "expected a known key, found another; pair again"
    status = connection.Status(connection.LinkState[state], f"It is {state}", reason)
    monkeypatch.setattr(type(current.connection), "status", lambda _self: status)
    words = draw(addon("panels").EX4D_PT_connection)
    assert f"It is {state}" in words
    assert reason in " ".join(words)


def test_pie_menu_has_the_main_actions_and_a_button_that_takes_a_key(addon, empty_file):
    import bpy

    words = draw(addon("pie_menu").EX4D_MT_pie)
    wanted = {"Import Video", "ex4d.generate", "ex4d.check_coverage", "ex4d.next_take"}
    assert {*wanted, "Add Camera Move"} <= set(words)
    # More than eight do not fit.
    assert len(words) <= 8
    layout = Layout()
    addon("pie_menu").draw_button(layout)
    assert "Pie Menu" in layout.words
    assert {"EX4D_MT_pie", "EX4D_MT_add_move"} <= set(dir(bpy.types))


@pytest.mark.parametrize("mode", ["LOCAL", "REMOTE"])
def test_preferences_draw(addon, empty_file, mode):
    import bpy

    chosen = addon("preferences").get(bpy.context)
    chosen.remember(addon("_vendor.client").Endpoint("10.0.0.1", 5555, "s" * 40))
    chosen.mode = mode
    try:
        layout = Layout()
        cls = type(chosen)
        fake = types.SimpleNamespace(layout=layout)
        for name in ("mode", "bl_rna", "servers", "active_server"):
            setattr(fake, name, getattr(chosen, name))
        fake.server = chosen.server
        fake._draw_servers = lambda sub: cls._draw_servers(fake, sub)
        cls.draw(fake, bpy.context)
        assert "ex4d.copy_public_key" in layout.words or "" in layout.words
    finally:
        chosen.servers.clear()
        chosen.mode = "LOCAL"


def test_import_panel_lists_what_will_be_sent(addon, empty_file, tmp_path):
    import bpy

    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x" * 3_400_000)
    panel = bpy.context.window_manager.ex4d_import
    panel.clip = str(clip)
    panel.depth = str(tmp_path / "nothing.npz")
    words = " ".join(draw(addon("panels").EX4D_PT_shot))
    assert "clip.mp4, 3.4 MB" in words
    assert "choose another" in words
    # Asked for once: the panel for one more video comes with the first shot.
    assert draw(addon("panels").EX4D_PT_import) == []
