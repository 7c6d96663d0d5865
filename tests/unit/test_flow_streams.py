"""Pairs of residual streams and of whole architectures."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svdhooks.flow import UNKNOWN
from tests.unit.test_flow_pairs import Net, found_in, plain, reasons, streams


class Block(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, in_: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_, out, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out)
        down = nn.Sequential(nn.Conv2d(in_, out, 1), nn.BatchNorm2d(out))
        self.down = nn.Identity() if in_ == out else down

    def forward(self, x: Tensor) -> Tensor:
        z = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        z += self.down(x)
        return F.relu(z)


def resnet() -> nn.Sequential:
    stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    blocks = [Block(4, 4), Block(4, 4), Block(4, 6)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    return nn.Sequential(stem, *blocks, *head)


def test_residual_blocks_of_convolutions():
    net = resnet()
    found = found_in(net, torch.randn(2, 3, 9, 8))
    inner = {f"{i}.conv1->{i}.conv2": "conv-conv" for i in (1, 2, 3)}
    assert plain(found) == {"0.0->1.conv1": "conv-conv"} | inner
    assert streams(found) == {
        "1.conv2->2.conv1",
        "2.conv2->3.conv1",
        "2.conv2->3.down.0",
        "3.conv2->6",
        "3.down.0->6",
    }
    assert found.refused == ()
    norms = {pair.name: pair.norm for pair in found.pairs}
    assert norms["0.0->1.conv1"] is net[0][1]
    assert norms["2.conv2->3.conv1"] is net[2].bn2
    assert norms["3.down.0->6"] is net[3].down[1]
    everything = found_in(net, torch.randn(2, 3, 9, 8), streams="all")
    assert streams(everything) == streams(found) | {
        "0.0->2.conv1",
        "0.0->3.conv1",
        "0.0->3.down.0",
        "1.conv2->3.conv1",
        "1.conv2->3.down.0",
    }
    assert plain(everything) == plain(found)
    none = found_in(net, torch.randn(2, 3, 9, 8), streams="none")
    assert [pair.name for pair in none.pairs] == list(plain(found))
    assert set(reasons(none)) == streams(found)
    assert all("residual stream" in reason for _, _, reason in none.refused)


def test_parts_of_a_block_that_join_at_once():
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x)
        for one, other in ((net.a, net.b), (net.c, net.d)):
            y = F.layer_norm(x, (6,))
            x = (x + one(y)) + other(y)
        return net.head(x)

    names = dict.fromkeys("abcd")
    parts = {name: nn.Linear(6, 6) for name in names}
    parts |= {"embed": nn.Linear(5, 6), "head": nn.Linear(6, 2)}
    found = found_in(Net(forward, **parts), torch.randn(4, 5))
    assert plain(found) == {"embed->a": "fc-fc", "embed->b": "fc-fc"}
    assert streams(found) == {
        *("a->c", "b->c", "a->d", "b->d"),
        *("c->head", "d->head"),
    }


def test_a_stream_that_is_read_and_then_concatenated_is_not_passed_over():
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.a(x) + net.b(x)
        return net.d(torch.cat([y, net.c(y)], -1)), net.d(torch.cat([y, y], -1))

    parts = {"a": nn.Linear(5, 6), "b": nn.Linear(5, 6)}
    parts |= {"c": nn.Linear(6, 6), "d": nn.Linear(12, 3)}
    found = found_in(Net(forward, **parts), torch.randn(4, 5))
    assert streams(found) == {"a->c", "b->c"}
    refused = reasons(found)
    assert set(refused) == {"a->d", "b->d", "c->d"}
    assert all("concatenated" in reason for reason in refused.values())


def test_a_sum_of_outputs_that_others_read_too():
    def forward(net: Any, x: Tensor) -> Tensor:
        a, b = net.a(x), net.b(x)
        return net.d(a + b) + net.c(a) + net.c(b)

    parts = {"a": nn.Linear(5, 6), "b": nn.Linear(5, 6)}
    parts |= {name: nn.Linear(6, 3) for name in "cd"}
    found = found_in(Net(forward, **parts), torch.randn(4, 5))
    assert plain(found) == {"a->c": "fc-fc", "b->c": "fc-fc"}
    assert streams(found) == {"a->d", "b->d"}


def test_the_pairs_of_a_stream_grow_with_its_depth():
    def forward(net: Any, x: Tensor) -> Tensor:
        for up, down in zip(net.ups, net.downs, strict=True):
            x = x + down(up(x).relu())
        return x

    def count(depth: int, kind: str) -> int:
        ups = nn.ModuleList(nn.Linear(4, 6) for _ in range(depth))
        downs = nn.ModuleList(nn.Linear(6, 4) for _ in range(depth))
        net = Net(forward, ups=ups, downs=downs)
        found = found_in(net, torch.randn(2, 4), streams=kind)
        return len(found.pairs) + len(found.refused)

    assert [count(depth, "next") for depth in (5, 10, 20)] == [9, 19, 39]
    assert [count(depth, "none") for depth in (5, 10, 20)] == [9, 19, 39]
    assert [count(depth, "all") for depth in (5, 10, 20)] == [15, 55, 210]


def test_gpt2():
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=30, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    model = GPT2Model(config)
    tokens = torch.randint(0, 30, (2, 7))
    found = found_in(model, tokens)
    assert plain(found) == {
        f"h.{i}.mlp.c_fc->h.{i}.mlp.c_proj": "fc-fc" for i in (0, 1)
    }
    qkv = [[f"h.{i}.attn.c_attn.{letter}" for letter in "qkv"] for i in (0, 1)]
    assert streams(found) == {
        *(f"{writer}->{q}" for writer in ("wte", "wpe") for q in qkv[0]),
        "h.0.attn.c_proj->h.0.mlp.c_fc",
        *(f"h.0.mlp.c_proj->{q}" for q in qkv[1]),
        "h.1.attn.c_proj->h.1.mlp.c_fc",
    }
    refused = reasons(found)
    assert set(refused) == {
        f"{qkv[i][j]}->h.{i}.attn.c_proj" for i in (0, 1) for j in (0, 1, 2)
    }
    everything = streams(found_in(model, tokens, streams="all"))
    assert {x for x in everything if x.endswith("h.1.mlp.c_fc")} == {
        f"{writer}->h.1.mlp.c_fc"
        for writer in (
            "wte",
            "wpe",
            "h.0.attn.c_proj",
            "h.0.mlp.c_proj",
            "h.1.attn.c_proj",
        )
    }


def test_bert():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
    )
    found = found_in(BertModel(config), {"input_ids": torch.randint(0, 30, (2, 7))})
    names = [f"encoder.layer.{i}" for i in (0, 1)]
    up, down = "intermediate.dense", "output.dense"
    assert plain(found) == {
        **{f"{x}.{up}->{x}.{down}": "fc-fc" for x in names},
    }
    out = "attention.output.dense"
    readers = [f"{names[1]}.attention.self.{x}" for x in ("query", "key", "value")]
    assert streams(found) >= {
        *(f"{x}.{out}->{x}.{up}" for x in names),
        *(f"{names[0]}.{down}->{reader}" for reader in readers),
        f"{names[1]}.{down}->pooler.dense",
    }
    embeddings = {x for x in streams(found) if x.startswith("embeddings")}
    assert len(embeddings) == 3 * 3
    assert len(streams(found)) == 9 + 2 + 3 + 1


def test_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=30,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
    )
    model = LlamaForCausalLM(config)
    found = found_in(model, {"input_ids": torch.randint(0, 30, (2, 7))})
    layers = [f"model.layers.{i}" for i in (0, 1)]
    assert plain(found) == {
        f"model.embed_tokens->{layers[0]}.self_attn.{x}_proj": "fc-fc" for x in "qkv"
    }
    assert streams(found) == {
        *(
            f"{x}.self_attn.o_proj->{x}.mlp.{y}_proj"
            for x in layers
            for y in ("up", "gate")
        ),
        *(f"{layers[0]}.mlp.down_proj->{layers[1]}.self_attn.{x}_proj" for x in "qkv"),
        f"{layers[1]}.mlp.down_proj->lm_head",
    }
    refused = reasons(found)
    for x in layers:
        for y in ("up", "gate"):
            assert "gate?" in refused[f"{x}.mlp.{y}_proj->{x}.mlp.down_proj"]
        assert f"{x}.self_attn.v_proj->{x}.self_attn.o_proj" in refused


def test_experts():
    from transformers import MixtralConfig, MixtralModel

    config = MixtralConfig(
        vocab_size=30,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    found = found_in(MixtralModel(config), {"input_ids": torch.randint(0, 30, (2, 7))})
    assert all("experts" not in pair.name for pair in found.pairs)
    assert {pair.name for pair in found.pairs} >= {
        "layers.0.self_attn.o_proj->layers.0.mlp.gate",
        "embed_tokens->layers.0.self_attn.q_proj",
    }
    # what the experts write is the last to join, and no layer's output shows it: the
    # attention before it is no substitute
    assert "layers.0.self_attn.o_proj->layers.1.self_attn.q_proj" not in streams(found)
    refused = reasons(found)
    assert f"{UNKNOWN}->layers.1.self_attn.q_proj" in refused
    experts = "layers.0.self_attn.o_proj->layers.0.mlp.experts.gate_up_proj.up"
    assert "has 3 experts" in refused[experts]


def test_a_vision_transformer():
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        image_size=8,
        patch_size=4,
    )
    model = ViTModel(config, add_pooling_layer=False)
    found = found_in(model, {"pixel_values": torch.randn(2, 3, 8, 8)})
    kinds = plain(found)
    firsts = {x: kind for x, kind in kinds.items() if x.startswith("embeddings")}
    assert list(firsts.values()) == 3 * ["conv-fc"]
    assert sum(name.startswith("encoder") or "layer" in name for name in kinds) >= 2
    assert len(streams(found)) == 2 + 3


def test_attention_and_recurrence_of_torch():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    net = nn.Sequential(nn.Linear(5, 8), layer, nn.Linear(8, 3))
    net.train()
    found = found_in(net, torch.randn(2, 7, 5))
    assert plain(found) == {
        **{f"0->1.self_attn.{letter}_proj": "fc-fc" for letter in "qkv"},
        "1.linear1->1.linear2": "fc-fc",
    }
    assert streams(found) == {"1.self_attn.out_proj->1.linear1", "1.linear2->2"}
    net = Net(
        lambda net, x: net.b(net.lstm(net.a(x))[0][:, -1]),
        a=nn.Linear(4, 4),
        lstm=nn.LSTM(4, 6, batch_first=True),
        b=nn.Linear(6, 3),
    )
    found = found_in(net, torch.randn(2, 5, 4))
    assert plain(found) == {f"a->lstm.weight_ih_l0.{gate}": "fc-fc" for gate in "ifgo"}
    assert "recurrent" in reasons(found)["a->b"]
