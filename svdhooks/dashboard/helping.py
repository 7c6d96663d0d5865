"""What the tab says where there is no run yet."""

HELP = {
    "text": (
        "No svdhooks run was found below TensorBoard's log directory. Record one with two "
        "lines in a training loop, or one callback in Lightning; it appears here with its "
        "first record."
    ),
    "code": (
        "import svdhooks\n\n"
        'with svdhooks.watch(model, "runs/exp1", every=100) as recorder:\n'
        "    for x, y in loader:\n"
        "        loss = criterion(model(x), y)\n"
        "        loss.backward()\n"
        "        optimizer.step()\n"
        "        optimizer.zero_grad()\n"
        "        recorder.step(loss=loss)\n\n"
        "# Lightning\n"
        "callbacks=[svdhooks.lightning.SpectrumMonitor(every_n_steps=100)]\n\n"
        "# or a run to look at\n"
        "# $ svdhooks demo --log runs/demo\n"
    ),
    "more": "TensorBoard has to be pointed at the directory: tensorboard --logdir runs",
}
