import signal
import subprocess
import sys
import time

import psutil
import pytest

from tools.comfyui.fetch import PACK
from tools.comfyui.server import ComfyServer, PromptFailed, ServerError


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_comfyui_boots_with_our_pack_and_describes_its_nodes(comfy):
    comfy.import_seconds("flexedit")  # which raises where the import failed
    assert "image" in comfy.object_info("LoadImage")["input"]["required"]
    assert "SaveImage" in comfy.object_info()


def test_an_unknown_node_is_refused(comfy):
    with pytest.raises(PromptFailed, match="NoSuchNode"):
        comfy.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})


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
