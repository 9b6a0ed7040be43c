import pytest

from flexedit.errors import FlexEditError
from flexedit.model_folder.upgrade import system_config
from flexedit.systems import PRESETS, preset

OWN = {"name": "mine", "sources": {"vae": {"folder": "vae"}}}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_whole_system_that_survives_its_file(name):
    config = preset(name, OWN)
    assert config.name == "mine" and config.bridge.width == 768
    assert system_config(config.to_json()) == config


def test_flexedit_has_an_adapter_and_a_vllm_and_instructpix2pix_has_neither():
    flexedit, pix2pix = (preset(name, OWN) for name in ("flexedit", "instructpix2pix"))
    assert flexedit.adapter.type == "mea" and flexedit.vllm.num_edit_tokens == 32
    assert pix2pix.adapter is pix2pix.vllm is None and pix2pix.bridge.type == "clip_text"


def test_settings_go_before_the_presets_own():
    config = preset("flexedit", OWN | {"adapter": {"share_kv": True}})
    assert config.adapter.share_kv and config.adapter.num_heads == 12


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sdxl", OWN, "no system 'sdxl'; choose one of flexedit, instructpix2pix"),
        ("flexedit", {}, "flexedit: missing setting name, sources"),
        ("flexedit", OWN | {"adapter": {"depth": 2}}, "flexedit: adapter: unknown setting depth"),
    ],
)
def test_a_system_that_is_unknown_or_does_not_fit_is_named(name, settings, message):
    with pytest.raises(FlexEditError, match=message):
        preset(name, settings)
