import dataclasses

import torch
from diffusers import AutoencoderKL

from flexedit.data.world import CLASSES, World
from flexedit.model_folder import load_vllm
from flexedit.models.vllm import VLLM
from flexedit.training.batch import collate
from flexedit.training.pretrain.decoder import DecoderPretraining
from flexedit.training.pretrain.vae import VAEPretraining
from flexedit.training.pretrain.vision import DenseHead, Views
from flexedit.training.pretrain.vllm import RESTATE, VLLMPretraining

SIZE, SIDE, WIDTH = 32, 4, 12


def views(*operations: str) -> Views:
    return Views.of(batch_of(*operations))


def batch_of(*operations: str):
    return collate([World(SIZE, operations={name: 1.0})[0] for name in operations])


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=SIZE,
        scaling_factor=0.5,
    )


def test_an_encoder_is_shown_marked_scenes_and_subjects():
    batch = batch_of("remove", "insert", "ask")
    shown = Views.of(batch)
    assert torch.equal(shown.pictures[:3], batch.request.marked())
    assert torch.equal(shown.pictures[3:], batch.request.subject[1:2])
    assert torch.equal(shown.classes[3:], batch.subject_classes[1:2])
    assert torch.equal(shown.covered[:3], batch.request.mask) and not shown.covered[3:].any()
    alone = views("remove")
    assert len(alone.pictures) == len(alone.classes) == len(alone.covered) == 1


def test_a_head_that_says_what_a_picture_shows_has_no_loss():
    shown = dataclasses.replace(
        views("remove"),
        classes=torch.full((1, SIZE, SIZE), 5),
        covered=torch.ones(1, SIZE, SIZE),
    )
    head = DenseHead(WIDTH, SIDE)
    head.norm = torch.nn.Identity()  # a token is the colours of its patch's quarters
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.eye(len(CLASSES) + 2)[5] * 50)
        head.linear.bias[-1] = 50.0
        head.colors.weight.copy_(torch.eye(WIDTH))
        head.colors.bias.zero_()
    half = SIZE // SIDE // 2
    tokens = torch.zeros(1, 1 + SIDE**2, WIDTH)  # the first is CLS
    for patch in range(SIDE**2):
        top, left = (2 * half * number for number in divmod(patch, SIDE))
        quarters = [
            shown.pictures[0, c, y : y + half, x : x + half].mean()
            for c in range(3) for y in (top, top + half) for x in (left, left + half)
        ]  # fmt: skip
        tokens[0, 1 + patch] = torch.stack(quarters)
    assert all(loss.shape == (1,) and loss < 1e-6 for loss in head(tokens, shown).values())
    assert head(tokens.flip(1), shown)["colors"] > 0.01
    other = dataclasses.replace(shown, classes=shown.classes + 1, covered=1 - shown.covered)
    wrong = head(tokens, other)
    assert wrong["classes"] > 1 and wrong["covered"] > 1


def test_the_decoder_learns_alone_from_latents_that_are_a_little_off():
    vae = tiny_vae()
    trainee = DecoderPretraining(vae, noise=0.5)
    trained = {name.split(".")[0] for name, p in vae.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "post_quant_conv"}
    batch = batch_of("remove", "insert")
    exact = VAEPretraining(vae, World(SIZE))(batch, None)  # draws from the posterior
    torch.manual_seed(0)
    first, second = (trainee(batch, None) for _ in range(2))
    assert set(first) == {"l1", "l2"} and first["l1"].shape == (2,)
    assert not torch.equal(first["l1"], second["l1"])
    assert set(exact) == {"l1", "l2", "kl"}
    still = DecoderPretraining(vae, noise=0.0)(batch, None)
    mode = vae.encode(batch.target * 2 - 1).latent_dist.mode()
    error = vae.decode(mode).sample - (batch.target * 2 - 1)
    torch.testing.assert_close(still["l1"], error.abs().mean((1, 2, 3)))
    torch.testing.assert_close(still["l2"], 2 * error.square().mean((1, 2, 3)))
    first["l2"].sum().backward()
    assert vae.decoder.conv_in.weight.grad is not None and vae.encoder.conv_in.weight.grad is None


def test_the_vllm_learns_to_say_half_of_the_edits_again_in_full(tiny, monkeypatch):
    vllm = load_vllm(tiny / "vllm")
    said = {}

    def tokenize(texts, pictures, replies, **settings):
        said.update(texts=texts, replies=replies)
        return VLLM.tokenize(vllm, texts, pictures, replies, **settings)

    monkeypatch.setattr(vllm, "tokenize", tokenize)
    pretraining = VLLMPretraining(vllm, seed=0)
    batch = collate([World(64)[index] for index in range(40)])
    with torch.no_grad():
        pretraining(batch, pretraining.draw(0, 40))
    restated = [RESTATE in text for text in said["texts"]]
    edits = [sample.task != "ask" for sample in batch.samples]
    assert 0.3 < sum(restated) / sum(edits) < 0.7
    for again, is_edit, reply, sample in zip(
        restated, edits, said["replies"], batch.samples, strict=True
    ):
        assert is_edit or not again
        assert reply == (sample.caption if again else sample.reply)
