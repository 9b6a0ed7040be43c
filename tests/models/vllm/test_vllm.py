"""The VLLM against plain transformers: one unpadded row, whole prefills, no cache."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from flexedit import masks, prompts
from flexedit.errors import FlexEditError
from flexedit.model_folder import load_vllm
from flexedit.models.vllm import VLLM
from flexedit.models.vllm.base import IGNORED, VLLMConfig
from flexedit.models.vllm.families import num_image_tokens
from flexedit.request import EditRequest
from tests.tiny import TEXTS, TINY

NUM_EDIT_TOKENS = 3
SHORT = prompts.prompt("remove this")
LONG = prompts.prompt("make it red and put a hat on it, please", with_subject=True)


def make_vllm(folder: Path, tied: bool) -> VLLM:
    """Weights large enough that each token is felt by all later ones, and that replies vary."""
    torch.manual_seed(0)
    if not tied:
        config = AutoConfig.from_pretrained(folder)
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    vllm = load_vllm(folder, VLLMConfig(NUM_EDIT_TOKENS))
    for name, parameter in vllm.named_parameters():
        if parameter.dim() > 1 or "class_embedding" in name:
            words = "embed_tokens" in name or "lm_head" in name
            std = 0.05 if words else 1.5 / parameter[0].numel() ** 0.5
            parameter.data.normal_(0, std)
    return vllm


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from flexedit.training.pretrain.parts import build_vllm

    path = tmp_path_factory.mktemp("vllm")
    build_vllm(TINY, TEXTS, path)
    return path


@pytest.fixture(params=["tied", "untied"])
def vllm(request, folder, tmp_path) -> VLLM:
    return make_vllm(shutil.copytree(folder, tmp_path / "vllm"), request.param == "tied")


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """One for SHORT, then two for LONG."""
    return torch.randn(3, 3, TINY.size, TINY.size, generator=torch.Generator().manual_seed(1))


def prompt_ids(vllm: VLLM, text: str) -> list[int]:
    text = text.replace(prompts.IMAGE, prompts.IMAGE * num_image_tokens(vllm.config))
    return vllm.tokenizer(text)["input_ids"]


@torch.no_grad()
def last_states(vllm: VLLM, ids: Sequence[int], pixels: torch.Tensor) -> torch.Tensor:
    """(L, D) of a single row without padding"""
    output = vllm.model(
        input_ids=torch.tensor([ids]), pixel_values=pixels, output_hidden_states=True
    )
    return output.hidden_states[-1][0]


@torch.no_grad()
def speak(vllm: VLLM, text: str, pixels: torch.Tensor, count: int) -> list[int]:
    """Greedy decoding by whole prefills; the tokens before the first stop."""
    ids, spoken = prompt_ids(vllm, text), []
    for _ in range(count):
        logits = vllm.model(input_ids=torch.tensor([ids + spoken]), pixel_values=pixels).logits
        token = int(logits[0, -1].argmax())
        if token in (vllm.tokenizer.eos_token_id, *vllm.edit_ids):
            break
        spoken.append(token)
    return spoken


def expected_states(
    vllm: VLLM, text: str, reply: Sequence[int], pixels: torch.Tensor, before: bool = False
) -> torch.Tensor:
    """H (N, D) of prompt + these very reply tokens + edit tokens"""
    states = last_states(vllm, [*prompt_ids(vllm, text), *reply, *vllm.edit_ids], pixels)
    return states[-len(vllm.edit_ids) - before : len(states) - before]


# The fast path


def test_direct_reads_the_states_of_prompt_generic_reply_and_edit_tokens(vllm, pictures):
    hidden = vllm.direct([SHORT, LONG], vllm.squares(pictures))
    reply = vllm.tokenizer(" " + prompts.GENERIC_REPLY, add_special_tokens=False)["input_ids"]
    for row, text, pixels in ((0, SHORT, pictures[:1]), (1, LONG, pictures[1:])):
        expected = expected_states(vllm, text, reply, pixels)
        torch.testing.assert_close(hidden[row], expected, atol=1e-4, rtol=1e-4)


def test_a_loss_may_go_on_from_what_direct_has_read(vllm, pictures):
    layer = torch.nn.Linear(vllm.width, 1)
    layer(vllm.direct([SHORT], vllm.squares(pictures[:1]))).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.any()


def test_the_same_question_gives_the_same_states_and_another_others(vllm, pictures):
    first = vllm.direct([SHORT], vllm.squares(pictures[:1]))
    again = vllm.direct([SHORT], vllm.squares(pictures[:1]))
    other_words = vllm.direct([prompts.prompt("remove that")], vllm.squares(pictures[:1]))
    other_picture = vllm.direct([SHORT], vllm.squares(pictures[1:2]))
    assert torch.equal(first, again)
    assert (first - other_words).abs().amax() > 1e-2
    assert (first - other_picture).abs().amax() > 1e-2


# Speaking


@pytest.mark.parametrize("count", [1, 7])
def test_generated_states_are_those_of_one_prefill_over_the_very_tokens(vllm, pictures, count):
    replies, hidden = vllm.generate([SHORT, LONG], vllm.squares(pictures), max_new_tokens=count)
    for row, text, pixels in ((0, SHORT, pictures[:1]), (1, LONG, pictures[1:])):
        spoken = speak(vllm, text, pixels, count)
        assert replies[row] == vllm.tokenizer.decode(spoken).strip()
        expected = expected_states(vllm, text, spoken, pixels)
        torch.testing.assert_close(hidden[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("early", [0, 1])
@pytest.mark.parametrize("stop", ["end of sequence", "edit token"])
def test_a_row_that_stops_early_keeps_its_own_states(vllm, pictures, early, stop):
    """The other row goes on talking; what fills up the quiet one must not be heard."""
    rows = ((SHORT, pictures[:1]), (LONG, pictures[1:]))
    said = [speak(vllm, text, pixels, 8) for text, pixels in rows]
    heard = said[1 - early]
    ending = next(
        token
        for index, token in enumerate(said[early])
        if index > 1 and token not in said[early][:index] + heard
    )
    if stop == "end of sequence":
        vllm.tokenizer.eos_token = vllm.tokenizer.convert_ids_to_tokens(ending)
    else:  # wherever that token was said, the first edit token is now said instead
        words, heads = vllm.model.get_input_embeddings(), vllm.model.get_output_embeddings()
        words.weight.data[vllm.edit_ids[0]] = words.weight[ending]
        heads.weight.data[vllm.edit_ids[0]] = 1.01 * heads.weight[ending]
    expected_said = [speak(vllm, text, pixels, 8) for text, pixels in rows]
    assert 1 < len(expected_said[early]) < len(expected_said[1 - early])

    replies, hidden = vllm.generate([SHORT, LONG], vllm.squares(pictures), max_new_tokens=8)
    for row, (text, pixels) in enumerate(rows):
        assert replies[row] == vllm.tokenizer.decode(expected_said[row]).strip()
        expected = expected_states(vllm, text, expected_said[row], pixels)
        torch.testing.assert_close(hidden[row], expected, atol=1e-4, rtol=1e-4)


def test_all_rows_may_stop_at_once(vllm, pictures):
    first = speak(vllm, SHORT, pictures[:1], 3)
    vllm.tokenizer.eos_token = vllm.tokenizer.convert_ids_to_tokens(first[2])
    spoken = first[: first.index(first[2])]
    _, hidden = vllm.generate([SHORT], vllm.squares(pictures[:1]), max_new_tokens=8)
    expected = expected_states(vllm, SHORT, spoken, pictures[:1])
    torch.testing.assert_close(hidden[0], expected, atol=1e-4, rtol=1e-4)


def test_each_token_is_reported_and_what_the_callback_raises_ends_the_reply(vllm, pictures):
    counts = []

    def cancel(count: int) -> None:
        counts.append(count)
        if count == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        vllm.generate([SHORT, LONG], vllm.squares(pictures), on_token=cancel)
    assert counts == [1, 2, 3]
    assert vllm.generate([SHORT], vllm.squares(pictures[:1]), max_new_tokens=2)[1] is not None


# Reading a request


def request_of(task: str, subject: bool = False) -> EditRequest:
    generator = torch.Generator().manual_seed(3)
    scene, other = torch.rand(2, 3, 40, 60, generator=generator)
    mask = masks.draw("circle", 40, 60)
    return EditRequest.create(scene, "remove this", mask, other if subject else None, task)


@pytest.mark.parametrize("subject", [False, True])
def test_a_direct_reading_says_nothing_and_has_the_fast_paths_states(vllm, subject):
    request = request_of("edit", subject)
    pixels = vllm.pictures(request.marked(), request.subject, request.has_subject)
    reading = vllm.read(request, request.marked())
    assert torch.equal(reading.hidden_states, vllm.direct(request.prompts(), pixels))
    assert reading.replies == reading.labels == ("",)
    assert reading.instructions == request.instructions


def test_a_question_is_always_answered_and_has_no_states(vllm):
    request = request_of("ask")
    reading = vllm.read(request, request.marked(), "direct")
    assert reading.hidden_states is None and reading.replies[0]


def test_a_named_object_is_the_label(vllm):
    """A model that has learned one reply by heart says it, and its label is read."""
    request, reply = request_of("edit"), (prompts.naming_reply("turtle"),)
    texts, shown = request.prompts(), vllm.pictures(request.marked(), None, (False,))
    optimizer = torch.optim.Adam(vllm.requires_grad_(True).parameters(), lr=3e-3)
    sequences = vllm.tokenize(texts, shown, reply, edit_tokens=[False], end=True)
    for _ in range(40):
        loss = vllm.reply_loss(sequences, vllm.states(sequences, shown)).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    reading = vllm.read(request, request.marked(), "generate")
    assert reading.replies == reply and reading.labels == ("turtle",)
    assert torch.equal(reading.hidden_states, vllm.generate(texts, shown)[1])


def test_an_unknown_mode_of_reply_is_refused(vllm):
    with pytest.raises(FlexEditError, match="'shout'; choose direct or generate"):
        vllm.read(request_of("edit"), torch.zeros(1, 3, 8, 8), "shout")


# Which state


def test_before_takes_the_states_that_predict_the_edit_tokens(vllm, pictures):
    at = vllm.direct([SHORT, LONG], vllm.squares(pictures))
    vllm.hidden_state = "before"
    before = vllm.direct([SHORT, LONG], vllm.squares(pictures))
    torch.testing.assert_close(before[:, 1:], at[:, :-1])
    reply = vllm.tokenizer(" " + prompts.GENERIC_REPLY, add_special_tokens=False)["input_ids"]
    expected = expected_states(vllm, LONG, reply, pictures[1:], before=True)
    torch.testing.assert_close(before[1], expected, atol=1e-4, rtol=1e-4)


def test_before_after_a_spoken_reply_starts_at_its_last_token(vllm, pictures):
    vllm.hidden_state = "before"
    _, hidden = vllm.generate([SHORT], vllm.squares(pictures[:1]), max_new_tokens=5)
    spoken = speak(vllm, SHORT, pictures[:1], 5)
    expected = expected_states(vllm, SHORT, spoken, pictures[:1], before=True)
    torch.testing.assert_close(hidden[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("which", ["at", "before"])
def test_a_row_without_edit_tokens_has_zero_states(vllm, pictures, which):
    vllm.hidden_state = which
    shown = vllm.squares(pictures)
    sequences = vllm.tokenize([SHORT, LONG], shown, ["a", "b"], edit_tokens=[False, True])
    hidden = vllm.edit_states(sequences, vllm.states(sequences, shown))
    assert not hidden[0].any() and hidden[1].any()


# What it reads


@pytest.mark.parametrize("word", ["<img_1>", "<image>", "</s>", "<s>", "<pad>"])
def test_an_instruction_can_never_become_a_special_token(vllm, word):
    ids = prompt_ids(vllm, prompts.prompt(f"a {word}{word} b"))
    plain = prompt_ids(vllm, prompts.prompt("a b"))
    special = set(vllm.tokenizer.all_special_ids) | set(vllm.edit_ids)
    special.add(vllm.tokenizer.convert_tokens_to_ids(prompts.IMAGE))
    assert [i for i in ids if i in special] == [i for i in plain if i in special]


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("tower", [CLIPVisionConfig, SiglipVisionConfig])
def test_a_picture_takes_as_many_tokens_as_its_tower_has_features(vllm, tower, strategy):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "image_size": 32, "patch_size": 8}
    config = LlavaConfig(
        vision_config=tower(**sizes, num_hidden_layers=1, num_attention_heads=2),
        text_config=vllm.config.text_config,
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1,
    )
    vllm.model = LlavaForConditionalGeneration(config)
    features = vllm.model.get_image_features(torch.zeros(1, 3, 32, 32)).pooler_output
    assert num_image_tokens(vllm.config) == len(features[0])


def test_pictures_come_in_reading_order_and_only_of_rows_that_have_them(vllm):
    marked, subject = torch.rand(3, 3, 20, 30), torch.rand(3, 3, 50, 40)
    pixels = vllm.pictures(marked, subject, (True, False, True)).inputs["pixel_values"]
    scenes, subjects = vllm.preprocess(marked), vllm.preprocess(subject)
    expected = [scenes[0], subjects[0], scenes[1], scenes[2], subjects[2]]
    assert torch.equal(pixels, torch.stack(expected))
    alone = vllm.pictures(marked, None, (False,) * 3).inputs["pixel_values"]
    assert torch.equal(alone, scenes)


def test_sequences_end_together_and_only_what_it_says_itself_is_labelled(vllm):
    texts, replies = [SHORT, LONG, SHORT], ["yes", "no, it is red", "yes"]
    sequences = vllm.tokenize(
        texts,
        vllm.squares(torch.zeros(4, 3, TINY.size, TINY.size)),
        replies,
        edit_tokens=[True, False, True],
        forced=[False, False, True],
        end=True,
    )
    eos = vllm.tokenizer.eos_token_id
    for row, (text, said) in enumerate(zip(texts, replies, strict=True)):
        words = vllm.tokenizer(" " + said, add_special_tokens=False)["input_ids"]
        whole = prompt_ids(vllm, text) + words + ([eos] if row == 1 else vllm.edit_ids)
        start = len(sequences.input_ids[row]) - len(whole)
        assert sequences.input_ids[row, start:].tolist() == whole
        assert sequences.attention_mask[row].tolist() == [0] * start + [1] * len(whole)
        labelled = sequences.labels[row][sequences.labels[row] != IGNORED].tolist()
        closing = eos if row == 1 else vllm.edit_ids[0]
        assert labelled == ([] if row == 2 else [*words, closing])


def test_where_nothing_has_to_be_said_no_reply_is_lost(vllm, pictures):
    shown = vllm.squares(pictures)
    sequences = vllm.tokenize([SHORT, LONG], shown, ["yes", "no"], forced=[True, True])
    losses = vllm.reply_loss(sequences, vllm.states(sequences, shown))
    assert losses.tolist() == [0, 0]


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(vllm, pictures):
    limit = vllm.config.text_config.max_position_embeddings
    with pytest.raises(FlexEditError, match=rf"needs \d+ tokens .* at most {limit}"):
        vllm.direct([prompts.prompt("zebra " * limit)], vllm.squares(pictures[:1]))


# What it learns from


def test_the_reply_loss_is_the_mean_cross_entropy_of_each_rows_reply(vllm, pictures):
    replies = ["yes", "The masks means 'dog'"]
    shown = vllm.squares(pictures)
    sequences = vllm.tokenize([SHORT, LONG], shown, replies, edit_tokens=[True, False], end=True)
    losses = vllm.reply_loss(sequences, vllm.states(sequences, shown))
    for row, (text, pixels) in enumerate(((SHORT, pictures[:1]), (LONG, pictures[1:]))):
        prompt = prompt_ids(vllm, text)
        reply = sequences.labels[row][sequences.labels[row] != IGNORED].tolist()
        with torch.no_grad():
            logits = vllm.model(
                input_ids=torch.tensor([prompt + reply]), pixel_values=pixels
            ).logits[0]
        predicting = logits[len(prompt) - 1 : -1].log_softmax(-1)
        expected = -predicting[range(len(reply)), reply].mean()
        torch.testing.assert_close(losses[row], expected, atol=1e-4, rtol=1e-4)


def test_tied_and_untied_models_have_the_token_rows_that_they_train(folder, tmp_path):
    tied, untied = (
        make_vllm(shutil.copytree(folder, tmp_path / str(tied)), tied) for tied in (True, False)
    )
    assert set(tied.token_rows()) == {"embed"} and tied.tied
    assert set(untied.token_rows()) == {"embed", "lm_head"} and not untied.tied


def test_token_rows_are_put_where_they_were_taken_from(vllm, pictures):
    rows = {name: torch.randn_like(row) for name, row in vllm.token_rows().items()}
    before = vllm.direct([SHORT], vllm.squares(pictures[:1]))
    others = vllm.model.get_input_embeddings().weight[: vllm.edit_ids[0]].clone()
    vllm.set_token_rows(rows)
    assert all(torch.equal(vllm.token_rows()[name], row) for name, row in rows.items())
    assert torch.equal(vllm.model.get_input_embeddings().weight[: vllm.edit_ids[0]], others)
    assert not torch.allclose(vllm.direct([SHORT], vllm.squares(pictures[:1])), before)


def test_merging_lora_adds_the_scaled_product_to_q_and_v_alone(vllm):
    before = {name: weight.clone() for name, weight in vllm.named_parameters()}
    lora = {}
    for name, linear in vllm.attention_projections():
        lora[f"{name}.A"] = torch.randn(4, linear.in_features)
        lora[f"{name}.B"] = torch.randn(linear.out_features, 4)
    vllm.merge_lora(lora, 0.5)
    for name, linear in vllm.attention_projections():
        layer, letter = name.split(".")
        path = f"model.model.language_model.layers.{layer}.self_attn.{letter}_proj.weight"
        expected = before.pop(path) + 0.5 * lora[f"{name}.B"] @ lora[f"{name}.A"]
        torch.testing.assert_close(linear.weight, expected)
    now = dict(vllm.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in before.items())


# Edit tokens


def test_without_edit_tokens_it_talks_but_does_not_edit(folder, pictures):
    plain = load_vllm(folder)
    assert plain.edit_ids == []
    shown = plain.squares(pictures[:1])
    replies, hidden = plain.generate([SHORT], shown, with_edit=False, max_new_tokens=2)
    assert replies[0] and hidden is None
    for call in (plain.direct, plain.generate):
        with pytest.raises(FlexEditError, match="no edit tokens"):
            call([SHORT], shown)


def test_edit_tokens_that_are_already_there_are_not_added_twice(vllm, tmp_path):
    vllm.model.save_pretrained(tmp_path / "saved")
    vllm.tokenizer.save_pretrained(tmp_path / "saved")
    again = VLLM(
        LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved"),
        type(vllm.tokenizer).from_pretrained(tmp_path / "saved"),
        vllm.preprocess,
        VLLMConfig(NUM_EDIT_TOKENS),
    )
    assert again.edit_ids == vllm.edit_ids
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        old, new = (getattr(model.model, layer)().weight for model in (vllm, again))
        assert torch.equal(old, new)


def test_more_rows_and_pictures_are_expected_to_take_more_memory(vllm):
    assert 0 < vllm.memory_required(1, 1) < vllm.memory_required(1, 2) < vllm.memory_required(4, 2)
