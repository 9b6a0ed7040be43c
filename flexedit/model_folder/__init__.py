"""The model folder: ``flexedit.json``, ``flexedit.safetensors`` and the frozen parts beside them.

Keys of ``flexedit.safetensors`` (a tested contract): ``unet.*`` in diffusers names, ``qformer.*``,
``mea.*`` with the decoupled layers under ``mea.subject.<layer>.to_k|to_v``,
``lora.<layer>.<q|v>.<A|B>``, ``tokens.embed``, ``tokens.lm_head`` and ``null.edit``.
Each part is read when it is asked for, and strictly: a missing or unexpected key is named.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import packages
from ..config import SystemConfig
from ..errors import FlexEditError
from ..models.chat_vllm import LLAVA_CHAT, ChatVLLM
from ..models.clip import ImageEncoder, TextEncoder
from ..models.mea import MEA
from ..models.preprocess import Preprocess
from ..models.qformer import QFormer
from ..models.unet import FlexEditUNet, build_unet, cross_attention_layers
from ..models.vllm import VLLM
from .weights import is_portable, read_weights, unreadable

CONFIG_FILE = "flexedit.json"
WEIGHTS_FILE = "flexedit.safetensors"
PREFIXES = ("unet", "qformer", "mea", "lora", "tokens", "null")
EMBEDDED = "flexedit-mini"
# not the other formats of the weights that many repositories hold as well
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
# what transformers and diffusers raise for a folder that they cannot read
COMPLAINTS = (ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)
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
        if unknown := sorted(key for key in keys if key.partition(".")[0] not in PREFIXES):
            raise FlexEditError(
                f"{self.path.name}/{WEIGHTS_FILE} has unexpected {_shorten(unknown)}. It was "
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
    """A repository of the hub, or what an earlier download left of it where the hub is not to be
    reached: some of its versions ask for a list of files even then.
    """
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {"revision": revision, "allow_patterns": DOWNLOADED}
    try:
        return Path(snapshot_download(repo, **options))
    except Exception:
        try:
            return Path(snapshot_download(repo, local_files_only=True, **options))
        except Exception:
            pass  # the first error says more
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and progress bars of transformers and diffusers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    logs = (logging, diffusers_logging)
    levels = [log.get_verbosity() for log in logs]
    bars = logging.is_progress_bar_enabled()
    for log in logs:
        log.set_verbosity(log.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def by_library(folder: Path, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a library's function ``read`` makes of a folder, quietly; its complaint becomes one
    sentence for the user.

    Nothing of ours runs in here: a mistake of our own must not tell people to download again.
    """
    with quiet():
        try:
            return read(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except COMPLAINTS as error:
            if not packages.is_failed_import(error):
                raise unreadable(folder, _first_line(error)) from error
            if packages.complaints():
                raise  # they are why: `needed` says so
            raise FlexEditError(
                f"{folder} needs a package that is not installed ({_first_line(error)}). "
                "Install it into the Python that runs FlexEdit, then start again."
            ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


@packages.needed("transformers")
def load_stock_vllm(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    num_edit_tokens: int = 0,
    hidden_state: str = "at",
) -> VLLM:
    """Any transformers LLaVA-class folder; ``num_edit_tokens`` are added, untrained."""
    from transformers import AutoModelForImageTextToText

    llava = load_pretrained(AutoModelForImageTextToText, folder, dtype)
    tokenizer = _load_tokenizer(folder)
    if llava.config.model_type != "llava":
        raise FlexEditError(
            f"{folder} holds a {type(llava).__name__}; FlexEdit reads LLaVA 1.5's class only "
            "(model_type llava). Choose such a folder."
        )
    preprocess = Preprocess.from_folder(folder, llava.config.vision_config.image_size)
    return VLLM(llava, tokenizer, preprocess, num_edit_tokens, hidden_state).eval()


@packages.needed("transformers")
def load_chat_vllm(folder: Path, dtype: torch.dtype = torch.float32) -> ChatVLLM:
    """Any transformers image-text-to-text folder with its processor, to be asked in plain words."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    config = by_library(folder, AutoConfig.from_pretrained, folder, local_files_only=True)
    if getattr(config, "quantization_config", None) is not None:
        raise FlexEditError(
            f"{folder} holds quantised weights, which ComfyUI cannot place. Choose a folder "
            "with plain fp16, bf16 or fp32 weights, and the precision in the node."
        )
    model = load_pretrained(AutoModelForImageTextToText, folder, dtype)
    _require_tokenizer(folder)
    processor = by_library(folder, AutoProcessor.from_pretrained, folder, local_files_only=True)
    if model.config.model_type == "llava":
        _complete_llava(processor, model.config)
    if processor.chat_template is None or model.config.is_encoder_decoder:
        raise FlexEditError(
            f"{folder} holds a {type(model).__name__} that does not chat (it has no chat template)."
            " Choose an instruction-tuned VLLM, such as LLaVA, Qwen2.5-VL or SmolVLM."
        )
    return ChatVLLM(model, processor).eval()


def _complete_llava(processor: Any, config: Any) -> None:
    """Folders of the first LLaVA models leave to the code what later ones say themselves."""
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        class_token = config.vision_config.model_type == "clip_vision_model"
        processor.num_additional_image_tokens = int(class_token)
    if processor.chat_template is None:
        processor.chat_template = LLAVA_CHAT


@packages.needed("transformers")
def load_image_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> ImageEncoder:
    from transformers import CLIPVisionModelWithProjection

    model = load_pretrained(CLIPVisionModelWithProjection, folder, dtype)
    preprocess = Preprocess.from_folder(folder, model.config.image_size)
    return ImageEncoder(model.vision_model, model.visual_projection, preprocess).eval()


@packages.needed("transformers")
def load_text_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> TextEncoder:
    from transformers import CLIPTextModelWithProjection

    model = load_pretrained(CLIPTextModelWithProjection, folder, dtype)
    return TextEncoder(model.text_model, _load_tokenizer(folder)).eval()


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    _require_tokenizer(folder)
    return by_library(folder, AutoTokenizer.from_pretrained, folder, local_files_only=True)


def _require_tokenizer(folder: Path) -> None:
    """transformers makes up an empty vocabulary where some tokenizers' files are missing."""
    names = ("tokenizer.json", "vocab.json", "tokenizer.model")
    if not any((folder / name).is_file() for name in names):
        raise unreadable(folder, "there is no tokenizer.json")


def load_pretrained(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A folder's model as transformers' class ``kind``, every weight of it from the folder.

    What the class has no use for is left out: a CLIP folder holds both towers.
    """
    from transformers import AutoConfig, PreTrainedModel

    if is_portable(folder):
        return load_whole(folder, kind.from_pretrained, folder, dtype=dtype, local_files_only=True)
    config = by_library(folder, AutoConfig.from_pretrained, folder, local_files_only=True)
    if not issubclass(kind, PreTrainedModel):  # one of the Auto classes, which choose
        with torch.device("meta"):
            kind = type(by_library(folder, kind.from_config, config))
    given = {"config": config, "state_dict": read_weights(folder)}
    return load_whole(folder, kind.from_pretrained, None, dtype=dtype, **given)


def load_diffusers(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A folder's model as diffusers' class ``kind``, every weight of it from the folder."""
    options = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    return load_whole(folder, kind.from_pretrained, folder, **options)


def load_whole(folder: Path, read: Callable[..., Any], source: Path | None, **options: Any) -> Any:
    """A folder's model by a library's ``from_pretrained``.

    Raises FlexEditError for weights that it lacks: a library would make up random ones.
    """
    options |= {"use_safetensors": True, "output_loading_info": True}
    model, info = by_library(folder, read, source, **options)
    if missing := sorted(info["missing_keys"]):
        raise FlexEditError(
            f"{folder} lacks weights for {_shorten(missing)}. Download or export the folder again."
        )
    return model


def unet_layers(config: SystemConfig) -> dict[str, int]:
    """The UNet's cross-attention layers, found on the meta device: no memory, no weights."""
    with torch.device("meta"):
        return cross_attention_layers(build_unet(config.unet))


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> Any:
    """Puts tensors into a module; they must have its names and shapes, no more and no less."""
    check_shapes({key: own.shape for key, own in module.state_dict().items()}, tensors, what)
    module.load_state_dict(dict(tensors), assign=True)
    return module


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], what: str
) -> None:
    check_keys(expected, found, what)
    for key, tensor in found.items():
        if tuple(tensor.shape) != tuple(expected[key]):
            raise FlexEditError(
                f"{what}.{key} has shape {tuple(tensor.shape)}, "
                f"but the config asks for {tuple(expected[key])}. "
                "Config and weights do not belong together; download or export the model again."
            )


def check_keys(expected: Iterable[str], found: Iterable[str], what: str) -> None:
    expected, found = set(expected), set(found)
    if missing := sorted(expected - found):
        raise FlexEditError(
            f"{what} lacks {_shorten(missing)}. Download or export the model again."
        )
    if unexpected := sorted(found - expected):
        raise FlexEditError(
            f"{what} has unexpected {_shorten(unexpected)}. It was written for another config or a "
            "newer FlexEdit."
        )


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


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


def trained_tensors(
    unet: FlexEditUNet,
    mea: MEA,
    qformer: QFormer | None = None,
    tokens: Mapping[str, Tensor] | None = None,
    lora: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """All that FlexEdit trained, under the checkpoint's names."""
    named = {f"unet.{key}": value for key, value in unet.unet.state_dict().items()}
    named |= {f"mea.{key}": value for key, value in mea.state_dict().items()}
    named["null.edit"] = named.pop("mea.null_edit")
    if qformer is not None:
        named |= {f"qformer.{key}": value for key, value in qformer.state_dict().items()}
    named |= {f"tokens.{key}": value for key, value in (tokens or {}).items()}
    named |= {f"lora.{key}": value for key, value in (lora or {}).items()}
    return named
