import pytest
import torch

from flexedit.errors import FlexEditError
from flexedit.models.bridges.edit_mapper import EditMapper
from flexedit.models.parts import Reading

CONFIG = EditMapper.Config(
    num_embeddings=5,
    width=6,
    num_tokens=3,
    hidden_width=10,
    inner_width=8,
    num_layers=2,
    num_heads=2,
    intermediate_width=16,
)


def build() -> EditMapper:
    torch.manual_seed(0)
    return EditMapper(CONFIG).eval()


def reading(states: torch.Tensor) -> Reading:
    return Reading(("",) * len(states), (), (), states)


def test_another_number_of_tokens_is_refused():
    with pytest.raises(FlexEditError, match="gave 5 tokens, but this bridge reads 3"):
        build()(reading(torch.randn(1, 5, 10)))


def test_every_embedding_depends_on_the_tokens_and_each_row_on_its_own():
    mapper, states = build(), torch.randn(2, 3, 10)
    e = mapper(reading(states)).e
    assert e.shape == (2, 5, 6)
    torch.testing.assert_close(mapper(reading(states[1:])).e, e[1:])
    assert ((e - mapper(reading(states.flip(0))).e).abs().amax(-1) > 1e-4).all()


def test_the_tokens_own_embeddings_are_added_to_their_states():
    mapper, states = build(), torch.randn(1, 3, 10)
    e = mapper(reading(states)).e
    with torch.no_grad():
        shift = torch.randn(3, 10)
        mapper.tokens += shift
    torch.testing.assert_close(mapper(reading(states - shift)).e, e)


def test_a_dropped_edit_is_what_zeros_become_and_learns():
    mapper = build()
    null = mapper.null(2)
    torch.testing.assert_close(null.e, mapper(reading(torch.zeros(2, 3, 10))).e)
    null.e.sum().backward()
    assert mapper.queries.grad.abs().sum() > 0
