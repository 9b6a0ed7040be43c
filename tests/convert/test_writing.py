import os

import pytest
import torch
from safetensors.torch import load_file

from flexedit.convert import writing
from flexedit.convert.sources import Source, Weights
from flexedit.convert.writing import Planned, take_over, unfinished, write_part
from flexedit.errors import FlexEditError


def plan_of(tensors, made):
    """A plan that notes what is made."""

    def planned(name):
        return Planned(tuple(tensors[name].shape), lambda: made.append(name) or tensors[name])

    return {name: planned(name) for name in tensors}


def test_a_large_part_lies_in_shards_that_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD", 40)
    tensors = {name: torch.randn(8) for name in "abcde"}
    made: list[str] = []
    plan = plan_of(tensors, made)
    write_part(tmp_path, plan, torch.float16)
    assert len(list(tmp_path.glob("model-*-of-00003.safetensors"))) == 3 and len(made) == 5
    read = Weights.read(tmp_path)  # by its index
    assert all(torch.equal(read.take(name), tensors[name].half()) for name in tensors)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    write_part(tmp_path, plan, torch.float16)
    assert made[5:] == ["c", "d"]


def test_a_view_of_a_large_buffer_takes_no_more_than_itself(tmp_path):
    buffer = torch.randn(100_000)
    write_part(tmp_path, {"a": Planned((2,), lambda: buffer[5:7])}, torch.float32)
    assert (tmp_path / "model.safetensors").stat().st_size < 1000
    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], buffer[5:7])


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "LICENSE").write_text("free")
    return Source("--source", folder, "a source", "somewhere")


def test_a_conversion_goes_on_where_it_was_interrupted(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), unfinished(out, [source]) as folder:
        take_over(source.path, folder / "part")
        raise KeyboardInterrupt
    assert not out.exists()
    with unfinished(out, [source]) as folder:
        assert (folder / "part" / "config.json").is_file()
    assert {file.name for file in out.iterdir()} == {"part", "licences"}
    assert (out / "licences" / "source" / "LICENSE").read_text() == "free"


def test_it_starts_anew_with_other_sources(source, tmp_path):
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path / "out", [source]) as folder:
        (folder / "part").mkdir()
        raise KeyboardInterrupt
    os.utime(source.path / "config.json", (0, 0))
    with unfinished(tmp_path / "out", [source]) as folder:
        assert not (folder / "part").exists()


def test_an_error_leaves_nothing_behind_and_nothing_is_overwritten(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FlexEditError, match="no good"), unfinished(out, [source]):
        raise FlexEditError("no good")
    assert not list(tmp_path.glob("out*"))
    out.mkdir()
    with pytest.raises(FlexEditError, match="is there already"), unfinished(out, [source]):
        pass
