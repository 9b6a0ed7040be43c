"""Is what was converted whole, and does its VLLM still say its edit tokens?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import FlexEditError
from ..model_folder import ModelFolder, build_adapter, build_interaction, check_shapes
from ..models.bridges import BRIDGES
from ..models.config import SystemConfig
from ..models.diffusion.unet import FlexEditUNet
from ..models.vllm import VLLM
from ..request import EditRequest
from .writing import Plan

WORDS = "remove the dog on the left"


def check_trained(config: SystemConfig, plan: Plan, language: Any, where: str) -> None:
    """Raises FlexEditError unless a plan for ``flexedit.safetensors`` has what the config asks for,
    no more and no less. language: transformers' config of the language model
    """
    with torch.device("meta"):
        unet = FlexEditUNet(config.unet)
        bridge: Any = BRIDGES[config.bridge.type]
        adapter = build_adapter(config, unet.layers)
        parts = (unet, bridge(config.bridge), build_interaction(config), adapter)
        expected: dict[str, tuple[int, ...]] = {}
        for part in parts:
            own = {} if part is None else part.checkpoint()
            expected |= {name: tuple(tensor.shape) for name, tensor in own.items()}
    if config.vllm is not None:
        width, lora = language.hidden_size, config.vllm.lora
        for name in ("embed", "lm_head"):
            expected[f"tokens.{name}"] = (config.vllm.num_edit_tokens, width)
        for layer in range(language.num_hidden_layers) if lora else ():
            for projection in "qv":
                expected[f"lora.{layer}.{projection}.A"] = (lora.rank, width)
                expected[f"lora.{layer}.{projection}.B"] = (width, lora.rank)
    check_shapes(expected, plan, where)  # type: ignore[arg-type]


@torch.inference_mode()
def check_edit_tokens(folder: ModelFolder) -> None:
    """Raises FlexEditError unless the VLLM, led through its forced reply, prefers each edit token
    where it belongs, and then the end.

    A system that says something of its own before them is asked from the second one on.
    """
    vllm = folder.load_vllm(torch.bfloat16)
    assert isinstance(vllm, VLLM)
    ids = [*vllm.edit_ids, vllm.tokenizer.eos_token_id]
    preferred = preferences(vllm)
    first = 0 if vllm.prompt.reply else 1
    wrong = [index for index in range(first, len(ids)) if preferred[index] != ids[index]]
    if not wrong:
        return
    names = vllm.tokenizer.convert_ids_to_tokens([ids[index] for index in wrong])
    ends = {0, len(ids) - 1}
    if set(wrong) <= ends:
        why = "Its own rows are right and LLaVA's are not: were the deltas not applied?"
    else:
        why = "Its files do not belong together: were the deltas not applied, or two models mixed?"
    raise FlexEditError(
        f"The converted language model does not say {', '.join(names[:4])}"
        f"{' …' if len(names) > 4 else ''} where it was trained to ({len(wrong)} of {len(ids)} "
        f"wrong). {why} (--no-check converts all the same.)"
    )


def preferences(vllm: VLLM) -> list[int]:
    """The likeliest token at each edit token's place, and after the last one."""
    request = EditRequest.create(torch.full((1, 3, 224, 224), 0.5), WORDS)
    pictures = vllm.pictures(request.marked(), None, (False,))
    texts = request.prompts(form=vllm.prompt)
    sequences = vllm.tokenize(texts, pictures, [vllm.prompt.reply])
    states: Tensor = vllm.states(sequences, pictures)
    last = states[0, -len(vllm.edit_ids) - 1 :]
    return vllm.model.get_output_embeddings()(last).argmax(-1).tolist()
