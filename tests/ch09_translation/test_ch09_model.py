"""The Transformer's parts: against PyTorch's own, against what is written out, and what a mask must hide."""

import math

import pytest
import torch
from torch import nn

from stages.ch09_translation.model import (
    Embedding,
    FeedForward,
    MultiHeadAttention,
    Places,
    PositionalEncoding,
    Transformer,
    attend,
    causal_mask,
    padding_mask,
    sinusoids,
)

PAD = 1


def make_model(**changes) -> Transformer:
    torch.manual_seed(0)
    shape = {"d_model": 16, "layers": 2, "heads": 4, "d_ff": 32, "dropout": 0.0, "longest": 20, "pad": PAD}
    model = Transformer(11, 13, **{**shape, **changes})
    for parameter in model.parameters():  # biases start at zero and scales at one: give them something to be mixed with
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.5)
    return model


def batch(pad_by: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    src, tgt = torch.randint(4, 11, (3, 7)), torch.randint(4, 13, (3, 6))
    src[0, 5:] = PAD
    src[1, 3:] = PAD
    tgt[2, 4:] = PAD
    fill = torch.full((3, pad_by), PAD)
    return torch.cat([src, fill], dim=1), torch.cat([tgt, fill], dim=1)


def in_pytorch(model: Transformer) -> nn.Transformer:
    """nn.Transformer with the weights of `model`; the biases of its attention, which ours lacks, are zero."""
    theirs = nn.Transformer(16, 4, 2, 2, 32, 0.0, batch_first=True, norm_first=True)
    state = {name: torch.zeros_like(value) for name, value in theirs.state_dict().items()}

    def copy_attention(name: str, own: MultiHeadAttention) -> None:
        state[f"{name}.in_proj_weight"] = torch.cat([own.w_query.weight, own.w_key_value.weight])
        state[f"{name}.out_proj.weight"] = own.w_o.weight

    def copy_linear(name: str, own: nn.Module) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = own.weight, own.bias

    for stack in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, stack)):
            name = f"{stack}.layers.{number}"
            copy_attention(f"{name}.self_attn", layer.self_attention)
            if stack == "decoder":
                copy_attention(f"{name}.multihead_attn", layer.cross_attention)
            copy_linear(f"{name}.linear1", layer.feed_forward.linear1)
            copy_linear(f"{name}.linear2", layer.feed_forward.linear2)
            for index, residual in enumerate(layer.residuals, start=1):
                copy_linear(f"{name}.norm{index}", residual.norm)
        copy_linear(f"{stack}.norm", getattr(model, f"{stack}_norm"))
    theirs.load_state_dict({name: value.detach().clone() for name, value in state.items()})
    return theirs


def test_equals_pytorchs_transformer_forward_and_backward():
    model, (src, tgt) = make_model(), batch()
    theirs, mask = in_pytorch(model), padding_mask(src, PAD)
    x = model.positions(model.src_embedding(src)).detach().requires_grad_()
    y = model.positions(model.tgt_embedding(tgt)).detach().requires_grad_()
    ours_x, ours_y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    memory = ours_x
    for layer in model.encoder:
        memory = layer(memory, mask)
    memory, found = model.encoder_norm(memory), ours_y
    for layer in model.decoder:
        found = layer(found, layer.cross_attention.keys_and_values(memory), mask)
    found = model.decoder_norm(found)
    hidden = ~causal_mask(tgt.shape[1])
    ignored = src == PAD
    expected = theirs(x, y, tgt_mask=hidden, src_key_padding_mask=ignored, memory_key_padding_mask=ignored)
    assert torch.allclose(found, expected, atol=1e-5)
    weights = torch.randn(expected.shape)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(ours_x.grad, x.grad, atol=1e-5) and torch.allclose(ours_y.grad, y.grad, atol=1e-5)
    own, other = model.decoder[1].feed_forward.linear1.weight.grad, theirs.decoder.layers[1].linear1.weight.grad
    assert torch.allclose(own, other, atol=1e-5)
    own, other = (
        model.encoder[0].self_attention.w_key_value.weight.grad,
        theirs.encoder.layers[0].self_attn.in_proj_weight.grad,
    )
    assert torch.allclose(own, other[16:], atol=1e-5)


def test_matrices_begin_as_xavier_has_them_each_by_itself():
    attention = Transformer(11, 13, 64, 1, 4, 128).encoder[0].self_attention
    keys, values = attention.w_key_value.weight.chunk(2)
    for matrix in (attention.w_query.weight, keys, values):  # within √(6 / (64 + 64)), and near to it
        assert 0.99 < matrix.abs().max() / math.sqrt(6 / 128) <= 1


def test_padding_changes_nothing():
    model = make_model()
    short, long, real = model(*batch()), model(*batch(pad_by=5)), batch()[1] != PAD
    assert torch.allclose(long[:, :6][real], short[real], atol=1e-5)


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_tokens_taken_out_of_their_padding_give_the_same(monkeypatch, written_out, bfloat16):
    src, tgt = batch(pad_by=3)
    results = []
    for most in (0.0, 1.0):
        monkeypatch.setattr("stages.ch09_translation.model.MOST_REAL", most)
        model = make_model()
        for module in model.modules():
            if isinstance(module, MultiHeadAttention):
                module.keep_maps = written_out
        assert (Places.of(src != PAD) is None) == (most == 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(src, tgt)[tgt != PAD].float()
        (logits * torch.arange(logits.numel()).view_as(logits)).mean().backward()
        results.append([logits, *(parameter.grad for parameter in model.parameters())])
    for padded, packed in zip(*results, strict=True):
        far = 0.05 * float(padded.detach().abs().max()) if bfloat16 else 1e-4
        torch.testing.assert_close(packed, padded, rtol=1e-3, atol=far)


def test_a_gpu_takes_the_padding_along():
    assert Places.of(torch.zeros(2, 3, dtype=torch.bool, device="meta")) is None


def test_no_position_sees_the_future():
    model, (src, tgt) = make_model(), batch()
    for place in range(1, tgt.shape[1]):
        changed = tgt.clone()
        changed[:, place:] = (changed[:, place:] + 3) % 9 + 4
        before, after = model(src, tgt), model(src, changed)
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.allclose(before[:, place], after[:, place], atol=1e-3)


def test_every_position_sees_the_whole_source():
    model, (src, tgt) = make_model(), batch()
    changed = src.clone()
    changed[2, 6] = (changed[2, 6] - 3) % 7 + 4
    assert not torch.allclose(model(src, tgt)[2, 0], model(changed, tgt)[2, 0], atol=1e-4)
    assert torch.equal(model(src, tgt)[:2], model(changed, tgt)[:2])


@pytest.mark.parametrize("causal", [True, False])
def test_written_out_attention_equals_the_fused_one(causal):
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 4, 0.0)
    x = torch.randn(3, 7, 16, requires_grad=True)
    mask = None if causal else padding_mask(batch()[0], PAD)
    fused = attention(x, attention.keys_and_values(x), mask, causal)
    (gradient,) = torch.autograd.grad(fused.square().sum(), x)
    attention.keep_maps = True
    written = attention(x, attention.keys_and_values(x), mask, causal)
    (expected,) = torch.autograd.grad(written.square().sum(), x)
    assert torch.allclose(fused, written, atol=1e-6) and torch.allclose(gradient, expected, atol=1e-5)
    assert attention.maps.shape == (3, 4, 7, 7)
    assert torch.allclose(attention.maps.sum(dim=-1), torch.ones(3, 4, 7))
    hidden = ~causal_mask(7).expand_as(attention.maps) if causal else ~mask.expand_as(attention.maps)
    assert (attention.maps[hidden] == 0).all()


def test_attention_by_hand():
    query, key = torch.tensor([[[[math.sqrt(2.0), 0.0]]]]), torch.tensor([[[[math.log(3.0), 9.0], [0.0, 9.0]]]])
    value = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    values, weights = attend(query, key, value)
    assert torch.allclose(weights.flatten(), torch.tensor([0.75, 0.25]))
    assert torch.allclose(values.flatten(), torch.tensor([0.75, 0.25]))
    values, weights = attend(query, key, value, dropout=FirstAlone())
    assert torch.allclose(weights.flatten(), torch.tensor([0.75, 0.25]))
    assert torch.allclose(values.flatten(), torch.tensor([1.5, 0.0]))


class FirstAlone(torch.nn.Module):
    """What dropout with probability 1/2 does when it drops all weights but the first."""

    p = 0.5

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        return weights * (torch.arange(weights.shape[-1]) == 0) * 2


def test_weights_of_the_attention_drop_out_in_training_alone():
    torch.manual_seed(0)
    attention, x = MultiHeadAttention(16, 4, 0.5), torch.randn(3, 7, 16)
    seen = attention.keys_and_values(x)
    attention.dropout = FirstAlone()
    changed = attention(x, seen, causal=True)
    query, mask = attention.split(attention.w_query(x)), causal_mask(7)
    expected = attend(query, *seen, mask, FirstAlone())[0].transpose(1, 2).flatten(2)
    assert torch.allclose(changed, attention.w_o(expected))
    assert attention.maps is None
    whole = attend(query, *seen, mask)[0].transpose(1, 2).flatten(2)
    assert torch.allclose(attention.eval()(x, seen, causal=True), attention.w_o(whole), atol=1e-6)


def test_step_by_step_is_all_at_once():
    model, (src, tgt) = make_model().eval(), batch()
    mask = padding_mask(src, PAD)
    memory = model.encode(src, mask)
    caches, expected = model.start(memory), model(src, tgt)
    for place in range(tgt.shape[1]):
        states, caches = model.step(tgt[:, place], place, caches, mask)
        assert torch.allclose(model.project(states), expected[:, place], atol=1e-5)
    assert caches[0].target.key.shape == (3, 4, 6, 4)


def test_parameter_count_of_the_books_configuration():
    """By hand, with vocabularies of 10,000 and 12,000."""
    model = Transformer(10_000, 12_000)
    attention, feed_forward, norm = 4 * 512 * 512, 2 * 512 * 2048 + 2048 + 512, 2 * 512
    encoder = 6 * (attention + feed_forward + 2 * norm) + norm
    decoder = 6 * (2 * attention + feed_forward + 3 * norm) + norm
    embeddings, projection = (10_000 + 12_000) * 512, 12_000 * 512 + 12_000
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder + embeddings + projection
    tied = Transformer(10_000, 12_000, tied=True)
    assert sum(p.numel() for p in tied.parameters()) == encoder + decoder + embeddings + 12_000


def test_tied_weights_are_one_tensor_that_learns_from_both_ends():
    model, (src, tgt) = make_model(tied=True), batch()
    assert "weight" not in model.state_dict()
    model(src, tgt).square().sum().backward()
    gradient = model.tgt_embedding.table.weight.grad
    unused = [token for token in range(13) if token not in tgt]
    assert unused and all(gradient[token].abs().sum() > 0 for token in unused)  # as rows of the projection


def test_sinusoids_by_hand():
    table = sinusoids(50, 6)
    for position in (0, 1, 49):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            assert table[position, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert sinusoids(3, 5).shape == (3, 5)


def test_embedding_is_scaled_and_positions_are_added():
    embedding, positions = Embedding(5, 4), PositionalEncoding(6, 4, 0.0)
    tokens = torch.tensor([[2, 3]])
    assert torch.allclose(embedding(tokens), embedding.table.weight[[2, 3]][None] * 2)
    assert torch.equal(positions(torch.zeros(1, 2, 4), first=3)[0], sinusoids(6, 4)[3:5])
    assert not list(positions.parameters()) and not positions.state_dict()


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="a sentence of 21 tokens; the network takes 20"):
        make_model()(torch.full((1, 21), 5), torch.full((1, 2), 5))
    with pytest.raises(ValueError, match="d_model 10 must be a multiple of heads 4"):
        MultiHeadAttention(10, 4, 0.0)


def test_dropout_leaves_evaluation_alone_and_changes_training():
    model, (src, tgt) = make_model(dropout=0.3), batch()
    assert not torch.allclose(model(src, tgt), model(src, tgt))
    model.eval()
    assert torch.equal(model(src, tgt), model(src, tgt))


def test_the_feed_forward_network_sees_one_token_alone():
    torch.manual_seed(0)
    network = FeedForward(16, 32, 0.0).eval()
    x = torch.randn(2, 5, 16)
    changed = x.clone()
    changed[1, 3] += 1
    with torch.no_grad():
        differ = (network(changed) != network(x)).any(dim=-1)
    assert differ.nonzero().tolist() == [[1, 3]]
