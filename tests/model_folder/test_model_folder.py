import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from flexedit.errors import FlexEditError
from flexedit.model_folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelFolder,
    build_adapter,
    build_bridge,
    load_stock_vllm,
    load_vllm,
    save_model_folder,
    unet_layers,
)
from flexedit.models.config import PartSource
from flexedit.models.diffusion.conditioning import Conditioning
from flexedit.models.diffusion.unet import FlexEditUNet
from flexedit.models.parts import PictureTokens, Reading
from flexedit.models.vllm import Instruction
from flexedit.systems import preset
from tests.tiny import TEXT_BRIDGE, TINY, make_tiny_folder

PARTS = ("vllm", "bridge", "text", "clip", "adapter", "unet", "vae")
Spoil = Callable[[Path], object]

SD15_LAYERS = {
    **{f"down_blocks.0.attentions.{i}": 320 for i in range(2)},
    **{f"down_blocks.1.attentions.{i}": 640 for i in range(2)},
    **{f"down_blocks.2.attentions.{i}": 1280 for i in range(2)},
    **{f"up_blocks.1.attentions.{i}": 1280 for i in range(3)},
    **{f"up_blocks.2.attentions.{i}": 640 for i in range(3)},
    **{f"up_blocks.3.attentions.{i}": 320 for i in range(3)},
    "mid_block.attentions.0": 1280,
}


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to spoil."""
    return shutil.copytree(tiny, tmp_path / "chair")


@pytest.fixture
def said(capfd) -> Iterator[Callable[[], list[str]]]:
    """What was printed or logged since: model libraries log to a stream of their own."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lambda: [*records, *filter(None, capfd.readouterr())]
    for logger in loggers:
        logger.removeHandler(handler)


def load(folder: Path, part: str) -> torch.nn.Module:
    return getattr(ModelFolder(folder), f"load_{part}")()


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """Changes the tensors of a .safetensors file."""

    def spoil(folder: Path) -> None:
        found = load_file(folder / file)
        change(found)
        save_file(found, folder / file, metadata={"format": "pt"})

    return spoil


def without(key: str, file: str = WEIGHTS_FILE) -> Spoil:
    return tensors(file, lambda found: found.pop(key))


def with_ones(key: str, *shape: int) -> Spoil:
    return tensors(WEIGHTS_FILE, lambda found: found.update({key: torch.ones(shape)}))


def settings(change: Callable[[dict], object], file: str = CONFIG_FILE) -> Spoil:
    """Changes flexedit.json, or another file."""

    def spoil(folder: Path) -> None:
        data = json.loads((folder / file).read_text())
        change(data)
        (folder / file).write_text(json.dumps(data))

    return spoil


def truncate(file: str) -> Spoil:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:5000])


def remove(*files: str) -> Spoil:
    return lambda folder: [(folder / file).unlink() for file in files]


def write(file: str, text: str) -> Spoil:
    return lambda folder: (folder / file).write_text(text)


def pickled(folder: Path) -> None:
    """As in the time before safetensors."""
    torch.save(load_file(folder / "vllm/model.safetensors"), folder / "vllm/pytorch_model.bin")
    (folder / "vllm/model.safetensors").unlink()


# What is written is what is read


@torch.no_grad()
def test_a_saved_model_computes_what_it_computed(folder):
    config = ModelFolder(folder).config
    torch.manual_seed(3)
    unet, bridge = FlexEditUNet(config.unet).eval(), build_bridge(ModelFolder(folder)).eval()
    adapter = build_adapter(config, unet.layers).eval()
    for tensor in [*adapter.parameters(), bridge.null_edit]:
        tensor.normal_(std=0.2)
    kept = load(folder, "vllm").state_dict()
    named = load_file(folder / WEIGHTS_FILE)
    for part in (unet, bridge, adapter):
        named |= part.checkpoint()
    save_model_folder(folder, config, named, torch.float32)

    hidden, projected = torch.randn(2, 32, TINY.llm_width), torch.randn(2, 65, TINY.clip_width)
    clip_tokens = PictureTokens(projected, projected[:, 1:], (8, 8))
    noisy, latent, timesteps = *torch.randn(2, 2, 4, 16, 16), torch.tensor([3, 900])
    reading, has_subject = Reading(("", ""), (), (), hidden), torch.tensor([False, True])

    def compute(unet: FlexEditUNet, adapter: torch.nn.Module, bridge: torch.nn.Module) -> list:
        predictions = []
        for text in (bridge(reading), bridge.null(2)):
            given = (text.e, reading, clip_tokens, clip_tokens, has_subject, torch.ones(2))
            features = adapter(*given)
            branch = Conditioning(features.f1, features.f2, features.strength, latent)
            predictions.append(unet(noisy, timesteps, branch, adapter.subject))
        return predictions

    loaded = (load(folder, part) for part in ("unet", "adapter", "bridge"))
    for before, after in zip(compute(unet, adapter, bridge), compute(*loaded), strict=True):
        assert torch.equal(before, after)
    after = load(folder, "vllm").state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in kept.items())


def test_opening_a_folder_reads_no_weights(folder):
    (folder / WEIGHTS_FILE).write_bytes(b"")
    assert ModelFolder(folder).config.name == "flexedit-tiny"


def test_half_precision_files_are_read_in_the_precision_that_is_asked_for(folder):
    save_model_folder(folder, ModelFolder(folder).config, load_file(folder / WEIGHTS_FILE))
    assert load_file(folder / WEIGHTS_FILE)["null.edit"].dtype == torch.float16
    for part in PARTS:
        for dtype in (torch.float32, torch.bfloat16):
            module = getattr(ModelFolder(folder), f"load_{part}")(dtype)
            assert {p.dtype for p in module.parameters()} == {dtype}, part


def test_loading_everything_says_nothing(folder, said):
    for part in PARTS:
        load(folder, part)
    assert said() == []


def test_loading_leaves_the_users_logging_as_it_was(folder):
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (transformers_logging, diffusers_logging)
    for log in libraries:
        log.set_verbosity_info()
    try:
        for part in ("vllm", "vae"):
            load(folder, part)
        assert [log.get_verbosity() for log in libraries] == [logging.INFO] * 2
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        for log in libraries:
            log.set_verbosity_warning()


def test_loaded_parts_are_ready_to_infer(tiny):
    assert not any(load(tiny, part).training for part in PARTS)


# The keys are a contract


def test_the_keys_of_the_weights_file_are_a_contract(tiny):
    keys = ModelFolder(tiny).keys
    assert {key.partition(".")[0] for key in keys} == {
        "unet",
        "qformer",
        "mea",
        "lora",
        "tokens",
        "null",
    }
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    for key in (
        "unet.conv_in.weight",
        f"unet.{layer}.to_k.weight",
        "qformer.queries",
        "qformer.encoder.encoder.layer.0.crossattention.attention.key.weight",
        "mea.scene.to_q.weight",
        "mea.scene.to_out.bias",
        "mea.subject_linear.weight",
        f"mea.subject.{layer}.to_k.weight",
        f"mea.subject.{layer}.to_v.weight",
        "lora.0.q.A",
        "lora.1.v.B",
        "tokens.embed",
        "null.edit",
    ):
        assert key in keys


def test_stable_diffusions_16_layers_have_their_diffusers_names():
    config = preset("flexedit", {"name": "full", "sources": {}})
    layers = unet_layers(config)
    expected = {f"{name}.transformer_blocks.0.attn2": w for name, w in SD15_LAYERS.items()}
    assert layers == expected and len(layers) == 16
    with torch.device("meta"):
        adapter = build_adapter(config, layers)
    named = {key: tuple(tensor.shape) for key, tensor in adapter.checkpoint().items()}
    assert {key: shape for key, shape in named.items() if ".subject." in key} == {
        f"mea.subject.{name}.to_{letter}.weight": (width, 768)
        for name, width in expected.items()
        for letter in "kv"
    }


@pytest.mark.parametrize("switch", ["share_kv", "cross_attention", "decoupled", "subject"])
def test_an_ablation_has_just_the_tensors_that_it_uses(switch, tiny, tmp_path):
    is_on = getattr(ModelFolder(tiny).config.adapter, switch)
    folder = make_tiny_folder(tmp_path / "ablation", adapter={switch: not is_on})
    assert set(ModelFolder(folder).keys) < set(ModelFolder(tiny).keys)
    for part in ("adapter", "unet"):
        load(folder, part)


@pytest.mark.parametrize("adapter", [None, {"subject": False}])
def test_a_system_whose_bridge_reads_the_instruction_has_no_vllm(adapter, tmp_path):
    folder = make_tiny_folder(tmp_path / "blind", bridge=TEXT_BRIDGE, vllm=None, adapter=adapter)
    keys = {key.partition(".")[0] for key in ModelFolder(folder).keys}
    assert keys == {"unet", "null"} | ({"mea"} if adapter else set())
    assert isinstance(load(folder, "vllm"), Instruction)
    assert (load(folder, "adapter") is None) == (adapter is None)
    text, bridge = load(folder, "text"), load(folder, "bridge")
    assert torch.equal(bridge(Reading(("hi",), (), (), None)).e, text(["hi"]))


# What is missing, superfluous or damaged is named


@pytest.mark.parametrize(
    ("part", "spoil", "message"),
    [
        # flexedit.safetensors
        ("unet", without("unet.conv_in.bias"), r"chair lacks unet\.conv_in\.bias"),
        ("bridge", without("qformer.queries"), r"lacks qformer\.queries"),
        ("bridge", without("null.edit"), r"lacks null\.edit"),
        ("vllm", without("tokens.embed"), r"lacks tokens\.embed"),
        ("vllm", without("lora.1.v.A"), r"lacks lora\.1\.v\.A"),
        ("adapter", with_ones("mea.scene.to_x.weight", 1), r"unexpected mea\.scene\.to_x\.weight"),
        ("vllm", with_ones("tokens.lm_head", 32, 32), r"unexpected tokens\.lm_head"),
        ("bridge", with_ones("bim.weight", 1), r"unexpected bim\.weight"),
        ("bridge", with_ones("clip_text.x", 1), r"unexpected clip_text\.x"),
        (
            "unet",
            with_ones("unet.conv_in.bias", 7),
            r"unet\.conv_in\.bias has shape \(7,\).*asks for \(32,\)",
        ),
        (
            "vllm",
            with_ones("tokens.embed", 1, 32),
            r"tokens\.embed has shape \(1, 32\).*asks for \(32, 32\)",
        ),
        (
            "vllm",
            with_ones("lora.0.q.A", 4, 32),
            r"lora\.0\.q\.A has shape \(4, 32\).*asks for \(8, 32\)",
        ),
        ("unet", truncate(WEIGHTS_FILE), r"chair/flexedit\.safetensors cannot be read.*truncated"),
        ("unet", write(WEIGHTS_FILE, ""), r"flexedit\.safetensors cannot be read"),
        ("unet", remove(WEIGHTS_FILE), r"chair lacks flexedit\.safetensors"),
        # flexedit.json
        ("vae", remove(CONFIG_FILE), r"chair lacks flexedit\.json"),
        ("vae", write(CONFIG_FILE, "{"), r"chair/flexedit\.json is not valid JSON"),
        (
            "vae",
            lambda folder: (folder / CONFIG_FILE).write_bytes(b"\xff\xfe{"),
            r"chair/flexedit\.json is not valid JSON",
        ),
        ("vae", settings(lambda d: d["sources"].pop("vae")), "names no source for 'vae'"),
        (
            "unet",
            settings(lambda d: d["unet"].update(down_block_types=["Sideways", "DownBlock2D"])),
            "'unet' section .* describes no UNet",
        ),
        # parts that do not belong together
        (
            "vllm",
            settings(lambda d: d["bridge"].update(hidden_width=48)),
            "hidden width is 32, but bridge.hidden_width .* is 48",
        ),
        (
            "clip",
            settings(lambda d: d["adapter"].update(clip_width=48)),
            "projection width is 32, but adapter.clip_width .* is 48",
        ),
        ("vllm", settings(lambda d: d["vllm"].update(num_edit_tokens=16)), r"asks for \(16, 32\)"),
        # vllm/
        ("vllm", lambda folder: shutil.rmtree(folder / "vllm"), r"chair lacks vllm/config\.json"),
        (
            "vllm",
            without("language_model.model.layers.0.mlp.gate_proj.weight", "vllm/model.safetensors"),
            r"vllm lacks weights for .*layers\.0\.mlp\.gate_proj",
        ),
        ("vllm", truncate("vllm/model.safetensors"), "vllm cannot be loaded .*header"),
        ("vllm", pickled, r"vllm cannot be loaded .*must hold a complete model with \.safetensors"),
        ("vllm", remove("vllm/tokenizer.json"), r"vllm cannot be loaded .*no tokenizer\.json"),
        ("vllm", write("vllm/tokenizer.json", "{}"), "vllm (cannot be loaded|needs a package)"),
        ("vllm", remove("vllm/preprocessor_config.json"), "vllm has no preprocessor_config.json"),
        ("vllm", write("vllm/config.json", "{"), "vllm cannot be loaded"),
        ("vllm", write("vllm/config.json", '{"model_type": "bert"}'), "vllm holds a bert, which"),
        *(
            (part, settings(change, f"{part}/config.json"), f"{part} cannot be loaded")
            for part, change in (
                ("vllm", lambda d: d["text_config"].update(num_hidden_layers="two")),
                ("vllm", lambda d: d["text_config"].update(num_attention_heads=0)),
                ("vae", lambda d: d.update(norm_num_groups=0)),
            )
        ),
        # clip/ and vae/
        (
            "clip",
            without("visual_projection.weight", "clip/model.safetensors"),
            "clip lacks weights for visual_projection",
        ),
        (
            "text",
            without("text_model.embeddings.token_embedding.weight", "clip/model.safetensors"),
            "clip lacks weights for .*token_embedding",
        ),
        ("text", remove("clip/tokenizer.json"), r"clip cannot be loaded .*no tokenizer\.json"),
        (
            "vae",
            without("quant_conv.weight", "vae/diffusion_pytorch_model.safetensors"),
            "vae lacks weights for quant_conv",
        ),
        ("vae", truncate("vae/diffusion_pytorch_model.safetensors"), "vae cannot be loaded"),
        ("vae", remove("vae/diffusion_pytorch_model.safetensors"), "vae cannot be loaded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_model_folder_is_named(folder, part, spoil, message, said):
    spoil(folder)
    with pytest.raises(FlexEditError, match=message) as raised:
        load(folder, part)
    assert "\n" not in str(raised.value)
    assert said() == []


@pytest.mark.parametrize("error", [KeyError, TypeError])
def test_a_mistake_of_ours_is_not_blamed_on_the_folder(error, tiny, monkeypatch):
    def mistaken(*_):
        raise error("ours")

    monkeypatch.setattr("flexedit.model_folder.reading.Preprocess.from_folder", mistaken)
    with pytest.raises(error, match="ours"):
        load(tiny, "clip")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FlexEditError, match=r"no model folder .*chair"):
        ModelFolder(tmp_path / "chair")


def test_a_long_list_of_missing_keys_is_shortened(folder):
    tensors(WEIGHTS_FILE, lambda t: [t.pop(k) for k in list(t) if k.startswith("qformer")])(folder)
    with pytest.raises(FlexEditError, match=r"and \d+ more") as raised:
        load(folder, "bridge")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("read", "complaint"),
    [(load_vllm, "clip holds a clip, which"), (load_stock_vllm, "clip cannot be loaded")],
)
def test_a_folder_that_holds_no_vllm_is_named(read, complaint, tiny):
    with pytest.raises(FlexEditError, match=complaint):
        read(tiny / "clip")


# Parts from the hub


REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_a_part_may_be_a_pinned_snapshot_of_a_hub_repository(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--someone--small-vae" / "snapshots" / REVISION
    before = load(folder, "vae").state_dict()
    snapshot.parent.mkdir(parents=True)
    shutil.move(folder / "vae", snapshot)
    source = dataclasses.asdict(PartSource(repo="someone/small-vae", revision=REVISION))
    settings(lambda data: data["sources"].update(vae=source))(folder)
    after = load(folder, "vae").state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_part_that_cannot_be_fetched_is_named_with_what_to_do(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = dataclasses.asdict(PartSource(repo="someone/small-vae", revision=REVISION))
    settings(lambda data: data["sources"].update(vae=source))(folder)
    with pytest.raises(FlexEditError, match=f"someone/small-vae@{REVISION}.*chair/vae"):
        load(folder, "vae")
