"""The command: which tests, against what. What runs them is imported once it is asked for."""

from __future__ import annotations

import enum
from importlib import import_module
from typing import Annotated, Final

import typer

_TESTS: Final = ("write", "read", "bulk", "mixed", "durability")


class Dialect(enum.StrEnum):
    RESP = "resp"
    TEXT = "text"
    JSON = "json"
    MESSAGEPACK = "messagepack"
    PICKLE = "pickle"


def bench(
    url: Annotated[
        str | None,
        typer.Argument(
            help="A running server: redis://HOST:PORT, or keyhaus, text, json or frame. "
            "Without one, a keyhaus of its own is started in a temporary directory, durable as by default.",
            show_default=False,
        ),
    ] = None,
    tests: Annotated[str, typer.Option(help="Which tests, separated by commas.")] = ",".join(_TESTS),
    dialect: Annotated[
        Dialect | None,
        typer.Option(help="What to speak. Without it: what the URL says, else resp.", show_default=False),
    ] = None,
    clients: Annotated[int, typer.Option(help="Connections at once.", min=1, max=10_000)] = 50,
    pipeline: Annotated[int, typer.Option(help="Requests that each has under way.", min=1, max=10_000)] = 1,
    requests: Annotated[int, typer.Option(help="Requests of each test.", min=1)] = 20_000,
    keys: Annotated[int, typer.Option(help="How many keys there are.", min=1)] = 10_000,
    value_bytes: Annotated[int, typer.Option(help="The size of a value.", min=1, max=1 << 20)] = 64,
    seconds: Annotated[float, typer.Option(help="After which a test ends all the same.", min=0.1)] = 60.0,
    kills: Annotated[int, typer.Option(help="How often the durability test kills the server.", min=1)] = 5,
    start: Annotated[
        str | None,
        typer.Option(
            help="What starts the server that the durability test kills, with {port} and {dir}: "
            '"redis-server --port {port} --dir {dir} --appendonly yes --appendfsync always". '
            "Without it: a keyhaus, where no URL is given.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 1,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the throughputs as bars, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of tables.")] = False,
) -> None:
    """Measure writes, reads, bulk and mixed loads, and what is kept after kill -9.

    write, read, bulk (100 keys a request), mixed (half of each); durability starts a server, writes, kills it with
    SIGKILL, starts it again and looks whether each confirmed write is there. Keys begin with "bench:".

    The load comes from this one process, in Python: it may be what is measured where a server is fast. Latencies are of
    batches: from the first byte of --pipeline requests to the last reply.

    Examples:

      keyhaus bench

      keyhaus bench redis://127.0.0.1:6379 --tests write,read --pipeline 16

      keyhaus bench --tests durability --kills 20 --dialect pickle
    """
    names = [name.strip() for name in tests.split(",")]
    for name in names:
        if name not in _TESTS:
            raise typer.BadParameter(f"{name!r} is no test: there are {', '.join(_TESTS)}", param_hint="--tests")
    plan = import_module("keyhaus.cli.bench.load").Plan(clients, pipeline, requests, keys, value_bytes, seconds, seed)
    spoken = None if dialect is None else dialect.value
    running = import_module("keyhaus.cli.bench.running")
    running.run(url, names, spoken, plan, kills=kills, start=start, plot=plot, json=json)
