import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from PIL import Image

from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer, PromptFailed, ServerError


def load_and_save(name: str) -> dict:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
    }


def long_graph(name: str) -> dict:
    """Keeps a CPU busy for half a minute, in a hundred short steps."""
    prompt = load_and_save(name)
    for step in range(3, 103):
        source = ["1", 0] if step == 3 else [str(step - 1), 0]
        inputs = {"image": source, "blur_radius": 31, "sigma": 10.0}
        prompt[str(step)] = {"class_type": "ImageBlur", "inputs": inputs}
    prompt["2"]["inputs"]["images"] = ["102", 0]
    return prompt


def gradient(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([y, x, x + y], axis=-1).astype(np.uint8))


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_comfyui_boots_with_our_pack_and_describes_its_nodes(comfy):
    comfy.import_seconds("flexedit")  # which raises where the import failed
    assert "image" in comfy.object_info("LoadImage")["input"]["required"]
    assert "SaveImage" in comfy.object_info()


def test_a_pack_that_is_not_there_has_no_import_time(comfy):
    with pytest.raises(ServerError, match="no pack named other"):
        comfy.import_seconds("other")


def test_a_picture_goes_through_a_graph_unchanged(comfy):
    picture = gradient(37, 53)
    outputs = comfy.run(load_and_save(comfy.upload_image(picture, "gradient.png")))
    assert np.array_equal(comfy.fetch_image(outputs["2"]["images"][0]), picture)


def test_a_cached_prompt_gives_its_outputs_again(comfy):
    prompt = load_and_save(comfy.upload_image(gradient(8, 8), "cached.png"))
    assert comfy.run(prompt) == comfy.run(prompt)


def test_a_refused_prompt_names_the_node_and_the_reason(comfy):
    with pytest.raises(PromptFailed, match=r"missing\.png") as failure:
        comfy.run(load_and_save("missing.png"))
    assert (failure.value.node_id, failure.value.node_type) == ("1", "LoadImage")


def test_an_unknown_node_is_refused(comfy):
    with pytest.raises(PromptFailed, match="NoSuchNode"):
        comfy.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_a_failing_node_is_named_with_its_exception(comfy):
    (comfy.folder / "input" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(PromptFailed) as failure:
        comfy.run(load_and_save("broken.png"))
    assert failure.value.node_type == "LoadImage"
    assert failure.value.exception_type == "PIL.UnidentifiedImageError"
    assert "cannot identify image file" in failure.value.message


def test_a_running_prompt_can_be_interrupted(comfy):
    prompt = long_graph(comfy.upload_image(gradient(256, 256), "long.png"))
    with ThreadPoolExecutor() as pool:
        running = pool.submit(comfy.run, prompt)
        while not running.done():
            comfy.interrupt()
            time.sleep(0.1)
    with pytest.raises(PromptFailed) as failure:
        running.result()
    assert failure.value.exception_type == "InterruptProcessingException"


def test_a_prompt_that_takes_too_long_is_stopped(comfy):
    name = comfy.upload_image(gradient(256, 256), "too long.png")
    with pytest.raises(TimeoutError, match="Not done after 1 s"):
        comfy.run(long_graph(name), timeout=1)
    comfy.run(load_and_save(name))


def test_a_linked_model_appears_in_comfyui(comfy, tmp_path):
    (tmp_path / "tiny.safetensors").write_bytes(b"")
    comfy.link_model("vae/tiny", tmp_path)
    assert "tiny/tiny.safetensors" in str(comfy.object_info("VAELoader"))


def test_a_server_that_cannot_start_shows_its_log():
    server = ComfyServer("--nonsense")
    with pytest.raises(ServerError, match="unrecognized arguments: --nonsense"), server:
        pass
    assert not server.folder.exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_its_owner(how, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a killed owner removes nothing
    script = (
        "from tools.comfyui.server import ComfyServer\n"
        "server = ComfyServer()\n"
        "server._wait_until_ready = lambda: print(server.process.pid, flush=True) or input()\n"
        "server.__enter__()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], cwd=PACK, **pipes) as owner:
        server = int(owner.stdout.readline())
        assert is_running(server)
        owner.send_signal(how)
        owner.wait(timeout=30)
    deadline = time.monotonic() + 60
    while is_running(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(server)
