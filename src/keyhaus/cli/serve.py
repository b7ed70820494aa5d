"""`keyhaus serve`: runs the server."""

from __future__ import annotations

import enum
import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keyhaus.core.errors import UserError
from keyhaus.core.limits import MIB
from keyhaus.core.settings import ALIASES, TABLE, Durability, Setting, Settings, check, parse, show
from keyhaus.server import logs
from keyhaus.server.life import StartFailed, run, say_ready
from keyhaus.server.server import SEED_PORTS, parse_address

DEFAULT_PORT = 19272


class EngineName(enum.StrEnum):
    ROCKSDB = "rocksdb"
    MEMORY = "memory"


class LogFormat(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# Settings that have an option of their own, in the order in which the help shows them.
OPTIONS: Final = (
    "maxclients",
    "max-transaction-bytes",
    "memtable-bytes",
    "memtable-size",
    "cache-bytes",
    "block-cache-bytes",
    "bloom-bits",
    "compression",
    "bottommost-compression",
    "direct-reads",
    "journal-segment-bytes",
    "journal-max-bytes",
    "journal-retain-bytes",
    "archive-dir",
    "snapshot-max-ms",
    "snapshot-max-bytes",
    "state-file",
    "max-memory",
    "max-memory-policy",
    "max-memory-samples",
    "feed-bytes",
)


def _with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for each of the settings above, in place of its `**options`."""
    signature = inspect.signature(function, eval_str=True)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    for name in OPTIONS:
        setting = TABLE[name]
        metavar = "|".join(setting.choices) if setting.choices else "BYTES" if setting.memory else "VALUE"
        default = _shown(setting)
        option = typer.Option(f"--{name}", help=f"{setting.summary}.{default}", metavar=metavar, show_default=False)
        kind = inspect.Parameter.KEYWORD_ONLY
        annotation = Annotated[str | None, option]
        parameters.append(inspect.Parameter(name.replace("-", "_"), kind, default=None, annotation=annotation))
    vars(function)["__signature__"] = signature.replace(parameters=parameters)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def _shown(setting: Setting) -> str:
    """A setting's default, as the help shows it."""
    if setting.default in ("", 0):
        return ""
    if setting.memory and isinstance(setting.default, int) and setting.default % MIB == 0:
        return f"  [default: {setting.default // MIB}mb]"
    return f"  [default: {show(setting.name, setting.default)}]"


@_with_options
def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="Open a port: DIALECT://HOST:PORT, repeatable. Dialects: auto (recognises the others by the first "
            "bytes), resp (inline commands too), text, json (lines), frame (pickles, never executed, and MessagePack). "
            "Port 0 picks a free one; the ready line says which. "
            "Given once, it replaces the default, auto://127.0.0.1:19272.",
            metavar="ADDRESS",
        ),
    ] = None,
    seed_ports: Annotated[
        bool,
        typer.Option(
            "--seed-ports",
            help="Open, beside the others, the ports of the systems whose dialects these are: "
            + ", ".join(str(address) for address in SEED_PORTS),
        ),
    ] = False,
    text_unterminated: Annotated[
        bool | None,
        typer.Option(
            "--text-unterminated/--no-text-unterminated",
            help="On text ports a line without an end counts as complete when nothing more came for 20 ms. "
            "Without either: only on the port of --seed-ports.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The host of the default port.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The default port.", min=0, max=65535)] = DEFAULT_PORT,
    data_dir: Annotated[Path, typer.Option(help="Where the data is kept.", readable=False)] = Path("data"),
    engine: Annotated[
        EngineName,
        typer.Option(
            help="What keeps the data: rocksdb (on disk, as large as the disk), or memory (gone when the server stops)."
        ),
    ] = EngineName.ROCKSDB,
    durability: Annotated[
        Durability,
        typer.Option(
            help="When a reply may leave: always (what it tells is on disk), everysec (synced within a second), "
            "none (synced when the system likes). CONFIG SET durability changes it."
        ),
    ] = Durability.ALWAYS,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other setting, as CONFIG names it: NAME=VALUE, repeatable.", metavar="NAME=VALUE"
        ),
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="The form of log lines and the ready line.")] = LogFormat.TEXT,
    log_level: Annotated[LogLevel, typer.Option(help="The least that is logged, on standard error.")] = LogLevel.INFO,
    **options: str | None,
) -> None:
    """Run the server until it is told to stop (Ctrl-C, or SIGTERM).

    Without options it keeps the data in ./data, durable before it answers, and listens on 127.0.0.1:19272 for any
    Redis client, and for text, JSON lines and frames. It prints one line that begins with "ready" once it accepts
    connections, and logs to standard error.

    Examples:

      keyhaus serve --data-dir /var/lib/keyhaus

      keyhaus serve --engine memory --listen resp://127.0.0.1:6379

      keyhaus serve --engine memory --state-file state.json

      keyhaus serve --memtable-bytes 256mb --cache-bytes 1gb --archive-dir /mnt/archive

      keyhaus serve --durability everysec --set timeout=300

      keyhaus serve --listen auto://127.0.0.1:19272 --listen json://127.0.0.1:9999
    """
    logs.configure(as_json=log_format is LogFormat.JSON, level=log_level.value)
    texts: dict[str, str | None] = {
        "durability": durability.value,
        "engine": engine.value,
        "dir": str(data_dir),
        **{name.replace("_", "-"): text for name, text in options.items()},
    }
    for entry in setting or ():
        name, equals, value = entry.partition("=")
        if not equals:
            raise typer.BadParameter(f"{entry!r}: expected NAME=VALUE", param_hint="--set")
        if name in ALIASES or texts.get(name) is not None:
            raise typer.BadParameter(f"{name} has an option of its own: use that", param_hint="--set")
        texts[name] = value
    settings = Settings(**_values(texts))
    for name in ("max-memory", "state-file"):
        try:
            check(settings["engine"], {name: settings[name]})
        except UserError as error:
            raise typer.BadParameter(error.message, param_hint=f"--{name}") from None
    if settings.integer("journal-max-bytes") < settings.integer("journal-segment-bytes"):
        raise typer.BadParameter(
            "it is less than one segment (--journal-segment-bytes)", param_hint="--journal-max-bytes"
        )
    if listen and (host, port) != ("127.0.0.1", DEFAULT_PORT):
        raise typer.BadParameter(
            "it says where the default port is, which --listen replaces", param_hint="--host, --port"
        )
    try:
        addresses = [parse_address(text) for text in listen or (f"auto://{_bracketed(host)}:{port}",)]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    if seed_ports:
        addresses += SEED_PORTS
    if text_unterminated is not None:
        addresses = [
            replace(address, unterminated=text_unterminated) if address.dialect == "text" else address
            for address in addresses
        ]
    try:
        run(settings, addresses, lambda opened: say_ready(opened, log_format is LogFormat.JSON))
    except StartFailed as error:
        if log_format is LogFormat.JSON:
            logging.getLogger("keyhaus.server").error("%s", error)
        else:
            typer.echo(f"keyhaus: {error}", err=True)
        raise typer.Exit(1) from None


def _values(texts: dict[str, str | None]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if text is None:
            continue
        try:
            values[name.replace("-", "_")] = parse(name, text)
        except KeyError:
            raise typer.BadParameter(
                f"there is no setting {name!r}; docs/reference/settings.md and CONFIG GET * list them",
                param_hint="--set",
            ) from None
        except UserError as error:
            raise typer.BadParameter(f"{text!r}: {error.message}", param_hint=name) from None
    return values


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
