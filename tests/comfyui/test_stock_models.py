"""Stock VLLMs from models/LLM and Segment Anything models from models/sams: listed, opened in the
graphs of a running ComfyUI, and kept in its memory.
"""

from pathlib import Path

import pytest

from tests.comfyui.graph import Graph, free_shape, load, pictures
from tools.comfyui import inside
from tools.comfyui.server import PromptFailed

LISTED = {"LLM": ["Qwen/tiny", "tiny-llava"], "sams": ["maker/tiny-sam2", "tiny-sam"]}
LOADERS = {"LLM": "FlexEditVLLMLoader", "sams": "FlexEditSAMLoader"}


def interpreted(comfy, name: str, task: str = "edit", count: int = 1, **inputs):
    """→ graph and interpreter: a stock VLLM reads a scribbled scene"""
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    scenes = graph.add("RepeatImageBatch", image=scene[0], amount=count)
    loader = graph.add("FlexEditVLLMLoader", model=name, precision="auto")
    request = {"instruction": "remove this", "task": task, "reply": "direct"} | inputs
    mask = free_shape(graph)
    interpreter = graph.add(
        "FlexEditMaskInterpreter", vllm=loader[0], scene=scenes[0], mask=mask, **request
    )
    return graph, interpreter


# In a graph


@pytest.mark.parametrize("kind", LISTED)
def test_the_stock_models_can_be_chosen(kind, comfy, listed):
    options = str(comfy.object_info(LOADERS[kind])["input"]["required"]["model"])
    assert all(name in options for name in LISTED[kind])


@pytest.mark.parametrize("kind", LISTED)
def test_an_unknown_model_is_refused_before_anything_runs(kind, comfy, listed):
    graph = Graph()
    loader = graph.add(LOADERS[kind], model="../../secret", precision="auto")
    graph.add("PreviewAny", source=loader[0])
    with pytest.raises(PromptFailed, match=rf"'\.\./\.\./secret'.*models/{kind}") as failure:
        comfy.run(graph)
    assert failure.value.node_type == LOADERS[kind]


@pytest.mark.parametrize("name", LISTED["LLM"])
@pytest.mark.parametrize("task", ["edit", "segment", "ask"])
def test_a_stock_vllm_gives_a_reply_and_a_label_for_each_picture(name, task, comfy, listed):
    words = "<image> <|image_pad|> </s> remove it"  # special tokens have no power here
    graph, interpreter = interpreted(comfy, name, task, count=2, instruction=words)
    ids = [graph.add("PreviewAny", source=interpreter[slot]).node_id for slot in (1, 2)]
    saved = graph.save(interpreter[3])
    outputs = comfy.run(graph)
    assert all(outputs[node_id]["text"][0].count("\n") == 1 for node_id in ids)
    assert [one.shape for one in pictures(comfy, outputs, saved)] == [(32, 48, 3)] * 2


def expressive(comfy, count: int):
    """→ graph and node: a stock VLLM says an instruction at length"""
    graph = Graph()
    scene = load(graph, comfy, "scene.png", 32, 48)
    scenes = graph.add("RepeatImageBatch", image=scene[0], amount=count)
    loader = graph.add("FlexEditVLLMLoader", model="tiny-llava", precision="auto")
    node = graph.add(
        "FlexEditExpressiveInstruction",
        vllm=loader[0],
        scene=scenes[0],
        instruction="make it winter",
    )
    return graph, graph.add("PreviewAny", source=node[0])


def test_it_says_an_instruction_at_length_for_each_picture(comfy, listed):
    graph, shown = expressive(comfy, count=2)
    (text,) = comfy.run(graph)[shown.node_id]["text"]
    lines = text.split("\n")
    assert len(lines) == 2 and all(0 < len(line.split()) <= 32 for line in lines)


def test_cancel_ends_it_while_it_speaks(comfy, listed):
    graph, _ = expressive(comfy, count=48)
    with pytest.raises(PromptFailed) as failure:
        comfy.run(graph, on_progress=lambda *_: comfy.interrupt())
    assert failure.value.exception_type == "InterruptProcessingException"
    assert failure.value.node_type == "FlexEditExpressiveInstruction"


def test_its_intent_is_refused_by_the_qformer(comfy, listed, model):
    graph, interpreter = interpreted(comfy, "tiny-llava")
    loader = graph.add("FlexEditLoader", model=model, precision="auto")
    embeds = graph.add("FlexEditQFormerEmbed", qformer=loader[4], intent=interpreter[0])
    graph.add("PreviewAny", source=embeds[0])
    with pytest.raises(PromptFailed, match=r"stock VLLM, which has no edit tokens") as failure:
        comfy.run(graph)
    assert failure.value.exception_type.endswith("FlexEditError")


def test_cancel_ends_a_stock_vllm_while_it_speaks(comfy, listed):
    graph, interpreter = interpreted(comfy, "tiny-llava", count=48)
    graph.save(interpreter[3])
    with pytest.raises(PromptFailed) as failure:
        comfy.run(graph, on_progress=lambda *_: comfy.interrupt())
    assert failure.value.exception_type == "InterruptProcessingException"
    assert failure.value.node_type == "FlexEditMaskInterpreter"


# In ComfyUI's memory


@pytest.fixture(scope="module")
def memory(stock) -> dict:
    return inside.run(Path(__file__).with_name("care.py"), "everything", stock)


@pytest.mark.parametrize("kind", LISTED)
def test_other_packs_keep_their_places_and_only_such_models_are_listed(kind, memory, stock):
    found = memory["names"][kind]
    assert found["names"] == LISTED[kind]
    assert found["paths"] == ["/elsewhere", str(Path(found["default"], kind)), str(stock / kind)]
    assert found["extensions"]
    assert found["before"]  # from an empty list the page would send nothing at all


@pytest.mark.parametrize(
    ("name", "module"),
    [("tiny-llava", "VLLM"), ("tiny-sam", "Sam"), ("maker/tiny-sam2", "Sam")],
)
def test_a_model_is_read_once_when_it_is_asked_and_not_kept_when_nothing_holds_it(
    name, module, memory
):
    life = memory["life"][name]
    assert life["bytes before use"] == 0 < life["bytes"]
    assert life["patcher before use"] == "None"  # ComfyUI asks for it outside of any node
    assert life["loaded"] == [module]
    assert life["same again"] and life["same module again"]
    assert not life["kept"] and life["loaded in the end"] == 0


def test_a_cancelled_reading_stops_and_the_next_one_works(memory):
    assert memory["cancelled reading"]["raised"] and memory["cancelled reading"]["label"]


def test_cancel_ends_a_batch_in_the_picture_that_is_being_resolved(memory):
    assert memory["cancelled resolving"] == {"raised": True, "after one": True}


@pytest.mark.parametrize(
    ("weights", "auto"),
    [
        ("bf16 weights", "torch.bfloat16"),
        ("bf16 weights without bf16", "torch.float32"),
        ("other weights", "torch.float32"),
    ],
)
def test_auto_keeps_bf16_weights_where_the_device_can(weights, auto, memory):
    chosen = {"auto": auto, "fp16": "torch.float16", "fp32": "torch.float32"}
    assert memory[weights] == chosen
