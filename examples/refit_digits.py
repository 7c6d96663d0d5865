"""Do U and V come back when a network learns them again with every S fixed?

A comment of 2020 on "Generalized Heat Engine II" predicts it
(https://greaterwrong.com/posts/eKiRX5oXHcYzQNSGw/generalized-heat-engine-ii-thermodynamic-efficiency-limit/comment/pa5AHgTbDzGXAZDLn):
take a trained network, hold the S of every ``W = U S Vᵀ``, randomise all U and V, optimise
over orthogonal U and V, and they are similar to the original ones. The comment reports no
experiment. Here five ReLU networks 64-48-32-10 without biases learn scikit-learn's digits;
U and V are learned again from three Haar starts each, beside five controls.

What came out, means over five seeds, ± half of the 95 % bootstrap interval. From "V of
fc1" on, 0 is chance and 1 is equal to the original:

==================  ============  ============  ============  ============
..                  S fixed       W free        S shuffled    S flat
==================  ============  ============  ============  ============
training loss, gap  -0.02 ± 0.00  0.00 ± 0.00   0.04 ± 0.01   0.37 ± 0.03
test accuracy       0.97 ± 0.01   0.96 ± 0.01   0.96 ± 0.01   0.95 ± 0.01
V of fc1, k = 8     0.43 ± 0.01   0.87 ± 0.01   0.36 ± 0.01   no order
U of fc3, k = 2     0.23 ± 0.08   0.48 ± 0.09   0.07 ± 0.03   no order
adjacency, k = 8    0.05 ± 0.04   0.33 ± 0.05   0.15 ± 0.08   no order
matched units       0.35 ± 0.02   0.51 ± 0.03   0.30 ± 0.03   0.19 ± 0.02
signal of fc1       0.68 ± 0.02   0.91 ± 0.02   0.64 ± 0.02   0.08 ± 0.03
==================  ============  ============  ============  ============

So the prediction does not hold here in the sense that would give it content. With S fixed, U
and V come back better than by chance, and closer to the original than with a flat S; but
training from scratch, which is told nothing of S, returns closer to the original in every
one of these scores, and singular values dealt out anew among the layers do nearly as well as
the true ones. Fixed S leaves many solutions: the loss ends below the original's, so it is
not the search that fails. Even starts within 0.3 radians of the true U and V move away from
them, from 0.98 to 0.73 in the mean squared cosine of V of fc1, while their loss falls to
0.03 below the original's: weight decay shaped the original, and with S fixed it is a constant.

    python examples/refit_digits.py    # 3 minutes of one core that is free

Run it again to go on after an interruption. The same is ``svdhooks refit``. Needs
scikit-learn; draws a figure if matplotlib is there.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from svdhooks.cli.refit import show
from svdhooks.experiments.refit import RefitResult, RefitSettings, run_refit


def main(out: str = "runs/refit_digits", **settings: int) -> RefitResult:
    torch.set_num_threads(1)  # so small a network is slower on several
    with Progress(transient=True) as bar:
        task = bar.add_task("")

        def tell(what: str, done: int, whole: int) -> None:
            bar.update(task, description=what, completed=done, total=whole)

        result = run_refit(RefitSettings(**settings), out, tell=tell)
    show(result, Path(out), Console())
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", default="runs/refit_digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    main(arguments.out, seeds=arguments.seeds, steps=arguments.steps)
