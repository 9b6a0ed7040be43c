"""What SmartEdit's and MGIE's conversions do alike: deltas, interruptions, and what is wrong with
the sources.
"""

import json
import shutil

import pytest
import torch
from torch import Tensor

from flexedit.cli import main
from flexedit.convert import released as conversion
from flexedit.convert.mgie import convert_mgie
from flexedit.convert.smartedit import convert_smartedit
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from tests import released
from tests.released import MGIE, SMARTEDIT, Sizes

EMBED, NORM = "model.embed_tokens.weight", "model.norm.weight"


@pytest.fixture(scope="module")
def smartedit(tmp_path_factory):
    return released.write_smartedit(tmp_path_factory.mktemp("smartedit"))


@pytest.fixture(scope="module")
def mgie(tmp_path_factory):
    return released.write_mgie(tmp_path_factory.mktemp("mgie"))


@pytest.fixture(scope="module")
def delta(smartedit, tmp_path_factory):
    return released.write_delta(tmp_path_factory.mktemp("delta"), smartedit.tensors["llava"])


def convert(out, release, **options):
    return convert_smartedit(out, **release.options | options, settings=SMARTEDIT)


@pytest.fixture(scope="module")
def model(smartedit, tmp_path_factory) -> ModelFolder:
    return convert(tmp_path_factory.mktemp("made") / "model", smartedit)


def vllm_weights(folder: ModelFolder) -> dict[str, Tensor]:
    return dict(folder.load_vllm().state_dict())


def test_deltas_and_llama_make_what_merged_weights_make(smartedit, delta, model, tmp_path):
    found = convert(tmp_path / "out", smartedit, llava=None, **delta)
    wanted = vllm_weights(model)
    for name, tensor in vllm_weights(found).items():
        torch.testing.assert_close(tensor, wanted[name], atol=2e-3, rtol=2e-3)


def test_an_interrupted_conversion_goes_on(smartedit, model, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conversion, "write_trained", interrupted)
        convert(tmp_path / "out", smartedit)
    file = tmp_path / "out.unfinished" / "vllm" / "model.safetensors"
    written = file.stat().st_mtime_ns
    found = convert(tmp_path / "out", smartedit)
    assert (found.path / "vllm" / "model.safetensors").stat().st_mtime_ns == written
    for name, tensor in found.all_tensors().items():
        assert torch.equal(tensor, model.all_tensors()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_the_release_says_of_lora_counts(smartedit, model, tmp_path):
    folder = shutil.copytree(smartedit.options["smartedit"], tmp_path / "smartedit")
    (folder / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 32}')
    found = convert(tmp_path / "out", smartedit, smartedit=folder, check=False)
    assert (model.config.vllm.lora.alpha, found.config.vllm.lora.alpha) == (16, 32)


def test_the_command_line_converts_published_sizes_only(smartedit, tmp_path, capsys):
    options = [word for name, path in smartedit.options.items() for word in (f"--{name}", path)]
    words = ["convert", "smartedit", *options, "--out", tmp_path / "out"]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert "smartedit lacks unet.down_blocks" in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_all_that_is_missing_is_named_with_where_it_is(tmp_path, capsys):
    assert main(["convert", "mgie", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    for option in ("--mgie", "--llava", "--clip", "--vae"):
        assert f"{option} is missing" in error
    assert "mgie_7b.tar.gz" in error and "openai/clip-vit-large-patch14" in error


# --- bad sources ---


def rewritten(release, folder, change):
    """LLaVA's folder with changed tensors"""
    tensors = {name: tensor.clone() for name, tensor in release.tensors["llava"].items()}
    change(tensors)
    return released.write_llava(folder / "changed", tensors)


def refused(release, tmp_path, complaint, **options):
    """Both say so, and leave nothing behind."""
    kind = convert_mgie if "mgie" in release.options else convert_smartedit
    settings = MGIE if "mgie" in release.options else SMARTEDIT
    with pytest.raises(FlexEditError, match=complaint) as error:
        kind(tmp_path / "out", **release.options | options, settings=settings)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out*"))


@pytest.fixture(params=["smartedit", "mgie"])
def either(request):
    return request.getfixturevalue(request.param)


def rows(count):
    def change(tensors):
        for name in (EMBED, "lm_head.weight"):
            tensors[name] = torch.randn(count, Sizes.llm)

    return change


def version_1_5(tensors):
    rows(Sizes.num_pieces)(tensors)
    for name in ("weight", "bias"):
        tensors[f"model.mm_projector.0.{name}"] = tensors.pop(f"model.mm_projector.{name}")
        tensors[f"model.mm_projector.2.{name}"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (version_1_5, "names a LLaVA of version 1.5 or later"),
        (rows(Sizes.num_pieces), "400 rows, LLaVA-1.1 one of 403. So many have LLaMA, Vicuna"),
        (rows(Sizes.num_pieces + 35), "435 rows, LLaVA-1.1 one of 403. So many has SmartEdit"),
        (lambda tensors: tensors[NORM].mul_(0.01), "names raw deltas"),
        (lambda tensors: tensors.pop("model.mm_projector.bias"), "lacks model.mm_projector.bias"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "has unexpected extra"),
    ],
)
def test_another_llava_is_told_apart(change, complaint, either, tmp_path):
    if "mgie" not in either.options and "mm_projector" in complaint:
        pytest.skip("SmartEdit has a projector of its own")
    refused(either, tmp_path, complaint, llava=rewritten(either, tmp_path, change))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"hidden_size": None}, "has shape"),  # 4096, as published
        ({"num_hidden_layers": 2.5}, "llava cannot be loaded"),
        ({"num_attention_heads": 0}, "llava cannot be loaded"),
        ({"num_attention_heads": 5}, "llava cannot be loaded"),
        ({"rope_theta": "wide"}, "llava cannot be loaded"),
    ],
)
def test_settings_that_describe_no_language_model_are_told(settings, complaint, either, tmp_path):
    llava = shutil.copytree(either.options["llava"], tmp_path / "llava")
    says = json.loads((llava / "config.json").read_text()) | settings
    (llava / "config.json").write_text(json.dumps(says))
    refused(either, tmp_path, complaint, llava=llava)


def test_merged_weights_are_no_deltas(either, delta, tmp_path):
    merged = {"llava": None, "llava_delta": either.options["llava"], "llama": delta["llama"]}
    refused(either, tmp_path, "names merged weights, no deltas", **merged)
    refused(either, tmp_path, "Give --llava, or --llava-delta with --llama; not both", **delta)


def test_a_download_in_part_is_told_as_that(either, smartedit, mgie, tmp_path):
    llava = shutil.copytree(either.options["llava"], tmp_path / "llava")
    (llava / "pytorch_model-00002-of-00002.bin").unlink()
    refused(either, tmp_path, "lacks pytorch_model-00002-of-00002.bin", llava=llava)
    (llava / "tokenizer.model").unlink()
    llava = shutil.copytree(either.options["llava"], tmp_path / "other")
    (llava / "tokenizer.model").unlink()
    refused(either, tmp_path, "lacks tokenizer.model, its vocabulary", llava=llava)


def test_smartedits_files_are_all_there_and_of_one_step(smartedit, tmp_path):
    folder = shutil.copytree(smartedit.options["smartedit"], tmp_path / "smartedit")
    unet = (folder / "unet-15000").rename(tmp_path / "unet")
    refused(smartedit, tmp_path, "lacks unet-15000/adapter_model.bin", smartedit=folder)
    shutil.copytree(unet, folder / "unet-15000")
    shutil.copytree(unet, folder / "unet-5000")
    refused(smartedit, tmp_path, "of several steps", smartedit=folder)
    shutil.rmtree(folder / "unet-5000")
    file = folder / "modulate-15000" / "adapter_model.bin"
    file.write_bytes(file.read_bytes()[:1000])
    refused(smartedit, tmp_path, "downloaded in part, or is damaged", smartedit=folder)


def test_two_systems_files_are_not_mixed(smartedit, mgie, tmp_path):
    folder = shutil.copytree(smartedit.options["smartedit"], tmp_path / "smartedit")
    shutil.copy(mgie.options["mgie"] / "unet.pt", folder / "unet-15000" / "adapter_model.bin")
    refused(smartedit, tmp_path, "smartedit lacks unet.conv_in.bias", smartedit=folder)
    other = shutil.copytree(mgie.options["mgie"], tmp_path / "mgie")
    llm = smartedit.options["smartedit"] / "LLM-15000" / "adapter_model.bin"
    shutil.copy(llm, other / "mllm.pt")
    refused(mgie, tmp_path, "mllm.pt lacks model.embed_tokens.weight", mgie=other)
    refused(mgie, tmp_path, "There is no file .*mllm.pt", mgie=smartedit.options["smartedit"])


def without_lora(tensors):
    for name in [name for name in tensors if "lora_" in name]:
        del tensors[name]


def with_rows(count):
    def change(tensors):
        name = "model.base_model.model.embed_tokens.weight"
        tensors[name] = tensors[name][:count]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (with_rows(400), "has a vocabulary of 400 rows, SmartEdit one of 435"),
        (with_rows(403), "has a vocabulary of 403 rows, SmartEdit one of 435"),
        (without_lora, "has no LoRA. Its makers replaced that file"),
    ],
)
def test_another_language_model_than_smartedits_is_refused(change, complaint, smartedit, tmp_path):
    folder = shutil.copytree(smartedit.options["smartedit"], tmp_path / "smartedit")
    file = folder / "LLM-15000" / "adapter_model.bin"
    tensors = torch.load(file)
    change(tensors)
    torch.save(tensors, file)
    refused(smartedit, tmp_path, complaint, smartedit=folder)


def test_two_sizes_are_not_mixed(smartedit, tmp_path):
    def wider(tensors):
        tensors[EMBED] = torch.randn(Sizes.num_pieces + 3, 80)

    llava = rewritten(smartedit, tmp_path, wider)
    refused(smartedit, tmp_path, "64 wide, LLaVA's 80: one is 7B, the other 13B", llava=llava)


def test_a_language_model_that_does_not_say_its_tokens_is_told(smartedit, tmp_path):
    """LLaVA's rows of the vocabulary are small, as in deltas: the others are SmartEdit's own."""

    def small_rows(tensors):
        for name in (EMBED, "lm_head.weight"):
            tensors[name] = 0.05 * torch.randn(tensors[name].shape)

    llava = rewritten(smartedit, tmp_path, small_rows)
    complaint = r"does not say <img_0>, </s> where .* \(2 of 33 wrong\). .*deltas not applied"
    refused(smartedit, tmp_path, complaint, llava=llava)
    convert(tmp_path / "out", smartedit, llava=llava, check=False)


def test_a_mixed_up_language_model_is_told(mgie, tmp_path):
    """Its layers write over what says the next token."""

    def loud(tensors):
        for name, tensor in tensors.items():
            if name.endswith("down_proj.weight"):
                tensor.mul_(10_000)

    llava = rewritten(mgie, tmp_path, loud)
    refused(mgie, tmp_path, r"does not say \[IMG1\]", llava=llava)
