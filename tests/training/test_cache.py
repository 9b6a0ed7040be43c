import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flexedit.data.world import CLASSES, OPERATIONS, World
from flexedit.errors import FlexEditError
from flexedit.model_folder import ModelFolder
from flexedit.systems import preset
from flexedit.training.batch import Batch, collate
from flexedit.training.cache import PARTS, CacheConfig, Cached
from flexedit.training.draws import Draw, Losses
from flexedit.training.mini import MiniTraining
from flexedit.training.model import TrainingModel
from flexedit.training.monitor import curve
from flexedit.training.recipe import StageRecipe
from flexedit.training.run import Training
from flexedit.training.trainer import TrainConfig
from tests.processes import in_two_processes
from tests.tiny import INSTRUCT_PIX2PIX, make_tiny_folder
from tests.training.plan import forget_precision, tiny_plan

ALONE = SimpleNamespace(
    is_main_process=True, wait_for_everyone=lambda: None, num_processes=1, process_index=0
)
BASE = Losses("joint", ("unet", "adapter"), helper_classes=0.1)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> TrainingModel:
    """What the mini's stage ``base`` trains: captions, and an adapter that reads subjects"""
    folder = tmp_path_factory.mktemp("base") / "model"
    settings = {name: value for name, value in INSTRUCT_PIX2PIX.items() if name != "adapter"}
    make_tiny_folder(folder, **settings)
    torch.manual_seed(0)
    return TrainingModel(ModelFolder(folder), BASE, len(CLASSES))


def cached(model: TrainingModel, folder: Path, **settings: object) -> Cached:
    config = CacheConfig(**{"rows": 32, "reuse": 2.0} | settings)
    device = torch.device("cpu")
    return Cached(World(64, seed=5), config, folder, model.remember, device, ALONE)


def test_what_is_remembered_gives_the_same_losses(base, tmp_path):
    samples = cached(base, tmp_path)
    samples.prepare(0, 7)
    rows = [samples[index] for index in range(8)]
    assert any(row.subject is not None for row in rows)
    fresh = collate([dataclasses.replace(row, features=None) for row in rows])
    draw = base.draw(0, 8)
    wanted, found = base(fresh, draw), base(collate(rows), draw)
    assert found.keys() == wanted.keys()
    for name, loss in wanted.items():
        torch.testing.assert_close(found[name], loss, atol=2e-3, rtol=2e-2)


class OnWorld(Training):
    def samples(self, name: str) -> World:
        return World(64, seed=5)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_cache_is_filled_in_the_precision_of_its_training(base, tmp_path, monkeypatch, precision):
    computed = []

    def remember(model, batch, first, with_vllm):
        computed.append(torch.is_autocast_enabled("cpu"))
        return {"target_latent": model.encode(batch.target)}

    monkeypatch.setattr(TrainingModel, "remember", remember)
    config = TrainConfig(steps=1, batch_size=2, lr=1e-3, mixed_precision=precision)
    stage = StageRecipe(config, BASE, CacheConfig(rows=16, reuse=1.0))
    forget_precision()
    try:
        OnWorld(tmp_path, {"base": stage}).fit("base", base)
    finally:
        forget_precision()
    assert set(computed) == {precision == "bf16"}


def test_nothing_that_is_remembered_is_computed_again(base, tmp_path, monkeypatch):
    samples = cached(base, tmp_path)
    samples.prepare(0, 3)
    batch = collate([samples[index] for index in range(4)])
    for part in (base.vae.encoder, base.clip.vision_model, base.text.text_model):
        monkeypatch.setattr(part, "forward", None)
    assert {"diffusion", "helper_classes"} <= set(base(batch, base.draw(0, 4)))


@pytest.fixture(scope="module")
def speaking(tmp_path_factory) -> TrainingModel:
    """A system whose VLLM is done learning"""
    folder = make_tiny_folder(tmp_path_factory.mktemp("speaking") / "model")
    torch.manual_seed(0)
    return TrainingModel(ModelFolder(folder), Losses("joint", ("unet", "bridge", "adapter")), 0)


def test_what_a_vllm_said_gives_the_same_losses_and_is_not_asked_again(speaking, monkeypatch):
    rows = [World(64, seed=5, operations=OPERATIONS | {"ask": 1.0})[index] for index in range(8)]
    assert any(row.task == "ask" for row in rows)
    found = speaking.remember(collate(rows), 40, with_vllm=True)
    known = [
        dataclasses.replace(row, features={k: v[n].half().numpy() for k, v in found.items()})
        for n, row in enumerate(rows)
    ]
    said = Draw.make(speaking.seed, 40, (8, 1, 1, 1), speaking.recipe)
    draw = dataclasses.replace(
        speaking.draw(0, 8), generic=said.generic, positional=said.positional
    )
    wanted = speaking(collate(rows), draw)
    monkeypatch.setattr(speaking.vllm, "score", None)
    for name, loss in speaking(collate(known), speaking.draw(0, 8)).items():
        torch.testing.assert_close(loss, wanted[name], atol=2e-3, rtol=2e-2)


def test_states_of_a_vllm_that_learns_are_not_kept(speaking):
    train = TrainConfig(steps=1, batch_size=1, lr=1e-3)
    cache = CacheConfig(rows=16, vllm=True)

    def refused(
        losses: Losses | None, cache: CacheConfig, complaint: str, config=speaking.config
    ) -> None:
        with pytest.raises(FlexEditError, match=complaint):
            StageRecipe(train, losses, cache).check(config)

    refused(
        Losses("joint", ("unet", "vllm")), cache, "changes while its LoRA and edit tokens learn"
    )
    for losses in (None, Losses("align", ("bridge",))):
        refused(losses, CacheConfig(16), "keeps nothing that this stage reads")
    silent = preset("instructpix2pix", {"name": "silent", "sources": {}})
    refused(Losses("joint", ("unet",)), cache, "has no VLLM. Remove cache.vllm", silent)
    StageRecipe(train, Losses("align", ("bridge",)), cache).check(speaking.config)


def fills(folder: Path) -> None:
    """One of two processes, which writes down what it has computed."""
    from accelerate import PartialState

    def remember(batch: Batch, first: int) -> dict[str, torch.Tensor]:
        with (folder / f"by-{processes.process_index}").open("a") as file:
            file.write(f"{first}\n")
        return {"mean": batch.request.scene.mean((1, 2, 3))}

    processes, config = PartialState(cpu=True), CacheConfig(rows=32)
    device = torch.device("cpu")
    samples = Cached(World(32, seed=5), config, folder / "cache", remember, device, processes)
    samples.prepare(0, 7)
    for index in range(8):
        row = samples[index]
        assert row.features["mean"] == pytest.approx(row.scene.mean() / 255, abs=1e-3)


def test_processes_share_the_work_of_filling_a_cache(tmp_path):
    in_two_processes(fills, tmp_path)
    first, second = (set((tmp_path / f"by-{n}").read_text().split()) for n in (0, 1))
    assert len(first) == len(second) == PARTS / 2 and not first & second


def test_a_window_moves_on_as_its_rows_are_used():
    config = CacheConfig(rows=64, reuse=2.0)
    rows = np.array([config.row(0, index) for index in range(64 * 2 * 8)])
    for index, row in enumerate(rows):
        assert row // config.part in config.needed(index)
    assert rows.max() >= 64 * 7  # the window has become another one seven times
    late = rows[64 * 2 * 2 : 64 * 2 * 6]  # neither the first rows nor the last
    counts = np.bincount(late)[64 * 3 : 64 * 5]
    assert counts.mean() == pytest.approx(2, rel=0.15) and (counts > 0).mean() > 0.7


def test_what_is_no_longer_needed_is_removed_and_what_is_there_is_kept(base, tmp_path):
    samples = cached(base, tmp_path)
    samples.prepare(0, 3)
    before = {path.name: path.stat().st_mtime_ns for path in samples.folder.iterdir()}
    assert len(before) == PARTS
    again = cached(base, tmp_path)  # as a run that goes on
    again.prepare(4, 7)
    after = {path.name: path.stat().st_mtime_ns for path in again.folder.iterdir()}
    assert set(before) - set(after) == {"part-0"} and "part-16" in after
    assert all(after[name] == before[name] for name in set(before) & set(after))
    first, second = samples[6], again[6]
    for name, array in first.features.items():
        assert np.array_equal(array, second.features[name])


def test_a_window_of_another_size_does_not_take_what_lies_there(base, tmp_path):
    cached(base, tmp_path).prepare(0, 3)
    samples = cached(base, tmp_path, rows=64)
    samples.prepare(0, 3)
    row = samples[0]
    fresh = base.remember(collate([dataclasses.replace(row, features=None)]), 0)
    for name, array in row.features.items():
        assert np.allclose(array, fresh[name][0].numpy(), atol=2e-3, rtol=2e-2), name


def test_a_cached_mixture_is_still_one(base, tmp_path):
    """Its losses by data set are reported, and as many bad rows let pass."""
    mixture = SimpleNamespace(parts=[SimpleNamespace(name="own")], max_bad=7)
    samples = cached(base, tmp_path)
    assert (samples.parts, samples.max_bad) == ((), 0)
    samples.samples = mixture
    assert (samples.parts, samples.max_bad) == (mixture.parts, 7)


def test_a_mini_with_all_its_options_trains(tmp_path):
    """As on one GPU: a cache, high noise, a perceptual loss for the last part, a larger UNet."""
    plan = tiny_plan()
    shape = dataclasses.replace(plan.shape, unet_channels=(32, 64), unet_cross=(True, True))
    stage = plan.stages["base"]
    losses = dataclasses.replace(stage.losses, shift=3.0, perceptual=0.5, perceptual_from=1)
    base = dataclasses.replace(stage, losses=losses, cache=CacheConfig(rows=16, reuse=1.0))
    base = base.with_settings(num_workers=1, steps=3)
    plan = dataclasses.replace(plan, shape=shape, stages=plan.stages | {"base": base})
    MiniTraining(tmp_path, plan).run(("parts", "vae", "clip", "base"))
    rows = curve(tmp_path / "base")
    assert [row.get("perceptual", 0) > 0 for row in rows] == [False, True, True]
    assert not (tmp_path / "base" / "cache").exists()


def test_timesteps_are_moved_to_high_noise():
    def drawn(shift: float) -> torch.Tensor:
        return Draw.make(0, 0, (4000, 1, 1, 1), dataclasses.replace(BASE, shift=shift)).timesteps

    even, high = drawn(1.0).float(), drawn(3.0).float()
    assert even.mean() == pytest.approx(500, abs=20)
    assert high.median() == pytest.approx(750, abs=20)  # 3 · ½ / (1 + 2 · ½)
    assert high.min() >= 0 and high.max() <= 999
    assert torch.equal(even.argsort(stable=True), high.argsort(stable=True))


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_perceptual_loss_is_of_what_a_prediction_means(base, kind, monkeypatch):
    """A perfect prediction has a loss of what the VAE loses; gradients reach it."""
    diffusion = dataclasses.replace(base.config.diffusion, prediction_type=kind)
    monkeypatch.setattr(base, "config", dataclasses.replace(base.config, diffusion=diffusion))
    batch = collate([World(64)[index] for index in range(3)])
    clean = base.encode(batch.target) * base.vae.config.scaling_factor
    noise, timesteps = torch.randn_like(clean), torch.tensor([50, 300, 600])
    noisy = base.schedule.add_noise(clean, noise, timesteps)
    velocity = base.schedule.get_velocity(clean, noise, timesteps)
    perfect = {"epsilon": noise, "sample": clean, "v_prediction": velocity}[kind]
    prediction = perfect.clone().requires_grad_()
    loss = base.perceptual(prediction, noisy, timesteps, batch)
    decoded = base.vae.decode(base.encode(batch.target)).sample / 2 + 0.5
    left = base.schedule.alphas_cumprod[timesteps]
    seen, truth = base.see(decoded.clamp(0, 1)).raw, base.see(batch.target).raw
    lost = 1 - torch.cosine_similarity(seen, truth, dim=-1).mean(-1)
    torch.testing.assert_close(loss, left * lost, atol=1e-4, rtol=1e-3)
    loss.sum().backward()
    assert prediction.grad.abs().amax() > 0


@pytest.mark.parametrize("settings", [{"rows": 40}, {"rows": 0}, {"rows": 16, "reuse": 0.1}])
def test_a_cache_of_no_use_is_refused(settings):
    with pytest.raises(FlexEditError, match=r"cache\.(rows|reuse) is"):
        CacheConfig(**settings)
