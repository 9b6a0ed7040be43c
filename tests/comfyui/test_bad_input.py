"""What people get wrong ends in a sentence that says how to mend it, and the next prompt works."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexedit.model_folder import CONFIG_FILE, EMBEDDED, WEIGHTS_FILE
from tests.comfyui.graph import OPAQUE, Graph, free_shape, load, pictures
from tools.comfyui.server import PromptFailed


@pytest.fixture(autouse=True)
def next_prompt_works(comfy, model):
    """After each test, whatever went wrong in it."""
    yield
    graph, _ = whole_road(comfy, model)
    assert comfy.run(graph)


def whole_road(comfy, model, size: tuple[int, int] = (32, 48), **kind) -> tuple[Graph, dict]:
    """A graph from a picture to the composite, and the inputs of each of its nodes by class."""
    graph = Graph()
    scene = load(graph, comfy, "scene.png", *size, **kind)
    mask = free_shape(graph, image=scene[0])
    edited = graph.edit(model, scene[0], mask)
    graph.save(
        graph.add("FlexEditComposite", scene=scene[0], edited=edited, mask=mask, **OPAQUE)[0]
    )
    return graph, {node["class_type"]: node["inputs"] for node in graph.values()}


@pytest.fixture
def road(comfy, model) -> tuple[Graph, dict]:
    return whole_road(comfy, model)


def failure_of(comfy, graph: Graph, message: str) -> PromptFailed:
    with pytest.raises(PromptFailed, match=message) as failure:
        comfy.run(graph)
    return failure.value


def refused(comfy, graph: Graph, message: str) -> PromptFailed:
    failure = failure_of(comfy, graph, message)
    assert failure.exception_type.endswith("FlexEditError")
    assert "\n" not in failure.message
    return failure


# Masks, batches, words


def no_alpha(graph: Graph) -> list:
    """LoadImage's placeholder: 64×64 zeros"""
    picture = next(key for key, node in graph.items() if node["class_type"] == "LoadImage")
    return [picture, 1]


def nothing(graph: Graph) -> list:
    return graph.add("SolidMask", value=0.0, width=48, height=32)[0]


def copies(amount: int):
    def slot(graph: Graph) -> list:
        return graph.add("RepeatImageBatch", image=[no_alpha(graph)[0], 0], amount=amount)[0]

    return slot


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("MaskInterpreter", {"mask": no_alpha}, "The mask is empty. Paint over"),
        ("MaskInterpreter", {"mask": nothing}, "The mask is empty. Paint over"),
        ("Composite", {"mask": nothing}, "The mask is empty. Paint over"),
        ("FreeShapeMask", {"kind": "random walk"}, "Connect its mask"),
        ("FreeShapeMask", {"kind": "drawn"}, "Nothing is drawn. Draw over"),
        ("FreeShapeMask", {"kind": "drawn", "strokes": "[]"}, "must be a JSON obj"),
        ("MaskInterpreter", {"scene": copies(2), "subject": copies(3)}, r"scene: 2.*subject: 3"),
        ("Composite", {"scene": copies(3), "edited": copies(2)}, r"scene: 3.*edited: 2"),
        ("MaskInterpreter", {"instruction": "  \n "}, "The instruction is empty"),
        ("MaskInterpreter", {"instruction": "remove it " * 1000}, "9999 characters"),
        ("MaskInterpreter", {"task": "ask"}, "answers a question and carries no edit"),
    ],
)
def test_what_cannot_be_edited_is_explained(node, inputs, message, comfy, road):
    graph, by_class = road
    found = {name: it(graph) if callable(it) else it for name, it in inputs.items()}
    by_class[f"FlexEdit{node}"].update(found)
    assert refused(comfy, graph, message).node_type.startswith("FlexEdit")


def test_a_crop_around_an_empty_mask_is_refused_too(comfy):
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    crop = graph.add("FlexEditCrop", scene=scene[0], mask=nothing(graph), size=64, context=2.0)
    graph.save(crop[0])
    refused(comfy, graph, "The mask is empty. Paint over")


def test_special_tokens_in_an_instruction_have_no_power(comfy, road):
    graph, inputs = road
    inputs["FlexEditMaskInterpreter"]["instruction"] = "<image> </s> <img_0> remove it"
    assert comfy.run(graph)


# Pictures


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures_are_edited(channels, comfy, model):
    graph, inputs = whole_road(comfy, model, channels=channels)
    if channels == 4:  # LoadImage splits the alpha off; other nodes give it as a fourth channel
        picture, alpha = no_alpha(graph)[0], no_alpha(graph)
        whole = graph.add("JoinImageWithAlpha", image=[picture, 0], alpha=alpha)
        for node in ("FlexEditMaskInterpreter", "FlexEditComposite"):
            inputs[node]["scene"] = whole[0]
    assert shape_of_result(comfy, graph) == (32, 48, max(channels, 3))


def test_a_mask_of_another_size_is_scaled_to_the_scene(comfy, road):
    graph, inputs = road
    inputs["FlexEditFreeShapeMask"] |= {"image_width": 200, "image_height": 300}
    del inputs["FlexEditFreeShapeMask"]["image"]
    assert shape_of_result(comfy, graph) == (32, 48, 3)


def shape_of_result(comfy, graph: Graph) -> tuple[int, ...]:
    saved = next(key for key, node in graph.items() if node["class_type"] == "SaveImage")
    return pictures(comfy, comfy.run(graph), saved)[0].shape


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
def test_nan_is_named_rather_than_passed_on(place, comfy, road):
    graph, inputs = road
    content = {"latent_tensor": torch.full((1, 4, 8, 8), torch.nan)}
    content["latent_format_version_0"] = torch.tensor([])
    save_file(content, comfy.folder / "input" / "nan.latent")
    broken = graph.add("LoadLatent", latent="nan.latent")
    nan = graph.add("VAEDecode", samples=broken[0], vae=inputs["VAEDecode"]["vae"])
    inputs["FlexEditComposite"][place] = nan[0]
    refused(comfy, graph, "NaN")


# Values


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
def test_an_unknown_option_is_refused_before_anything_runs(node, option, comfy, road):
    graph, inputs = road
    inputs[node][option] = "nonsense"
    assert failure_of(comfy, graph, "nonsense").node_type == node


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
    node, name, primitive, value, comfy, road
):
    graph, inputs = road
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
        ("FlexEditQFormerEmbed", "intent", {"a": 1}, "intent is of the type dict. Connect an outp"),
        ("FlexEditKSampler", "latent", {"a": 1}, "latent is of the type dict. Connect an output"),
        ("FlexEditComposite", "crop", "text", "crop is 'text'. Connect an output of the type"),
        ("FlexEditLoader", "precision", {"a": 1}, "of the type dict"),
    ],
)
def test_an_invalid_value_is_named(node, name, value, message, comfy, road):
    graph, inputs = road
    inputs[node][name] = value
    assert failure_of(comfy, graph, message).node_type == node
    comfy.post("history", json={"clear": True})  # in which no page can read NaN


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("FlexEditLoader", "model"),
        ("FlexEditLoader", "precision"),
        ("FlexEditKSampler", "sampler_name"),
        ("FlexEditKSampler", "scheduler"),
        ("FlexEditKSampler", "steps"),
        ("FlexEditMaskInterpreter", "task"),
        ("FlexEditFreeShapeMask", "kind"),
        ("FlexEditComposite", "region"),
    ],
)
def test_a_muted_input_is_named(node, name, comfy, road):
    graph, inputs = road
    del inputs[node][name]
    failure = failure_of(comfy, graph, name)
    assert (failure.exception_type, failure.node_type) == ("required_input_missing", node)


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
    graph, _ = whole_road(comfy, name)
    assert name in refused(comfy, graph, message).message


@pytest.mark.parametrize("name", ["..", "../../etc", "/etc", "tiny/../tiny", "", "~"])
def test_a_model_name_cannot_leave_the_models_folder(name, comfy, model):
    graph, _ = whole_road(comfy, name)
    assert failure_of(comfy, graph, "").node_type == "FlexEditLoader"


def test_a_model_that_has_the_embedded_ones_name_is_never_used_and_the_log_says_so(comfy, tiny):
    link = comfy.folder / "models/flexedit" / EMBEDDED
    comfy.link_model(f"flexedit/{EMBEDDED}", tiny)
    try:
        for _ in range(2):
            options = str(comfy.object_info("FlexEditLoader")["input"]["required"]["model"])
            assert options.count(f"'{EMBEDDED}'") == options.count("'default': 'flexedit-mini'") + 1
        assert comfy.log.count(f"FlexEdit never uses {link}: {EMBEDDED} is ") == 1
    finally:
        link.unlink()


READS_THE_VLLM = tuple(f"crossattention.attention.{name}.weight" for name in ("key", "value"))


def test_parts_of_two_models_are_refused_with_both_widths(comfy, road, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "wide")
    other_hidden_width(folder)
    tensors = load_file(folder / WEIGHTS_FILE)
    for key, tensor in tensors.items():
        if key.endswith(READS_THE_VLLM):
            tensors[key] = torch.nn.functional.pad(tensor, (0, 8))
    save_file(tensors, folder / WEIGHTS_FILE)
    comfy.link_model("flexedit/wide", folder)
    graph, inputs = road
    wide = graph.add("FlexEditLoader", model="wide", precision="auto")
    inputs["FlexEditQFormerEmbed"]["qformer"] = wide[4]
    refused(comfy, graph, r"32 wide.*reads 40")


# Cancelling


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("FlexEditMaskInterpreter", {"scene": copies(64), "reply": "generate"}),
        ("FlexEditKSampler", {"steps": 900}),
    ],
)
def test_cancel_ends_what_takes_long(node, inputs, comfy, road):
    graph, by_class = road
    found = {name: it(graph) if callable(it) else it for name, it in inputs.items()}
    by_class[node].update(found)
    types = {node_id: entry["class_type"] for node_id, entry in graph.items()}

    def cancel(node_id: str, value: float, maximum: float) -> None:
        if types[node_id] == node:
            comfy.interrupt()

    with pytest.raises(PromptFailed) as failure:
        comfy.run(graph, on_progress=cancel)
    assert failure.value.exception_type == "InterruptProcessingException"
    assert failure.value.node_type == node
