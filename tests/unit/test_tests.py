"""The tests' own promises: seeds repeat, and nothing is skipped in CI."""

from __future__ import annotations

import random

import pytest

from tests.support.programs import require_program


def test_a_missing_program_skips_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        require_program("no-such-program")


def test_a_missing_program_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        require_program("no-such-program")


def test_an_installed_program_is_found() -> None:
    assert require_program("sh").endswith("/sh")


def test_the_seed_is_the_same_within_a_test(seed: int, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue("seed") == seed
    assert random.Random(seed).random() == random.Random(seed).random()
