import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from flexedit.model_folder import load_image_encoder, load_text_encoder
from flexedit.models.clip import ImageEncoder
from flexedit.models.preprocess import Preprocess
from tests.tiny import TINY


def test_every_token_of_a_picture_is_projected_as_clip_projects_the_pooled_one(tiny):
    encoder = load_image_encoder(tiny / "clip")
    clip = CLIPModel.from_pretrained(tiny / "clip").eval()
    pictures = torch.rand(2, 3, TINY.size, TINY.size)
    with torch.no_grad():
        seen = encoder(pictures)
        tokens = seen.projected
        pooled = clip.get_image_features(encoder.preprocess(pictures)).pooler_output
    assert tokens.shape == (2, 1 + (TINY.size // TINY.patch) ** 2, TINY.clip_width)
    torch.testing.assert_close(tokens[:, 0], pooled)
    assert not torch.allclose(tokens[:, 1], tokens[:, 2])
    patches = TINY.size // TINY.patch
    assert seen.grid == (patches, patches)
    assert seen.raw.shape == (2, patches**2, clip.config.vision_config.hidden_size)


LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
LARGE |= {"num_attention_heads": 16, "projection_dim": 768}
HUGE = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
HUGE |= {"num_attention_heads": 16, "projection_dim": 1024, "hidden_act": "gelu"}


@pytest.mark.parametrize(("sizes", "millions"), [(LARGE, 304), (HUGE, 632)], ids=["L", "H"])
def test_vit_l_and_vit_h_see_256_patches(sizes, millions):
    """In their own sizes, on the meta device: no weights"""
    with torch.device("meta"):
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, patch_size=14))
        encoder = ImageEncoder(model.vision_model, model.visual_projection, Preprocess(224))
        seen = encoder(torch.rand(1, 3, 480, 640))
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=1)
    assert seen.projected.shape == (1, 257, sizes["projection_dim"])
    assert seen.raw.shape == (1, 256, sizes["hidden_size"]) and seen.grid == (16, 16)


def test_a_scribble_in_the_corner_of_a_wide_picture_changes_what_clip_sees(tiny):
    encoder = load_image_encoder(tiny / "clip")
    picture = torch.rand(1, 3, 90, 160)
    marked = picture.clone()
    marked[..., -12:, -12:] = 1
    with torch.no_grad():
        assert (encoder(marked).projected - encoder(picture).projected).abs().amax() > 1e-2


def test_sentences_are_padded_to_the_full_length(tiny):
    encoder = load_text_encoder(tiny / "clip")
    clip = CLIPModel.from_pretrained(tiny / "clip").eval()
    texts = ["remove this", "remove this " * 50, ""]
    ids = AutoTokenizer.from_pretrained(tiny / "clip")(
        texts, padding="max_length", truncation=True, max_length=24, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        e = encoder(texts)
        expected = clip.text_model(input_ids=ids).last_hidden_state
    assert encoder.length == 24 and e.shape == (3, 24, TINY.clip_width)
    torch.testing.assert_close(e, expected)


def test_a_sentence_is_read_alike_alone_and_in_a_batch(tiny):
    encoder = load_text_encoder(tiny / "clip")
    with torch.no_grad():
        alone, beside = encoder(["remove this"]), encoder(["remove this", "add a dog there"])
    torch.testing.assert_close(alone, beside[:1])
    assert not torch.allclose(beside[0], beside[1])
