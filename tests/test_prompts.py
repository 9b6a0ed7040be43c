import pytest

from flexedit import prompts
from flexedit.data.world import CLASSES
from flexedit.errors import FlexEditError
from flexedit.systems import preset


def test_a_prompt_shows_the_marked_scene_and_points_at_the_mask():
    text = prompts.prompt("remove this")
    assert text == f"USER: [pic1] <image>\n{prompts.POSITIONAL}remove this ASSISTANT:"


def test_a_subject_is_the_second_picture():
    text = prompts.prompt("add this", with_subject=True)
    assert text.count(prompts.IMAGE) == 2
    assert text.index("[pic1] <image>") < text.index("[pic2] <image>") < text.index("add this")


def form_of(system):
    return preset(system, {"name": "mine", "sources": {}}).vllm.prompt


def test_smartedit_is_asked_as_it_was_trained():
    text = prompts.prompt("remove the cup", form=form_of("smartedit"))
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant can "
        "generate <img>. The assistant needs to conduct the image to image translation task based "
        "on given image and text information. The assistant gives helpful, detailed, and polite "
        "answers to the user's questions. USER: Please generate an image that corresponds to the "
        'previous image and text description "<im_start> <image> <im_end>remove the cup". '
        "ASSISTANT:"
    )


def test_smartedit_is_never_shown_a_line_break_and_no_words_are_joined():
    form = form_of("smartedit")
    asked = prompts.prompt("remove the cup \n and the\r\nplate\n", form=form)
    assert asked == prompts.prompt("remove the cup and the plate", form=form)
    assert "cup\nand" in prompts.prompt("cup\nand")  # others read them as they are


def test_mgie_is_asked_as_it_was_trained():
    text = prompts.prompt("make it red", form=form_of("mgie"))
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: what will this "
        "image be like if 'make it red'\n<im_start><image><im_end> ASSISTANT:"
    )


@pytest.mark.parametrize("system", ["smartedit", "mgie"])
def test_what_a_person_types_fills_no_place_of_a_template(system):
    words = "write {pictures} and {question} on {instruction}"
    assert words in prompts.prompt(words, form=form_of(system))


@pytest.mark.parametrize(
    ("setting", "text"), [("chat", "USER:"), ("edit", "{pictures}"), ("scene", "[pic1]")]
)
def test_a_template_without_its_place_is_refused(setting, text):
    with pytest.raises(FlexEditError, match=rf"prompt\.{setting} must have .* in it, once"):
        prompts.PromptConfig(**{setting: text})


@pytest.mark.parametrize(("setting", "value"), [("longest_reply", 0), ("no_repeat", -1)])
def test_numbers_that_no_reply_can_have_are_named(setting, value):
    with pytest.raises(FlexEditError, match=rf"prompt\.{setting} is {value}; it must be"):
        prompts.PromptConfig(**{setting: value})


@pytest.mark.parametrize(
    "settings", [{"with_mask": False}, {"task": "segment"}, {"task": "ask"}, {"positional": ""}]
)
def test_only_an_edit_with_a_mask_is_told_where(settings):
    assert prompts.POSITIONAL not in prompts.prompt("turn it red", **settings)


@pytest.mark.parametrize(
    ("task", "words"),
    [("segment", prompts.SEGMENT_INSTRUCTION), ("ask", prompts.ASK_INSTRUCTION)],
)
def test_without_words_the_task_says_the_usual_ones(task, words):
    assert words in prompts.prompt(" ", task)
    assert words not in prompts.prompt("what is it?", task)


@pytest.mark.parametrize("token", ["<image>", "<img_3>", "<s>", "</s>", "<|im_end|>", "<pad>"])
@pytest.mark.parametrize("text", ["{}", "a {} b", "<{}>", "{0}{0}", "<im{}age>"])
def test_what_looks_like_a_special_token_loses_its_power(token, text):
    harmless = prompts.neutralise(text.format(token))
    assert token not in harmless
    assert token.strip("<>") in harmless


@pytest.mark.parametrize("text", ["a < b and c > d", "3<4", "<3 you", "x -> y"])
def test_ordinary_text_is_left_alone(text):
    assert prompts.neutralise(text) == text


def test_an_instruction_cannot_smuggle_a_picture_into_the_prompt():
    assert prompts.prompt("put <image> here").count(prompts.IMAGE) == 1


@pytest.mark.parametrize("name", [*CLASSES, prompts.BACKGROUND, "dog's bed", "O'Neil's 2nd cat"])
def test_the_named_object_is_read_back_from_the_reply(name):
    assert prompts.parse_label(prompts.naming_reply(name)) == name


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ('Sure. The mask means: "red chair".', "red chair"),
        ("the masks mean ‘old tree’, I think", "old tree"),
        ("MASK MEANS 'a'", "a"),
        (prompts.GENERIC_REPLY, ""),
        ("", ""),
        ("The masks means chair", ""),
    ],
)
def test_labels_are_found_however_they_are_quoted(reply, label):
    assert prompts.parse_label(reply) == label


def test_generic_rows_are_taught_the_reply_that_the_fast_path_forces():
    replies = prompts.training_replies(["The masks means 'dog'"] * 2, [True, False])
    assert replies == [prompts.GENERIC_REPLY, "The masks means 'dog'"]
