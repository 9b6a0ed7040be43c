"""SmartEdit's conversion, held to its published formulas: written anew here, by its own names."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModel

from flexedit.convert.check import check_trained
from flexedit.convert.llava import check_vllm, vllm_config, vllm_plan
from flexedit.convert.smartedit import (
    check_rows,
    convert_smartedit,
    finish,
    language_plan,
    projector,
    system_config,
    trained_plan,
)
from flexedit.convert.sources import Weights
from flexedit.convert.writing import Planned
from flexedit.model_folder import ModelFolder
from flexedit.models.diffusion.conditioning import Conditioning
from flexedit.models.parts import PictureTokens, Reading
from flexedit.pipeline import FlexEditPipeline
from flexedit.request import EditRequest
from tests import released
from tests.formulas import heads, layer_norm, linear, llama_formula, near
from tests.released import FULL, FULL_13B, SMARTEDIT, Sizes

WORDS = "make the dog on the left a red cat"
LLM = "LLM-15000/adapter_model.bin"
QFORMER = "embeddings_qformer/checkpoint-15000_embeddings_qformer.bin"
BIM = "modulate-15000/adapter_model.bin"
UNET = "unet-15000/adapter_model.bin"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return released.write_smartedit(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def pipeline(release, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "smartedit"
    convert_smartedit(out, **release.options, settings=SMARTEDIT)
    return FlexEditPipeline.from_pretrained(out, "cpu")


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


# --- the formulas ---


def bert_formula(weights: dict[str, Tensor], hidden: Tensor) -> Tensor:
    """BLIP-2's Q-Former on hidden states (B, N, D_llm): 12 heads, GELU, norms after"""
    former = "sd_qformer."
    x = weights["sd_query_tokens"].expand(len(hidden), -1, -1)
    x = layer_norm(weights, f"{former}embeddings.LayerNorm", x, 1e-12)
    for index in range(6):
        layer = f"{former}encoder.layer.{index}."
        for name in ("attention", "crossattention"):
            if name == "crossattention" and index % 2:
                continue
            read = x if name == "attention" else hidden
            q, k, v = (
                linear(weights, f"{layer}{name}.self.{one}", x if one == "query" else read)
                for one in ("query", "key", "value")
            )
            seen = linear(weights, f"{layer}{name}.output.dense", heads(q, k, v, 12))
            x = layer_norm(weights, f"{layer}{name}.output.LayerNorm", x + seen, 1e-12)
        inner = linear(weights, f"{layer}intermediate_query.dense", x)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        inner = linear(weights, f"{layer}output_query.dense", inner)
        x = layer_norm(weights, f"{layer}output_query.LayerNorm", x + inner, 1e-12)
    return x


def bim_formula(
    weights: dict[str, Tensor], q: Tensor, picture: Tensor, side: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Segment Anything's two-way transformer on q (B, Q, D) and patches (B, P, V)"""

    def attend(name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        pairs = zip("qkv", (query, key, value), strict=True)
        q, k, v = (linear(weights, f"{name}.{one}_proj", x) for one, x in pairs)
        return linear(weights, f"{name}.out_proj", heads(q, k, v, 8))

    centres = (torch.arange(side) + 0.5) / side
    x, y = centres.repeat(side), centres.repeat_interleave(side)
    place = torch.stack([2 * x - 1, 2 * y - 1], -1)
    angles = 2 * math.pi * place @ weights["pe_layer.positional_encoding_gaussian_matrix"]
    pe = torch.cat([angles.sin(), angles.cos()], -1)
    first = tokens = linear(weights, "modulate_head", q)
    for index in range(2):
        layer = f"modulate_transformer.layers.{index}."
        if index == 0:
            tokens = attend(f"{layer}self_attn", tokens, tokens, tokens)
        else:
            asked = tokens + first
            tokens = tokens + attend(f"{layer}self_attn", asked, asked, tokens)
        tokens = layer_norm(weights, f"{layer}norm1", tokens, 1e-5)
        name = f"{layer}cross_attn_token_to_image"
        tokens = tokens + attend(name, tokens + first, picture + pe, picture)
        tokens = layer_norm(weights, f"{layer}norm2", tokens, 1e-5)
        inner = linear(weights, f"{layer}mlp.lin1", tokens).clamp(min=0)
        tokens = tokens + linear(weights, f"{layer}mlp.lin2", inner)
        tokens = layer_norm(weights, f"{layer}norm3", tokens, 1e-5)
        name = f"{layer}cross_attn_image_to_token"
        picture = picture + attend(name, picture + pe, tokens + first, tokens)
        picture = layer_norm(weights, f"{layer}norm4", picture, 1e-5)
    name = "modulate_transformer.final_attn_token_to_image"
    tokens = tokens + attend(name, tokens + first, picture + pe, picture)
    tokens = layer_norm(weights, "modulate_transformer.norm_final_attn", tokens, 1e-5)
    seen = picture.mT.unflatten(-1, (side, side))
    seen = F.interpolate(seen, size, mode="bilinear", align_corners=False)
    kernel = weights["dimension_reduction_head_zeroconv.weight"]
    residual = F.conv2d(seen, kernel, weights["dimension_reduction_head_zeroconv.bias"])
    return q + 0.5 * linear(weights, "dimension_reduction_head_qformer_out", tokens), residual


# --- the converted parts ---


@torch.no_grad()
def test_its_language_model_is_lora_on_its_own_and_llavas_rows(pipeline, release):
    vllm, request = pipeline.vllm, EditRequest.create(torch.rand(1, 3, 20, 48), WORDS)
    pictures = vllm.pictures(request.scene, None, (False,))
    pixels = pictures.inputs["pixel_values"]
    tower = CLIPVisionModel.from_pretrained(release.options["clip"])
    squashed = F.interpolate(request.scene, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (vllm.preprocess.mean, vllm.preprocess.std))
    torch.testing.assert_close(pixels, (squashed - mean) / std)
    patches = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    picture = linear(release.tensors[QFORMER], "mm_projector", patches[0])

    llm = {n.removeprefix("model.base_model.model."): t for n, t in release.tensors[LLM].items()}
    llava = release.tensors["llava"]["model.embed_tokens.weight"]
    pieces = Sizes.num_pieces
    embed = torch.cat([llava[:pieces], llm["embed_tokens.weight"][pieces:]])
    texts = request.prompts(form=vllm.prompt)
    reading = vllm.tokenize(texts, pictures, [vllm.prompt.reply])
    ids = reading.input_ids[0]
    is_picture = ids == pieces + 35
    assert is_picture.sum() == len(picture)
    x = embed[ids.where(~is_picture, 0)]
    x[is_picture] = picture
    wanted = llama_formula(llm, x, Sizes.heads, lora=True)[-32:]
    near(vllm.direct(texts, pictures)[0], wanted)


def test_its_ids_are_those_it_was_trained_with(pipeline):
    tokenizer = pipeline.vllm.tokenizer
    names = ["<img>", "<im_start>", "<im_end>", "<img_0>", "<img_31>"]
    first = Sizes.num_pieces
    assert tokenizer.convert_tokens_to_ids(names) == [first + n for n in (0, 1, 2, 3, 34)]
    assert pipeline.vllm.edit_ids == list(range(first + 3, first + 35))


@torch.no_grad()
def test_its_qformer_is_berts(pipeline, release):
    hidden = draw(2, 32, Sizes.llm)
    found = pipeline.bridge(Reading((), (), (), hidden)).e
    near(found, bert_formula(release.tensors[QFORMER], hidden))


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_its_bim_is_the_two_way_transformer(size, pipeline, release):
    q, patches = draw(2, 5, Sizes.context), draw(2, 16, Sizes.vision)
    scene = PictureTokens(patches, patches, (4, 4), "squashed")
    found, residual = pipeline.interaction(q, scene, size)
    wanted, seen = bim_formula(release.tensors[BIM], q, patches, 4, size)
    near(found, wanted)
    near(residual, seen)


@torch.no_grad()
def test_its_unet_is_diffusers_own(pipeline, release):
    unet = UNet2DConditionModel(**released.UNET)
    tensors = {n.removeprefix("unet."): t for n, t in release.tensors[UNET].items()}
    unet.load_state_dict(tensors)
    noisy, scene, context = draw(2, 4, 8, 8), draw(2, 4, 8, 8) + 1, draw(2, 6, Sizes.context)
    wanted = unet(torch.cat([noisy, scene], 1), 7, context).sample
    found = pipeline.unet(
        noisy, torch.tensor([7, 7]), Conditioning(context, None, torch.zeros(2), scene)
    )
    near(found, wanted)


@torch.no_grad()
def test_the_null_edit_is_clips_text_of_nothing(pipeline):
    near(pipeline.bridge.null_edit, pipeline.folder.load_text()([""])[0])


def test_it_edits_and_needs_none_of_its_sources(pipeline, release, tmp_path):
    moved = release.options["smartedit"].rename(tmp_path / "gone")
    try:
        request = EditRequest.create(torch.rand(1, 3, 40, 64), WORDS, torch.ones(1, 40, 64))
        folder = ModelFolder(pipeline.folder.path)
        picture = FlexEditPipeline(folder, "cpu")(request, num_steps=1).picture
    finally:
        moved.rename(release.options["smartedit"])
    assert picture.shape == (1, 3, 40, 64) and picture.isfinite().all()


def test_the_licences_are_kept(pipeline):
    assert "ask its makers" in pipeline.config.licences["its own weights"]


# --- full size, without memory ---


@pytest.mark.parametrize("sizes", [FULL, FULL_13B])
def test_every_official_name_and_shape_has_its_place(sizes, tmp_path):
    make, language = released.on_meta, released.FullLLaVA(sizes)
    unet = released.full_unet("smartedit")
    tensors = {
        "llm": released.smartedit_llm(sizes, make),
        "qformer": released.smartedit_qformer(sizes, make),
        "unet": {f"unet.{name}": tensor for name, tensor in unet.items()},
        "bim": released.smartedit_bim(sizes, make),
    }
    counts = {name: len(file) for name, file in tensors.items()}
    llm = 450 if sizes is FULL else 562
    assert counts == {"llm": llm, "qformer": 133, "unet": 686, "bim": 89}
    files = {name: Weights.of(file, name) for name, file in tensors.items()}
    check_rows(files, language)
    (tmp_path / "LLM-15000").mkdir()
    (tmp_path / LLM).write_bytes(b"")
    config = system_config("full", tmp_path, files, {})
    null = {"null.edit": Planned((77, 768), Tensor)}
    clip = released.full_clip(tmp_path)
    whole = vllm_config(language, tmp_path, 32036, 32035)
    check_trained(config, trained_plan(files, 32000) | null, whole.text_config, "full")
    plan = vllm_plan(language_plan(files, language), projector(files), clip)
    check_vllm(whole, plan, tmp_path)
    finish(files, language)
