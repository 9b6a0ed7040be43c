import signal
import subprocess
import sys
import time

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


def test_a_picture_goes_through_a_graph_unchanged(comfy):
    picture = gradient(37, 53)
    outputs = comfy.run(load_and_save(comfy.upload_image(picture, "gradient.png")))
    assert np.array_equal(comfy.fetch_image(outputs["2"]["images"][0]), picture)


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
