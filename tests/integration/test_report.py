"""A report of real runs: every figure of the page is in the log, by the call beside it."""

from pathlib import Path

import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.analysis.reporting import page_data
from tests.reported import Checked

QUANTITIES = (
    "weight_spectrum",
    "covariance",
    "local_rank",
    "ledger",
    "spectral_edges",
    "update_spectrum",
    "subspace_drift",
    svdhooks.WeightVectors(k=None),
    svdhooks.PointMoments(),
)


def train(log_dir: Path, model: nn.Module, x: torch.Tensor, quantities: object) -> None:
    y = torch.randint(0, 4, (len(x),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with svdhooks.watch(
        model, log_dir, every=10, quantities=quantities, probe=x, max_overhead=None
    ) as recorder:
        for _ in range(40):
            out = model(x)
            out = out.mean(1) if out.ndim == 3 else out
            loss = nn.functional.cross_entropy(out, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step(context={"loss": loss.item()})


class Block(nn.Module):
    """Attention whose projections are layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.slow
def test_every_figure_of_a_perceptron_is_in_its_log(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, 4)
    )
    train(tmp_path, model, torch.randn(64, 12), QUANTITIES)
    log = svdhooks.RunLog(tmp_path)
    page = page_data({"run": log}, "title", "auto", 8e6)
    (run,) = page.tree["runs"]
    assert not run["notes"]
    assert len(run["pairs"]) == len(run["internal"]) == 2
    assert {len(run[part]) for part in ("spectra", "local_rank", "ledger")} == {3}
    assert len(run["descrambled"]) == 3
    shown = {measure["name"] for measure in run["measures"]}
    assert shown >= {m for m in log.metrics if not m.startswith("edges_")} - {
        # of plain chains, and NaN where nothing is known
        "jacobian_rank_bound",
        "ledger_nonlinearity_removed_share",
    }
    assert Checked(page, run, log).all() > 400


@pytest.mark.slow
def test_every_figure_of_a_transformer_is_in_its_log(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantities = ["weight_spectrum", "covariance", "token_rank", "attention_logits"]
    train(tmp_path, Block(), torch.randn(24, 6, 8), quantities)
    log = svdhooks.RunLog(tmp_path)
    page = page_data({"run": log}, "title", "lm", 8e6)
    (run,) = page.tree["runs"]
    shown = {measure["name"] for measure in run["measures"]}
    assert {"tokens_effective_rank", "attention_logits_scaled_max"} <= shown
    assert Checked(page, run, log).all() > 100


@pytest.mark.slow
def test_two_runs_stand_side_by_side_in_one_page(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
        train(tmp_path / f"seed{seed}", model, torch.randn(64, 12), ["weight_spectrum"])
    out = svdhooks.report(tmp_path, tmp_path / "report.html", title="both")
    logs = svdhooks.runs(tmp_path)
    page = page_data(logs, "both", "auto", 8e6)
    assert [run["name"] for run in page.tree["runs"]] == ["seed0", "seed1"]
    assert all(Checked(page, r, logs[r["name"]]).all() > 20 for r in page.tree["runs"])
    text = out.read_text(encoding="utf-8")
    assert "seed0" in text
    assert "seed1" in text
