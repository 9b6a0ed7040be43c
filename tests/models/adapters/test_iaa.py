import pytest
import torch

from flexedit.errors import FlexEditError
from flexedit.models.adapters.iaa import IAA
from flexedit.models.parts import PictureTokens, Reading

CONFIG = IAA.Config(width=6, clip_width=5, hidden_width=10, num_tokens=3)
LAYERS = {"down.0.attn2": 8, "mid.attn2": 16}
SCENE = PictureTokens(torch.zeros(2, 4, 5), torch.zeros(2, 3, 5), (1, 3))
HAS_SUBJECT = torch.zeros(2, dtype=torch.bool)


def adapt(adapter: IAA, states: torch.Tensor | None, strength: torch.Tensor):
    reading = Reading(("", ""), (), (), states)
    return adapter(torch.randn(2, 7, 6), reading, SCENE, None, HAS_SUBJECT, strength)


@pytest.fixture
def adapter() -> IAA:
    torch.manual_seed(0)
    return IAA(CONFIG, LAYERS)


def test_its_tokens_come_from_the_vllm_and_count_with_and_without_a_subject(adapter):
    states, strength = torch.randn(2, 4, 10), torch.tensor([1.0, 0.5])
    features = adapt(adapter, states, strength)
    assert features.f1.shape == (2, 7, 6) and features.f2.shape == (2, 3, 6)
    assert torch.equal(features.strength, strength)
    other = adapt(adapter, states.flip(0), strength)
    torch.testing.assert_close(features.f2, other.f2.flip(0))
    assert not torch.allclose(features.f2[0], features.f2[1])


def test_its_picture_learns_to_be_clips_embedding_of_the_result(adapter):
    picture = adapt(adapter, torch.randn(2, 4, 10), torch.ones(2)).extra["picture"]
    clip = torch.randn(2, 4, 5)
    target = PictureTokens(clip, clip, (1, 3))
    (loss,) = adapter.losses({"picture": picture}, target).values()
    torch.testing.assert_close(loss, (picture - clip[:, 0]).square().mean(-1))


def test_without_a_vllms_tokens_it_says_so(adapter):
    with pytest.raises(FlexEditError, match="has no edit tokens"):
        adapt(adapter, None, torch.ones(2))
