import dataclasses
import json

import pytest

from flexedit.errors import FlexEditError
from flexedit.model_folder.upgrade import system_config
from flexedit.models.adapters.mea import MEAConfig
from flexedit.training.pretrain.shape import system_config as mini_config
from flexedit.training.recipe import mini_recipe

MINI = mini_recipe().shape
CONFIG = mini_config(MINI)
TEXT_BRIDGE = {"type": "clip_text", "width": MINI.clip_width, "num_embeddings": 24}
FORMAT_1 = {
    "name": "old",
    "bridge": "qformer",
    "num_edit_tokens": 3,
    "hidden_state": "before",
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    "qformer": {
        "num_queries": 7,
        "width": 16,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_width": 32,
        "hidden_width": 24,
    },
    "mea": {"width": 16, "clip_width": 12, "num_heads": 2, "share_kv": True},
    "text": None,
    "interaction": None,
    "diffusion": {"prediction_type": "epsilon"},
    "unet": {"in_channels": 8, "out_channels": 4, "cross_attention_dim": 16},
    "sources": {"clip": {"repo": "openai/clip", "revision": "abc"}, "vae": {"folder": "vae"}},
    "vae_input": "clean",
    "format": 1,
}
BIM = {"type": "bim", "width": 128, "vision_width": 128, "channels": 64, "num_heads": 4}
IAA = {"type": "iaa", "width": 128, "clip_width": 128, "hidden_width": 160, "num_tokens": 4}
MAPPER = {
    "type": "edit_mapper", "num_embeddings": 24, "width": 128, "num_tokens": 32, "num_layers": 2,
    "hidden_width": 160, "inner_width": 128, "num_heads": 4, "intermediate_width": 256,
}  # fmt: skip


def changed(data: dict, **changes: object) -> str:
    """As JSON, with some settings replaced; a dotted name (``__``) reaches into a section."""
    data = json.loads(json.dumps(data))
    for name, value in changes.items():
        *path, leaf = name.split("__")
        section = data
        for part in path:
            section = section[part]
        section[leaf] = value
    return json.dumps(data)


# The file


def test_a_config_survives_its_file():
    assert system_config(CONFIG.to_json()) == CONFIG


def test_every_section_and_switch_survives_its_file():
    config = CONFIG.override(
        {
            "bridge": TEXT_BRIDGE,
            "vllm": None,
            "adapter": {"share_kv": True, "residual": False, "subject": False},
            "sources": {"clip": {"repo": "openai/clip", "revision": "abc"}},
            "vae_input": "clean",
            "mark_alpha": 1.0,
        }
    )
    assert system_config(config.to_json()) == config
    assert config.vllm is None and config.bridge.num_embeddings == 24


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul"])
def test_a_file_that_is_no_json_object_is_named(text):
    with pytest.raises(FlexEditError, match=r"chair/flexedit\.json"):
        system_config(text, "chair/flexedit.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nonsense": 1}, "unknown setting nonsense"),
        ({"adapter__depth": 2}, "adapter: unknown setting depth"),
        ({"vllm__num_edit_tokens": "32"}, "vllm: num_edit_tokens is '32'; expected int"),
        ({"adapter": 3}, "adapter is 3; expected an object"),
        (
            {"bridge__type": "bert"},
            "bridge: type is 'bert'; choose one of qformer, edit_mapper, clip_text",
        ),
        ({"vllm__type": "bert"}, "vllm: type is 'bert'"),
        ({"diffusion__prediction_type": "x0"}, "diffusion: prediction_type is 'x0'; choose one of"),
    ],
)
def test_a_setting_that_is_unknown_or_of_the_wrong_type_is_named(changes, message):
    with pytest.raises(FlexEditError, match=f"flexedit.json: {message}"):
        system_config(changed(CONFIG.to_dict(), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "format 3; this version reads formats 1 and 2"),
        ({"unet__in_channels": 4}, "in_channels=4 and out_channels=4; FlexEdit needs twice"),
        ({"unet__out_channels": 16}, "in_channels=8 and out_channels=16; FlexEdit needs twice"),
        ({"unet__out_channels": None}, "out_channels=None"),
        ({"bridge__width": 100}, "bridge.width is 100 but the UNet reads a context 128 wide"),
        ({"adapter__width": 64}, "adapter.width is 64 but the UNet reads a context 128 wide"),
        ({"unet__block_out_channels": None, "interaction": BIM}, "block_out_channels are None"),
        ({"interaction": BIM | {"channels": 7}}, "interaction.channels is 7, but the UNet"),
        (
            {"adapter": IAA | {"hidden_width": 9}},
            "adapter.hidden_width is 9, but bridge.",
        ),
        ({"bridge": MAPPER | {"num_tokens": 8}}, "num_tokens is 8, but vllm.num_edit_tokens is 32"),
        ({"vllm__edit_token": "<img>"}, "edit_token is '<img>'; it"),
        ({"adapter__num_heads": 3}, "adapter.width 128 cannot be shared by num_heads 3"),
        ({"bridge__num_heads": 0}, "cannot be shared by num_heads 0"),
        ({"vllm__num_edit_tokens": 0}, "num_edit_tokens ≥ 1"),
        ({"vllm": None}, "bridge 'qformer' reads a VLLM's hidden states, but vllm is null"),
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
        system_config(changed(CONFIG.to_dict(), **changes))


# Format 1


def test_a_file_of_format_1_is_read_as_one_of_today():
    config = system_config(json.dumps(FORMAT_1))
    bridge = FORMAT_1["qformer"] | {"num_embeddings": 7, "type": "qformer"}
    del bridge["num_queries"]
    vllm = {"type": "llava", "num_edit_tokens": 3, "hidden_state": "before"}
    expected = {"name": "old", "format": 2, "vae_input": "clean"} | {
        "vllm": vllm | {"lora": FORMAT_1["lora"]},
        "bridge": bridge,
        "adapter": FORMAT_1["mea"] | {"type": "mea"},
        **{name: FORMAT_1[name] for name in ("diffusion", "unet", "sources")},
    }
    assert config == system_config(json.dumps(expected))
    assert config.bridge.num_embeddings == 7 and config.adapter.share_kv


def test_a_format_1_file_without_a_vllm_reads_the_instruction():
    blind = {"cross_attention": False, "subject": False}
    text = {
        "bridge": "text",
        "text": {"width": 16, "num_tokens": 24},
        "mea": FORMAT_1["mea"] | blind,
        **dict.fromkeys(("qformer", "lora")),
        "num_edit_tokens": 0,
    }
    config = system_config(json.dumps(FORMAT_1 | text))
    assert config.vllm is None and config.adapter is None
    assert (config.bridge.type, config.bridge.num_embeddings) == ("clip_text", 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bridge": "bert"}, "bridge is 'bert'; choose one of qformer, text"),
        ({"bridge": {"type": "qformer"}}, "bridge is {'type': 'qformer'}; choose one of"),
        ({"bridge": "text"}, "text is None; a text bridge needs it"),
        ({"qformer": None}, "qformer is None; a qformer bridge needs it"),
        ({"lora": 3}, "lora is 3; a qformer bridge needs it"),
        ({"num_edit_tokens": "3"}, "num_edit_tokens is '3'; a qformer bridge needs it"),
        ({"mea__depth": 2}, "adapter: unknown setting depth"),
        ({"nonsense": 1}, "unknown setting nonsense"),
    ],
)
def test_what_is_wrong_with_a_file_of_format_1_is_named(changes, message):
    with pytest.raises(FlexEditError, match=f"old.json: {message}"):
        system_config(changed(FORMAT_1, **changes), "old.json")


# In Python


def test_a_section_is_overridden_setting_by_setting():
    config = CONFIG.override({"adapter": {"residual": False}, "vllm": {"lora": {"rank": 2}}})
    assert config.adapter == dataclasses.replace(CONFIG.adapter, residual=False)
    lora = dataclasses.replace(CONFIG.vllm.lora, rank=2)
    assert config.vllm == dataclasses.replace(CONFIG.vllm, lora=lora)


def test_unet_and_sources_are_replaced_as_a_whole():
    unet = {name: CONFIG.unet[name] for name in ("in_channels", "cross_attention_dim")}
    config = CONFIG.override({"unet": unet, "sources": {}})
    assert config.unet == unet and config.sources == {}


def test_a_part_of_another_type_keeps_the_sizes_that_its_neighbours_rely_on():
    config = CONFIG.override({"bridge": {"type": "clip_text"}})
    assert dataclasses.asdict(config.bridge) == TEXT_BRIDGE


def test_an_override_that_does_not_fit_names_the_system():
    with pytest.raises(FlexEditError, match=r"system 'flexedit-mini': adapter: unknown .* depth"):
        CONFIG.override({"adapter": {"depth": 2}})


def test_a_config_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.adapter.width = 3


def test_the_adapter_starts_as_the_paper_describes_it():
    mea = MEAConfig(width=8, clip_width=8, num_heads=1)
    assert mea.cross_attention and mea.decoupled and mea.subject and not mea.share_kv
