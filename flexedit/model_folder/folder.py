"""A model folder on disk: found, opened, read part by part when one is asked for, and written."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import packages
from ..errors import FlexEditError
from ..models.adapters import ADAPTERS
from ..models.bridges import BRIDGES
from ..models.clip import ImageEncoder, TextEncoder, TextEncoders
from ..models.config import SystemConfig
from ..models.diffusion.unet import FlexEditUNet, build_unet, cross_attention_layers
from ..models.interactions import INTERACTIONS
from ..models.parts import SLOTS
from ..models.vllm import VLLM, Instruction
from ..models.vllm import lora as low_rank
from .keys import check_shapes, load_strict, shorten, slot_of, under
from .reading import CPU, load_diffusers, load_image_encoder, load_text_encoder, load_vllm
from .upgrade import system_config

CONFIG_FILE = "flexedit.json"
WEIGHTS_FILE = "flexedit.safetensors"
EMBEDDED = "flexedit-mini"
SECOND_TEXT = "text_encoder_2"
# not the other formats of the weights that many repositories hold as well
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
CONFIGS = ["*.json"]
PRETRAINED = Path(__file__).parents[1] / "pretrained"


class ModelFolder:
    """A FlexEdit model on disk. Opening it reads the config and the list of keys, no weights.

    A system in training brings its ``config`` along and finds its frozen parts in the folder.
    """

    def __init__(self, path: str | Path, config: SystemConfig | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise FlexEditError(
                f"There is no model folder {self.path}. Check the name or the path."
            )
        self.config = self._read_config() if config is None else config

    @classmethod
    def embedded(cls) -> ModelFolder:
        """``flexedit-mini``, the small model that comes with the package."""
        if not (PRETRAINED / EMBEDDED).is_dir():
            raise FlexEditError(
                f"This copy of FlexEdit comes without the weights of {EMBEDDED}. "
                "Train them with `make mini`, or choose another model folder."
            )
        return cls(PRETRAINED / EMBEDDED)

    def _read_config(self) -> SystemConfig:
        try:
            text = self._file(CONFIG_FILE).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            text = ""  # not JSON either
        return system_config(text, f"{self.path.name}/{CONFIG_FILE}")

    def _file(self, name: str) -> Path:
        file = self.path / name
        if not file.is_file():
            raise FlexEditError(
                f"The model folder {self.path.name} lacks {name}. Download or export it again."
            )
        return file

    @cached_property
    def keys(self) -> tuple[str, ...]:
        with self._open() as file:
            keys = tuple(file.keys())
        filled = {slot for slot in SLOTS if getattr(self.config, slot) is not None}
        if unknown := sorted(key for key in keys if slot_of(key) not in filled):
            raise FlexEditError(
                f"{self.path.name}/{WEIGHTS_FILE} has unexpected {shorten(unknown)}. It was "
                "written for another config or a newer FlexEdit."
            )
        return keys

    def _open(self) -> Any:
        path = self._file(WEIGHTS_FILE)
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise FlexEditError(
                f"{self.path.name}/{WEIGHTS_FILE} cannot be read ({error}). "
                "The file is truncated or damaged; download or export it again."
            ) from error

    def tensors(self, slot: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All tensors of a slot, by their full names; read lazily from the mapped file."""
        with self._open() as file:
            keys = [key for key in self.keys if slot_of(key) == slot]
            return {key: file.get_tensor(key).to(dtype=dtype) for key in keys}

    def all_tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """All that was trained, by full names: what a training goes on from."""
        with self._open() as file:
            return {key: file.get_tensor(key).to(dtype) for key in self.keys}

    def part(self, name: str, files: Sequence[str] = DOWNLOADED) -> Path:
        """Where a frozen part lies: in a folder inside this one, or in a pinned hub snapshot, of
        which ``files`` are fetched.
        """
        source = self.config.sources.get(name)
        if source is None:
            raise FlexEditError(f"{self.path.name}/{CONFIG_FILE} names no source for {name!r}.")
        if source.folder is not None:
            folder = self.path / source.folder
            if not (folder / "config.json").is_file():
                raise FlexEditError(
                    f"The model folder {self.path.name} lacks {source.folder}/config.json. "
                    "Download or export it again."
                )
            return folder
        assert source.repo is not None
        try:
            return snapshot(source.repo, source.revision, files)
        except Exception as error:  # the hub's errors share no base; all mean "not to be had"
            raise FlexEditError(
                f"{name} ({source.repo}@{source.revision}) could not be fetched: {error}. "
                f"Check the connection, or put the part into {self.path.name}/{name} and name that "
                f"folder in {CONFIG_FILE}."
            ) from error

    @property
    def text_part(self) -> str:
        """Where the text encoder is: it may be that of the system's CLIP."""
        return "text_encoder" if "text_encoder" in self.config.sources else "clip"

    # --- parts, in the order an edit meets them ---

    @packages.needed("transformers")
    def load_vllm(
        self,
        dtype: torch.dtype = torch.float32,
        bits: int | None = None,
        device: torch.device = CPU,
    ) -> VLLM | Instruction:
        """With its edit tokens, and LoRA merged; what passes the instruction on if there is none.

        bits: 8 or 4, to keep its language model so, on ``device``, with LoRA beside it
        """
        wanted = self.config.vllm
        if wanted is None:
            return Instruction()
        vllm = load_vllm(self.part("vllm"), wanted, dtype, self.config.fit, bits, device)
        bridge_reads = getattr(self.config.bridge, "hidden_width", vllm.width)
        self._check("VLLM's hidden width", vllm.width, "bridge.hidden_width", bridge_reads)
        tensors, lora = self.tensors("vllm"), wanted.lora
        names = ("embed",) if vllm.tied else ("embed", "lm_head")
        expected = {f"tokens.{name}": (wanted.num_edit_tokens, vllm.width) for name in names}
        for name, linear in vllm.attention_projections() if lora else ():
            expected[f"lora.{name}.A"] = (lora.rank, linear.in_features)
            expected[f"lora.{name}.B"] = (linear.out_features, lora.rank)
        check_shapes(expected, tensors, self.path.name)
        rows, weights = under("tokens", tensors), under("lora", tensors)
        vllm.set_token_rows(rows)
        if lora and bits:
            low_rank.attach(vllm, lora)
            low_rank.load(vllm, weights, rows)
            vllm.requires_grad_(False).to(device)
        elif lora:
            vllm.merge_lora(weights, lora.alpha / lora.rank)
        return vllm.eval()

    @packages.needed("transformers")
    def load_bridge(self, dtype: torch.dtype = torch.float32) -> Any:
        return self._load("bridge", build_bridge(self), dtype)

    @packages.needed("diffusers")
    def load_adapter(self, dtype: torch.dtype = torch.float32) -> Any:
        """None if the system has none."""
        adapter = build_adapter(self.config, unet_layers(self.config))
        return None if adapter is None else self._load("adapter", adapter, dtype)

    def load_interaction(self, dtype: torch.dtype = torch.float32) -> Any:
        """None if the system has none."""
        interaction = build_interaction(self.config)
        return None if interaction is None else self._load("interaction", interaction, dtype)

    @packages.needed("diffusers")
    def load_unet(self, dtype: torch.dtype = torch.float32) -> FlexEditUNet:
        with torch.device("meta"):  # every tensor is assigned
            unet = FlexEditUNet(self.config.unet)
        return self._load("unet", unet, dtype)

    def load_text(self, dtype: torch.dtype = torch.float32) -> TextEncoder | TextEncoders:
        """The system's own text encoder, or else that of its CLIP; with SDXL's UNet both of its."""
        return text_of(self, partial(self.read_text, dtype=dtype))

    def read_text(self, part: str, dtype: torch.dtype = torch.float32) -> TextEncoder:
        """One text encoder; SDXL's second also gives a text as one vector."""
        text = load_text_encoder(self.part(part), dtype, pools=part == SECOND_TEXT)
        if text.projection is not None:
            makes, wanted = text.projection.out_features, self.config.pooled_width
            self._check("the second text encoder's projection", makes, "what unet reads", wanted)
        return text

    def load_clip(self, dtype: torch.dtype = torch.float32) -> ImageEncoder:
        clip = load_image_encoder(self.part("clip"), dtype, self.config.fit)
        if self.config.adapter is not None:
            width, reads = clip.visual_projection.out_features, self.config.adapter.clip_width
            self._check("CLIP's projection width", width, "adapter.clip_width", reads)
        if self.config.interaction is not None:
            width = clip.vision_width
            reads = self.config.interaction.vision_width
            self._check("CLIP's vision width", width, "interaction.vision_width", reads)
        return clip

    @packages.needed("diffusers")
    def load_vae(self, dtype: torch.dtype = torch.float32) -> Any:
        from diffusers import AutoencoderKL

        vae = load_diffusers(AutoencoderKL, self.part("vae"), dtype)
        channels = vae.config.latent_channels
        wanted = self.config.latent_channels
        self._check("VAE's number of latent channels", channels, "unet.out_channels", wanted)
        return vae.eval()

    def _load(self, slot: str, part: Any, dtype: torch.dtype) -> Any:
        return load_strict(part, self.tensors(slot, dtype), self.path.name).to(dtype).eval()

    def check_text(self, text: TextEncoder | TextEncoders) -> None:
        """Raises FlexEditError for a text encoder that gives other embeddings than the bridge."""
        bridge, length = self.config.bridge, text.length
        self._check("CLIP's text length", length, "bridge.num_embeddings", bridge.num_embeddings)
        self._check("CLIP's text width", text.width, "bridge.width", bridge.width)

    def _check(self, what: str, found: int, setting: str, wanted: int) -> None:
        if found != wanted:
            raise FlexEditError(
                f"{self.path.name}: {what} is {found}, but {setting} in {CONFIG_FILE} is {wanted}. "
                "These parts do not belong together."
            )


def snapshot(repo: str, revision: str | None, files: Sequence[str]) -> Path:
    """A repository of the hub or, where the hub cannot be reached, what was downloaded before: some
    versions of huggingface_hub ask for a list of files even then.
    """
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "allow_patterns": list(files)}
    try:
        return Path(snapshot_download(repo, **options))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise  # it is this machine that fails
        try:
            return Path(snapshot_download(repo, local_files_only=True, **options))
        except Exception:
            raise error from None  # which says more


def build_bridge(folder: ModelFolder, read: Callable[[str], TextEncoder] | None = None) -> Any:
    """An untrained bridge, with the folder's text encoders where it, or the UNet, needs them.

    read: how one is read, by the name of its part (default: with its weights)
    """
    read = read or folder.read_text
    config = folder.config.bridge
    kind: Any = BRIDGES[config.type]
    if "text" in kind.frozen:
        text = text_of(folder, read)
        folder.check_text(text)
        bridge, pooler = kind(config, text), getattr(text, "second", None)
    else:
        bridge, pooler = kind(config), read(SECOND_TEXT) if folder.config.pools else None
    bridge.pooler = pooler
    bridge.frozen = (*kind.frozen, "pooler")
    return bridge


def text_of(folder: ModelFolder, read: Callable[[str], TextEncoder]) -> TextEncoder | TextEncoders:
    text = read(folder.text_part)
    return TextEncoders(text, read(SECOND_TEXT)) if folder.config.pools else text


def build_interaction(config: SystemConfig) -> Any:
    """An untrained interaction, None if the system has none."""
    part = config.interaction
    return None if part is None else INTERACTIONS[part.type](part)


def build_adapter(config: SystemConfig, layers: Mapping[str, int]) -> Any:
    """An untrained adapter, None if the system has none; layers: the UNet's cross-attention's."""
    adapter = config.adapter
    return None if adapter is None else ADAPTERS[adapter.type](adapter, layers)


def unet_layers(config: SystemConfig) -> dict[str, int]:
    """The UNet's cross-attention layers, found on the meta device: no memory, no weights."""
    with torch.device("meta"):
        return cross_attention_layers(build_unet(config.unet))


def save_model_folder(
    path: Path,
    config: SystemConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes config and trained tensors (full names, see above); the parts lie beside already."""
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
    save_file(
        {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in tensors.items()},
        path / WEIGHTS_FILE,
        metadata={"format": "pt", "system": config.name},
    )


def copy_part(source: Path, target: Path) -> None:
    """A part's own files, not the other formats of its weights."""
    target.mkdir(parents=True, exist_ok=True)
    for file in (file for pattern in DOWNLOADED for file in source.glob(pattern)):
        is_variant = ".fp16." in file.name and (source / file.name.replace(".fp16", "")).is_file()
        if not is_variant:
            shutil.copy(file, target)
