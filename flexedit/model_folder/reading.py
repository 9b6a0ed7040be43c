"""Parts that others trained, as transformers and diffusers read them from a folder: whole or not at
all, quietly, and with one sentence where they cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .. import packages
from ..errors import FlexEditError
from ..models.chat_vllm import LLAVA_CHAT, ChatVLLM
from ..models.clip import ImageEncoder, TextEncoder
from ..models.preprocess import Preprocess
from ..models.vllm import VLLM
from .keys import shorten
from .weights import is_portable, read_weights, unreadable

# what transformers and diffusers raise for a folder that they cannot read
COMPLAINTS = (ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


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
            f"{folder} lacks weights for {shorten(missing)}. Download or export the folder again."
        )
    return model


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
