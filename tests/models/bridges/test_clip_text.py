import shutil

import pytest
import torch
from transformers import CLIPTextModel

from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder, load_text_encoder
from flexedit.model_folder.weights import make_portable, read_weights
from flexedit.models.bridges.clip_text import CLIPText
from flexedit.models.parts import Reading
from tests.tiny import INSTRUCT_PIX2PIX, TEXT_BRIDGE, TINY

SIZES = {"num_embeddings": TINY.text_length, "width": TINY.clip_width}


@pytest.fixture(scope="module")
def text(tiny):
    return load_text_encoder(tiny / "clip")


@torch.no_grad()
def test_the_text_encoder_of_a_diffusion_pipeline_reads_alike(tiny, tmp_path, text):
    """It lies alone, without CLIP's projection, under names of this or an older transformers."""
    for name, portable in (("as saved", False), ("portable", True)):
        CLIPTextModel.from_pretrained(tiny / "clip").save_pretrained(tmp_path / name)
        for file in (tiny / "clip").glob("tokenizer*.json"):
            shutil.copy(file, tmp_path / name)
        if portable:
            make_portable(tmp_path / name)
            names = read_weights(tmp_path / name)
            assert all(name.startswith("text_model.") for name in names)
        assert torch.equal(load_text_encoder(tmp_path / name)(("a", "b")), text(("a", "b")))


@torch.no_grad()
def test_the_embeddings_are_clips_of_the_instructions(text):
    texts = ("remove this", "make it red")
    bridge = CLIPText(CLIPText.Config(**SIZES), text)
    assert torch.equal(bridge(Reading(texts, ("x", "y"), (), None)).e, text(texts))


def test_only_the_null_edit_is_its_own(text):
    bridge = CLIPText(CLIPText.Config(**SIZES), text)
    assert set(bridge.checkpoint()) == {"null.edit"}
    edit = torch.randn(TINY.text_length, TINY.clip_width)
    bridge.load_checkpoint({"null.edit": edit})
    assert torch.equal(bridge.null(2).e, edit.expand(2, -1, -1))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_embeddings": 77}, "text length is 24, but bridge.num_embeddings .* is 77"),
        ({"width": 48}, "text width is 32, but bridge.width .* is 48"),
    ],
)
def test_a_clip_of_other_sizes_is_refused(sizes, message, tiny):
    config = ModelFolder(tiny).config
    bridge = TEXT_BRIDGE | SIZES | sizes
    unet = config.unet | {"cross_attention_dim": bridge["width"]}
    config = config.override(INSTRUCT_PIX2PIX | {"bridge": bridge, "unet": unet})
    with pytest.raises(FlexEditError, match=message):
        ModelFolder(tiny, config).load_bridge()
