"""A model whose VLLM is of another family than LLaVA, in a real ComfyUI."""

import shutil

import numpy as np
from PIL import Image

from flexedit import cli
from tests.comfyui.graph import Graph, free_shape, load, pictures
from tests.tiny import make_tiny_folder
from tests.tiny_vllms import make_tiny_vllm


def test_a_qwen_with_edit_tokens_edits_as_on_the_command_line(comfy, tmp_path):
    """It speaks first, and reads two pictures."""
    vllm = {"type": "qwen2_5_vl", "num_edit_tokens": 32}
    folder = make_tiny_folder(tmp_path / "tiny-qwen", vllm=vllm)
    shutil.rmtree(folder / "vllm")
    make_tiny_vllm("qwen2_5_vl", folder / "vllm", tied=True)
    comfy.link_model("flexedit/tiny-qwen", folder)

    graph = Graph()
    scene = load(graph, comfy, "scene.png", 50, 70)[0]
    subject = load(graph, comfy, "subject.png", 40, 30, seed=1)[0]
    mask = free_shape(graph, image=scene)
    words = "put the object in [pic2] here"
    how = {"instruction": words, "subject": subject, "reply": "generate"}
    saved = {
        "edited": graph.save(graph.edit("tiny-qwen", scene, mask, steps=2, **how)),
        "scene": graph.save(scene),
        "subject": graph.save(subject),
        "mask": graph.save_mask(mask),
    }
    outputs = comfy.run(graph)
    given = {name: pictures(comfy, outputs, node)[0] for name, node in saved.items()}
    found = given.pop("edited").astype(int)
    arguments = ["edit", "--instruction", words, "--model", folder, "--device", "cpu"]
    arguments += ["--reply", "generate", "--steps", 2, "--edit-cfg", 2.0, "--scene-cfg", 1.5]
    for name, picture in given.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        arguments += [f"--{name}", tmp_path / f"{name}.png"]
    arguments += ["--out", tmp_path / "edited.png"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    wanted = np.asarray(Image.open(tmp_path / "edited.png")).astype(int)
    height, width = wanted.shape[:2]
    assert np.abs(found[:height, :width] - wanted).max() <= 2
