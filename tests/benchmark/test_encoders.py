from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchmetrics.functional.multimodal import clip_score

from flexedit.benchmark.encoders import ALEXNET, SMALLEST, Encoders
from tests.benchmark.tiny_encoders import make_encoders, turned


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def encoders(folder: Path) -> Encoders:
    return make_encoders(folder)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# CLIP and DINOv2


def test_clips_embeddings_are_those_of_the_whole_model(encoders):
    picture, text = noise(64, 64), "remove this"
    inputs = encoders.clip.processor(text=[text], images=[picture], return_tensors="pt")
    with torch.no_grad():
        theirs = encoders.clip.model(**inputs)
    torch.testing.assert_close(encoders.clip.pictures([picture]), theirs.image_embeds)
    torch.testing.assert_close(encoders.clip.texts([text]), theirs.text_embeds)


class ForTorchmetrics:
    """A CLIPModel whose features are tensors, as torchmetrics expects of transformers 4."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def to(self, device):
        return self

    def get_image_features(self, pixels):
        return self.model.get_image_features(pixels).pooler_output

    def get_text_features(self, ids, mask):
        return self.model.get_text_features(ids, mask).pooler_output


def test_cosines_are_torchmetrics_clip_scores(encoders):
    picture, other, text = noise(64, 64), noise(64, 64, seed=1), "turtle"
    raw = encoders.clip.pictures([picture])[0] @ encoders.clip.texts([text])[0]
    ours = turned(encoders.clip, 1 if raw > 0 else -1)  # torchmetrics cuts scores at 0
    clip = ForTorchmetrics(ours.model), ours.processor

    def theirs(a, b):
        tensors = [
            x if isinstance(x, str) else torch.from_numpy(x).permute(2, 0, 1) for x in (a, b)
        ]
        with torch.no_grad():
            return clip_score(*tensors, model_name_or_path=lambda: clip).item()

    first, second = ours.pictures([picture, other])
    assert 100 * float(first @ second) == pytest.approx(theirs(picture, other), abs=1e-3)
    by_text = 100 * float(first @ ours.texts([text])[0])
    assert by_text > 0
    assert by_text == pytest.approx(theirs(picture, text), abs=1e-3)


def test_dinos_embedding_is_the_normalised_class_token(encoders):
    picture = noise(28, 28)
    inputs = encoders.dino.processor(images=[picture], return_tensors="pt")
    with torch.no_grad():
        token = encoders.dino.model(**inputs).last_hidden_state[:, 0]
    ours = encoders.dino.pictures([picture])
    torch.testing.assert_close(ours, token / token.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_an_embedding_does_not_depend_on_its_batch(encoders, name):
    rows = [noise(64, 64), noise(8, 8, seed=1), noise(3, 40, seed=2)]
    encoder = getattr(encoders, name)
    together = encoder.pictures(rows)
    alone = torch.cat([encoder.pictures([row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_the_far_end_of_a_long_picture_is_seen(encoders, name):
    picture = noise(40, 120)
    changed = picture.copy()
    changed[:, 110:] = 0
    a, b = getattr(encoders, name).pictures([picture, changed])
    assert float(a @ b) < 0.9999


def test_a_text_longer_than_clip_reads_is_cut(encoders):
    long = "a turtle " * 100
    assert torch.equal(encoders.clip.texts([long]), encoders.clip.texts([long + "and a dog"]))


# LPIPS


def reference_lpips(file: Path):
    """The authors' own package, on the same backbone."""
    import lpips

    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = torch.load(file, weights_only=True)
    for key, parameter in network.net.named_parameters():
        parameter.data.copy_(weights["features." + key.partition(".")[2]])
    return network


@pytest.mark.filterwarnings("ignore:.*weight.*:UserWarning")
@pytest.mark.parametrize("size", [(64, 64), (96, 70), (40, 50)])
def test_lpips_is_that_of_the_authors_package(encoders, folder, size):
    a, b = noise(*size), noise(*size, seed=1)
    first, second = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 127.5 - 1 for x in (a, b))
    if min(size) < SMALLEST:
        scale = [round(side * SMALLEST / min(size)) for side in size]
        first, second = (torch.nn.functional.interpolate(x, scale, mode="bilinear")
                         for x in (first, second))  # fmt: skip
    with torch.no_grad():
        theirs = reference_lpips(folder / ALEXNET)(first, second).item()
    assert encoders.lpips(a, b) == pytest.approx(theirs, rel=1e-4)
    assert theirs > 0.01


def test_lpips_of_equal_pictures_is_zero_and_grows_with_the_change(encoders):
    a, b = noise(64, 64), noise(64, 64, seed=1)
    half = np.where(np.arange(64)[:, None, None] < 32, a, b)
    assert encoders.lpips(a, a) == 0
    assert 0 < encoders.lpips(a, half) < encoders.lpips(a, b)


def test_alexnet_is_found_in_torchs_hub_folder(encoders, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert ALEXNET in Encoders.load().unavailable["lpips"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ALEXNET).symlink_to(folder / ALEXNET)
    found = Encoders.load(device="cpu")
    assert found.lpips(noise(64, 64), noise(64, 64)) == 0
    assert "lpips" in found.sources and "lpips" not in found.unavailable


# What cannot be had


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "none was given"),
        ("nowhere/at-all", "nowhere/at-all is neither a folder nor a pinned hub id"),
        ("openai/clip-vit-large-patch14@main", "neither a folder nor a pinned hub id"),
        ("nobody/nothing@" + "0" * 40, "unavailable, because "),
    ],
)
def test_what_cannot_be_loaded_says_why_and_the_rest_runs(encoders, source, reason):
    dino = encoders.sources["dino"]
    found = Encoders.load(clip=source, dino=dino, device="cpu")
    assert found.clip is None
    assert found.unavailable["clip"].startswith("unavailable, because ")
    assert reason in found.unavailable["clip"]
    assert "\n" not in found.unavailable["clip"]
    assert found.dino is not None and found.sources == {"dino": dino}


def test_a_model_of_another_family_is_refused(encoders):
    clip, dino = encoders.sources["clip"], encoders.sources["dino"]
    found = Encoders.load(clip=dino, dino=clip, device="cpu")
    assert "holds a model of type 'dinov2', not 'clip'" in found.unavailable["clip"]
    assert "holds a model of type 'clip', not 'dinov2'" in found.unavailable["dino"]


def test_missing_weights_are_not_replaced_by_random_ones(encoders, folder, tmp_path):
    for file in (folder / "dino").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    found = Encoders.load(dino=str(tmp_path), device="cpu")
    assert "lacks the weights layernorm.weight" in found.unavailable["dino"]


@pytest.mark.parametrize("content", [b"", b"not a file of weights"])
def test_a_broken_file_of_weights_is_unavailable(tmp_path, content):
    file = tmp_path / "alexnet.pth"
    file.write_bytes(content)
    assert Encoders.load(lpips=str(file)).unavailable["lpips"].startswith("unavailable, because")


def test_other_weights_than_alexnets_are_refused(tmp_path):
    file = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    reason = Encoders.load(lpips=str(file)).unavailable["lpips"]
    assert "no AlexNet of torchvision" in reason
