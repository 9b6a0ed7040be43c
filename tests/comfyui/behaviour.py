"""How our guider and attention get along with the rest of ComfyUI, for test_sampling.py.

Each check returns errors or distances between latents, relative to the largest value.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import inside
from parity import error  # first: it makes this process a ComfyUI
from twin import SEED, Model, sample

# isort: split
import comfy.latent_formats
import comfy.samplers
import torch
from comfy import model_management
from comfy.ldm.modules.attention import optimized_attention
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from flexedit_pack.flexedit.errors import FlexEditError
from flexedit_pack.flexedit.model_folder import ModelFolder
from flexedit_pack.flexedit.models import vae as autoencoder
from flexedit_pack.flexedit.models.diffusion import sampling
from flexedit_pack.flexedit.models.parts import Reading, Text
from flexedit_pack.flexedit.request import EditRequest
from flexedit_pack.flexedit.systems import system
from flexedit_pack.nodes.runtime import conditioning, guider, subject
from flexedit_pack.nodes.runtime.clip_vision import load_clip_vision, tokens
from flexedit_pack.nodes.runtime.unet import LatentFormat, load_unet, unet_config
from flexedit_pack.nodes.runtime.vae import encode, load_vae
from torch import Tensor


def open_model(path: str, batch: int = 1) -> Model:
    model = Model(path, batch=batch)
    model.patcher = load_unet(model.folder, model.mea, "fp32")
    return model


def run(model: Model, patcher: Any = None, strength: Any = 1.0, **changes: Any) -> Tensor:
    patcher = model.patcher if patcher is None else patcher
    return sample(patcher, model.branches(strength), model.shape, **changes)


def core_guider(path: str) -> dict[str, float]:
    """The same conditionings in DualCFGGuider, on a zeroed latent."""
    model = open_model(path)
    core = Guider_DualCFG(model.patcher)
    core.set_conds(*conditioning.pack(model.branches()))
    core.set_cfg(7.5, 1.5)
    sigmas = comfy.samplers.calculate_sigmas(
        model.patcher.get_model_object("model_sampling"), "simple", 4
    )
    noise, euler = sampling.noise(model.shape, SEED), comfy.samplers.sampler_object("euler")
    found = core.sample(noise, torch.zeros(model.shape), euler, sigmas, disable_pbar=True)
    return {"error": error(found, run(model))}


def samplers(path: str) -> dict[str, bool]:
    """Whether each core sampler gives finite latents."""
    model = open_model(path)
    names = comfy.samplers.KSampler.SAMPLERS
    return {name: bool(run(model, steps=3, sampler_name=name).isfinite().all()) for name in names}


def second_run(path: str) -> dict[str, list[str]]:
    """What ComfyUI says it loads in the first and in the second run."""
    model = open_model(path)
    loads = {}
    for name in ("first", "second"):
        with messages("Requested to load") as said:
            model.mea.use()
            run(model, steps=1)
        loads[name] = said
    return loads


@contextlib.contextmanager
def messages(beginning: str) -> Iterator[list[str]]:
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        found[:] = [message for message in found if message.startswith(beginning)]


def cancelled(path: str) -> dict[str, Any]:
    """A run that is cancelled at its second step, and the good run after it."""
    model = open_model(path)
    wanted, steps = run(model), []

    def interrupt(args: dict[str, Any]) -> Tensor:
        steps.append(args["sigma"])
        model_management.interrupt_current_processing(len(steps) == 2)
        return args["denoised"]

    patcher = model.patcher.clone()
    patcher.set_model_sampler_post_cfg_function(interrupt)
    with progress_that_can_be_cancelled():
        try:
            run(model, patcher)
        except model_management.InterruptProcessingException:
            return {"steps": len(steps), "error": error(run(model), wanted)}
    return {"steps": len(steps)}


@contextlib.contextmanager
def progress_that_can_be_cancelled() -> Iterator[None]:
    """main.py's progress hook asks for interrupts; no main.py runs here."""

    def hook(*_: Any, **__: Any) -> None:
        model_management.throw_exception_if_processing_interrupted()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(None)


def lora(path: str) -> dict[str, float]:
    """A LoRA on the UNet's cross-attention against the same change in diffusers' weights."""
    model = open_model(path)
    before = run(model)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    weight = model.folder.load_unet().unet.get_submodule(name).weight
    up, down = torch.randn(weight.shape[0], 4), torch.randn(4, weight.shape[1])
    key = f"diffusion_model.{comfy_name(model, name)}.weight"
    patched = model.patcher.clone()
    assert patched.add_patches({key: ("diff", (up @ down,))}, 0.5)
    found = run(model, patched) * model.patcher.model.latent_format.scale_factor
    model.unet = model.folder.load_unet()
    model.unet.unet.get_submodule(name).weight += 0.5 * up @ down
    wanted = model.diffusers(model.branches(), 4, 7.5, 1.5)
    return {
        "error": error(found, wanted),
        "felt": error(found, before),
        "undone": error(run(model), before),
    }


def comfy_name(model: Model, name: str) -> str:
    names = comfy.utils.unet_to_diffusers(model.patcher.model.model_config.unet_config)
    return names[f"{name}.weight"].removesuffix(".weight")


def other_attention(path: str) -> dict[str, Any]:
    """Another pack's attn2 replacement, for whole blocks (as IP-Adapter does) and for one layer."""
    model = open_model(path)
    layers = [layer.key for layer in decoupled(model.patcher).layers]
    plain, without = run(model), run(model, strength=0.0)
    called: set[tuple[Any, ...]] = set()

    def same(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        called.add((*options["block"], options["block_index"]))
        return optimized_attention(q, k, v, options["n_heads"])

    def shifted(*arguments: Any) -> Tensor:
        return same(*arguments) + 0.3

    figures = {}
    for name, patch, keys in (
        ("same", same, [key[:2] for key in layers]),
        ("same by layer", same, layers),
        ("shifted", shifted, [key[:2] for key in layers]),
    ):
        patcher = model.patcher.clone()
        for key in keys:
            patcher.set_model_attn2_replace(patch, *key)
        figures[name] = error(run(model, patcher), plain)
        figures[f"{name}, subject felt"] = error(
            run(model, patcher), run(model, patcher, strength=0.0)
        )
    figures["subject felt"] = error(plain, without)
    figures["all layers"] = called == set(layers)
    return figures


def decoupled(patcher: Any) -> subject.DecoupledAttention:
    ((wrapper,),) = patcher.wrappers["outer_sample"].values()
    return wrapper.__self__


def batches(path: str) -> dict[str, float]:
    """Rows of a batch against each alone; a larger latent repeats the edits in turn."""
    model = open_model(path, batch=2)
    strengths = [1.0, 0.0]
    noise = torch.randn(4, *model.shape[1:], generator=torch.Generator().manual_seed(SEED))
    together = run(model, strength=strengths, latent={"samples": torch.zeros_like(noise)})
    twice = run(model, strength=strengths)
    guider.LATENT_PIXELS, at_once = 1, guider.LATENT_PIXELS
    parts = run(model, strength=strengths, latent={"samples": torch.zeros_like(noise)})
    guider.LATENT_PIXELS = at_once
    plain = run(model, strength=0.0)
    settings = model.branches(strengths)
    wanted = model.diffusers(settings, 4, 7.5, 1.5) / model.patcher.model.latent_format.scale_factor
    repeated = repeat(settings)
    model.shape = tuple(noise.shape)
    scale = model.patcher.model.latent_format.scale_factor
    return {
        "library": error(twice, wanted),
        "row by row": error(parts, together),
        "repeated": error(together, model.diffusers(repeated, 4, 7.5, 1.5) / scale),
        "row without subject": error(twice[1], plain[1]),
        "row with subject felt": error(twice[0], plain[0]),
    }


def repeat(branches: Any) -> Any:
    def twice(branch: Any) -> Any:
        return type(branch)(
            branch.f1.repeat(2, 1, 1),
            branch.f2.repeat(2, 1, 1),
            branch.strength.repeat(2),
            branch.scene_latent.repeat(2, 1, 1, 1),
        )

    return type(branches)(*(twice(branch) for branch in branches))


def noise_mask(path: str) -> dict[str, float]:
    """A latent whose left half is kept, by a mask in pixels."""
    model = open_model(path)
    latent = torch.randn(model.shape)
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    other = latent.clone()
    other[..., 8:] = 5.0
    found = run(model, latent={"samples": latent, "noise_mask": mask})
    again = run(model, latent={"samples": other, "noise_mask": mask})
    return {
        "kept": error(found[..., :8], latent[..., :8]),
        "changed": error(found[..., 8:], latent[..., 8:]),
        "pure noise inside": error(again[..., 8:], found[..., 8:]),
    }


def denoise(path: str) -> dict[str, float]:
    """Below 1 the latent shows; at 1 it does not, whatever it is."""
    model = open_model(path)
    scene = torch.randn(model.shape)
    runs = {
        d: [run(model, denoise=d, latent={"samples": x}) for x in (scene, -scene)] for d in (1, 0.5)
    }
    return {"1": error(*runs[1]), "0.5": error(*runs[0.5])}


def mixed_conditioning(path: str) -> dict[str, float]:
    """Conditionings without our keys, confined to an area, or of two edits at once."""
    model = open_model(path)
    positive, scene_only, negative = conditioning.pack(model.branches())
    plain = conditioning.pack(model.branches(0.0))[0]
    bare = [[plain[0][0], {"concat_latent_image": plain[0][1]["concat_latent_image"]}]]
    area = [[positive[0][0], positive[0][1] | {"area": (8, 8, 0, 0)}]]
    two = positive + conditioning.pack(model.branches(2.0))[0]

    def with_positive(positive: Any) -> Tensor:
        return guider.sample(
            model.patcher,
            positive,
            scene_only,
            negative,
            {"samples": torch.zeros(model.shape)},
            seed=SEED,
            steps=4,
            edit_cfg=7.5,
            scene_cfg=1.5,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        )

    wanted = with_positive(positive)
    return {
        "bare is λ 0": error(with_positive(bare), with_positive(plain)),
        "area felt": error(with_positive(area), wanted),
        "two felt": error(with_positive(two), wanted),
    }


def precision(path: str) -> dict[str, float]:
    """A model computing in half precision, and weights that are cast as they are used."""
    model = open_model(path)
    wanted = run(model)
    half = load_unet(model.folder, model.mea, "bf16")
    return {"bf16": error(run(model, half), wanted)}


def clip_vision(path: str) -> dict[str, Any]:
    """ComfyUI's CLIP against the library's, as we load it and as core's loader would give it."""
    folder = Model(path).folder
    clip, pictures = load_clip_vision(folder, "fp32"), torch.rand(2, 3, 50, 70)
    width = folder.config.adapter.clip_width
    wanted = folder.load_clip()(pictures)
    found = {"ours": tokens(clip, pictures, width=width)}
    del clip.flexedit_preprocess
    found["core's"] = tokens(clip, pictures, width=width)
    figures: dict[str, Any] = {
        name: max(error(one.projected, wanted.projected), error(one.raw, wanted.raw))
        for name, one in found.items()
    }
    try:
        tokens(clip, pictures, width=768)
    except FlexEditError as refusal:
        figures["another width"] = str(refusal)
    return figures


def foreign_embeds(path: str) -> str:
    """What is said of another model's edit embeddings."""
    request = EditRequest.create(torch.rand(3, 8, 8), "remove this")
    intent = system.Intent(request, request.scene, Reading(request.instructions, (), (), None))
    embeds = system.Embeds(intent, *[Text(torch.zeros(1, 77, 768))] * 2)
    try:
        conditioning.condition(open_model(path).mea, embeds, None, None, 1.0)
    except FlexEditError as refusal:
        return str(refusal)
    return ""


def vae(path: str) -> dict[str, float]:
    """ComfyUI's VAE against diffusers', both ways."""
    folder = Model(path).folder
    ours, theirs, picture = load_vae(folder, "fp32"), folder.load_vae(), torch.rand(2, 3, 48, 64)
    latent = autoencoder.encode(theirs, picture)
    decoded = ours.decode(latent).movedim(-1, 1)
    scale = theirs.config.scaling_factor
    return {
        "encoded": error(encode(ours, picture), latent),
        "decoded": error(decoded, autoencoder.decode(theirs, latent * scale)),
    }


def unsupported(path: str) -> dict[str, str]:
    """What is said of a UNet that diffusers could run and ComfyUI cannot."""
    config = Model(path).config.unet
    said = {}
    for setting, value in {
        "act_fn": "gelu",
        "attention_head_dim": [2, 3],
        "down_block_types": ["AttnDownBlock2D", "CrossAttnDownBlock2D"],
        "layers_per_block": [1, 2],
        "mid_block_type": None,
        "transformer_layers_per_block": [[1], [2]],
    }.items():
        try:
            unet_config(config | {setting: value})
        except FlexEditError as refusal:
            said[setting] = str(refusal)
    return said


def previews(path: str) -> dict[str, Any]:
    """The colours of latent previews: of this folder's VAE, and of one with SD 1's scale."""
    model = open_model(path)
    own, other = model.patcher.model.latent_format, LatentFormat(ModelFolder(Path(path)))
    other.scale_factor = comfy.latent_formats.SD15().scale_factor
    names = ("latent_rgb_factors", "taesd_decoder_name")
    return {
        "own": [getattr(own, name) for name in names],
        "Stable Diffusion": [getattr(other, name) for name in names],
        "core": [getattr(comfy.latent_formats.SD15(), name) for name in names],
    }


CHECKS = (
    batches,
    cancelled,
    clip_vision,
    core_guider,
    denoise,
    foreign_embeds,
    lora,
    mixed_conditioning,
    noise_mask,
    other_attention,
    precision,
    previews,
    samplers,
    second_run,
    unsupported,
    vae,
)


def everything(path: str) -> dict[str, Any]:
    return {check.__name__: check(path) for check in CHECKS}


if __name__ == "__main__":
    inside.main({check.__name__: check for check in (*CHECKS, everything)}, sys.argv[1:])
