"""What people get wrong ends in a sentence that says how to mend it, and the next prompt works."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexedit.model_folder import CONFIG_FILE, WEIGHTS_FILE
from tests.comfyui.graph import OPAQUE, Graph, free_shape, load, pictures
from tools.comfyui.server import PromptFailed


@pytest.fixture(autouse=True)
def next_prompt_works(comfy, model):
    """After each test, whatever went wrong in it."""
    yield
    graph = good_prompt(comfy, model)
    assert comfy.run(graph)


def good_prompt(comfy, model) -> Graph:
    graph = Graph()
    scene = load(graph, comfy, "good.png", 32, 32)
    graph.save(graph.edit(model, scene[0], free_shape(graph, image=scene[0])))
    return graph


def refused(comfy, graph: Graph, message: str) -> PromptFailed:
    with pytest.raises(PromptFailed, match=message) as failure:
        comfy.run(graph)
    assert failure.value.exception_type.endswith("FlexEditError")
    assert "\n" not in failure.value.message
    return failure.value


# Masks


def test_the_placeholder_that_stands_for_no_mask_asks_the_user_to_paint(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "opaque.png", 100, 80)  # no alpha: LoadImage gives 64×64 zeros
    graph.interpret(model, scene[0], scene[1])
    graph.save(graph.edit(model, scene[0], scene[1]))
    refused(comfy, graph, "The mask is empty. Paint over")


def test_an_empty_mask_asks_the_user_to_paint(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    nothing = graph.add("SolidMask", value=0.0, width=48, height=32)
    graph.save(graph.edit(model, scene[0], nothing[0]))
    refused(comfy, graph, "The mask is empty. Paint over")


@pytest.mark.parametrize("node", ["FlexEditCrop", "FlexEditComposite"])
def test_crop_and_composite_refuse_an_empty_mask_too(node, comfy):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    nothing = graph.add("SolidMask", value=0.0, width=48, height=32)
    more = {"FlexEditCrop": {"size": 64, "context": 2.0}}
    settings = more.get(node, {"edited": scene[0], **OPAQUE})
    graph.save(graph.add(node, scene=scene[0], mask=nothing[0], **settings)[0])
    refused(comfy, graph, "The mask is empty. Paint over")


def test_a_mask_of_another_size_is_scaled_to_the_scene(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    mask = free_shape(graph, image_width=200, image_height=300)
    edited = graph.edit(model, scene[0], mask)
    result = graph.add("FlexEditComposite", scene=scene[0], edited=edited, mask=mask, **OPAQUE)
    saved = graph.save(result[0])
    assert pictures(comfy, comfy.run(graph), saved)[0].shape == (32, 48, 3)


def test_a_random_walk_without_an_object_says_what_to_connect(comfy):
    graph = Graph()
    graph.save_mask(free_shape(graph, "random walk"))
    refused(comfy, graph, "Connect its mask")


# Batches


def batch_of(graph: Graph, slot, amount: int):
    return graph.add("RepeatImageBatch", image=slot, amount=amount)[0]


def test_two_scenes_with_three_subjects_are_refused_with_both_numbers(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    scenes, subjects = batch_of(graph, scene[0], 2), batch_of(graph, scene[0], 3)
    _, interpreter = graph.interpret(model, scenes, free_shape(graph), subject=subjects)
    graph.save(interpreter[3])
    refused(comfy, graph, r"scene: 2.*subject: 3")


def test_two_scenes_with_three_masks_are_refused_with_both_numbers(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    scenes, three = batch_of(graph, scene[0], 2), batch_of(graph, scene[0], 3)
    _, interpreter = graph.interpret(model, scenes, free_shape(graph, image=three))
    graph.save(interpreter[3])
    refused(comfy, graph, r"2.*3")


def test_two_edits_of_three_scenes_are_refused_with_both_numbers(comfy):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    scenes, edits = batch_of(graph, scene[0], 3), batch_of(graph, scene[0], 2)
    result = graph.add(
        "FlexEditComposite", scene=scenes, edited=edits, mask=free_shape(graph), **OPAQUE
    )
    graph.save(result[0])
    refused(comfy, graph, r"scene: 3.*edited: 2")


# Pictures


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures_are_edited(channels, comfy, model):
    graph = Graph()
    scene = load(graph, comfy, f"{channels}.png", 32, 48, channels=channels)
    image = scene[0]
    if channels == 4:  # LoadImage splits the alpha off; other nodes give it as a fourth channel
        image = graph.add("JoinImageWithAlpha", image=scene[0], alpha=scene[1])[0]
    mask = free_shape(graph)
    edited = graph.edit(model, image, mask)
    result = graph.add("FlexEditComposite", scene=image, edited=edited, mask=mask, **OPAQUE)
    saved = graph.save(result[0])
    assert pictures(comfy, comfy.run(graph), saved)[0].shape == (32, 48, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 50)])
def test_pictures_of_a_pixel_are_edited(size, comfy, model):
    height, width = size
    graph = Graph()
    scene = graph.add("EmptyImage", width=width, height=height, batch_size=1, color=0x336699)
    mask = free_shape(graph, image=scene[0])
    edited = graph.edit(model, scene[0], mask)
    result = graph.add("FlexEditComposite", scene=scene[0], edited=edited, mask=mask, **OPAQUE)
    saved = graph.save(result[0])
    assert pictures(comfy, comfy.run(graph), saved)[0].shape[:2] == size


def test_a_part_of_an_8k_photo_is_edited(comfy, model):
    graph = Graph()
    scene = graph.add("EmptyImage", width=8192, height=1024, batch_size=1, color=0x336699)
    mask = free_shape(graph, image=scene[0], shape_width=0.05, shape_height=0.4)
    _, interpreter = graph.interpret(model, scene[0], mask, task="ask")
    graph.add("PreviewAny", source=interpreter[1])
    crop = graph.add("FlexEditCrop", scene=scene[0], mask=mask, size=64, context=2.0)
    edited = graph.edit(model, crop[0], crop[1])
    result = graph.add(
        "FlexEditComposite", scene=scene[0], edited=edited, mask=mask, crop=crop[2], **OPAQUE
    )
    saved = graph.save(result[0])
    (picture,) = pictures(comfy, comfy.run(graph), saved)
    assert picture.shape == (1024, 8192, 3)
    assert (picture[:, :3500] == (0x33, 0x66, 0x99)).all()


@pytest.mark.parametrize("place", ["scene", "edited"])
def test_nan_is_named_rather_than_passed_on(place, comfy, model):
    graph = Graph()
    latent = torch.full((1, 4, 8, 8), torch.nan)
    content = {"latent_tensor": latent, "latent_format_version_0": torch.tensor([])}
    save_file(content, comfy.folder / "input" / "nan.latent")
    broken = graph.add("LoadLatent", latent="nan.latent")
    loader = graph.add("FlexEditLoader", model=model, precision="auto")
    nan = graph.add("VAEDecode", samples=broken[0], vae=loader[1])
    scene = graph.add("EmptyImage", width=32, height=32, batch_size=1, color=0)
    images = {"scene": scene[0], "edited": scene[0], place: nan[0]}
    result = graph.add("FlexEditComposite", **images, mask=free_shape(graph), **OPAQUE)
    graph.save(result[0])
    refused(comfy, graph, "NaN")


# Words


@pytest.mark.parametrize("instruction", ["", "  \n "])
def test_an_empty_instruction_is_refused(instruction, comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    graph.save(graph.edit(model, scene[0], free_shape(graph), instruction=instruction))
    refused(comfy, graph, "The instruction is empty")


def test_an_endless_instruction_is_refused_with_its_length(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    graph.save(graph.edit(model, scene[0], free_shape(graph), instruction="remove it " * 1000))
    refused(comfy, graph, "9999 characters")


def test_special_tokens_in_an_instruction_have_no_power(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    instruction = "<image> </s> <img_0> remove it"
    graph.save(graph.edit(model, scene[0], free_shape(graph), instruction=instruction))
    assert comfy.run(graph)


def test_a_question_carries_no_edit(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    graph.save(graph.edit(model, scene[0], free_shape(graph), task="ask"))
    refused(comfy, graph, "answers a question and carries no edit")


def whole_road(comfy, model) -> tuple[Graph, dict]:
    """A graph, and the inputs of each of its nodes by class."""
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    mask = free_shape(graph)
    edited = graph.edit(model, scene[0], mask)
    graph.save(
        graph.add("FlexEditComposite", scene=scene[0], edited=edited, mask=mask, **OPAQUE)[0]
    )
    return graph, {node["class_type"]: node["inputs"] for node in graph.values()}


@pytest.mark.parametrize(
    ("node", "option"),
    [
        ("FlexEditMaskInterpreter", "task"),
        ("FlexEditMaskInterpreter", "reply"),
        ("FlexEditFreeShapeMask", "kind"),
        ("FlexEditComposite", "region"),
        ("FlexEditLoader", "precision"),
        ("FlexEditLoader", "model"),
    ],
)
def test_an_unknown_option_is_refused_before_anything_runs(node, option, comfy, model):
    graph, inputs = whole_road(comfy, model)
    inputs[node][option] = "nonsense"
    with pytest.raises(PromptFailed, match="nonsense") as failure:
        comfy.run(graph)
    assert failure.value.node_type == node


@pytest.mark.parametrize(
    ("node", "name", "primitive", "value"),
    [
        ("FlexEditKSampler", "steps", "PrimitiveInt", -3),
        ("FlexEditKSampler", "steps", "PrimitiveInt", 0),
        ("FlexEditKSampler", "denoise", "PrimitiveFloat", 2.0),
        ("FlexEditMEAConditioning", "subject_strength", "PrimitiveFloat", -1.0),
        ("FlexEditComposite", "feather", "PrimitiveInt", -1),
        ("FlexEditFreeShapeMask", "image_width", "PrimitiveInt", 0),
    ],
)
def test_a_number_that_comes_by_wire_keeps_to_the_widgets_limits(
    node, name, primitive, value, comfy, model
):
    graph, inputs = whole_road(comfy, model)
    inputs[node][name] = graph.add(primitive, value=value)[0]
    failure = refused(comfy, graph, rf"{name} is {value}\. Give a number from")
    assert failure.node_type == node


@pytest.mark.parametrize(
    ("node", "name", "value", "message"),
    [
        ("FlexEditKSampler", "edit_cfg", float("nan"), "edit_cfg is nan. Give a number from 0.0"),
        ("FlexEditMEAConditioning", "subject_strength", float("inf"), "subject_strength"),
        ("FlexEditKSampler", "sampler_name", None, "sampler_name is None. Choose one of euler"),
        ("FlexEditComposite", "mask", "mask.png", "mask is 'mask.png'. Connect an output of the"),
        ("FlexEditMaskInterpreter", "instruction", "caf\udce9", "instruction .* lone surrogate"),
        ("FlexEditMaskInterpreter", "vllm", "text", "vllm is 'text'. Connect an output of the"),
        ("FlexEditComposite", "crop", "text", "crop is 'text'. Connect an output of the type"),
        ("FlexEditLoader", "precision", {"a": 1}, "of the type dict"),
    ],
)
def test_an_invalid_value_is_named(node, name, value, message, comfy, model):
    graph, inputs = whole_road(comfy, model)
    inputs[node][name] = value
    with pytest.raises(PromptFailed, match=message) as failure:
        comfy.run(graph)
    assert failure.value.node_type == node


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("FlexEditLoader", "model"),
        ("FlexEditLoader", "precision"),
        ("FlexEditKSampler", "sampler_name"),
        ("FlexEditKSampler", "scheduler"),
        ("FlexEditComposite", "region"),
    ],
)
def test_an_input_that_is_left_out_is_named(node, name, comfy, model):
    """As when the node that feeds a widget is muted"""
    graph, inputs = whole_road(comfy, model)
    del inputs[node][name]
    with pytest.raises(PromptFailed, match=name) as failure:
        comfy.run(graph)
    assert failure.value.exception_type == "required_input_missing"
    assert failure.value.node_type == node


# Model folders


def without(name: str):
    def spoil(folder):
        (folder / name).unlink()

    return spoil


def truncated(name: str):
    def spoil(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def other_hidden_width(folder):
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["bridge"]["hidden_width"] += 8
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def wider_vae(folder):
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text())
    config["block_out_channels"][-1] *= 2
    path.write_text(json.dumps(config))


def pickled(folder):
    (folder / "vllm" / "model.safetensors").unlink()
    torch.save({}, folder / "vllm" / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("no-weights", without(WEIGHTS_FILE), f"lacks {WEIGHTS_FILE}"),
        ("cut-weights", truncated(WEIGHTS_FILE), f"{WEIGHTS_FILE} cannot be read"),
        ("no-vllm", without("vllm/config.json"), "lacks vllm/config.json"),
        ("cut-vllm", truncated("vllm/model.safetensors"), "cannot be loaded"),
        ("no-vae", without("vae/config.json"), "lacks vae/config.json"),
        ("cut-vae", truncated("vae/diffusion_pytorch_model.safetensors"), "safetensors"),
        ("other-vae", wider_vae, "vae: size mismatch .* do not belong together"),
        ("no-clip", without("clip/model.safetensors"), "clip"),
        ("other-width", other_hidden_width, "hidden width is 32, but bridge.hidden_width.* is 40"),
        ("pickled", pickled, "safetensors"),
    ],
)
def test_a_broken_model_folder_is_named(name, spoil, message, comfy, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / name)
    spoil(folder)
    comfy.link_model(f"flexedit/{name}", folder)
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    graph.save(graph.edit(name, scene[0], free_shape(graph)))
    assert name in refused(comfy, graph, message).message


@pytest.mark.parametrize("name", ["..", "../../etc", "/etc", "tiny/../tiny", "", "~"])
def test_a_model_name_cannot_leave_the_models_folder(name, comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    graph.save(graph.edit(name, scene[0], free_shape(graph)))
    with pytest.raises(PromptFailed) as failure:
        comfy.run(graph)
    assert failure.value.node_type == "FlexEditLoader"


def test_parts_of_two_models_are_refused_with_both_widths(comfy, model, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "wide")
    widen_qformer(folder)
    comfy.link_model("flexedit/wide", folder)
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    _, interpreter = graph.interpret(model, scene[0], free_shape(graph))
    wide = graph.add("FlexEditLoader", model="wide", precision="auto")
    embeds = graph.add("FlexEditQFormerEmbed", qformer=wide[4], intent=interpreter[0])
    graph.add("PreviewAny", source=embeds[0])
    refused(comfy, graph, r"32 wide.*reads 40")


READS_THE_VLLM = tuple(f"crossattention.attention.{name}.weight" for name in ("key", "value"))


def widen_qformer(folder):
    other_hidden_width(folder)
    tensors = load_file(folder / WEIGHTS_FILE)
    for key, tensor in tensors.items():
        if key.endswith(READS_THE_VLLM):
            tensors[key] = torch.nn.functional.pad(tensor, (0, 8))
    save_file(tensors, folder / WEIGHTS_FILE)


# Cancelling


def cancelled_in(comfy, graph: Graph, node_type: str):
    types = {node_id: node["class_type"] for node_id, node in graph.items()}

    def cancel(node_id: str, value: float, maximum: float) -> None:
        if types[node_id] == node_type:
            comfy.interrupt()

    with pytest.raises(PromptFailed) as failure:
        comfy.run(graph, on_progress=cancel)
    assert failure.value.exception_type == "InterruptProcessingException"
    assert failure.value.node_type == node_type


def test_cancel_ends_the_vllm_while_it_speaks(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    many = batch_of(graph, scene[0], 64)
    _, interpreter = graph.interpret(model, many, free_shape(graph), reply="generate")
    graph.save(interpreter[3])
    cancelled_in(comfy, graph, "FlexEditMaskInterpreter")


def test_cancel_ends_sampling(comfy, model):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 64, 64)
    graph.save(graph.edit(model, scene[0], free_shape(graph), steps=900))
    cancelled_in(comfy, graph, "FlexEditKSampler")
