"""Three models in plain torch, with batches to train them on; nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, in_: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_ != out:
            convolution = nn.Conv2d(in_, out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n out h2 w2"]:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return functional.relu(y + self.shortcut(x), inplace=True)


def resnet(classes: int = 10, width: int = 64) -> nn.Module:
    """A ResNet-18 for images of 32 × 32: 11.2 million parameters, 21 matrices."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    in_ = width
    for factor, stride in ((1, 1), (2, 2), (4, 2), (8, 2)):
        out = factor * width
        layers += [ResidualBlock(in_, out, stride), ResidualBlock(out, out, 1)]
        in_ = out
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_, classes)
    )


class GptBlock(nn.Module):
    """Causal self-attention and an MLP, each behind a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        n, t, d = x.shape
        entering = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, d // self.heads)
        q, k, v = entering.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Gpt(nn.Module):
    """A GPT with an untied head: 13.8 million parameters, 27 matrices as it is here."""

    def __init__(
        self,
        vocabulary: int = 4096,
        length: int = 64,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(GptBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Int64[Tensor, "n t"]) -> Float[Tensor, "n t vocabulary"]:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def mlp(inputs: int = 784, width: int = 256, depth: int = 4) -> nn.Module:
    """A multilayer perceptron 784-256-256-256-256-10: 0.4 million parameters."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(width, 10))


Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A model and the training that belongs to it.

    Attributes:
        name: For tables.
        build: Makes the model.
        batch: Makes a batch: what enters and what is expected.
        training: What one step is, in words.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    training: str

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Cross entropy of what the model says of a batch."""
        logits = model(batch[0])
        return functional.cross_entropy(
            logits.flatten(0, -2) if logits.ndim > 2 else logits, batch[1].flatten()
        )


def _images() -> Batch:
    return torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))


def _rows() -> Batch:
    return torch.randn(128, 784), torch.randint(0, 10, (128,))


def _tokens() -> Batch:
    text = torch.randint(0, 4096, (8, 65))
    return text[:, :-1], text[:, 1:]


MLP = Task("MLP 0.4 M", mlp, _rows, "128 rows of 784")
RESNET = Task("ResNet-18 11.2 M", resnet, _images, "16 images of 32 × 32")
GPT = Task("GPT 13.8 M", Gpt, _tokens, "8 × 64 tokens")
TASKS = {"mlp": MLP, "resnet": RESNET, "gpt": GPT}
