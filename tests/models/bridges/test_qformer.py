import dataclasses

import pytest
import torch

from flexedit.errors import FlexEditError
from flexedit.models.bridges.qformer import QFormer
from flexedit.models.parts import Reading

CONFIG = QFormer.Config(
    num_embeddings=7, width=16, num_layers=4, num_heads=2, intermediate_width=32, hidden_width=24
)


def build(**changes: object) -> QFormer:
    torch.manual_seed(0)
    qformer = QFormer(dataclasses.replace(CONFIG, **changes))
    for parameter in qformer.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return qformer


def hidden_states(count: int = 5) -> torch.Tensor:
    return torch.randn(2, count, CONFIG.hidden_width, generator=torch.Generator().manual_seed(1))


def embed(qformer: QFormer, states: torch.Tensor | None) -> torch.Tensor:
    return qformer(Reading(("",) * 2, (), (), states)).e


@pytest.mark.parametrize("count", [1, 5, 32])
def test_any_number_of_edit_tokens_becomes_the_same_number_of_embeddings(count):
    assert embed(build(), hidden_states(count)).shape == (2, 7, 16)


def test_every_embedding_depends_on_what_the_vllm_said():
    qformer, states = build(), hidden_states()
    change = (embed(qformer, states) - embed(qformer, states.flip(0))).abs().amax(-1)
    assert (change > 1e-3).all()


def test_embeddings_differ_from_one_another():
    e = embed(build(), hidden_states())[0]
    assert torch.cdist(e, e)[~torch.eye(7, dtype=torch.bool)].amin() > 1e-2


def test_rows_do_not_see_each_other():
    qformer, states = build(), hidden_states()
    torch.testing.assert_close(embed(qformer, states)[1:], embed(qformer, states[1:]))


def test_training_has_no_dropout():
    qformer, states = build().train(), hidden_states()
    assert torch.equal(embed(qformer, states), embed(qformer, states))


@pytest.mark.parametrize(("frequency", "layers"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
def test_the_hidden_states_are_read_at_every_nth_layer(frequency, layers):
    keys = build(cross_attention_frequency=frequency).state_dict()
    assert layers == sorted({int(k.split(".")[3]) for k in keys if "crossattention" in k})


def test_hidden_states_of_another_vllm_are_refused_with_both_widths():
    with pytest.raises(FlexEditError, match="48 wide, but this part reads 24"):
        embed(build(), torch.randn(2, 5, 48))


def test_a_reading_without_hidden_states_is_refused():
    with pytest.raises(FlexEditError, match="comes from a stock VLLM, which has no edit tokens"):
        embed(build(), None)


def test_the_null_edit_is_given_to_every_row():
    qformer = build()
    qformer.null_edit.normal_()
    assert torch.equal(qformer.null(3).e, qformer.null_edit.expand(3, 7, 16))


def test_gradients_reach_queries_and_hidden_states():
    qformer, states = build(), hidden_states().requires_grad_()
    embed(qformer, states).square().sum().backward()
    assert qformer.queries.grad.abs().sum() > 0 and states.grad.abs().sum() > 0


def test_full_precision_states_are_read_by_a_half_precision_qformer():
    assert embed(build().to(torch.bfloat16), hidden_states()).dtype == torch.bfloat16
