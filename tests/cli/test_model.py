import json
import shutil

from tests.cli.shell import run


def test_a_model_folder_is_described_without_loading_it(tiny, tmp_path, capsys):
    folder = shutil.copytree(tiny, tmp_path / "chair")
    shutil.rmtree(folder / "vllm")
    assert run("info", "--model", folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["system"] == "flexedit-tiny" and report["edit_tokens"] == 32
    assert report["context"] == "24 x 32" and report["trained_tensors"] > 100
