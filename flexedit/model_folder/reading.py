"""Parts that others trained, as transformers and diffusers read them from a folder: whole or not at
all, quietly, and with one sentence where they cannot be read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .. import packages
from ..errors import FlexEditError
from ..models.clip import ImageEncoder, TextEncoder
from ..models.preprocess import Fit, Preprocess
from ..models.vllm import VLLM, quantised
from ..models.vllm.base import VLLMConfig
from ..models.vllm.chat import Chat
from ..models.vllm.families import FAMILIES, complete_processor
from .keys import shorten
from .weights import is_portable, read_config, read_weights, unreadable

CPU = torch.device("cpu")
# what transformers and diffusers raise for a folder that they cannot read
COMPLAINTS = (
    ArithmeticError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
CHECKS = (
    "huggingface_hub.errors"  # where those of newer configs are, which share no base with these
)


@packages.needed("transformers")
def load_vllm(
    folder: Path,
    config: VLLMConfig | None = None,
    dtype: torch.dtype = torch.float32,
    fit: Fit = "padded",
    bits: int | None = None,
    device: torch.device = CPU,
) -> VLLM:
    """A transformers folder of one of our families, to be spoken to as ``config`` says; the edit
    tokens that it asks for are added, untrained.

    fit: how pictures become squares, where a family sees squares · bits: 8 or 4, to keep its
    language model so, on ``device``
    """
    from transformers import AutoModelForImageTextToText

    kind = vllm_family(folder)
    if config is not None and config.type != kind:
        raise FlexEditError(
            f"{folder} holds a {kind}, but vllm.type in flexedit.json is {config.type}. These do "
            "not belong together."
        )
    more = quantised.settings(bits, dtype, device)
    model = load_pretrained(AutoModelForImageTextToText, folder, dtype, **more)
    if not FAMILIES[kind].squares:
        chat = Chat(_load_processor(folder, model.config))
        return VLLM(model, chat.tokenizer, config=config, chat=chat).eval()
    preprocess = Preprocess.from_folder(folder, model.config.vision_config.image_size, fit)
    return VLLM(model, _load_tokenizer(folder), preprocess, config).eval()


def vllm_family(folder: Path) -> str:
    """The family of a transformers folder, by its config.

    Raises FlexEditError for one that cannot carry an edit.
    """
    kind = read_config(folder).get("model_type")
    if kind not in FAMILIES:
        raise FlexEditError(
            f"{folder} holds a {kind or 'model of unknown type'}, which FlexEdit cannot give edit "
            f"tokens. Choose the folder of a {', '.join(FAMILIES)} (model_type in config.json)."
        )
    return kind


@packages.needed("transformers")
def load_stock_vllm(folder: Path, dtype: torch.dtype = torch.float32) -> VLLM:
    """Any transformers image-text-to-text folder with its processor, to be asked in plain words."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = by_library(folder, AutoConfig.from_pretrained, folder, local_files_only=True)
    if getattr(config, "quantization_config", None) is not None:
        raise FlexEditError(
            f"{folder} holds quantised weights, which ComfyUI cannot place. Choose a folder "
            "with plain fp16, bf16 or fp32 weights, and the precision in the node."
        )
    model = load_pretrained(AutoModelForImageTextToText, folder, dtype)
    chat = Chat(_load_processor(folder, model.config))
    return VLLM(model, chat.tokenizer, chat=chat).eval()


def _load_processor(folder: Path, config: Any) -> Any:
    """The processor of a model's config; raises FlexEditError if that model does not chat."""
    from transformers import AutoProcessor

    _require_tokenizer(folder)
    processor = by_library(folder, AutoProcessor.from_pretrained, folder, local_files_only=True)
    complete_processor(processor, config)
    if processor.chat_template is None or config.is_encoder_decoder:
        raise FlexEditError(
            f"{folder} holds a {config.model_type} that does not chat (it has no chat template). "
            "Choose an instruction-tuned VLLM, such as LLaVA, Qwen2.5-VL or SmolVLM."
        )
    return processor


@packages.needed("transformers")
def load_image_encoder(
    folder: Path, dtype: torch.dtype = torch.float32, fit: Fit = "padded"
) -> ImageEncoder:
    from transformers import CLIPVisionModelWithProjection

    model = load_pretrained(CLIPVisionModelWithProjection, folder, dtype)
    preprocess = Preprocess.from_folder(folder, model.config.image_size, fit)
    return ImageEncoder(model.vision_model, model.visual_projection, preprocess).eval()


@packages.needed("transformers")
def load_text_encoder(
    folder: Path, dtype: torch.dtype = torch.float32, pools: bool = False
) -> TextEncoder:
    """pools: it is to give texts as one vector, too"""
    from transformers import CLIPTextModelWithProjection

    unused = () if pools else ("text_projection.weight",)  # Stable Diffusion 1's has none
    model = load_pretrained(CLIPTextModelWithProjection, folder, dtype, unused)
    projection = model.text_projection if pools else None
    return TextEncoder(model.text_model, _load_tokenizer(folder), projection).eval()


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    _require_tokenizer(folder)
    return by_library(folder, AutoTokenizer.from_pretrained, folder, local_files_only=True)


def _require_tokenizer(folder: Path) -> None:
    """transformers makes up an empty vocabulary where some tokenizers' files are missing."""
    names = ("tokenizer.json", "vocab.json", "tokenizer.model")
    if not any((folder / name).is_file() for name in names):
        raise unreadable(folder, "there is no tokenizer.json")


def load_pretrained(
    kind: Any, folder: Path, dtype: torch.dtype, unused: Collection[str] = (), **more: Any
) -> Any:
    """A folder's model as transformers' class ``kind``, every weight of it from the folder but for
    those that nobody will use. more: what else ``from_pretrained`` is told.

    What the class has no use for is left out: a CLIP folder holds both towers.
    """
    more |= {"dtype": dtype}
    read, options = kind.from_pretrained, more | {"local_files_only": True}
    model, missing = _load(folder, read, folder, **options)
    if missing and not is_portable(folder):  # under names that newer versions alone know
        read, options = type(model).from_pretrained, more | {"config": model.config}
        settings = getattr(model, "generation_config", None)
        model, missing = _load(folder, read, None, state_dict=read_weights(folder), **options)
        model.generation_config = settings  # of the folder, which was not read this time
    return _require_whole(folder, model, [name for name in missing if name not in unused])


def load_diffusers(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A folder's model as diffusers' class ``kind``, every weight of it from the folder."""
    options = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    return _require_whole(folder, *_load(folder, kind.from_pretrained, folder, **options))


def _load(
    folder: Path, read: Callable[..., Any], source: Path | None, **options: Any
) -> tuple[Any, list[str]]:
    """A model by a library's ``from_pretrained``, and the weights that were missing."""
    options |= {"use_safetensors": True, "output_loading_info": True}
    model, info = by_library(folder, read, source, **options)
    return model, sorted(info["missing_keys"])


def _require_whole(folder: Path, model: Any, missing: list[str]) -> Any:
    """A library makes up random weights for what a folder lacks; here it is an error."""
    if missing:
        raise FlexEditError(
            f"{folder} lacks weights for {shorten(missing)}. Download or export the folder again."
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and progress bars of transformers and diffusers."""
    libraries = [name for name in ("transformers", "diffusers") if name in sys.modules]
    logs = [import_module(f"{name}.utils.logging") for name in libraries]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity(log.CRITICAL)
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (level, bars) in zip(logs, before, strict=True):
            log.set_verbosity(level)
            if bars:
                log.enable_progress_bar()


def by_library(folder: Path, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a library's function ``read`` makes of a folder, quietly; its complaint becomes one
    sentence for the user.

    Nothing of ours runs in here: a mistake of our own must not tell people to download again.
    """
    with quiet():
        try:
            return read(*arguments, **options)
        except Exception as error:
            is_check = type(error).__module__ == CHECKS
            is_bare = type(error) is Exception  # as tokenizers raises
            is_complaint = is_check or is_bare or isinstance(error, COMPLAINTS)
            if isinstance(error, torch.OutOfMemoryError) or not is_complaint:
                raise  # such as ComfyUI's Cancel
            if not packages.is_failed_import(error):
                why = (error.__cause__ if is_check else None) or error
                raise unreadable(folder, _first_line(why)) from error
            advice = " ".join(packages.complaints()) or "Install it into the Python that runs this."
            raise FlexEditError(
                f"{folder} needs a package that cannot be imported ({_first_line(error)}). {advice}"
            ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
