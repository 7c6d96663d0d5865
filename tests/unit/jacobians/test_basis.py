"""In which directions to differentiate, and what is held at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdhooks.jacobians.basis import HELD, Basis, choose_basis, exact_by_rows, portions
from svdhooks.jacobians.options import JacobianOptions


@pytest.mark.parametrize(
    ("inputs", "outputs", "first", "expected"),
    [
        (20, [30, 30], None, Basis("full", 20)),
        (784, [200, 200, 200, 200, 10], 200, Basis("first_layer", 200)),
        (3072, [1000, 1000], 1000, Basis("first_layer", 1000)),
        (784, [50, 10], None, Basis("rows", 0)),
        (3072, [50, 10], None, Basis("rows", 0)),
        (3072, [4096, 10], None, Basis("sketch", 64)),
        (3072, [4096, 10], 2000, Basis("sketch", 64)),
        (1024, [4096], 3000, Basis("full", 1024)),
    ],
)
def test_the_cheapest_complete_basis_is_taken(inputs, outputs, first, expected):
    found = choose_basis(inputs, outputs, first, JacobianOptions())
    assert found == expected
    assert found.complete == (expected.kind != "sketch")


@pytest.mark.parametrize(
    ("outputs", "directions", "most", "expected"),
    [
        ({"wide": 4096, "head": 10}, 64, 1024, {"head"}),
        ({"wide": 65, "head": 10}, 64, 1024, {"head"}),
        ({"a": 60, "b": 64, "head": 10}, 64, 100, {"head", "a"}),
        ({"a": 60, "b": 60}, 64, 10, {"a"}),
        ({"wide": 4096}, 64, 1024, set()),
    ],
)
def test_beside_a_sketch_small_layers_are_exact(outputs, directions, most, expected):
    options = JacobianOptions(directions, most)
    assert exact_by_rows(outputs, options) == expected


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=6),
    st.integers(1, 300),
    st.integers(1_000, 10_000_000),
)
def test_what_is_held_fits_and_no_layer_is_lost(sizes, columns, bound):
    named = {str(i): m for i, m in enumerate(sizes)}
    found, reasons = portions(named, columns, 4, bound)
    assert sorted([*reasons, *(n for p in found for n in p.names)]) == sorted(named)
    for portion in found:
        results = 4 * portion.samples * sum(named[n] for n in portion.names)
        working = portion.chunk or columns
        alone = portion.samples == 1 and (portion.chunk == 1 or len(portion.names) == 1)
        held = results * (columns + (HELD - 1) * working)
        assert held <= bound or (alone and portion.chunk == 1)
    for name, reason in reasons.items():
        assert 4 * named[name] * columns > bound
        assert "max_bytes" in reason
