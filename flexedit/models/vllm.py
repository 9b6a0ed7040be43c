"""The vision language model: reads the marked scene, the subject and the instruction, and answers
with a sentence and N edit tokens whose hidden states carry the edit (§3.1, eq. 1).

B batch, L sequence length, N edit tokens, D width of the language model
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .. import prompts
from ..errors import FlexEditError
from .preprocess import Preprocess

IGNORED = -100


@dataclass(frozen=True)
class Sequences:
    """Left-padded token sequences (B, L); ``labels`` is IGNORED where nobody has to speak."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def position_ids(self) -> Tensor:
        return (self.attention_mask.cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True)
class Reading:
    """What the VLLM made of a request: replies and labels ("" in ``direct``), H (B, N, D)."""

    replies: tuple[str, ...]
    labels: tuple[str, ...]
    hidden_states: Tensor | None


class VLLM(nn.Module):
    """A transformers LLaVA-class model with N edit tokens (N = 0 while it learns to talk).

    Wrapped as a plain module, so that device and dtype are moved like any other part's.
    """

    longest_answer = 64  # tokens; a reply is one sentence
    llava: Any  # transformers' model; its class is the folder's

    def __init__(
        self,
        llava: Any,
        tokenizer: Any,
        preprocess: Preprocess,
        num_edit_tokens: int,
        hidden_state: str = "at",
    ) -> None:
        """Adds the edit tokens to tokenizer and embeddings if they are not there yet."""
        super().__init__()
        self.llava = llava
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.hidden_state = hidden_state
        if num_edit_tokens:
            names = [prompts.edit_token(index) for index in range(num_edit_tokens)]
            tokenizer.add_tokens(names, special_tokens=True)
            if len(tokenizer) > llava.get_input_embeddings().num_embeddings:
                llava.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            self.edit_ids: list[int] = tokenizer.convert_tokens_to_ids(names)
        else:
            self.edit_ids = []
        # one tensor for input and output embeddings: then only one set of rows is new
        self.tied = llava.get_input_embeddings().weight is llava.get_output_embeddings().weight

    @property
    def config(self) -> Any:
        return self.llava.config

    @property
    def width(self) -> int:
        return self.config.text_config.hidden_size

    @property
    def num_image_tokens(self) -> int:
        """How many tokens one picture becomes."""
        vision = self.config.vision_config
        count = (vision.image_size // vision.patch_size) ** 2
        if vision.model_type == "clip_vision_model":  # it has a class token; SigLIP has none
            count += 1
        if self.config.vision_feature_select_strategy == "default":  # without the first token
            count -= 1
        return count

    def memory_required(self, num_rows: int, num_pictures: int) -> int:
        """About how many bytes it takes to read a request with so many rows, of so many pictures"""
        num_tokens = num_rows * (num_pictures * self.num_image_tokens + 512)
        return reading_memory(self.config.text_config, num_tokens, self._dtype)

    def pictures(
        self, marked: Tensor, subject: Tensor | None, has_subject: Sequence[bool]
    ) -> Tensor:
        """marked (B, 3, H, W), subject (B, 3, h, w) → all rows' pictures, in reading order."""
        scenes = self.preprocess(marked)
        if subject is None or not any(has_subject):
            return scenes
        subjects = self.preprocess(subject)
        rows = [
            picture
            for index, has in enumerate(has_subject)
            for picture in ([scenes[index], subjects[index]] if has else [scenes[index]])
        ]
        return torch.stack(rows)

    def tokenize(
        self,
        prompt_texts: Sequence[str],
        replies: Sequence[str] | None = None,
        *,
        edit_tokens: Sequence[bool] | None = None,
        forced: Sequence[bool] | None = None,
        end: bool = False,
    ) -> Sequences:
        """Prompts and replies → left-padded sequences on the model's device.

        ``edit_tokens``: which rows' replies end in the N edit tokens (default: all), of which the
        first is what ends the VLLM's own words · ``forced``: which rows' replies it never has to
        say itself (default: none) · ``end``: close replies without edit tokens with the
        end-of-sequence token, as training does.
        """
        rows, labels = [], []
        for index, text in enumerate(prompt_texts):
            ids = self._expand(self.tokenizer(text)["input_ids"])
            reply: list[int] = []
            num_spoken = 0
            if replies is not None:
                said = " " + replies[index] if replies[index] else ""
                reply = self.tokenizer(said, add_special_tokens=False)["input_ids"]
                has_edit = edit_tokens is None or edit_tokens[index]
                closing = [self.tokenizer.eos_token_id] if end else []
                num_spoken = 0 if forced is not None and forced[index] else len(reply) + 1
                reply = reply + (self.edit_ids if has_edit else closing)
            rows.append(ids + reply)
            spoken = reply[:num_spoken]
            labels.append([IGNORED] * len(ids) + spoken + [IGNORED] * (len(reply) - len(spoken)))
        length = max(map(len, rows))
        limit = self.config.text_config.max_position_embeddings
        if length > limit:
            raise FlexEditError(
                f"The instruction needs {length} tokens with its pictures, but this VLLM reads at "
                f"most {limit}. Shorten the instruction."
            )
        pad = self.tokenizer.pad_token_id
        device = self.llava.get_input_embeddings().weight.device

        def stack(sequences: list[list[int]], fill: int) -> Tensor:
            padded = [[fill] * (length - len(sequence)) + sequence for sequence in sequences]
            return torch.tensor(padded, device=device)

        mask = stack([[1] * len(row) for row in rows], 0)
        return Sequences(stack(rows, pad), mask, stack(labels, IGNORED))

    def _expand(self, ids: list[int]) -> list[int]:
        """One token for a picture → as many as it has."""
        image, count = self.config.image_token_index, self.num_image_tokens
        return [one for each in ids for one in ([each] * count if each == image else [each])]

    def states(self, sequences: Sequences, pixels: Tensor) -> Tensor:
        """One prefill: the last layer's hidden states (B, L, D) of whole sequences."""
        return self.llava.model(
            input_ids=sequences.input_ids,
            attention_mask=sequences.attention_mask,
            position_ids=sequences.position_ids,
            pixel_values=pixels.to(self._dtype),
            use_cache=False,
        ).last_hidden_state

    def edit_states(self, sequences: Sequences, states: Tensor) -> Tensor:
        """Picks H (B, N, D): the states at the edit tokens, the last; zeros for rows without any"""
        start = states.shape[1] - len(self.edit_ids)
        is_there = sequences.input_ids[:, start] == self.edit_ids[0]
        start -= self.hidden_state == "before"
        hidden = states[:, start : start + len(self.edit_ids)]
        return hidden * is_there[:, None, None]

    def reply_loss(self, sequences: Sequences, states: Tensor) -> Tensor:
        """Cross-entropy of each row's reply, averaged over its spoken tokens: (B,) (eq. 2)."""
        labels = sequences.labels
        columns = (labels != IGNORED).any(0).nonzero()
        longest = labels.shape[1] - int(columns[0]) if len(columns) else 1
        logits = self.llava.get_output_embeddings()(states[:, -longest - 1 : -1]).float()
        labels = labels[:, -longest:]
        losses = F.cross_entropy(
            rearrange(logits, "b l v -> (b l) v"),
            rearrange(labels, "b l -> (b l)"),
            ignore_index=IGNORED,
            reduction="none",
        )
        losses = rearrange(losses, "(b l) -> b l", b=labels.shape[0])
        return losses.sum(-1) / (labels != IGNORED).sum(-1).clamp(min=1)

    @torch.no_grad()
    def direct(self, prompt_texts: Sequence[str], pixels: Tensor) -> Reading:
        """The fast path: one prefill of prompt, generic reply and edit tokens."""
        self._require_edit_tokens()
        generic = [prompts.GENERIC_REPLY] * len(prompt_texts)
        with torch.inference_mode():  # a tenth faster than without gradients
            sequences = self.tokenize(prompt_texts, generic)
            hidden = self.edit_states(sequences, self.states(sequences, pixels))
        empty = ("",) * len(prompt_texts)
        return Reading(empty, empty, hidden.clone())  # a tensor that a loss may go on from

    @torch.no_grad()
    def generate(
        self,
        prompt_texts: Sequence[str],
        pixels: Tensor,
        *,
        with_edit: bool = True,
        max_new_tokens: int = longest_answer,
        on_token: Callable[[int], None] | None = None,
    ) -> Reading:
        """Lets the VLLM speak (greedily), then appends the edit tokens over the kept KV cache.

        ``on_token(count)`` is called for each new token; what it raises ends the generation.
        """
        if with_edit:
            self._require_edit_tokens()
        sequences = self.tokenize(prompt_texts)
        stops = [self.tokenizer.eos_token_id, *self.edit_ids]
        prompt_length = sequences.input_ids.shape[1]
        output = self.llava.generate(
            input_ids=sequences.input_ids,
            attention_mask=sequences.attention_mask,
            pixel_values=pixels.to(self._dtype),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=stops,
            pad_token_id=self.tokenizer.pad_token_id,
            stopping_criteria=[Watch(prompt_length, on_token)] if on_token else None,
            return_dict_in_generate=True,
        )
        spoken = output.sequences[:, prompt_length:]
        stopped = torch.isin(spoken, torch.tensor(stops, device=spoken.device))
        said = stopped.int().cumsum(-1) == 0  # (B, T): tokens before the first stop
        replies = tuple(
            self.tokenizer.decode(row[keep], skip_special_tokens=True).strip()
            for row, keep in zip(spoken, said, strict=True)
        )
        hidden = None
        if with_edit and self.hidden_state == "before":  # needs the state of the last spoken token
            full = self.tokenize(prompt_texts, replies)
            hidden = self.edit_states(full, self.states(full, pixels))
        elif with_edit:
            hidden = self._append_edit_tokens(sequences, spoken, said, output.past_key_values)
        return Reading(replies, tuple(map(prompts.parse_label, replies)), hidden)

    def _append_edit_tokens(
        self, sequences: Sequences, spoken: Tensor, said: Tensor, cache: Any
    ) -> Tensor:
        """Runs [last spoken token, edit tokens] over the cache, which lacks just that one."""
        batch, count = len(spoken), len(self.edit_ids)
        edit_ids = torch.tensor(self.edit_ids, device=spoken.device).expand(batch, count)
        ones = torch.ones_like(edit_ids)
        mask = torch.cat([sequences.attention_mask, said.long(), ones], 1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        states = self.llava.model(
            input_ids=torch.cat([spoken[:, -1:], edit_ids], 1),
            attention_mask=mask,
            position_ids=positions[:, -count - 1 :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, 1:]

    def _require_edit_tokens(self) -> None:
        if not self.edit_ids:
            raise FlexEditError(
                "This VLLM has no edit tokens: it can talk about a picture but not edit one. "
                "Load a FlexEdit model with FlexEdit Loader."
            )

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.llava.parameters()).dtype

    # --- what FlexEdit trains in the VLLM, under the checkpoint's own names ---

    def token_rows(self) -> dict[str, Tensor]:
        """``embed`` and, if untied, ``lm_head``: the edit tokens' rows (N, D)."""
        rows = {"embed": self._rows(self.llava.get_input_embeddings())}
        if not self.tied:
            rows["lm_head"] = self._rows(self.llava.get_output_embeddings())
        return rows

    def _rows(self, layer: Any) -> Tensor:
        """The edit tokens' rows of an embedding or linear layer, also when peft trains them."""
        if hasattr(layer, "token_adapter"):
            return layer.token_adapter.trainable_tokens_delta["default"]
        return layer.weight[torch.tensor(self.edit_ids)]

    @torch.no_grad()
    def set_token_rows(self, rows: dict[str, Tensor]) -> None:
        ids = torch.tensor(self.edit_ids)
        self.llava.get_input_embeddings().weight[ids] = rows["embed"].to(self._dtype)
        if not self.tied:
            self.llava.get_output_embeddings().weight[ids] = rows["lm_head"].to(self._dtype)

    def attention_projections(self) -> Iterator[tuple[str, nn.Linear]]:
        """``<layer>.<q|v>`` and its linear layer: where LoRA sits."""
        for index, layer in enumerate(self.llava.model.language_model.layers):
            yield f"{index}.q", layer.self_attn.q_proj
            yield f"{index}.v", layer.self_attn.v_proj

    @torch.no_grad()
    def merge_lora(self, weights: dict[str, Tensor], scale: float) -> None:
        """weights: ``<layer>.<q|v>.<A|B>`` → W += scale · B·A, for every projection."""
        for name, linear in self.attention_projections():
            delta = weights[f"{name}.B"].float() @ weights[f"{name}.A"].float()
            linear.weight += (scale * delta).to(linear.weight)


def reading_memory(text: Any, num_tokens: int, dtype: torch.dtype) -> int:
    """Bytes that a language model (its config) takes: of each token and layer a key and a value,
    and the widest layer's working copies."""
    inner = getattr(text, "intermediate_size", 4 * text.hidden_size)  # mixtures of experts lack it
    widest = max(inner) if isinstance(inner, Sequence) else inner
    per_token = 2 * text.num_hidden_layers * text.hidden_size + 4 * widest
    return num_tokens * per_token * dtype.itemsize


class Watch:
    """A stopping criterion that never stops: it reports progress, and lets a cancel through."""

    def __init__(self, prompt_length: int, on_token: Callable[[int], None]) -> None:
        self.prompt_length = prompt_length
        self.on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.on_token(input_ids.shape[1] - self.prompt_length)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
