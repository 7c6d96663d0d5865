"""Processes that are killed in the middle of a step, and runs that go on afterwards."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import svdhooks
from svdhooks.schema import SUBDIRECTORY

ROOT = Path(__file__).parents[2]

COMMON = """
import signal, sys, time
from pathlib import Path
import torch
import svdhooks
from tests.plain import hooks_on
where, at, handler, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
if handler == "exits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

class Waiting(torch.nn.Module):
    "Waits in the middle of a step, or of a probe, until the process is killed."
    armed = None
    def forward(self, x):
        if self.armed == ("step" if self.training else "probe"):
            print("now", flush=True)
            time.sleep(60)
        return x

torch.manual_seed(5)
model = torch.nn.Sequential(torch.nn.Linear(4, 6), Waiting(), torch.nn.Linear(6, 3))
"""

PLAIN = (
    COMMON
    + """
batches = torch.randn(30, 16, 4)
saved, begin = directory / "last.pt", None
if saved.exists():
    last = torch.load(saved)
    model.load_state_dict(last["model"])
    begin = last["step"]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
try:
    with svdhooks.watch(
        model, directory / "run", every=2, start_step=begin, max_overhead=None
    ) as recorder:
        for step in range((begin or 0) + 1, 31):
            model[1].armed = where if step == at else None
            model(batches[step - 1]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step()
            if step % 5 == 0:
                torch.save({"model": model.state_dict(), "step": step}, saved)
finally:
    print("left", hooks_on(model), model.training, flush=True)
"""
)

LIGHTNING = (
    COMMON
    + """
from tests import fits
module = fits.Fitted(model)

class Arming(fits.pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        model[1].armed = where if index + 1 == at else None

callbacks = [Arming()]
if handler != "unwatched":
    monitor = svdhooks.SpectrumMonitor(every_n_steps=2, max_overhead=None, log_dir=directory / "run")
    callbacks.append(monitor)
trainer = fits.trainer(*callbacks, default_root_dir=directory)
try:
    trainer.fit(module, fits.loader(x=torch.randn(120, 4)))
finally:
    left = hooks_on(module) + sum(len(o._optimizer_step_post_hooks) for o in trainer.optimizers)
    print("left", left, model.training, flush=True)
"""
)


def _killed(
    program: str, directory: Path, where: str, at: int, handler: str, sign: int | None
) -> tuple[int, str]:
    """Run a program until it waits, kill it; exit code and what it said at the end."""
    command = [sys.executable, "-W", "ignore", "-c", program]
    with subprocess.Popen(
        [*command, where, str(at), handler, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        try:
            line = child.stdout.readline() if sign is not None else ""
            if line == "now\n":
                child.send_signal(sign)
            # it waits for a minute: only the signal can end it before
            said, complaints = child.communicate(timeout=45)
        finally:
            child.kill()
    assert (line == "now\n") == (sign is not None), complaints
    assert "svdhooks:" not in complaints, complaints
    return child.returncode, said


KILLS = {
    # signal, handler, exit code, what the ``finally`` of the program still says
    "terminated": (signal.SIGTERM, "default", -signal.SIGTERM, ""),
    "its own handler": (signal.SIGTERM, "exits", 143, "left 0 True\n"),
    "Ctrl-C": (signal.SIGINT, "default", -signal.SIGINT, "left 0 True\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "where"),
    [
        ("terminated", "step"),
        ("terminated", "probe"),
        ("its own handler", "probe"),
        ("Ctrl-C", "step"),
    ],
)
def test_a_killed_loop_keeps_every_record_made_before(kill, where, tmp_path):
    """Hazard 26: as many as there were; it ends at once, with the code it would have."""
    sign, handler, code, last_words = KILLS[kill]
    assert _killed(PLAIN, tmp_path, where, 8, handler, sign) == (code, last_words)
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == [0, 2, 4, 6]
    assert log.layers == ("0", "2")
    assert not any(log.damage.values())


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["its own handler", "Ctrl-C"])
def test_what_a_thread_still_solves_is_awaited_at_the_end(kill, tmp_path):
    """Hazard 26 and 34: an end that is an exception is an end that closes the log."""
    sign, handler, code, last_words = KILLS[kill]
    options = 'probe_options=svdhooks.ProbeOptions(compute="thread")'
    program = PLAIN.replace("max_overhead=None", f"max_overhead=None, {options}")
    # record 6 was begun one step ago, and may not be written yet
    assert _killed(program, tmp_path, "step", 7, handler, sign) == (code, last_words)
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == [0, 2, 4, 6]
    assert not any(log.damage.values())


# a wait cannot be cut short by a handler that returns, and the signal may come before it
UNTIL_TERMINATED = (
    "[time.sleep(0.05) for _ in iter(lambda: trainer.received_sigterm, True)]"
)

LIGHTNING_KILLS = {
    # Lightning's own handler lets the batch end, and with it the record of step 8
    "terminated": (signal.SIGTERM, "default", 0, [0, 2, 4, 6, 8]),
    "its own handler": (signal.SIGTERM, "exits", 143, [0, 2, 4, 6]),
    "Ctrl-C": (signal.SIGINT, "default", 1, [0, 2, 4, 6]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kill", LIGHTNING_KILLS)
def test_a_killed_fit_keeps_every_record_made_before(kill, tmp_path):
    """Hazard 26: under Lightning's handlers of signals."""
    sign, handler, code, steps = LIGHTNING_KILLS[kill]
    if kill == "terminated":
        program = LIGHTNING.replace("time.sleep(60)", UNTIL_TERMINATED)
    else:
        program = LIGHTNING
    found = _killed(program, tmp_path, "step", 8, handler, sign)
    assert found == (code, "left 0 True\n")
    log = svdhooks.RunLog(tmp_path / "run")
    assert log.steps.tolist() == steps
    assert not any(log.damage.values())


@pytest.mark.slow
def test_the_exit_code_of_an_unwatched_fit_is_the_same(tmp_path):
    """The companion: 0 after SIGTERM is Lightning's, not ours."""
    program = LIGHTNING.replace("time.sleep(60)", UNTIL_TERMINATED)
    found = _killed(program, tmp_path, "step", 8, "unwatched", signal.SIGTERM)
    assert found == (0, "left 0 True\n")


@pytest.mark.slow
def test_three_kills_and_resumes_read_as_one_run(tmp_path):
    """Hazard 26: bit by bit the numbers of a run that nobody killed."""
    kills = [(8, "step", signal.SIGTERM), (14, "probe", signal.SIGINT)]
    kills.append((23, "step", signal.SIGKILL))
    for at, where, sign in kills:
        _killed(PLAIN, tmp_path, where, at, "default", sign)
    code, _ = _killed(PLAIN, tmp_path, "step", 0, "default", None)
    whole = tmp_path / "whole"
    whole.mkdir()
    _killed(PLAIN, whole, "step", 0, "default", None)
    assert code == 0
    found, expected = (svdhooks.RunLog(d / "run") for d in (tmp_path, whole))
    assert found.steps.tolist() == expected.steps.tolist() == list(range(0, 31, 2))
    # records were made twice: between a checkpoint and the kill that came after it
    assert found.damage["dropped"] >= 2
    for layer in ("0", "2"):
        np.testing.assert_array_equal(
            found.spectra(layer)[1], expected.spectra(layer)[1]
        )
        for point in ("input", "output"):
            for a, b in zip(
                found.covariance_spectra(layer, point),
                expected.covariance_spectra(layer, point),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_without_the_stored_batch_a_resumed_run_would_probe_another(tmp_path):
    """The companion: the loop goes on with other batches than it began with."""
    _killed(PLAIN, tmp_path, "step", 8, "default", signal.SIGTERM)
    stored = list((tmp_path / "run" / SUBDIRECTORY).glob("probe.*"))
    assert len(stored) == 2
    for file in stored:
        file.unlink()
    _killed(PLAIN, tmp_path, "step", 0, "default", None)
    _, inputs = svdhooks.RunLog(tmp_path / "run").covariance_spectra("0", "input")
    assert np.array_equal(inputs[0], inputs[1])
    assert not np.allclose(inputs[0], inputs[-1], rtol=1e-2)
