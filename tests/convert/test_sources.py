import json

import pytest
import torch
from safetensors.torch import save_file

from flexedit.convert.sources import Source, Weights, copy_licences, require
from flexedit.errors import FlexEditError


class Other:
    """What no file of weights should hold."""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_read_as_torch_writes_it_and_as_it_used_to(zipped, tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    file = tmp_path / "weights.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
    weights = Weights.read(file)
    assert list(weights) == ["a", "b"] and weights.shape("b") == (2, 2)
    assert torch.equal(weights.take("a"), tensors["a"])


def test_tensors_lie_within_an_entry_of_a_checkpoint_beside_other_things(tmp_path):
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1), "step": 3}, "epoch": 1}, file)
    assert list(Weights.read(file, within="state_dict")) == ["a"]


@pytest.mark.parametrize("kind", ["model", "diffusion_pytorch_model"])
def test_a_folder_is_read_shard_by_shard(kind, tmp_path):
    for number, name in enumerate("ab", start=1):
        file = tmp_path / f"{kind}-0000{number}-of-00002.safetensors"
        save_file({name: torch.full((2,), float(number))}, file)
    weights = Weights.read(tmp_path)
    assert torch.equal(weights.take("b"), torch.full((2,), 2.0))
    file.unlink()
    with pytest.raises(FlexEditError, match=f"in part: it lacks {file.name}"):
        Weights.read(tmp_path)


def test_an_index_names_the_files(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "one.bin")
    torch.save({"b": torch.ones(1)}, tmp_path / "stray.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.bin"}}))
    assert list(Weights.read(tmp_path)) == ["a"]
    index.write_text("{}")
    with pytest.raises(FlexEditError, match="is no list of weights"):
        Weights.read(tmp_path)


def test_every_tensor_is_used_or_named():
    weights = Weights.of({name: torch.ones(1) for name in ("a", "b.0", "b.1", "c")}, "file.bin")
    weights.take("a")
    weights.ignore(r"b\.\d")
    with pytest.raises(FlexEditError, match=r"file\.bin has unexpected c\."):
        weights.finish()
    weights.use(["c"])
    weights.finish()
    with pytest.raises(FlexEditError, match=r"file\.bin lacks d\."):
        weights.shape("d")


def write(folder, content):
    file = folder / "weights.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    return file


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no file of weights"),
        (b"version https://git-lfs.github.com/spec/v1", "perhaps a web page or a pointer to one"),
        ({"a": Other()}, "holds more than tensors, which could run anything"),
        ([torch.ones(1)], "holds no tensors by name, but a list"),
        ({"a": 3}, "holds a, which is no tensor"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(content, complaint, tmp_path):
    with pytest.raises(FlexEditError, match=complaint):
        Weights.read(write(tmp_path, content))


@pytest.mark.parametrize("name", ["half.bin", "half.safetensors"])
def test_half_a_file_is_told_as_that(name, tmp_path):
    whole = write(tmp_path, {"a": torch.ones(100)})
    if name.endswith("safetensors"):
        save_file({"a": torch.ones(100)}, whole)
    half = tmp_path / name
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(FlexEditError, match="downloaded in part, or is damaged"):
        Weights.read(half)


def test_what_is_missing_is_named_with_where_it_is_published(tmp_path):
    there = Source("--vae", tmp_path, "a VAE", "here")
    absent = Source("--clip", tmp_path / "clip", "a CLIP", "hub/clip")
    unnamed = Source("--llava", None, "a LLaVA", "hub/llava")
    require(there)
    with pytest.raises(FlexEditError) as error:
        require(there, absent, unnamed)
    assert str(error.value) == (
        f"--clip names {tmp_path / 'clip'}, which is not there: it should be a CLIP, from "
        "hub/clip. --llava is missing: a LLaVA, from hub/llava."
    )


def test_licences_beside_a_source_are_copied(tmp_path):
    (tmp_path / "LICENSE.txt").write_text("free")
    (tmp_path / "weights.bin").write_text("")
    for path in (tmp_path, tmp_path / "weights.bin"):
        copy_licences(path, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["LICENSE.txt"]
