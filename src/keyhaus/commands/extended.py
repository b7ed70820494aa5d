"""Extended precision: the numbers of INCRBYFLOAT.

Redis computes with C's `long double`, on x86 a significand of 64 bits and an exponent of 15, and prints with `%.17Lf`.
Python has no such type, so here a number is two integers, significand and exponent of two, and every operation is
exact and then rounded once, to nearest and to even, as the processor and the C library do.

    number = significand * 2 ** exponent      ; |significand| < 2**64, LEAST <= exponent <= MOST
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, NamedTuple

PRECISION: Final = 64
MOST: Final = 16383 - 63
LEAST: Final = -16382 - 63
WORD_BYTES_MAX: Final = 5 * 1024 - 1
DECIMALS: Final = 17
# Decimal exponents behind which every number of WORD_BYTES_MAX digits overflows or vanishes.
_FAR: Final = 20_000

_DECIMAL = re.compile(rb"([+-]?)(?:(\d+)\.?(\d*)|\.(\d+))(?:[eE]([+-]?\d+))?")
_HEXADECIMAL = re.compile(rb"([+-]?)0[xX](?:([0-9a-fA-F]+)\.?([0-9a-fA-F]*)|\.([0-9a-fA-F]+))(?:[pP]([+-]?\d+))?")
_INFINITE = re.compile(rb"([+-]?)inf(?:inity)?", re.IGNORECASE)


class Number(NamedTuple):
    """A finite number, or an infinite one where `infinite` is -1 or 1."""

    significand: int
    exponent: int
    infinite: int = 0


ZERO: Final = Number(0, 0)


def parse(word: bytes) -> Number | None:
    """The number that a word stands for, in any spelling of C's `strtold`; None where it is none.

    No number is: what has blanks around it, NaN, what overflows, and what is so small that it vanishes.
    """
    if len(word) > WORD_BYTES_MAX:
        return None
    if found := _DECIMAL.fullmatch(word):
        return _parsed(found, 10)
    if found := _HEXADECIMAL.fullmatch(word):
        return _parsed(found, 16)
    if found := _INFINITE.fullmatch(word):
        return Number(0, 0, -1 if found[1] == b"-" else 1)
    return None


def _parsed(found: re.Match[bytes], base: int) -> Number | None:
    sign, whole, fraction, bare, power = found.groups()
    fraction = (fraction or b"") + (bare or b"")
    digits = ((whole or b"") + fraction).lstrip(b"0").decode()
    if not digits:
        return ZERO
    exponent = _small_integer(power or b"0")
    if base == 10:
        exponent -= len(fraction)
        if abs(exponent) > _FAR:
            return None
        # By way of Decimal, since int() refuses long texts.
        numerator, denominator = int(Decimal(digits)), 1
        if exponent >= 0:
            numerator *= 10**exponent
        else:
            denominator = 10**-exponent
        number = _rounded(numerator, denominator, 0)
    else:
        number = _rounded(int(digits, 16), 1, exponent - 4 * len(fraction))
    if number is None or not number.significand:
        return None
    return number._replace(significand=-number.significand) if sign == b"-" else number


def _small_integer(text: bytes) -> int:
    """An exponent; what is longer than any that matters stands for a very large one."""
    digits = text.lstrip(b"+-0")
    size = int(digits or b"0") if len(digits) <= 9 else 10**9
    return -size if text.startswith(b"-") else size


def add(one: Number, other: Number) -> Number | None:
    """The rounded sum; None where it is no finite number."""
    if one.infinite or other.infinite:
        return None
    exponent = min(one.exponent, other.exponent)
    total = (one.significand << one.exponent - exponent) + (other.significand << other.exponent - exponent)
    number = _rounded(abs(total), 1, exponent)
    if number is None or total >= 0:
        return number
    return number._replace(significand=-number.significand)


def show(number: Number) -> bytes:
    """The number with 17 decimals, less the zeros at its end."""
    significand, exponent, _ = number
    scaled = abs(significand) * 10**DECIMALS
    scaled = scaled << exponent if exponent >= 0 else _divided(scaled, 1 << -exponent)
    digits = str(Decimal(scaled)).rjust(DECIMALS + 1, "0")
    text = f"{digits[:-DECIMALS]}.{digits[-DECIMALS:]}".rstrip("0").rstrip(".")
    return (f"-{text}" if significand < 0 and text != "0" else text).encode()


def _divided(numerator: int, denominator: int) -> int:
    """The quotient rounded to nearest, a tie to even."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient & 1))


def _rounded(numerator: int, denominator: int, exponent: int) -> Number | None:
    """`numerator / denominator * 2 ** exponent` as a number; 0 where it vanishes, None where it overflows."""
    if not numerator:
        return ZERO
    # The quotient has between `bits` and `bits` + 1 bits; all but the first PRECISION of them go.
    bits = numerator.bit_length() - denominator.bit_length()
    if bits + exponent > MOST + PRECISION + 1:
        return None
    if bits + exponent < LEAST - 2:
        return ZERO
    drop = max(bits - PRECISION, LEAST - exponent)
    significand = _scaled(numerator, denominator, drop)
    while significand.bit_length() > PRECISION:
        # The quotient had one bit more, or rounding carried into it: each costs one round more.
        drop += 1
        significand = _scaled(numerator, denominator, drop)
    return None if drop + exponent > MOST else Number(significand, drop + exponent)


def _scaled(numerator: int, denominator: int, drop: int) -> int:
    return _divided(numerator, denominator << drop) if drop >= 0 else _divided(numerator << -drop, denominator)
