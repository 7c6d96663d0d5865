"""The two lines in a plain training loop, on scikit-learn's digits.

Run it with ``python examples/plain_loop.py``; then ``svdhooks summary runs/plain``.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import svdhooks


def main(log_dir: str = "runs/plain", epochs: int = 10) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)

    with svdhooks.watch(model, log_dir, every=10, probe=x[:512]) as recorder:
        for _ in range(epochs):
            for batch in torch.randperm(len(x)).split(64):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                recorder.step()  # after the optimiser's step

    log = svdhooks.RunLog(log_dir)
    for layer in log.layers:
        _, rank = log.series(layer, "output_effective_rank")
        print(f"{layer}: effective rank of the output {rank[0]:.1f} -> {rank[-1]:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
