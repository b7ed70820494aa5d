"""Extended precision: INCRBYFLOAT's results, digit for digit those of a redis-server 7.0.15 on x86."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.commands import extended
from keyhaus.commands.extended import Number

# What Redis answered to SET k one, INCRBYFLOAT k other.
SUMS = [
    (b"10.5", b"0.1", b"10.6"),
    (b"0.1", b"0.2", b"0.3"),
    (b"5.0e3", b"2.0e2", b"5200"),
    (b"3", b"-3", b"0"),
    (b"-0.1", b"0.1", b"0"),
    (b"1e-18", b"0", b"0"),
    (b"-1e-18", b"0", b"0"),
    (b"6e-18", b"0", b"0.00000000000000001"),
    (b"9223372036854775807", b"1", b"9223372036854775808"),
    (b"18446744073709551615", b"1", b"18446744073709551616"),
    (b"18446744073709551616", b"1", b"18446744073709551616"),
    (b"0x10", b"0x.8p1", b"17"),
    (b"5.", b".5", b"5.5"),
    (b"1e17", b"0.1", b"100000000000000000.1015625"),
    (b"3.14159265358979323846", b"0", b"3.14159265358979324"),
    (b"0e99999999999999999999", b"1", b"1"),
]


@pytest.mark.parametrize(("one", "other", "total"), SUMS)
def test_a_sum_is_that_of_redis(one: bytes, other: bytes, total: bytes) -> None:
    numbers = [extended.parse(word) for word in (one, other)]
    assert None not in numbers
    result = extended.add(*numbers)  # type: ignore[arg-type]
    assert result is not None
    assert extended.show(result) == total


@pytest.mark.parametrize(
    "word",
    [
        *(b"", b" 1", b"1 ", b"1e", b"1e+", b".", b"-", b"+-1", b"0x", b"0xp1", b"1_0", b"1\0", b"nan", b"nan(1)"),
        *(b"infi", b"\xb2", b"1e4933", b"-1e4933", b"1e-4952", b"1e99999999999999999999", b"1e-99999999999999999999"),
        *(b"1.18973149535723176506e4932", b"0x1p16384", b"0x1p-16446", b"1" * 5120),
    ],
)
def test_what_is_no_number_in_c_is_none(word: bytes) -> None:
    assert extended.parse(word) is None


@pytest.mark.parametrize(
    ("word", "number"),
    [
        (b"1.1897314953572317650e4932", Number((1 << 64) - 1, extended.MOST)),
        (b"0x1p-16445", Number(1, extended.LEAST)),
        (b"3.6451995318824746025e-4951", Number(1, extended.LEAST)),
        (b"-0x0.8p-16444", Number(-1, extended.LEAST)),
        (b"0x1.00000000000000008p0", Number(1 << 63, -63)),  # a tie, to even
        (b"0x1.00000000000000018p0", Number((1 << 63) + 1, -63)),
        (b"inf", Number(0, 0, 1)),
        (b"-INFINITY", Number(0, 0, -1)),
    ],
)
def test_the_edges_of_the_type(word: bytes, number: Number) -> None:
    found = extended.parse(word)
    assert found is not None
    assert found.infinite == number.infinite
    assert _exact(found) == _exact(number)


@pytest.mark.parametrize(("one", "other"), [(b"inf", b"1"), (b"inf", b"-inf"), (b"1e4932", b"1e4932")])
def test_a_sum_that_is_not_finite_is_none(one: bytes, other: bytes) -> None:
    assert extended.add(extended.parse(one) or extended.ZERO, extended.parse(other) or extended.ZERO) is None


def test_numbers_of_thousands_of_digits_are_shown() -> None:
    number = extended.parse(b"1e4932")
    assert number is not None
    shown = extended.show(number)
    assert (len(shown), shown[:20]) == (4933, b"10000000000000000000")


_NUMBERS = st.builds(
    lambda sign, digits, places: f"{'-' * sign}{digits}e{places}".encode(),
    st.booleans(),
    st.integers(0, 10**25),
    st.integers(-40, 20),
)


def _exact(number: Number) -> Fraction:
    return number.significand * Fraction(2) ** number.exponent


@given(_NUMBERS)
def test_a_number_is_the_nearest_to_its_text(word: bytes) -> None:
    number, exact = extended.parse(word), Fraction(word.decode())
    assert number is not None
    assert abs(number.significand) < 1 << extended.PRECISION
    assert abs(_exact(number) - exact) <= abs(exact) / (1 << extended.PRECISION)


@given(_NUMBERS, _NUMBERS)
def test_a_sum_is_rounded_once(one: bytes, other: bytes) -> None:
    first, second = extended.parse(one), extended.parse(other)
    assert first is not None
    assert second is not None
    total, exact = extended.add(first, second), _exact(first) + _exact(second)
    assert total == extended.add(second, first)
    assert total is not None
    assert abs(_exact(total) - exact) <= abs(exact) / (1 << extended.PRECISION)


@given(_NUMBERS)
def test_what_is_shown_is_within_half_a_unit_of_the_last_decimal(word: bytes) -> None:
    number = extended.parse(word)
    assert number is not None
    shown = extended.show(number)
    assert abs(Fraction(shown.decode()) - _exact(number)) <= Fraction(1, 2 * 10**extended.DECIMALS)
    assert not (b"." in shown and shown.endswith(b"0"))
