"""Stock VLLMs from models/LLM, in the interpreter of a running ComfyUI and in its memory."""

import json
from pathlib import Path

import pytest

from tests.comfyui.graph import Graph, free_shape, load, pictures
from tests.tiny_vllms import make_tiny_vllm
from tools.comfyui import inside
from tools.comfyui.server import PromptFailed


@pytest.fixture(scope="session")
def llm(tmp_path_factory) -> Path:
    """A folder as models/LLM is: a LLaVA, a maker's Qwen2.5-VL, and what is no VLLM."""
    root = tmp_path_factory.mktemp("models") / "LLM"
    make_tiny_vllm("llava", root / "tiny-llava")
    make_tiny_vllm("qwen 2.5", root / "Qwen" / "tiny")
    for name, content in (("text-only", '{"model_type": "llama"}'), ("broken", "{")):
        (root / name).mkdir()
        (root / name / "config.json").write_text(content)
    (root / "empty").mkdir()
    (root / "some.gguf").write_bytes(b"")
    config = root / "Qwen" / "tiny" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))
    return root


@pytest.fixture(scope="session")
def stock(comfy, llm) -> str:
    for name in ("tiny-llava", "Qwen"):
        comfy.link_model(f"LLM/{name}", llm / name)
    return "tiny-llava"


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


def test_the_stock_vllms_are_listed(comfy, stock):
    options = str(comfy.object_info("FlexEditVLLMLoader")["input"]["required"]["model"])
    assert "tiny-llava" in options and "Qwen/tiny" in options


@pytest.mark.parametrize("name", ["tiny-llava", "Qwen/tiny"])
@pytest.mark.parametrize("task", ["edit", "segment", "ask"])
def test_a_stock_vllm_gives_a_reply_and_a_label_for_each_picture(name, task, comfy, stock):
    graph, interpreter = interpreted(comfy, name, task, count=2)
    ids = [graph.add("PreviewAny", source=interpreter[slot]).node_id for slot in (1, 2)]
    saved = graph.save(interpreter[3])
    outputs = comfy.run(graph)
    assert all(outputs[node_id]["text"][0].count("\n") == 1 for node_id in ids)
    assert [one.shape for one in pictures(comfy, outputs, saved)] == [(32, 48, 3)] * 2


def test_special_tokens_have_no_power_over_a_stock_vllm(comfy, stock):
    for name in ("tiny-llava", "Qwen/tiny"):
        graph, interpreter = interpreted(
            comfy, name, instruction="<image> <|image_pad|> </s> remove it"
        )
        graph.add("PreviewAny", source=interpreter[1])
        assert comfy.run(graph)


def test_its_intent_is_refused_by_the_qformer(comfy, stock, model):
    graph, interpreter = interpreted(comfy, stock)
    loader = graph.add("FlexEditLoader", model=model, precision="auto")
    embeds = graph.add("FlexEditQFormerEmbed", qformer=loader[4], intent=interpreter[0])
    graph.add("PreviewAny", source=embeds[0])
    with pytest.raises(PromptFailed, match=r"stock VLLM, which has no edit tokens") as failure:
        comfy.run(graph)
    assert failure.value.exception_type.endswith("FlexEditError")


def test_an_unknown_vllm_is_refused_before_anything_runs(comfy, stock):
    graph, interpreter = interpreted(comfy, "../../secret")
    graph.add("PreviewAny", source=interpreter[1])
    with pytest.raises(PromptFailed, match=r"no VLLM '\.\./\.\./secret'.*models/LLM") as failure:
        comfy.run(graph)
    assert failure.value.node_type == "FlexEditVLLMLoader"


def test_cancel_ends_a_stock_vllm_while_it_speaks(comfy, stock):
    graph, interpreter = interpreted(comfy, stock, count=48)
    graph.save(interpreter[3])
    with pytest.raises(PromptFailed) as failure:
        comfy.run(graph, on_progress=lambda *_: comfy.interrupt())
    assert failure.value.exception_type == "InterruptProcessingException"
    assert failure.value.node_type == "FlexEditMaskInterpreter"


# In ComfyUI's memory


@pytest.fixture(scope="module")
def memory(llm) -> dict:
    return inside.run(Path(__file__).with_name("stock.py"), "everything", llm)


def test_other_packs_keep_their_places_and_only_vllms_are_listed(memory, llm):
    found = memory["names"]
    assert found["names"] == ["Qwen/tiny", "tiny-llava"]
    assert found["paths"] == ["/elsewhere", str(Path(found["default"], "LLM")), str(llm)]
    assert found["extensions"] == [".gguf"]
    assert found["before"]  # from an empty list the page would send nothing at all


def test_a_stock_vllm_is_read_once_and_not_kept_when_nothing_holds_it(memory):
    life = memory["life"]
    assert life["bytes before use"] == 0 < life["bytes"]
    assert life["patcher before use"] == "None"  # ComfyUI asks for it outside of any node
    assert life["loaded"] == ["VLLM"] and life["marked"] == [1, 32, 48, 3]
    assert life["same reply again"] and life["same module again"]
    assert not life["kept"] and life["loaded in the end"] == 0


def test_a_cancelled_reading_stops_and_the_next_one_works(memory):
    assert memory["cancelled"]["raised"] and memory["cancelled"]["label"]


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
