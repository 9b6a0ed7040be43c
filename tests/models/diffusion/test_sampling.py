import dataclasses

import pytest
import torch

from flexedit.errors import FlexEditError
from flexedit.models.diffusion import sampling
from flexedit.models.diffusion.sampling import DiffusionConfig

SHAPE = (2, 4, 3, 5)


def config(prediction_type: str = "sample") -> DiffusionConfig:
    return DiffusionConfig(prediction_type=prediction_type)  # type: ignore[arg-type]


def constant(value: float = 0.0, seen: list | None = None) -> sampling.Predict:
    """A UNet that always answers the same, and notes what it was shown."""

    def predict(latent, timestep):
        if seen is not None:
            seen.append((latent, int(timestep)))
        return (torch.full_like(latent, value),) * 3

    return predict


@pytest.mark.parametrize("ends", [(0.0, 0.01), (0.02, 0.01), (0.01, 1.0), (0.01, float("nan"))])
def test_noise_that_is_none_is_refused(ends):
    with pytest.raises(FlexEditError, match="choose numbers between 0 and 1"):
        DiffusionConfig("sample", *ends)


# Timesteps


@pytest.mark.parametrize("num_steps", [1, 2, 10, 15, 20, 30, 999, 1000])
def test_timesteps_are_those_of_comfyuis_simple_scheduler(num_steps):
    sigmas = range(1000)  # ComfyUI picks model_sampling.sigmas[-(1 + int(x * ss))]
    ss = len(sigmas) / num_steps
    simple = [sigmas[-(1 + int(x * ss))] for x in range(num_steps)]
    assert sampling.timesteps(num_steps) == simple


@pytest.mark.parametrize("num_steps", [10, 15, 1])
def test_the_sampler_walks_those_timesteps(num_steps):
    seen = []
    sampling.sample(constant(seen=seen), torch.zeros(SHAPE), config(), num_steps, 1, 1)
    assert [timestep for _, timestep in seen] == sampling.timesteps(num_steps)


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_a_number_of_steps_that_cannot_be_walked_is_reported(num_steps):
    with pytest.raises(FlexEditError, match=f"steps is {num_steps}; choose 1 to 1000"):
        sampling.sample(constant(), torch.zeros(SHAPE), config(), num_steps, 1, 1)


# Integration


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("num_steps", [1, 3, 20])
def test_whoever_knows_the_picture_gets_it_back(prediction_type, num_steps):
    settings = config(prediction_type)
    alphas = sampling.training_schedule(settings).alphas_cumprod
    clean, start = torch.randn(2, *SHAPE)

    def predict(latent, timestep):
        alpha, sigma = alphas[int(timestep)] ** 0.5, (1 - alphas[int(timestep)]) ** 0.5
        noise = (latent - alpha * clean) / sigma
        velocity = alpha * noise - sigma * clean
        answer = {"sample": clean, "epsilon": noise, "v_prediction": velocity}
        return (answer[prediction_type],) * 3

    latent = sampling.sample(predict, start, settings, num_steps, 7.5, 1.5)
    torch.testing.assert_close(latent, clean, atol=2e-4, rtol=2e-4)


def test_the_unet_is_shown_latents_of_unit_variance():
    seen = []
    start = torch.randn(SHAPE)
    sampling.sample(constant(seen=seen), start, config(), 5, 1, 1)
    torch.testing.assert_close(seen[0][0], start)


def test_training_and_sampling_share_one_noise_schedule():
    settings = dataclasses.replace(config(), beta_end=0.02, beta_schedule="linear")
    sampler, training = sampling.schedule(settings), sampling.training_schedule(settings)
    assert torch.equal(sampler.alphas_cumprod, training.alphas_cumprod)
    assert not torch.equal(
        training.alphas_cumprod, sampling.training_schedule(config()).alphas_cumprod
    )


# Guidance


def test_guidance_moves_towards_the_scene_then_towards_the_edit():
    positive, scene_only, negative = torch.tensor([5.0]), torch.tensor([3.0]), torch.tensor([2.0])
    guided = sampling.guide(positive, scene_only, negative, edit_cfg=7.5, scene_cfg=1.5)
    assert guided.item() == 2 + 1.5 * (3 - 2) + 7.5 * (5 - 3)


@pytest.mark.parametrize(("scales", "branch"), [((1, 1), 0), ((0, 1), 1), ((0, 0), 2)])
def test_plain_scales_leave_a_single_branch(scales, branch):
    branches = torch.randn(3, *SHAPE)
    torch.testing.assert_close(sampling.guide(*branches, *scales), branches[branch])


# Noise, progress, cancel


def test_noise_depends_on_the_seed_alone():
    torch.manual_seed(5)
    first = sampling.noise(SHAPE, 3)
    torch.manual_seed(6)
    assert torch.equal(first, sampling.noise(SHAPE, 3))
    assert not torch.equal(first, sampling.noise(SHAPE, 4))


def test_progress_is_reported_after_each_step():
    reports = []
    sampling.sample(
        constant(), torch.zeros(SHAPE), config(), 3, 1, 1, lambda *at: reports.append(at)
    )
    assert reports == [(1, 3), (2, 3), (3, 3)]


def test_what_the_progress_callback_raises_ends_the_run():
    seen = []

    def cancel(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampling.sample(constant(seen=seen), torch.zeros(SHAPE), config(), 5, 1, 1, cancel)
    assert len(seen) == 2
