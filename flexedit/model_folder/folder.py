"""A model folder on disk: found, opened, read part by part when one is asked for, and written."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import packages
from ..config import SystemConfig
from ..errors import FlexEditError
from ..models.clip import ImageEncoder, TextEncoder
from ..models.mea import MEA
from ..models.qformer import QFormer
from ..models.unet import FlexEditUNet, build_unet, cross_attention_layers
from ..models.vllm import VLLM
from .keys import check_keys, check_shapes, load_strict, part_of, shorten
from .reading import load_diffusers, load_image_encoder, load_stock_vllm, load_text_encoder

CONFIG_FILE = "flexedit.json"
WEIGHTS_FILE = "flexedit.safetensors"
EMBEDDED = "flexedit-mini"
# not the other formats of the weights that many repositories hold as well
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
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
            text = self._file(CONFIG_FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = ""  # not JSON either
        return SystemConfig.from_json(text, f"{self.path.name}/{CONFIG_FILE}")

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
        if unknown := sorted(key for key in keys if part_of(key) is None):
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

    def tensors(self, prefix: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All tensors under ``prefix.``, which is cut off; read lazily from the mapped file."""
        start = prefix + "."
        with self._open() as file:
            return {
                key[len(start) :]: file.get_tensor(key).to(dtype=dtype)
                for key in self.keys
                if key.startswith(start)
            }

    def all_tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """All that was trained, by full names: what a training goes on from."""
        with self._open() as file:
            return {key: file.get_tensor(key).to(dtype) for key in self.keys}

    def part(self, name: str) -> Path:
        """Where a frozen part lies: in a folder inside this one, or in a pinned hub snapshot."""
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
            return _snapshot(source.repo, source.revision)
        except Exception as error:  # the hub's errors share no base; all mean "not to be had"
            raise FlexEditError(
                f"{name} ({source.repo}@{source.revision}) could not be fetched: {error}. "
                f"Check the connection, or put the part into {self.path.name}/{name} and name that "
                f"folder in {CONFIG_FILE}."
            ) from error

    # --- parts, in the order an edit meets them ---

    @packages.needed("transformers")
    def load_vllm(self, dtype: torch.dtype = torch.float32) -> VLLM:
        if not self.config.has_vllm:
            raise FlexEditError(
                f"{self.path.name} ({self.config.name}) has no VLLM: its text encoder reads the "
                "instruction. Edit with it by python -m flexedit edit, or choose another model."
            )
        vllm = load_stock_vllm(
            self.part("vllm"),
            dtype,
            num_edit_tokens=self.config.num_edit_tokens,
            hidden_state=self.config.hidden_state,
        )
        assert self.config.qformer is not None and self.config.lora is not None
        self._check(
            "VLLM's hidden width",
            vllm.width,
            "qformer.hidden_width",
            self.config.qformer.hidden_width,
        )
        tokens, lora, rank = self.tensors("tokens"), self.tensors("lora"), self.config.lora.rank
        rows = (self.config.num_edit_tokens, vllm.width)
        names = ("embed",) if vllm.tied else ("embed", "lm_head")
        check_shapes({name: rows for name in names}, tokens, f"{self.path.name}: tokens")
        low_rank = {}
        for name, linear in vllm.attention_projections():
            low_rank[f"{name}.A"] = (rank, linear.in_features)
            low_rank[f"{name}.B"] = (linear.out_features, rank)
        check_shapes(low_rank, lora, f"{self.path.name}: lora")
        vllm.set_token_rows(tokens)
        vllm.merge_lora(lora, self.config.lora.alpha / rank)
        return vllm.eval()

    @packages.needed("transformers")
    def load_qformer(self, dtype: torch.dtype = torch.float32) -> QFormer:
        if self.config.qformer is None:
            raise FlexEditError(f"{self.path.name} ({self.config.name}) has no Q-Former.")
        return self._load(QFormer(self.config.qformer), "qformer", dtype)

    def load_text(self, dtype: torch.dtype = torch.float32) -> TextEncoder:
        text = load_text_encoder(self.part("clip"), dtype)
        if self.config.text is not None:
            self._check(
                "CLIP's text length", text.length, "text.num_tokens", self.config.text.num_tokens
            )
            width = text.text_model.config.hidden_size
            self._check("CLIP's text width", width, "text.width", self.config.text.width)
        return text

    def load_clip(self, dtype: torch.dtype = torch.float32) -> ImageEncoder:
        clip = load_image_encoder(self.part("clip"), dtype)
        width = clip.visual_projection.out_features
        self._check("CLIP's projection width", width, "mea.clip_width", self.config.mea.clip_width)
        return clip

    @packages.needed("diffusers")
    def load_mea(self, dtype: torch.dtype = torch.float32) -> MEA:
        mea = MEA(self.config.mea, self.config.context_length, unet_layers(self.config))
        tensors, null = self.tensors("mea", dtype), self.tensors("null", dtype)
        check_keys({"edit"}, null, f"{self.path.name}: null")
        tensors["null_edit"] = null["edit"]
        return load_strict(mea, tensors, f"{self.path.name}: mea").eval()

    @packages.needed("diffusers")
    def load_unet(self, dtype: torch.dtype = torch.float32) -> FlexEditUNet:
        with torch.device("meta"):  # every tensor is assigned
            unet = FlexEditUNet(self.config.unet)
        load_strict(unet.unet, self.tensors("unet", dtype), f"{self.path.name}: unet")
        return unet.to(dtype).eval()

    @packages.needed("diffusers")
    def load_vae(self, dtype: torch.dtype = torch.float32) -> Any:
        from diffusers import AutoencoderKL

        vae = load_diffusers(AutoencoderKL, self.part("vae"), dtype)
        channels = vae.config.latent_channels
        wanted = self.config.latent_channels
        self._check("VAE's number of latent channels", channels, "unet.out_channels", wanted)
        return vae.eval()

    def _load(self, module: Any, prefix: str, dtype: torch.dtype) -> Any:
        tensors = self.tensors(prefix, dtype)
        return load_strict(module, tensors, f"{self.path.name}: {prefix}").to(dtype).eval()

    def _check(self, what: str, found: int, setting: str, wanted: int) -> None:
        if found != wanted:
            raise FlexEditError(
                f"{self.path.name}: {what} is {found}, but {setting} in {CONFIG_FILE} is {wanted}. "
                "These parts do not belong together."
            )


def _snapshot(repo: str, revision: str | None) -> Path:
    """A repository of the hub or, where the hub cannot be reached, what was downloaded before: some
    versions of huggingface_hub ask for a list of files even then.
    """
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "allow_patterns": DOWNLOADED}
    try:
        return Path(snapshot_download(repo, **options))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise  # it is this machine that fails
        try:
            return Path(snapshot_download(repo, local_files_only=True, **options))
        except Exception:
            raise error from None  # which says more


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
    target.mkdir(parents=True)
    for file in (file for pattern in DOWNLOADED for file in source.glob(pattern)):
        is_variant = ".fp16." in file.name and (source / file.name.replace(".fp16", "")).is_file()
        if not is_variant:
            shutil.copy(file, target)
