"""MGIE's conversion, held to its published formulas: written anew here, by its own names."""

import pytest
import torch
from torch import Tensor

from flexedit.convert.check import check_trained
from flexedit.convert.llava import EMBED, PROJECTOR, check_vllm, vllm_config, vllm_plan
from flexedit.convert.mgie import (
    LICENCE,
    check_rows,
    convert_mgie,
    finish,
    language_plan,
    trained_plan,
)
from flexedit.convert.released import system_config
from flexedit.convert.sources import Weights
from flexedit.models.parts import Reading
from flexedit.pipeline import FlexEditPipeline
from flexedit.request import EditRequest
from tests import released
from tests.formulas import heads, layer_norm, linear, llama_formula, near
from tests.released import FULL, MGIE, Sizes

WORDS = "make the dog on the left a red cat"


@pytest.fixture(scope="module", params=[True, False], ids=["with emb", "without emb"])
def converted(request, tmp_path_factory):
    """The release, and a pipeline of its conversion"""
    release = released.write_mgie(tmp_path_factory.mktemp("release"), request.param)
    out = tmp_path_factory.mktemp("models") / "mgie"
    convert_mgie(out, **release.options, settings=MGIE)
    return release, FlexEditPipeline.from_pretrained(out, "cpu")


def edit_head(weights: dict[str, Tensor], hidden: Tensor, emb: Tensor) -> Tensor:
    """A transformer with its norms before, 4 heads, ReLU: hidden + emb is read, queries ask"""
    mapper = "edit_head.mapper."

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(weights, mapper + name, x, 1e-5)

    def attend(name: str, query: Tensor, read: Tensor) -> Tensor:
        w, b = (weights[f"{mapper}{name}.in_proj_{one}"].chunk(3) for one in ("weight", "bias"))
        q, k, v = (x @ w[i].T + b[i] for i, x in enumerate((query, read, read)))
        return linear(weights, f"{mapper}{name}.out_proj", heads(q, k, v, 4))

    def feed(layer: str, x: Tensor) -> Tensor:
        inner = linear(weights, f"{mapper}{layer}.linear1", x).clamp(min=0)
        return linear(weights, f"{mapper}{layer}.linear2", inner)

    x = linear(weights, "edit_head.llm2hid", hidden + emb)
    for index in range(4):
        layer = f"encoder.layers.{index}"
        seen = norm(f"{layer}.norm1", x)
        x = x + attend(f"{layer}.self_attn", seen, seen)
        x = x + feed(layer, norm(f"{layer}.norm2", x))
    read = norm("encoder.norm", x)
    x = weights["edit_head.query"].expand(len(hidden), -1, -1)
    for index in range(4):
        layer = f"decoder.layers.{index}"
        seen = norm(f"{layer}.norm1", x)
        x = x + attend(f"{layer}.self_attn", seen, seen)
        x = x + attend(f"{layer}.multihead_attn", norm(f"{layer}.norm2", x), read)
        x = x + feed(layer, norm(f"{layer}.norm3", x))
    return linear(weights, "edit_head.hid2feat", norm("decoder.norm", x))


@torch.no_grad()
def test_its_edit_head_and_null_are_the_published_transformers(converted):
    release, pipeline = converted
    mllm = release.tensors["mllm.pt"]
    emb = mllm.get("emb", mllm[EMBED][-8:])
    hidden = torch.randn(2, 8, Sizes.llm, generator=torch.Generator().manual_seed(7))
    near(pipeline.bridge(Reading((), (), (), hidden)).e, edit_head(mllm, hidden, emb))
    near(pipeline.bridge.null(1).e, edit_head(mllm, torch.zeros(1, 8, Sizes.llm), emb))


@torch.no_grad()
def test_its_states_are_those_that_say_the_tokens(converted):
    """The one before [IMG0], and of all tokens but the last; llava's layers, MGIE's embeddings."""
    release, pipeline = converted
    vllm, request = pipeline.vllm, EditRequest.create(torch.rand(1, 3, 20, 48), WORDS)
    pictures = vllm.pictures(request.scene, None, (False,))
    pixels, texts = pictures.inputs["pixel_values"], request.prompts(form=vllm.prompt)
    ids = vllm.tokenize(texts, pictures, [""]).input_ids[0]
    llava, pieces = release.tensors["llava"], Sizes.num_pieces
    x = release.tensors["mllm.pt"][EMBED][ids]
    tower = vllm.model.model.vision_tower
    patches = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    x[ids == pieces] = linear(llava, "model.mm_projector", patches[0])
    weights = {name.removeprefix("model."): tensor for name, tensor in llava.items()}
    wanted = llama_formula(weights, x, Sizes.heads, lora=False)[-9:-1]
    near(vllm.direct(texts, pictures)[0], wanted)


def test_its_tokens_are_where_it_trained_them(converted):
    vllm = converted[1].vllm
    names = ["<image>", "<im_start>", "<im_end>", "[IMG0]", "[IMG7]"]
    first = Sizes.num_pieces
    assert vllm.tokenizer.convert_tokens_to_ids(names) == [first + n for n in (0, 1, 2, 3, 10)]
    assert vllm.config.image_token_index == first


def test_it_speaks_first_and_edits(converted):
    pipeline = converted[1]
    request = EditRequest.create(torch.rand(1, 3, 40, 64), WORDS)
    result = pipeline(request, num_steps=1)
    assert pipeline.config.sampling.reply == "generate" and result.replies != ("",)
    assert result.picture.shape == (1, 3, 40, 64) and result.picture.isfinite().all()
    assert "CC-BY-NC" in pipeline.config.licences["its own weights"]


@pytest.mark.parametrize("with_emb", [True, False])
def test_every_official_name_and_shape_has_its_place(with_emb, tmp_path):
    make, language = released.on_meta, released.FullLLaVA(FULL)
    mllm = Weights.of(released.mgie_mllm(FULL, make, with_emb), "mllm.pt")
    unet = Weights.of(released.full_unet("mgie"), "unet.pt")
    check_rows(mllm, language)
    trained = trained_plan(mllm, unet, 32000)
    config = system_config("mgie", "full", LICENCE, 4096, {})
    clip = released.full_clip(tmp_path)
    whole = vllm_config(language, tmp_path, 32011, 32000)
    check_trained(config, trained, whole.text_config, "full")
    weight, bias = map(language.planned, PROJECTOR)
    plan = vllm_plan(language_plan(mllm, language), (weight, bias), clip)
    check_vllm(whole, plan, tmp_path)
    finish(mllm, unet, language)
