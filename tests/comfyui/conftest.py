import json
from pathlib import Path

import pytest

from tests.resolve.tiny_sams import make_tiny_sam
from tests.tiny_vllms import make_tiny_vllm
from tools.comfyui.server import ComfyServer


@pytest.fixture(scope="session")
def model(comfy: ComfyServer, tiny: Path) -> str:
    """The name under which that model can be chosen in ComfyUI."""
    comfy.link_model("flexedit/tiny", tiny)
    return "tiny"


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as models/ is: VLLMs and SAMs, some a maker's, among what is neither."""
    root = tmp_path_factory.mktemp("models")
    make_tiny_vllm("llava", root / "LLM/tiny-llava")
    qwen = make_tiny_vllm("qwen 2.5", root / "LLM/Qwen/tiny") / "config.json"
    qwen.write_text(json.dumps(json.loads(qwen.read_text()) | {"dtype": "bfloat16"}))
    make_tiny_sam("sam", root / "sams/tiny-sam")
    make_tiny_sam("sam2", root / "sams/maker/tiny-sam2")
    for kind, file in (("LLM", "some.gguf"), ("sams", "sam_vit_b.pth")):
        (root / kind / file).write_bytes(b"")
        for name, content in (("text", '{"model_type": "llama"}'), ("broken", "{"), ("list", "[]")):
            (root / kind / name).mkdir()
            (root / kind / name / "config.json").write_text(content)
    return root


@pytest.fixture(scope="session")
def listed(comfy: ComfyServer, stock: Path) -> None:
    """Those models can be chosen in ComfyUI."""
    for name in ("LLM/tiny-llava", "LLM/Qwen", "sams/tiny-sam", "sams/maker"):
        comfy.link_model(name, stock / name)
