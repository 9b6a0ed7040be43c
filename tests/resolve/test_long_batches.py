"""Two hundred frames of 720p through Resolve, Crop and Composite: memory for what goes in and comes
out, and no more that grows with the frames.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys, time, torch
from flexedit import masks
from flexedit.masks import compositing
from flexedit.resolve.resolver import resolve

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

def measured(work):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before, began = status("VmRSS"), time.perf_counter()
    made = work()
    return made, {"grew": status("VmHWM") - before, "seconds": time.perf_counter() - began}

torch.set_num_threads(2)
frames = int(sys.argv[1])
small = torch.rand(frames, 3, 9, 16, generator=torch.Generator().manual_seed(0))
scene = torch.empty(frames, 720, 1280, 3).movedim(-1, 1)
for row in range(frames):
    one = torch.nn.functional.interpolate(small[row : row + 1], (720, 1280), mode="bicubic")
    scene[row] = one[0].clamp(0, 1)
scribble = masks.draw("circle", 720, 1280, shape_width=0.1, shape_height=0.2)[None]
resolved, resolving = measured(lambda: resolve(scene, scribble))
mask = resolved.mask
del resolved
(cropped, _, crop), cropping = measured(lambda: compositing.cut(scene, mask, 512, 2.0))
settings = {"region": "mask + connected change", "grow": 4, "feather": 2, "color_match": True}
settings["crop"], edited = crop, 1 - cropped
_, putting_back = measured(lambda: compositing.put_edit(scene, edited, mask, **settings))
nodes = {"Resolve": resolving, "Crop": cropping, "Composite": putting_back}
print(json.dumps({"input": scene.nbytes, "nodes": nodes}))
"""


def measure(frames: int) -> dict:
    command = [sys.executable, "-c", SCRIPT, str(frames)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found))
    return found


def check(found: dict) -> None:
    for node, figures in found["nodes"].items():
        # beside the scene that is there already
        assert found["input"] + figures["grew"] <= 2 * found["input"] + 1e9, node


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_frames_take_little_more_memory_than_they_are():
    check(measure(2))


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_hundred_frames_take_little_more_memory_than_they_are():
    check(measure(200))
