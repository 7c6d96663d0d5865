"""The form of ``Record.values``."""

import numpy as np

from svdhooks.quantities.values import pack, unknown


def test_a_spectrum_keeps_its_dtype_and_measures_are_0d():
    spectrum = np.array([2.0, 1.0], np.float32)
    values = pack(spectrum, {"stable_rank": 1.25, "count": 3})
    assert values["spectrum"] is spectrum
    assert values["stable_rank"].shape == ()
    assert values["count"].dtype == np.float64
    assert list(values) == ["spectrum", "stable_rank", "count"]


def test_what_is_unknown_has_the_same_form():
    values = unknown(3, ["stable_rank"])
    assert values["spectrum"].shape == (3,)
    assert values["spectrum"].dtype == np.float32
    assert np.isnan(values["spectrum"]).all()
    assert np.isnan(values["stable_rank"])
