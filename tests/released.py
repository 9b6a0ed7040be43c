"""Files as the makers of SmartEdit, MGIE and LLaVA publish them: their names, in small sizes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModel

from flexedit.convert.llava import LLaVA
from flexedit.convert.sources import Weights
from flexedit.model_folder.weights import portable_name
from flexedit.prompts import GENERIC_REPLY
from flexedit.systems import preset
from flexedit.training.pretrain.parts import build_clip, build_vae
from tests.tiny import TEXTS, TINY

SENTENCES = (
    "A chat between a curious user and an artificial intelligence assistant. ",
    "The assistant can generate pictures. The assistant needs to conduct the task. ",
    "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
    "USER: Please generate an image that corresponds to the previous image and text. ",
    "ASSISTANT: Sure, I can generate the image you're looking for. ",
    "what will this image be like if 'make the dog on the left a red cat' ",
)
VOCABULARY = 400


@cache
def vocabulary() -> bytes:
    """A ``tokenizer.model`` with the settings of LLaMA's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


# --- state dicts by their official names; make(*shape) gives each tensor ---

Make = Callable[..., Tensor]


@dataclass(frozen=True)
class Sizes:
    """Of a release; the defaults are those of tests."""

    num_pieces: int = VOCABULARY
    llm: int = 64
    inner: int = 96
    layers: int = 2
    heads: int = 4
    context: int = 48
    queries: int = TINY.text_length
    vision: int = 48
    channels: int = 32
    edit_head: int = 16
    edit_head_inner: int = 32


FULL = Sizes(32000, 4096, 11008, 32, 32, 768, 77, 1024, 320, 512, 2048)
FULL_13B = replace(FULL, llm=5120, inner=13824, layers=40, heads=40)


def linear(name: str, out: int, inp: int, make: Make) -> dict[str, Tensor]:
    return {f"{name}.weight": make(out, inp), f"{name}.bias": make(out)}


def norm(name: str, width: int, make: Make) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + 0.1 * make(width), f"{name}.bias": make(width)}


def llama(sizes: Sizes, make: Make, prefix: str = "model.", rows: int = 0) -> dict[str, Tensor]:
    """LLaMA's layers and embeddings, ``rows`` of them added; without a head."""
    width = sizes.llm
    tensors = {
        f"{prefix}embed_tokens.weight": make(sizes.num_pieces + rows, width),
        f"{prefix}norm.weight": 1 + 0.1 * make(width),
    }
    for index in range(sizes.layers):
        layer = f"{prefix}layers.{index}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = 1 + 0.1 * make(width)
        for name in "qkvo":
            tensors[f"{layer}self_attn.{name}_proj.weight"] = 0.3 * make(width, width)
        tensors[f"{layer}self_attn.rotary_emb.inv_freq"] = make(width // sizes.heads // 2)
        for name in ("gate", "up"):
            tensors[f"{layer}mlp.{name}_proj.weight"] = 0.3 * make(sizes.inner, width)
        tensors[f"{layer}mlp.down_proj.weight"] = 0.3 * make(width, sizes.inner)
    return tensors


def llava(sizes: Sizes, make: Make) -> dict[str, Tensor]:
    return {
        **llama(sizes, make, rows=3),
        "lm_head.weight": make(sizes.num_pieces + 3, sizes.llm),
        **linear("model.mm_projector", sizes.llm, sizes.vision, make),
    }


def smartedit_llm(sizes: Sizes, make: Make) -> dict[str, Tensor]:
    prefix = "model.base_model.model."
    tensors = llama(sizes, make, prefix, rows=35)
    for index in range(sizes.layers):
        for name in "qv":
            layer = f"{prefix}layers.{index}.self_attn.{name}_proj.lora_"
            tensors[f"{layer}A.default.weight"] = make(8, sizes.llm)
            tensors[f"{layer}B.default.weight"] = 0.1 * make(sizes.llm, 8)
    return tensors


def smartedit_qformer(sizes: Sizes, make: Make) -> dict[str, Tensor]:
    width, former = sizes.context, "sd_qformer."
    tensors = {
        **linear("mm_projector", sizes.llm, sizes.vision, make),
        "lm_head.weight": make(sizes.num_pieces + 35, sizes.llm),
        "sd_query_tokens": make(1, sizes.queries, width),
        f"{former}embeddings.position_ids": make(1, 512),
        **norm(f"{former}embeddings.LayerNorm", width, make),
    }
    for index in range(6):
        layer = f"{former}encoder.layer.{index}."
        reads = {"attention": width} | ({"crossattention": sizes.llm} if index % 2 == 0 else {})
        for name, read in reads.items():
            tensors |= linear(f"{layer}{name}.self.query", width, width, make)
            tensors |= linear(f"{layer}{name}.self.key", width, read, make)
            tensors |= linear(f"{layer}{name}.self.value", width, read, make)
            tensors |= linear(f"{layer}{name}.output.dense", width, width, make)
            tensors |= norm(f"{layer}{name}.output.LayerNorm", width, make)
        tensors |= linear(f"{layer}intermediate_query.dense", 4 * width, width, make)
        tensors |= linear(f"{layer}output_query.dense", width, 4 * width, make)
        tensors |= norm(f"{layer}output_query.LayerNorm", width, make)
    return tensors


def smartedit_bim(sizes: Sizes, make: Make) -> dict[str, Tensor]:
    width, context = sizes.vision, sizes.context
    tensors = {
        **linear("modulate_head", width, context, make),
        "pe_layer.positional_encoding_gaussian_matrix": make(2, width // 2),
        "dimension_reduction_head_zeroconv.weight": make(sizes.channels, width, 1, 1),
        "dimension_reduction_head_zeroconv.bias": make(sizes.channels),
        **linear("dimension_reduction_head_qformer_out", context, width, make),
    }
    transformer = "modulate_transformer."

    def attention(name: str, inner: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for one in "qkv":
            found |= linear(f"{name}.{one}_proj", inner, width, make)
        return found | linear(f"{name}.out_proj", width, inner, make)

    for index in range(2):
        layer = f"{transformer}layers.{index}."
        tensors |= attention(f"{layer}self_attn", width)
        for name in ("cross_attn_token_to_image", "cross_attn_image_to_token"):
            tensors |= attention(f"{layer}{name}", width // 2)
        tensors |= linear(f"{layer}mlp.lin1", 2 * width, width, make)
        tensors |= linear(f"{layer}mlp.lin2", width, 2 * width, make)
        for number in range(1, 5):
            tensors |= norm(f"{layer}norm{number}", width, make)
    tensors |= attention(f"{transformer}final_attn_token_to_image", width // 2)
    return tensors | norm(f"{transformer}norm_final_attn", width, make)


def mgie_mllm(sizes: Sizes, make: Make, with_emb: bool = True) -> dict[str, Tensor]:
    width, head = sizes.edit_head, "edit_head."
    tensors = {
        "model.embed_tokens.weight": make(sizes.num_pieces + 11, sizes.llm),
        "lm_head.weight": make(sizes.num_pieces + 11, sizes.llm),
        f"{head}query": make(1, sizes.queries, width),
        **linear(f"{head}llm2hid", width, sizes.llm, make),
        **linear(f"{head}hid2feat", sizes.context, width, make),
    }
    for side, kinds in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
        for index in range(4):
            layer = f"{head}mapper.{side}.layers.{index}."
            for kind in kinds:
                tensors[f"{layer}{kind}.in_proj_weight"] = make(3 * width, width)
                tensors[f"{layer}{kind}.in_proj_bias"] = make(3 * width)
                tensors |= linear(f"{layer}{kind}.out_proj", width, width, make)
            tensors |= linear(f"{layer}linear1", sizes.edit_head_inner, width, make)
            tensors |= linear(f"{layer}linear2", width, sizes.edit_head_inner, make)
            for number in range(1, len(kinds) + 2):
                tensors |= norm(f"{layer}norm{number}", width, make)
        tensors |= norm(f"{head}mapper.{side}.norm", width, make)
    return tensors | ({"emb": make(1, 8, sizes.llm)} if with_emb else {})


# --- whole releases on disk ---

UNET = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 48,
    "attention_head_dim": 2,
}
# what conversions take from published sizes otherwise
SETTINGS = {"unet": UNET, "sampling": {"size": 64}}
BRIDGE = {"num_embeddings": Sizes.queries, "width": Sizes.context, "hidden_width": Sizes.llm}
SMARTEDIT = SETTINGS | {
    "bridge": BRIDGE | {"intermediate_width": 4 * Sizes.context},
    "interaction": {
        "width": Sizes.context,
        "vision_width": Sizes.vision,
        "channels": Sizes.channels,
    },
}
MGIE = SETTINGS | {
    "bridge": BRIDGE | {"inner_width": Sizes.edit_head, "intermediate_width": Sizes.edit_head_inner}
}


class Draws:
    """Random numbers as files in half precision hold them."""

    def __init__(self, seed: int = 0, scale: float = 0.3) -> None:
        self.generator, self.scale = torch.Generator().manual_seed(seed), scale

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).mul(self.scale).half().float()


@dataclass
class Release:
    """All that is named on a command line, and the tensors of each file as they were written."""

    options: dict[str, Path]
    tensors: dict[str, dict[str, Tensor]]


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.half().float() for name, tensor in tensors.items()}


def quieten(tensors: dict[str, Tensor]) -> None:
    """Layers add little to what they read: then a token's embedding says which one comes next."""
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.mul_(0.01)


def write_common(folder: Path, language: dict[str, Tensor]) -> dict[str, Path]:
    """LLaVA, CLIP and VAE → the options that name them"""
    sizes = Sizes()
    build_clip(replace(TINY, clip_width=sizes.context), TEXTS, folder / "clip")
    build_vae(TINY, folder / "vae")
    write_llava(folder / "llava", language)
    return {name: folder / name for name in ("clip", "vae", "llava")}


def write_llava(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """LLaVA's or LLaMA's folder, of two shards."""
    folder.mkdir()
    names = list(tensors)
    for number, part in ((1, names[::2]), (2, names[1::2])):
        file = folder / f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: tensors[name].half() for name in part}, file)
    sizes = Sizes()
    settings = {
        "hidden_size": sizes.llm,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.model").write_bytes(vocabulary())
    return folder


def write_delta(folder: Path, merged: dict[str, Tensor]) -> dict[str, Path]:
    """LLaVA as it is published, and LLaMA, of which the sum is what is given → their options"""
    make = Draws(seed=5)
    base = halved(llama(Sizes(), make))
    base["lm_head.weight"] = make(Sizes.num_pieces, Sizes.llm)
    difference = {name: tensor.clone() for name, tensor in merged.items()}
    for name, tensor in base.items():
        difference[name][: len(tensor)] -= tensor
    return {
        "llava_delta": write_llava(folder / "delta", difference),
        "llama": write_llava(folder / "llama", base),
    }


def last_piece(text: str) -> int:
    reader = sentencepiece.SentencePieceProcessor(model_proto=vocabulary())
    return reader.encode(text)[-1]


def teach(language: dict[str, Tensor], embed: Tensor, head: Tensor, num_tokens: int) -> None:
    """A head that says the edit tokens, the last rows, in order, and then </s> · embed, head: of
    the system; ``language``: LLaVA's, which has the rows of LLaMA's vocabulary.
    """
    first = len(embed) - num_tokens
    said = last_piece(GENERIC_REPLY)
    before = [language["model.embed_tokens.weight"][said], *embed[first:]]
    for row, state in enumerate(before[:-1]):
        head[first + row] = state
    for rows in (head, language["lm_head.weight"]):
        rows[2] = before[-1]


def unet_tensors() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return halved(UNet2DConditionModel(**UNET).state_dict())


def write_smartedit(folder: Path) -> Release:
    """As the release lies: every file also holds the one buffer that its tensors are views of."""
    sizes, make = Sizes(), Draws()
    language = halved(llava(sizes, make))
    llm = halved(smartedit_llm(sizes, make))
    qformer = halved(smartedit_qformer(sizes, make))
    quieten(llm)
    embed = llm["model.base_model.model.embed_tokens.weight"]
    teach(language, embed, qformer["lm_head.weight"], 32)
    for name in ("weight", "bias"):
        qformer[f"mm_projector.{name}"] = language[f"model.mm_projector.{name}"]
    files = {
        "LLM-15000/adapter_model.bin": llm,
        "embeddings_qformer/checkpoint-15000_embeddings_qformer.bin": qformer,
        "unet-15000/adapter_model.bin": {f"unet.{k}": v for k, v in unet_tensors().items()},
        "modulate-15000/adapter_model.bin": halved(smartedit_bim(sizes, make)),
    }
    options = write_common(folder, language)
    options["smartedit"] = folder / "smartedit"
    for name, tensors in files.items():
        file = options["smartedit"] / name
        file.parent.mkdir(parents=True)
        torch.save(views(tensors), file)
    return Release(options, files | {"llava": language})


def views(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, as views of one buffer."""
    buffer = torch.cat([tensor.flatten() for tensor in tensors.values()])
    pieces = buffer.split([tensor.numel() for tensor in tensors.values()])
    pairs = zip(tensors.items(), pieces, strict=True)
    return {name: piece.view(tensor.shape) for (name, tensor), piece in pairs}


def write_mgie(folder: Path, with_emb: bool = True) -> Release:
    sizes, make = Sizes(), Draws()
    language = halved(llava(sizes, make))
    mllm = halved(mgie_mllm(sizes, make, with_emb))
    quieten(language)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        mllm[name][: sizes.num_pieces] = language[name][: sizes.num_pieces]
    teach(language, mllm["model.embed_tokens.weight"], mllm["lm_head.weight"], 8)
    files = {"mllm.pt": mllm, "unet.pt": unet_tensors()}
    options = write_common(folder, language)
    options["mgie"] = folder / "mgie"
    options["mgie"].mkdir()
    for name, tensors in files.items():
        torch.save({key: tensor.half() for key, tensor in tensors.items()}, options["mgie"] / name)
    return Release(options, files | {"llava": language})


# --- full sizes, on the meta device ---


def on_meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


class FullLLaVA(LLaVA):
    """LLaVA-1.1 as it is once its folder has been read."""

    def __init__(self, sizes: Sizes) -> None:
        self.weights, self.base = Weights.of(llava(sizes, on_meta), "llava"), None
        self.folder = Path("llava")
        self.num_pieces = sizes.num_pieces
        self.config = {
            "hidden_size": sizes.llm,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
        }


def full_unet(system: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        config = preset(system, {"name": "full", "sources": {}}).unet
        return UNet2DConditionModel.from_config(config).state_dict()


def full_clip(folder: Path) -> dict[str, Tensor]:
    """CLIP ViT-L/14's tower; its config goes to a folder."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    CLIPConfig(vision_config=vision.to_dict()).save_pretrained(folder)
    with torch.device("meta"):
        tower = CLIPVisionModel(vision).state_dict()
    says = {"model_type": "clip_vision_model"}
    return {portable_name(name, says): tensor for name, tensor in tower.items()}
