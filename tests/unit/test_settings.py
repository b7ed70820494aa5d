"""Settings: what words mean, what is refused and in which words, and who hears of a change."""

from __future__ import annotations

import pytest

from keyhaus.core.errors import UserError
from keyhaus.core.settings import ALIASES, TABLE, Settings, answers, parse, show
from keyhaus.core.statistics import Statistics


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("timeout", "0", 0),
        ("timeout", "2147483647", 2147483647),
        ("slowlog-log-slower-than", "-1", -1),
        ("proto-max-bulk-len", "2mb", 2 << 20),
        ("proto-max-bulk-len", "2Mb", 2 << 20),
        ("proto-max-bulk-len", "2000k", 2_000_000),
        ("proto-max-bulk-len", "2000000b", 2_000_000),
        ("proto-max-bulk-len", "002097152", 2 << 20),
        ("proto-max-bulk-len", "1gb", 1 << 30),
        ("durability", "No", "none"),
        ("durability", "none", "none"),
        ("appendfsync", "ALWAYS", "always"),
        ("appendfsync", "no", "none"),
        ("dir", "/a b", "/a b"),
    ],
)
def test_a_text_means_a_value(name: str, text: str, value: object) -> None:
    assert parse(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("timeout", "x", "argument couldn't be parsed into an integer"),
        ("timeout", "010", "argument couldn't be parsed into an integer"),
        ("timeout", "+5", "argument couldn't be parsed into an integer"),
        ("timeout", " 5", "argument couldn't be parsed into an integer"),
        ("timeout", "5\n", "argument couldn't be parsed into an integer"),
        ("timeout", "-0", "argument couldn't be parsed into an integer"),
        ("timeout", "٣", "argument couldn't be parsed into an integer"),
        ("timeout", "", "argument couldn't be parsed into an integer"),
        ("timeout", "99999999999999999999", "argument couldn't be parsed into an integer"),
        ("slowlog-max-len", "9223372036854775808", "argument couldn't be parsed into an integer"),
        ("timeout", "2147483648", "argument must be between 0 and 2147483647 inclusive"),
        ("maxclients", "0", "argument must be between 1 and 4294967295 inclusive"),
        ("slowlog-log-slower-than", "-5", "argument must be between -1 and 9223372036854775807 inclusive"),
        ("proto-max-bulk-len", "-1", "argument must be a memory value"),
        ("proto-max-bulk-len", "2 mb", "argument must be a memory value"),
        ("proto-max-bulk-len", "2.5mb", "argument must be a memory value"),
        ("proto-max-bulk-len", "100kk", "argument must be a memory value"),
        ("proto-max-bulk-len", "16777216t", "argument must be a memory value"),
        ("proto-max-bulk-len", "", "argument must be between 1048576 and 9223372036854775807 inclusive"),
        ("proto-max-bulk-len", "mb", "argument must be between 1048576 and 9223372036854775807 inclusive"),
        (
            "proto-max-bulk-len",
            "9999999999gb",
            "argument must be between 1048576 and 9223372036854775807 inclusive",
        ),
        ("appendfsync", "foo", "argument(s) must be one of the following: everysec, always, no"),
        ("appendfsync", "none", "argument(s) must be one of the following: everysec, always, no"),
    ],
)
def test_what_is_refused_is_refused_in_redis_words(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(name, text)
    assert caught.value.message == message


@pytest.mark.parametrize("name", sorted(TABLE))
def test_each_default_is_a_value_that_can_be_written_down_and_read_again(name: str) -> None:
    assert parse(name, show(name, TABLE[name].default)) == TABLE[name].default


@pytest.mark.parametrize("name", sorted(TABLE))
def test_each_setting_says_what_it_is(name: str) -> None:
    setting = TABLE[name]
    assert name == setting.name == name.lower()
    assert setting.summary
    assert setting.least <= setting.most
    if isinstance(setting.default, int):
        assert setting.least <= setting.default <= setting.most


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_an_alias_has_a_word_for_each_value_of_its_setting(name: str) -> None:
    setting = TABLE[ALIASES[name].setting]
    for value in set(setting.choices.values()) if setting.choices is not None else (setting.least, setting.default):
        assert parse(name, show(name, value)) == value


def test_durability_is_shown_in_either_spelling() -> None:
    assert show("durability", "none") == "none"
    assert show("appendfsync", "none") == "no"


def test_an_observer_hears_the_value_now_and_each_new_one() -> None:
    settings = Settings(maxclients=5)
    heard: list[int] = []
    settings.observe("maxclients", heard.append)
    settings.put("maxclients", 7)
    assert heard == [5, 7]
    assert settings.integer("maxclients") == settings["maxclients"] == 7


def test_what_is_always_so_depends_on_the_engine_alone() -> None:
    assert answers(Settings())["appendonly"] == "yes"
    assert answers(Settings(engine="memory"))["appendonly"] == "no"
    assert answers(Settings())["save"] == ""
    assert not set(answers(Settings())) & (set(TABLE) | set(ALIASES))


def test_a_shorter_slow_log_keeps_the_newest() -> None:
    settings = Settings()
    statistics = Statistics(settings)
    for number in range(5):
        statistics.note_slow(1, number, [b"GET"], "", b"")
    settings.put("slowlog-max-len", 2)
    assert [entry.id for entry in statistics.slow] == [4, 3]
    statistics.note_slow(1, 5, [b"GET"], "", b"")
    assert [entry.id for entry in statistics.slow] == [5, 4]
    settings.put("slowlog-max-len", 0)
    statistics.note_slow(1, 6, [b"GET"], "", b"")
    assert not statistics.slow


def test_a_slow_command_is_cut_as_redis_cuts_it() -> None:
    statistics = Statistics()
    statistics.note_slow(1, 2, [b"x" * 130, *([b"a"] * 32)], "", b"")
    kept = statistics.slow[0].arguments
    assert kept[0] == b"x" * 128 + b"... (2 more bytes)"
    assert len(kept) == 32
    assert kept[-1] == b"... (2 more arguments)"


def test_latency_keeps_the_longest_of_a_second_and_of_all() -> None:
    statistics = Statistics()
    for second, milliseconds in ((1, 5), (1, 9), (1, 2), (2, 3)):
        statistics.note_latency("command", second, milliseconds)
    assert list(statistics.latency["command"]) == [(1, 9), (2, 3)]
    assert statistics.latency_worst == {"command": 9}
    assert statistics.forget_latency(["nothing", "command", "command"]) == 1
    assert statistics.forget_latency([]) == 0
