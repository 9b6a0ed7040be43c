import dataclasses
import json

import pytest

from flexedit.errors import FlexEditError
from flexedit.models.config import MEAConfig, PartSource, SystemConfig, TextBridgeConfig
from flexedit.training.pretrain.shape import system_config
from flexedit.training.recipe import mini_recipe

MINI = mini_recipe().shape
CONFIG = system_config(MINI)


def changed(**changes: object) -> str:
    """The config's JSON with some settings replaced; a dotted name reaches into a section."""
    data = json.loads(CONFIG.to_json())
    for name, value in changes.items():
        *path, leaf = name.split("__")
        section = data
        for part in path:
            section = section[part]
        section[leaf] = value
    return json.dumps(data)


def test_a_config_survives_its_file():
    assert SystemConfig.from_json(CONFIG.to_json()) == CONFIG


def test_every_section_and_switch_survives_its_file():
    config = dataclasses.replace(
        CONFIG,
        bridge="text",
        text=TextBridgeConfig(MINI.clip_width, 24),
        qformer=None,
        lora=None,
        num_edit_tokens=0,
        mea=dataclasses.replace(CONFIG.mea, share_kv=True, residual=False, subject=False),
        sources={"clip": PartSource(repo="openai/clip", revision="abc"), "vae": PartSource("vae")},
        vae_input="clean",
        hidden_state="before",
        mark_alpha=1.0,
    )
    assert SystemConfig.from_json(config.to_json()) == config
    assert not config.has_vllm and config.context_length == 24


def test_whole_numbers_are_read_as_fractions_where_these_are_meant():
    config = SystemConfig.from_json(changed(sampling__edit_cfg=7))
    assert config.sampling.edit_cfg == 7.0 and isinstance(config.sampling.edit_cfg, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nonsense": 1}, "unknown setting nonsense"),
        ({"mea__depth": 2}, "mea: unknown setting depth"),
        ({"sources__vae__url": "x"}, "sources.vae: unknown setting url"),
        ({"num_edit_tokens": "32"}, "num_edit_tokens is '32'; expected int"),
        ({"num_edit_tokens": True}, "num_edit_tokens is True; expected int"),
        ({"mark_alpha": "0.5"}, "mark_alpha is '0.5'; expected float"),
        ({"mea__subject": 1}, "mea: subject is 1; expected bool"),
        ({"mea": 3}, "mea: expected an object, found 3"),
        ({"name": None}, "name is None; expected str"),
        ({"bridge": "bert"}, "bridge is 'bert'; choose one of qformer, text"),
        ({"diffusion__prediction_type": "x0"}, "diffusion: prediction_type is 'x0'; choose one of"),
        ({"unet": 5}, "unet is 5; expected an object"),
        ({"sources": ["vllm"]}, r"sources is \['vllm'\]; expected an object"),
        ({"sources__vae": "vae"}, "sources.vae: expected an object, found 'vae'"),
    ],
)
def test_a_setting_that_is_unknown_or_of_the_wrong_type_is_named(changes, message):
    with pytest.raises(FlexEditError, match=f"flexedit.json: {message}"):
        SystemConfig.from_json(changed(**changes))


def test_a_missing_setting_is_named():
    data = json.loads(CONFIG.to_json())
    del data["mea"]["clip_width"]
    with pytest.raises(FlexEditError, match="mea: missing setting clip_width"):
        SystemConfig.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul"])
def test_a_file_that_is_no_json_object_is_named(text):
    with pytest.raises(FlexEditError, match=r"chair/flexedit\.json"):
        SystemConfig.from_json(text, "chair/flexedit.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2; this version reads format 1"),
        ({"unet__in_channels": 4}, "in_channels=4 and out_channels=4; FlexEdit needs twice"),
        ({"unet__out_channels": 16}, "in_channels=8 and out_channels=16; FlexEdit needs twice"),
        ({"unet__out_channels": None}, "out_channels=None"),
        ({"qformer__width": 100}, "qformer.width is 100 but the UNet reads a context 128 wide"),
        ({"mea__width": 64}, "mea.width is 64 but the UNet reads a context 128 wide"),
        ({"mea__num_heads": 3}, "mea.width 128 cannot be shared by mea.num_heads 3"),
        ({"qformer__num_heads": 0}, "qformer.num_heads 0"),
        ({"num_edit_tokens": 0}, "num_edit_tokens ≥ 1"),
        ({"qformer": None}, "needs a 'qformer' section"),
        ({"lora": None}, "needs a 'lora' section"),
        ({"bridge": "text"}, "needs a 'text' section"),
        ({"mark_alpha": 0.0}, r"mark_alpha is 0\.0"),
        ({"mark_alpha": float("nan")}, "mark_alpha is nan"),
        ({"sources__vae": {}}, "either a 'folder' or a 'repo'"),
        ({"sources__vae": {"folder": "vae", "repo": "a/b"}}, "either a 'folder' or a 'repo'"),
        ({"sources__vae": {"repo": "a/b"}}, "'a/b' has no pinned 'revision'"),
        ({"sources__vae": {"folder": "../vae"}}, "'../vae' must lie inside"),
        ({"sources__vae": {"folder": "a/../../vae"}}, "must lie inside"),
        ({"sources__vae": {"folder": "/etc"}}, "'/etc' must lie inside"),
    ],
)
def test_settings_that_contradict_each_other_are_explained(changes, message):
    with pytest.raises(FlexEditError, match=message):
        SystemConfig.from_json(changed(**changes))


def test_a_config_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.mea.width = 3  # type: ignore[misc]


def test_the_adapter_starts_as_the_paper_describes_it():
    mea = MEAConfig(width=8, clip_width=8, num_heads=1)
    assert mea.cross_attention and mea.decoupled and mea.subject and not mea.share_kv
