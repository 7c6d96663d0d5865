"""Pages of invented runs, by the schema of a report's data: plausible, large, hostile."""

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.web.page import PageData
from tests.unit.web.hostile import HOSTILE, spoil
from tests.unit.web.told import alarms, verdict

MEASURES = (
    ("weight_stable_rank", "Stable rank of the weight", "ranks", 1.0, True),
    ("weight_effective_rank", "Effective rank of the weight", "ranks", 2.1, False),
    ("input_effective_rank", "Effective rank of what enters", "ranks", 1.4, True),
    ("output_effective_rank", "Effective rank of what leaves", "ranks", 1.2, True),
    ("output_dead_fraction", "Dead units", "share", 0.01, False),
    ("weight_spectral_norm", "Largest singular value", "σ", 0.1, False),
)


def names(count: int) -> list[tuple[str, str, str]]:
    """Names, kinds and blocks of the layers of a transformer."""
    found = [("embed", "Embedding", "")]
    parts = (
        "attn.q_proj",
        "attn.k_proj",
        "attn.v_proj",
        "attn.out",
        "mlp.up",
        "mlp.down",
    )
    for i in range(count - 2):
        block = f"transformer.blocks.{i // len(parts)}"
        found.append((f"{block}.{parts[i % len(parts)]}", "Linear", block))
    return [*found, ("head", "Linear", "")][:count]


def _curve(
    steps: NDArray[np.int32], width: int, final: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A rank that falls from half its width to a share of it, with noise."""
    time = np.log1p(steps) / np.log1p(max(steps[-1], 1))
    fall = 1 / (1 + np.exp((time - rng.uniform(0.5, 0.9)) * 14))
    return (
        width
        * 0.5
        * (final + (1 - final) * fall)
        * (1 + 0.02 * rng.standard_normal(len(steps)))
    )


def _spectra(
    page: PageData, steps: NDArray[np.int32], width: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Spectra that steepen, of one layer."""
    chosen = steps[:: max(1, len(steps) // 40)]
    index = np.unique(np.geomspace(1, width, min(width, 64)).astype(np.int32))
    found = {}
    for point in ("weight", "input", "output"):
        slope = np.linspace(0.15, rng.uniform(0.4, 1.1), len(chosen))[:, None]
        values = 3 * (1 - (index - 1) / (width + 1)) * index ** -slope.astype(float)
        values *= 1 + 0.01 * rng.standard_normal(values.shape)
        values = np.sort(values)[:, ::-1] ** (1 if point == "weight" else 2)
        found[point] = {
            "steps": page.add(chosen),
            "index": page.add(index - 1),
            "values": page.add(values.astype(np.float32)),
            "edge": page.add(np.full(len(chosen), 1.2, np.float32))
            if point == "weight"
            else None,
            "thinned": len(chosen) < len(steps),
            "of": len(steps),
            "call": f"log.spectra(layer)  # {point}",
        }
    return found


def _local_rank(
    page: PageData, steps: NDArray[np.int32], rng: np.random.Generator
) -> dict[str, Any]:
    chosen = steps[:: max(1, len(steps) // 12)]
    mean = _curve(chosen, 120, 0.4, rng)
    entry = {
        "steps": page.add(chosen),
        "mean": page.add(mean),
        "std": page.add(0.08 * mean),
        "min": page.add(0.8 * mean),
        "max": page.add(1.2 * mean),
        "threshold": "σ > 0.01·σ₁",
        "bound": page.add(np.zeros(len(chosen), np.uint8)),
        "call": "log.local_rank(layer, relative=True)",
    }
    return {"relative": entry, "absolute": {**entry, "threshold": "σ > 0.01"}}


def _ledger(
    page: PageData, steps: NDArray[np.int32], rng: np.random.Generator
) -> dict[str, Any]:
    fields = (
        "input_null_share",
        "nonlinearity_removed_share",
        "negative_fraction",
        "information",
    )
    walks = {
        f: np.abs(0.3 + 0.01 * rng.standard_normal(len(steps)).cumsum()) for f in fields
    }
    walks["information"] *= 90
    return {
        "steps": page.add(steps),
        "fields": {f: page.add(w) for f, w in walks.items()},
        "call": "log.ledger(layer)",
    }


def _pair(
    page: PageData, earlier: str, later: str, rng: np.random.Generator
) -> dict[str, Any]:
    adjacency = rng.beta(0.5, 31.5, (64, 64))
    adjacency[:9, :7] += 0.5 * rng.random((9, 7)) ** 2
    return {
        "source": earlier,
        "target": later,
        "kind": "svr",
        "stream": None,
        "step": 10_000,
        "adjacency": page.add(adjacency),
        "shrunk": 1,
        "threshold": 0.082,
        "significant": 61,
        "expected_false": 5.5,
        "internal": [9, 7],
        "call": "svdhooks.analysis.graph(log)",
    }


def _descrambled(
    page: PageData, layer: str, rng: np.random.Generator
) -> dict[str, Any]:
    raw = rng.standard_normal((24, 64))
    smooth = np.cos(np.arange(24)[:, None] * np.arange(64) * np.pi / 64)
    entry = {"layer": layer, "raw": page.add(raw), "descrambled": page.add(smooth)}
    return {**entry, "call": "svdhooks.analysis.descrambled(log, layer)"}


def run(
    page: PageData,
    layers: list[tuple[str, str, str]],
    steps: NDArray[np.int32],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """One run with every section."""
    rng = np.random.default_rng(seed)
    labels = [name for name, _, _ in layers]
    widths = rng.choice([128, 256, 512], len(layers))
    measures = []
    for name, title, unit, factor, headline in MEASURES:
        values = np.stack([factor * _curve(steps, w, 0.3, rng) for w in widths], axis=1)
        values = np.minimum(values, 1.0 if unit == "share" else widths)
        point = name.partition("_")[0]
        limited = np.zeros(values.shape, np.uint8)
        limited[:, ::7] = point == "output"
        measures.append({
            "name": name,
            "title": title,
            "meaning": f"{title}: how many directions carry most of it. Falls when few take over.",
            "unit": unit,
            "point": point,
            "call": f'log.series(layer, "{name}")',
            "values": page.add(values),
            "limited": page.add(limited) if limited.any() else None,
            "maximum": page.add(widths.astype(np.float32)) if unit == "ranks" else None,
            "headline": headline,
        })
    shown = labels[:: max(1, len(labels) // 24)]
    loss = 2.3 * np.exp(
        -3 * np.log1p(steps) / np.log1p(max(steps[-1], 1))
    ) + 0.02 * rng.random(len(steps))
    return {
        "name": f"run-{seed}",
        "path": f"runs/run-{seed}",
        "hparams": {"lr": 1e-3 * (1 + seed), "seed": seed},
        "verdict": verdict(labels),
        "facts": [
            ["Records", f"{len(steps)} of {len(layers)} layers"],
            ["Steps", f"0 to {steps[-1]:,}"],
            ["Time spent on recording", "0.8 % of the training"],
        ],
        "steps": page.add(steps),
        "logged_steps": page.add(steps),
        "layers": [
            {
                "name": name,
                "kind": kind,
                "shape": [int(w), int(w)],
                "group": group,
                "note": "flattened kernel" if i % 5 == 1 else "",
                "maximum": {"weight": int(w), "input": int(w), "output": int(w)},
            }
            for i, ((name, kind, group), w) in enumerate(
                zip(layers, widths, strict=True)
            )
        ],
        "measures": measures,
        "scalars": [
            {
                "tag": "train/loss",
                "steps": page.add(steps),
                "values": page.add(loss),
                "is_loss": True,
            }
        ],
        "run_measures": [
            {
                "name": "overhead",
                "title": "Share of the training time spent on recording",
                "steps": page.add(steps),
                "values": page.add(0.008 + 0.001 * rng.random(len(steps))),
            }
        ],
        "spectra": {
            name: _spectra(page, steps, int(w), rng)
            for name, w in zip(shown, widths, strict=False)
        },
        "local_rank": {name: _local_rank(page, steps, rng) for name in shown},
        "ledger": {name: _ledger(page, steps, rng) for name in shown},
        "pairs": [_pair(page, a, b, rng) for a, b in itertools.pairwise(shown)][:6],
        "internal": [
            {
                "pair": f"{a}->{b}",
                "steps": page.add(steps),
                "out": page.add(3 + 0.01 * steps**0.5),
                "in": page.add(2 + 0.008 * steps**0.5),
            }
            for a, b in itertools.pairwise(shown)
        ][:6],
        "descrambled": [_descrambled(page, shown[-1], rng)],
        "alarms": alarms(labels, steps),
        "failures": [[labels[-1], "output", int(steps[-1]), "non-finite values"]],
        "skipped": [
            ["norm", "has no weight matrix"],
            [labels[0], "more than 8,192 features"],
        ],
        "settings": {
            "every": 100,
            "quantities": ["weight_spectrum", "covariance"],
            "probe": {"samples": 512},
        },
        "damage": {"bad": 0, "resynced": 0, "dropped": 0},
        "notes": ["Spectra are shown for 24 of the layers, to keep this page small."],
    }


def made(
    layers: int = 14, records: int = 60, *, runs: int = 1, hostile: bool = False
) -> PageData:
    """A page of ``runs`` invented runs; with ``hostile`` names everywhere."""
    page = PageData()
    described = names(layers)
    if hostile:
        described = [(name, name, name) for name in HOSTILE]
    steps = np.unique(np.linspace(0, records * 50, records)).astype(np.int32)
    found = [run(page, described, steps, seed=seed) for seed in range(runs)]
    if hostile:
        for entry, name in zip(found, HOSTILE, strict=False):
            spoil(entry, name)
    page.tree = {
        "v": 1,
        "title": HOSTILE[3] if hostile else "Invented runs",
        "made": "2026-01-01T12:00:00+00:00",
        "svdhooks": "0.1.0",
        "runs": found,
        "comparison": None,
    }
    return page
