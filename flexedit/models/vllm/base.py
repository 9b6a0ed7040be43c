"""The vision language model: reads the marked scene, the subject and the instruction, and answers
with a sentence and N edit tokens whose hidden states carry the edit (§3.1, eq. 1).

B batch, L sequence length, N edit tokens, D width of the language model
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ... import prompts
from ...errors import FlexEditError
from ...prompts import PromptConfig
from ...request import EditRequest
from ...validation import STRICT
from ..parts import Reading
from ..preprocess import Preprocess
from .chat import MAX_PICTURE_TOKENS, Chat
from .families import FAMILIES, Family, family_of, num_image_tokens
from .ids import prompt_ids, reply_ids
from .pictures import Pictures
from .questions import read_by_questions

IGNORED = -100
REPLIES = ("direct", "generate")
ROWS_AT_ONCE = 4  # a batch of questions takes no more memory than so many


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Left-padded token sequences (B, L); ``labels`` is IGNORED where nobody has to speak."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def position_ids(self) -> Tensor:
        return (self.attention_mask.cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True, config=STRICT)
class LoRAConfig:
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05


@dataclass(frozen=True, config=STRICT)
class VLLMConfig:
    """What a system adds to a VLLM: N edit tokens, and LoRA on its language model's q and v."""

    num_edit_tokens: int
    edit_token: str = "<img_{}>"  # how they are spelled, by their number
    hidden_state: Literal["at", "before"] = "at"  # the state at a token, or the one predicting it
    lora: LoRAConfig | None = field(default_factory=LoRAConfig)  # None: only the tokens are trained
    prompt: PromptConfig = field(default_factory=PromptConfig)
    type: Literal[tuple(FAMILIES)] = "llava"  # type: ignore[valid-type]  # the model_type

    def __post_init__(self) -> None:
        if self.num_edit_tokens < 1:
            raise FlexEditError("A bridge needs num_edit_tokens ≥ 1 to read from.")
        if "{}" not in self.edit_token:
            raise FlexEditError(f"edit_token is {self.edit_token!r}; it lacks {{}}, the number.")

    @property
    def edit_tokens(self) -> list[str]:
        numbers = map(str, range(self.num_edit_tokens))
        return [self.edit_token.replace("{}", number) for number in numbers]


class VLLM(nn.Module):
    """A transformers image-text-to-text model: with N edit tokens it carries an edit; without a
    ``config`` of any, and with a ``chat``, it is a stock one that is asked in plain words.

    Wrapped as a plain module, so that device and dtype are moved like any other part's.
    """

    Config = VLLMConfig
    model: Any  # transformers' own; its class is the folder's

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocess: Preprocess | None = None,
        config: VLLMConfig | None = None,
        chat: Chat | None = None,
    ) -> None:
        """Adds the edit tokens that ``config`` asks for, where they are not there yet, to tokenizer
        and embeddings; None asks for none.

        preprocess: how pictures become the squares of a family of squares · chat: how the others'
        processor shows them.
        """
        super().__init__()
        self.model, self.tokenizer, self.chat = model, tokenizer, chat
        self.preprocess = preprocess
        self.is_stock = chat is not None and config is None
        self.family = family_of(model.config) or Family()
        self.hidden_state = config.hidden_state if config else "at"
        self.prompt = config.prompt if config else PromptConfig()
        if not self.is_stock and self.prompt.chat == PromptConfig().chat:
            # no system says otherwise: as the family, or its folder, is spoken to
            own = self.family.chat_format or (chat and chat.format())
            self.prompt = dataclasses.replace(self.prompt, chat=own or self.prompt.chat)
        self.tied = False
        names = config.edit_tokens if config else []
        if names:
            tokenizer.add_tokens(names, special_tokens=True)
            if len(tokenizer) > model.get_input_embeddings().num_embeddings:
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            # one tensor for input and output embeddings: then only one set of rows is new
            inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
            self.tied = inputs.weight is outputs.weight
        self.edit_ids: list[int] = tokenizer.convert_tokens_to_ids(names)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def width(self) -> int:
        return self.config.get_text_config().hidden_size

    @property
    def longest_answer(self) -> int:
        """In tokens: a reply is one sentence, a stock model may say several."""
        return 256 if self.is_stock else self.prompt.longest_reply

    @property
    def language_model(self) -> Any:
        return self.model.get_submodule(self.family.language_model)

    def memory_required(self, num_rows: int, num_pictures: int) -> int:
        """About how many bytes it takes to read a request with so many rows, of so many pictures"""
        per_picture = MAX_PICTURE_TOKENS if self.chat else num_image_tokens(self.config)
        rows_at_once = min(num_rows, ROWS_AT_ONCE) if self.is_stock else num_rows
        num_tokens = rows_at_once * (num_pictures * per_picture + 512)
        return reading_memory(self.config.get_text_config(), num_tokens, self._dtype)

    def read(
        self,
        request: EditRequest,
        marked: Tensor,
        reply: str = "direct",
        on_token: Callable[[int], None] | None = None,
    ) -> Reading:
        """What it makes of a request; marked: the marked scene (B, 3, H, W).

        A question is always answered; it has no edit tokens. A stock VLLM always speaks: it names
        what is meant and says an edit's instruction anew.
        ``on_token(count)`` is called for each token of an answer; what it raises ends the reading.
        Raises FlexEditError for an unknown mode of reply.
        """
        if reply not in REPLIES:
            raise FlexEditError(f"Unknown reply mode {reply!r}; choose direct or generate.")
        if self.is_stock:

            def ask(questions: Any, pictures: Any, max_new_tokens: int) -> list[str]:
                return self.answer(questions, pictures, max_new_tokens, on_token)

            return read_by_questions(ask, request, marked, self.longest_answer)
        texts = request.prompts(form=self.prompt)
        pictures = self.pictures(marked, request.subject, request.has_subject)
        asks = "ask" in request.tasks
        if reply == "direct" and not asks:
            empty = ("",) * request.batch_size
            return Reading(request.instructions, empty, empty, self.direct(texts, pictures))
        replies, hidden_states = self.generate(
            texts, pictures, with_edit=bool(self.edit_ids) and not asks, on_token=on_token
        )
        labels = tuple(map(prompts.parse_label, replies))
        return Reading(request.instructions, replies, labels, hidden_states)

    def pictures(
        self, marked: Tensor, subject: Tensor | None, has_subject: Sequence[bool]
    ) -> Pictures:
        """marked (B, 3, H, W), subject (B, 3, h, w) → all rows' pictures, in reading order."""
        if subject is None or not any(has_subject):
            subject, has_subject = marked, [False] * len(marked)
        if self.family.squares:
            assert self.preprocess is not None
            scenes = self.preprocess(marked)
            subjects = self.preprocess(subject) if any(has_subject) else scenes
            return self.squares(torch.stack(in_reading_order(scenes, subjects, has_subject)))
        assert self.chat is not None
        one = self.tokenizer.convert_ids_to_tokens(self.config.image_token_id)
        return self.chat.pictures(in_reading_order(marked, subject, has_subject), one)

    def squares(self, pixels: Tensor) -> Pictures:
        """What ``preprocess`` made of pictures (P, 3, S, S), for a family of squares."""
        config = self.config
        return Pictures.squares(pixels, config.image_token_id, num_image_tokens(config))

    def tokenize(
        self,
        prompt_texts: Sequence[str],
        pictures: Pictures,
        replies: Sequence[str | list[int]] | None = None,
        *,
        edit_tokens: Sequence[bool] | None = None,
        forced: Sequence[bool] | None = None,
        end: bool = False,
    ) -> Sequences:
        """Prompts, with their pictures, and replies (or the very ids that were said) → left-padded
        sequences on the model's device.

        ``edit_tokens``: which rows' replies end in the N edit tokens (default: all), of which the
        first is what ends the VLLM's own words · ``forced``: which rows' replies it never has to
        say itself (default: none) · ``end``: close replies without edit tokens with the
        end-of-sequence token, as training does.
        """
        rows, labels, shown = [], [], iter(pictures.tokens)
        for index, text in enumerate(prompt_texts):
            ids = self._prompt_ids(text, shown)
            reply: list[int] = []
            num_spoken = 0
            if replies is not None:
                said = replies[index]
                if isinstance(said, str):
                    said = reply_ids(self.tokenizer, said, self.prompt)
                has_edit = edit_tokens is None or edit_tokens[index]
                closing = [self.tokenizer.eos_token_id] if end else []
                num_spoken = 0 if forced is not None and forced[index] else len(said) + 1
                reply = said + (self.edit_ids if has_edit else closing)
            rows.append(ids + reply)
            spoken = reply[:num_spoken]
            labels.append([IGNORED] * len(ids) + spoken + [IGNORED] * (len(reply) - len(spoken)))
        length = max(map(len, rows))
        limit = self.config.get_text_config().max_position_embeddings
        if length > limit:
            raise FlexEditError(
                f"The instruction needs {length} tokens with its pictures, but this VLLM reads at "
                f"most {limit}. Shorten the instruction."
            )
        pad = self.tokenizer.pad_token_id
        device = self.model.get_input_embeddings().weight.device

        def stack(sequences: list[list[int]], fill: int) -> Tensor:
            padded = [[fill] * (length - len(sequence)) + sequence for sequence in sequences]
            return torch.tensor(padded, device=device)

        mask = stack([[1] * len(row) for row in rows], 0)
        return Sequences(stack(rows, pad), mask, stack(labels, IGNORED))

    def _prompt_ids(self, text: str, shown: Iterator[Sequence[int]]) -> list[int]:
        """A prompt, whose pictures are the next of those ``shown``."""
        text = text.replace(prompts.IMAGE, self.family.picture)
        ids = prompt_ids(self.tokenizer, text, self.prompt)
        image = self.config.image_token_id
        return [one for each in ids for one in (next(shown) if each == image else [each])]

    def inputs(self, sequences: Sequences, pictures: Pictures) -> dict[str, Tensor]:
        """What transformers' model reads, but for positions."""
        ids = sequences.input_ids
        inputs = {"input_ids": ids, "attention_mask": sequences.attention_mask}
        if "mm_token_type_ids" in inspect.signature(self.model.model.forward).parameters:
            inputs["mm_token_type_ids"] = (ids == self.config.image_token_id).long()
        return inputs | pictures.to(ids.device, self._dtype)

    def states(self, sequences: Sequences, pictures: Pictures) -> Tensor:
        """One prefill: the last layer's hidden states (B, L, D) of whole sequences."""
        positions = None if self.family.own_positions else sequences.position_ids
        inputs = self.inputs(sequences, pictures)
        return self.model.model(**inputs, position_ids=positions, use_cache=False).last_hidden_state

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
        logits = self.model.get_output_embeddings()(states[:, -longest - 1 : -1]).float()
        labels = labels[:, -longest:]
        losses = F.cross_entropy(
            rearrange(logits, "b l v -> (b l) v"),
            rearrange(labels, "b l -> (b l)"),
            ignore_index=IGNORED,
            reduction="none",
        )
        losses = rearrange(losses, "(b l) -> b l", b=labels.shape[0])
        return losses.sum(-1) / (labels != IGNORED).sum(-1).clamp(min=1)

    def score(
        self,
        prompt_texts: Sequence[str],
        pictures: Pictures,
        replies: Sequence[str],
        *,
        edit_tokens: Sequence[bool],
        forced: Sequence[bool] | None = None,
        with_loss: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Training's prefill: H (B, N, D), None without edit tokens, beside each reply's loss (B,),
        None unless it is wanted.

        edit_tokens, forced: as in `tokenize`.
        """
        sequences = self.tokenize(
            prompt_texts, pictures, replies, edit_tokens=edit_tokens, forced=forced, end=True
        )
        states = self.states(sequences, pictures)
        hidden = self.edit_states(sequences, states) if self.edit_ids else None
        return hidden, self.reply_loss(sequences, states) if with_loss else None

    @torch.no_grad()
    def direct(self, prompt_texts: Sequence[str], pictures: Pictures) -> Tensor:
        """The fast path: one prefill of prompt, forced reply and edit tokens → H (B, N, D)"""
        self._require_edit_tokens()
        forced = [self.prompt.reply] * len(prompt_texts)
        with torch.inference_mode():  # a tenth faster than without gradients
            sequences = self.tokenize(prompt_texts, pictures, forced)
            hidden = self.edit_states(sequences, self.states(sequences, pictures))
        return hidden.clone()  # a tensor that a loss may go on from

    @torch.no_grad()
    def generate(
        self,
        prompt_texts: Sequence[str],
        pictures: Pictures,
        *,
        with_edit: bool = True,
        max_new_tokens: int | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> tuple[tuple[str, ...], Tensor | None]:
        """Lets the VLLM speak (greedily), then appends the edit tokens over the kept KV cache.

        → what it said, H (B, N, D) ``with_edit``. ``on_token(count)`` is called for each new token;
        what it raises ends the generation.
        """
        if with_edit:
            self._require_edit_tokens()
        sequences = self.tokenize(prompt_texts, pictures)
        stops = self.stops()
        with self._first_positions() as positions:
            output = self._speak(
                self.inputs(sequences, pictures),
                max_new_tokens or self.longest_answer,
                on_token,
                use_cache=True,
                eos_token_id=stops,
                return_dict_in_generate=True,
            )
        spoken = output.sequences[:, sequences.input_ids.shape[1] :]
        stopped = torch.isin(spoken, torch.tensor(stops, device=spoken.device))
        said = stopped.int().cumsum(-1) == 0  # (B, T): tokens before the first stop
        replies = tuple(
            self.tokenizer.decode(row[keep], skip_special_tokens=True).strip()
            for row, keep in zip(spoken, said, strict=True)
        )
        hidden = None
        if with_edit and self.hidden_state == "before":  # needs the state of the last spoken token
            words = [row[keep].tolist() for row, keep in zip(spoken, said, strict=True)]
            full = self.tokenize(prompt_texts, pictures, words)
            hidden = self.edit_states(full, self.states(full, pictures))
        elif with_edit:
            own = self.family.own_positions
            at, cache = positions[0] if own else sequences.position_ids, output.past_key_values
            hidden = self._append_edit_tokens(sequences, at, spoken, said, cache)
        return replies, hidden

    def stops(self) -> list[int]:
        """The tokens that end its own words."""
        ends = getattr(self.model.generation_config, "eos_token_id", None) or []
        ends = [ends] if isinstance(ends, int) else ends
        return [self.tokenizer.eos_token_id, *ends, *self.edit_ids]

    @contextmanager
    def _first_positions(self) -> Iterator[list[Tensor]]:
        """The positions (B, L) that its own model gives the tokens of the first prefill inside;
        where there are three of a token, one for each axis, those of the last.
        """
        found: list[Tensor] = []

        def look(_: Any, __: Any, inputs: dict[str, Any]) -> None:
            if not found:
                positions = inputs["position_ids"]
                found.append(positions.reshape(-1, *positions.shape[-2:])[-1])

        hook = self.language_model.register_forward_pre_hook(look, with_kwargs=True)
        try:
            yield found
        finally:
            hook.remove()

    @torch.no_grad()
    def answer(
        self,
        questions: Sequence[str],
        pictures: Sequence[Sequence[Image.Image]],
        max_new_tokens: int = 256,
        on_token: Callable[[int], None] | None = None,
    ) -> list[str]:
        """One question about each row's own pictures → what a stock model says, greedily."""
        assert self.chat is not None
        answers: list[str] = []
        for start in range(0, len(questions), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            inputs = self.chat.inputs(self.model, questions[rows], pictures[rows])
            length = inputs["input_ids"].shape[1]
            limit = getattr(self.config.get_text_config(), "max_position_embeddings", None)
            if limit is not None and length + max_new_tokens > limit:
                raise FlexEditError(
                    f"The question needs {length} tokens with its pictures and {max_new_tokens} "
                    f"for the answer, but this VLLM reads at most {limit}. Shorten the "
                    "instruction, or choose a VLLM that reads more."
                )
            inputs = inputs.to(self.model.device, self.model.dtype)
            output = self._speak(inputs, max_new_tokens, on_token)
            said = self.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
            answers += [text.strip() for text in said]
        return answers

    def _speak(
        self,
        inputs: Mapping[str, Tensor],
        max_new_tokens: int,
        on_token: Callable[[int], None] | None,
        **options: Any,
    ) -> Any:
        length = inputs["input_ids"].shape[1]
        return self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            no_repeat_ngram_size=self.prompt.no_repeat,
            pad_token_id=self.tokenizer.pad_token_id,
            stopping_criteria=[Watch(length, on_token)] if on_token else None,
            **options,
        )

    def _append_edit_tokens(
        self, sequences: Sequences, positions: Tensor, spoken: Tensor, said: Tensor, cache: Any
    ) -> Tensor:
        """Runs [last spoken token, edit tokens] over the cache, which lacks just that one.

        positions (B, L): of the prompts, which end in words, numbered one by one
        """
        batch, count = len(spoken), len(self.edit_ids)
        edit_ids = torch.tensor(self.edit_ids, device=spoken.device).expand(batch, count)
        ones = torch.ones_like(edit_ids)
        new = torch.cat([said.long(), ones], 1)
        mask = torch.cat([sequences.attention_mask, new], 1)
        positions = positions[:, -1:].to(new) + new.cumsum(-1)
        states = self.model.model(
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
        return next(self.model.parameters()).dtype

    # --- what FlexEdit trains in the VLLM, under the checkpoint's own names ---

    def token_rows(self) -> dict[str, Tensor]:
        """``embed`` and, if untied, ``lm_head``: the edit tokens' rows (N, D)."""
        rows = {"embed": self._rows(self.model.get_input_embeddings())}
        if not self.tied:
            rows["lm_head"] = self._rows(self.model.get_output_embeddings())
        return rows

    def _rows(self, layer: Any) -> Tensor:
        """The edit tokens' rows of an embedding or linear layer, also when peft trains them."""
        trained = getattr(layer, "token_adapter", layer)
        if hasattr(trained, "trainable_tokens_delta"):
            return trained.trainable_tokens_delta["default"]
        return layer.weight[torch.tensor(self.edit_ids)]

    @torch.no_grad()
    def set_token_rows(self, rows: dict[str, Tensor]) -> None:
        ids = torch.tensor(self.edit_ids)
        self.model.get_input_embeddings().weight[ids] = rows["embed"].to(self._dtype)
        if not self.tied:
            self.model.get_output_embeddings().weight[ids] = rows["lm_head"].to(self._dtype)

    def attention_projections(self) -> Iterator[tuple[str, nn.Linear]]:
        """``<layer>.<q|v>`` and its linear layer: where LoRA sits."""
        for index, layer in enumerate(self.language_model.layers):
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


def in_reading_order(scenes: Tensor, subjects: Tensor, has_subject: Sequence[bool]) -> list[Tensor]:
    """Each row's scene, then its subject if it has one."""
    rows = zip(scenes, subjects, has_subject, strict=True)
    return [one for scene, subject, has in rows for one in ([scene, subject] if has else [scene])]


class Watch:
    """A stopping criterion that never stops: it reports progress, and lets a cancel through."""

    def __init__(self, prompt_length: int, on_token: Callable[[int], None]) -> None:
        self.prompt_length = prompt_length
        self.on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.on_token(input_ids.shape[1] - self.prompt_length)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
