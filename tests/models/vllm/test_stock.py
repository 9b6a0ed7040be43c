"""Stock models of several classes, each through its own processor and chat format."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from flexedit import masks
from flexedit.errors import FlexEditError
from flexedit.model_folder import load_stock_vllm
from flexedit.models.vllm import VLLM, questions
from flexedit.models.vllm.chat import MIN_SIDE, to_pil
from flexedit.models.vllm.expressive import QUESTION as EXPRESSIVE
from flexedit.models.vllm.expressive import express
from flexedit.request import EditRequest
from tests.tiny_vllms import KINDS, make_tiny_vllm

QUESTION = "What is it?"
LONGER = "Which one of all these things is it that I have painted over here?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("LLM")
    return {kind: make_tiny_vllm(kind, root / str(index)) for index, kind in enumerate(KINDS)}


@pytest.fixture(scope="module", params=KINDS)
def vllm(request, folders) -> VLLM:
    """Weights large enough that each token is felt, so that answers vary; read only."""
    vllm = load_stock_vllm(folders[request.param])
    torch.manual_seed(1)
    for parameter in vllm.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
    return vllm


@pytest.fixture
def llava(folders) -> VLLM:
    return load_stock_vllm(folders["llava"])


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return to_pil(torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)))


def request_of(task: str, instruction: str = "", *, mask: bool = True, subject: bool = False):
    generator = torch.Generator().manual_seed(2)
    return EditRequest.create(
        torch.rand(1, 3, 40, 60, generator=generator),
        instruction,
        masks.draw("circle", 40, 60) if mask else None,
        torch.rand(1, 3, 20, 20, generator=generator) if subject else None,
        task,
    )


def teach(vllm: VLLM, lessons: Sequence[tuple[str, list[Image.Image], str]]) -> None:
    """Learns each (question, pictures, answer) by heart."""
    rows = []
    for question, pictures, answer in lessons:
        inputs = vllm.chat.inputs(vllm.model, [question], [pictures])
        said = vllm.tokenizer(answer, add_special_tokens=False)["input_ids"]
        reply = torch.tensor([[*said, vllm.tokenizer.eos_token_id]])
        ids = torch.cat([inputs["input_ids"], reply], 1)
        labels = ids.clone()
        labels[:, : -reply.shape[1]] = -100
        rows.append({"input_ids": ids, "labels": labels, "pixel_values": inputs["pixel_values"]})
    optimizer = torch.optim.Adam(vllm.requires_grad_(True).parameters(), lr=5e-3)
    for _ in range(150):
        loss = sum(vllm.model(**row).loss for row in rows)
        if loss < 0.1:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


# Talking


@torch.no_grad()
def test_an_answer_is_what_plain_transformers_says_token_by_token(vllm):
    inputs = dict(vllm.chat.inputs(vllm.model, [QUESTION], [[noise(30, 40)]]))
    length, ids = inputs["input_ids"].shape[1], inputs["input_ids"]
    for _ in range(6):
        more = torch.ones_like(ids)
        inputs |= {"input_ids": ids, "attention_mask": more}
        if "mm_token_type_ids" in inputs:
            kinds = torch.zeros_like(ids)
            kinds[:, :length] = inputs["mm_token_type_ids"][:, :length]
            inputs["mm_token_type_ids"] = kinds
        best = vllm.model(**inputs, use_cache=False).logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, best], 1)
    expected = vllm.tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip()
    assert vllm.answer([QUESTION], [[noise(30, 40)]], max_new_tokens=6) == [expected]
    assert expected


def test_a_row_of_a_batch_answers_as_it_does_alone(vllm):
    one, two = [noise(30, 40)], [noise(20, 60, 1), noise(50, 50, 2)]
    together = vllm.answer([QUESTION, LONGER], [one, two], max_new_tokens=6)
    assert together == [
        *vllm.answer([QUESTION], [one], max_new_tokens=6),
        *vllm.answer([LONGER], [two], max_new_tokens=6),
    ]


def test_what_it_says_depends_on_the_picture_and_the_question(vllm):
    answers = {
        vllm.answer([question], [[picture]], max_new_tokens=8)[0]
        for question in (QUESTION, LONGER)
        for picture in (noise(30, 40), noise(30, 40, 1))
    }
    assert len(answers) == 4


def test_the_corner_of_a_wide_picture_is_seen(vllm):
    scene = torch.rand(3, 40, 120, generator=torch.Generator().manual_seed(0))
    marked = scene.clone()
    marked[:, :12, :12] = 1
    before, after = (
        vllm.chat.inputs(vllm.model, [QUESTION], [[to_pil(one)]]) for one in (scene, marked)
    )
    assert (before["pixel_values"] - after["pixel_values"]).abs().max() > 0.5


def test_large_pictures_are_scaled_down_before_a_model_cuts_them_into_tiles():
    assert to_pil(torch.rand(3, 3000, 2000)).size == (683, 1024)


@pytest.mark.parametrize("shape", [(1, 400), (4000, 3), (1, 1)])
def test_slivers_are_made_wide_enough_for_models_that_refuse_them(shape):
    image = to_pil(torch.rand(3, *shape))
    assert min(image.size) >= MIN_SIDE and max(image.size) <= 128 * min(image.size)


def test_each_token_is_reported_and_what_the_callback_raises_ends_the_answer(vllm):
    counts = []

    def cancel(count: int) -> None:
        counts.append(count)
        if count == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        vllm.answer([QUESTION], [[noise(30, 40)]], on_token=cancel)
    assert counts == [1, 2, 3]


WORDS = ("<image>", "<|image_pad|>", "</s>", "<pad>", "<global-img>", "<end_of_utterance>")


@pytest.mark.parametrize("word", WORDS)
def test_an_instruction_can_never_become_a_special_token(vllm, word):
    special = {i for i, token in vllm.tokenizer.added_tokens_decoder.items() if token.special}

    def count(question: str) -> int:
        ids = vllm.chat.inputs(vllm.model, [question], [[noise(30, 40)]])["input_ids"][0].tolist()
        return sum(i in special for i in ids)

    assert count(f"a {word}{word} b") == count("a b")


def test_special_tokens_without_angle_brackets_are_made_harmless_too(llava):
    llava.tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]"]})
    assert llava.chat.harmless("a [IMG][IMG] b") == "a [ IMG][ IMG] b"


def test_a_question_that_is_too_long_is_refused_with_both_numbers(vllm):
    limit = vllm.model.config.get_text_config().max_position_embeddings
    with pytest.raises(FlexEditError, match=rf"needs \d+ tokens .* at most {limit}"):
        vllm.answer(["zebra " * limit], [[noise(30, 40)]])


def test_more_rows_and_pictures_are_expected_to_take_more_memory(vllm):
    assert 0 < vllm.memory_required(1, 1) < vllm.memory_required(1, 2) < vllm.memory_required(4, 2)


def test_a_large_batch_is_read_in_parts(vllm, monkeypatch):
    pictures = [[noise(30, 40, seed)] for seed in range(6)]
    last = vllm.answer([QUESTION] * 2, pictures[4:], max_new_tokens=4)
    parts, read = [], vllm.chat.inputs

    def inputs(model, asked, shown):
        parts.append(len(asked))
        return read(model, asked, shown)

    monkeypatch.setattr(vllm.chat, "inputs", inputs)
    answers = vllm.answer([QUESTION] * 6, pictures, max_new_tokens=4)
    assert parts == [4, 2] and len(answers) == 6 and answers[4:] == last
    assert vllm.memory_required(4, 1) == vllm.memory_required(6, 1)


def test_half_precision_answers_too(folders):
    vllm = load_stock_vllm(folders["llava"], torch.bfloat16)
    assert {parameter.dtype for parameter in vllm.parameters()} == {torch.bfloat16}
    assert len(vllm.answer([QUESTION], [[noise(30, 40)]], max_new_tokens=2)) == 1


# Reading a request


def test_an_edit_is_named_and_said_anew_with_that_name(llava):
    request = request_of("edit", "remove this")
    scene = [to_pil(request.marked()[0])]
    rewrite = questions.following_question(
        "edit", "remove this", "red turtle", False, with_mask=True
    )
    assert "“remove this”" in rewrite and "red turtle" in rewrite
    teach(
        llava,
        [
            (questions.NAME, scene, "The paint covers a red turtle."),
            (rewrite, scene, '"Remove the red turtle on the left"'),
        ],
    )
    reading = llava.read(request, request.marked())
    assert reading.labels == ("red turtle",)
    assert reading.replies == ("Remove the red turtle on the left",)
    assert reading.hidden_states is None


def test_segment_and_a_bare_question_reply_with_the_name_as_it_was_said(llava):
    request = request_of("ask")
    teach(llava, [(questions.NAME, [to_pil(request.marked()[0])], "It is a turtle.")])
    for task in ("ask", "segment"):
        reading = llava.read(request_of(task), request.marked())
        assert (reading.replies, reading.labels) == (("It is a turtle.",), ("turtle",))


def test_a_question_of_ones_own_is_answered_about_the_marked_scene(llava):
    request = request_of("ask", "what colour is it?")
    scene = [to_pil(request.marked()[0])]
    question = questions.MARKED + "what colour is it?"
    teach(llava, [(questions.NAME, scene, "a turtle"), (question, scene, "Red.")])
    reading = llava.read(request, request.marked())
    assert (reading.replies, reading.labels) == (("Red.",), ("turtle",))


def test_the_subject_is_the_second_picture_of_the_rewriting_alone(llava):
    request = request_of("edit", "add the object in [pic2] to [pic1]", subject=True)
    scene, subject = to_pil(request.marked()[0]), to_pil(request.subject[0])
    rewrite = questions.following_question(
        "edit", request.instructions[0], "table", True, with_mask=True
    )
    teach(
        llava,
        [
            (questions.NAME, [scene], "a table"),
            (rewrite, [scene, subject], "Put a vase on the table"),
        ],
    )
    assert llava.read(request, request.marked()).replies == ("Put a vase on the table",)


def test_without_a_mask_nothing_is_named(llava):
    request = request_of("edit", "make it night", mask=False)
    reading = llava.read(request, request.marked())
    assert reading.labels == ("",) and reading.replies[0]


def test_an_editor_gets_the_instruction_itself_when_the_model_has_no_words(llava):
    request = request_of("edit", "remove this", mask=False)
    question = questions.following_question("edit", "remove this", "", False, with_mask=False)
    teach(llava, [(question, [to_pil(request.scene[0])], "")])
    assert llava.read(request, request.marked()).replies == ("remove this",)


@pytest.mark.parametrize(
    ("task", "instruction", "with_mask", "first", "second"),
    [
        ("segment", "", True, questions.NAME, None),
        ("segment", "mark it in red", True, questions.NAME, None),
        ("segment", "mark the dog", False, "Which object is meant by “mark the dog”?", None),
        ("segment", "", False, None, questions.DESCRIBE),
        ("ask", "", True, questions.NAME, None),
        ("ask", "how many?", False, None, "how many?"),
        ("ask", "", False, None, questions.DESCRIBE),
    ],
)
def test_what_is_asked_of_each_task(task, instruction, with_mask, first, second):
    asked = questions.naming_question(task, instruction, with_mask)
    assert asked is first is None or asked.startswith(first)
    then = questions.following_question(task, instruction, "x", False, with_mask=with_mask)
    assert then == second


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("chair", "chair"),
        ("A red chair.", "red chair"),
        ("The masks means 'turtle'", "turtle"),
        ("The white paint covers a red chair. It stands left.", "red chair"),
        ("The paint in the corner means the kitchen table", "kitchen table"),
        ("It is an “umbrella”.", "umbrella"),
        ("The object is: **Dog**", "Dog"),
        ("The dog is on the left.", "dog is on the left"),
        ("Mark Twain's hat", "Mark Twain's hat"),
        ("It's a St. Bernard dog. It sleeps.", "St. Bernard dog"),
        ("1. Cat\n2. Dog", "Cat"),
        ("Answer: a 3.5 inch disk", "3.5 inch disk"),
        ("The paint represents a cat.", "cat"),
        ("The white paint is covering a cup of coffee.", "cup of coffee"),
        ("The covered bridge", "covered bridge"),
        ("", ""),
    ],
)
def test_the_label_is_the_name_without_the_sentence_around_it(answer, label):
    assert questions.label_of(answer) == label


# Folders


def spoiled(folders, tmp_path, kind: str = "qwen 2.5") -> Path:
    return shutil.copytree(folders[kind], tmp_path / "spoiled")


def test_a_folder_without_a_chat_template_is_refused(folders, tmp_path):
    folder = spoiled(folders, tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(FlexEditError, match=r"does not chat.*instruction-tuned"):
        load_stock_vllm(folder)


def test_quantised_weights_are_refused(folders, tmp_path):
    folder = spoiled(folders, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FlexEditError, match="quantised weights"):
        load_stock_vllm(folder)


@pytest.mark.parametrize(
    "names",
    [
        ["config.json"],
        ["model.safetensors"],
        ["processor_config.json", "preprocessor_config.json"],  # which of them: by version
        ["tokenizer.json", "vocab.json"],
    ],
    ids=str,
)
def test_an_incomplete_folder_is_named(names, folders, tmp_path):
    folder = spoiled(folders, tmp_path)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(FlexEditError, match=r"spoiled cannot be loaded"):
        load_stock_vllm(folder)


def test_missing_weights_are_named(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = spoiled(folders, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "q_proj" in name)
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != gone},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(FlexEditError, match=r"lacks weights for .*q_proj"):
        load_stock_vllm(folder)


def test_a_language_model_without_eyes_is_refused(folders, tmp_path):
    folder = spoiled(folders, tmp_path)
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FlexEditError, match=r"Llama"):
        load_stock_vllm(folder)


def test_it_says_an_instruction_at_length(llava):
    request = request_of("edit", "make it winter", mask=False)
    asked = EXPRESSIVE.format(instruction="make it winter")
    teach(llava, [(asked, [to_pil(request.scene[0])], "Let snow fall. Whiten it. And more.")])
    assert express(llava, request, False) == ("Let snow fall. Whiten it.",)
