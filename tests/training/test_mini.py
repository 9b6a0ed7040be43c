import dataclasses

import torch
from diffusers import AutoencoderKL

from flexedit.training.mini import MINI, build_vae
from tests.tiny import TINY


def test_a_mini_may_have_more_latent_channels(tmp_path):
    build_vae(dataclasses.replace(TINY, latent_channels=16), tmp_path)
    vae = AutoencoderKL.from_pretrained(tmp_path)
    latent = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
    assert latent.shape == (1, 16, 16, 16)
    assert vae.decode(latent).sample.shape == (1, 3, 64, 64)
    assert MINI.latent_channels == 4
