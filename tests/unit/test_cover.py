"""The union of ranges says of each key what any of the ranges says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyhaus.store.cover import Cover

_KEYS = st.binary(max_size=2)


@given(st.lists(st.tuples(_KEYS, st.none() | _KEYS)), st.lists(_KEYS, min_size=1))
def test_a_key_is_covered_if_it_lies_in_any_range(ranges: list[tuple[bytes, bytes | None]], keys: list[bytes]) -> None:
    ranges = [(start, end) for start, end in ranges if end is None or start < end]
    cover = Cover(ranges)
    for key in [*keys, *(start for start, _ in ranges), *(end for _, end in ranges if end is not None)]:
        expected = any(start <= key and (end is None or key < end) for start, end in ranges)
        assert cover.holds(key) == expected, key
