"""The prompt: lines are typed, completed, remembered and run, until somebody leaves."""

from __future__ import annotations

import contextlib
import sys
import termios
import textwrap
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import ThreadedCompleter
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.input.typeahead import clear_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from keyhaus.cli.shell.aliases import ALIASES
from keyhaus.cli.shell.batch import FAILED, failed_to_connect
from keyhaus.cli.shell.completion import ShellCompleter
from keyhaus.cli.shell.dialogue import Interrupted, start_hint
from keyhaus.cli.shell.history import ShellHistory, default_path
from keyhaus.cli.shell.keys import Keys
from keyhaus.cli.shell.quoting import commands, fragment, quote_after
from keyhaus.cli.shell.runner import Leave, Runner
from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.core.errors import Error

_HINT: Final = "help lists what there is, Tab completes, Ctrl-D leaves"
_USAGE_LINES_MAX: Final = 3
_STYLE: Final = Style.from_dict(
    {
        "place": "ansibrightblack",
        "state": "ansiyellow bold",
        "lost": "ansired",
        "bottom-toolbar": "noreverse bg:ansibrightblack ansiwhite",
        "usage": "bold",
    }
)


def run(runner: Runner) -> int:
    """Runs the shell on the terminal; the exit status."""
    try:
        runner.dialogue.connect()
        runner.learn()
    except Error as error:
        failed_to_connect(runner.dialogue, error)
        return FAILED
    keys = Keys()
    try:
        Prompt(runner, keys, _history(runner)).loop()
    finally:
        keys.close()
    return 0


def _history(runner: Runner) -> History:
    path = default_path()
    try:
        return ShellHistory(path)
    except OSError as error:
        runner.view.say(f"nothing is remembered: {path}: {error.strerror or error}", "yellow")
        return InMemoryHistory()


class Prompt:
    """The prompt of a runner.

    Args:
        runner: Runs the lines.
        keys: Finds keys for completion.
        history: What was typed before.
    """

    def __init__(self, runner: Runner, keys: Keys, history: History) -> None:
        self._runner, self._keys = runner, keys
        self._session: PromptSession[str] = PromptSession(
            message=self._message,
            multiline=True,
            prompt_continuation=self._continuation,
            completer=ThreadedCompleter(ShellCompleter(lambda: runner.catalogue, self._find_keys)),
            complete_while_typing=True,
            bottom_toolbar=self._toolbar,
            key_bindings=_bindings(),
            history=history,
            style=_STYLE,
            reserve_space_for_menu=6,
        )

    def loop(self) -> None:
        """Reads lines and runs them until it is told to leave."""
        if self._runner.dialogue.link.wants_password:
            self._say("the server wants to know who asks: AUTH [user] password", "yellow")
        while True:
            try:
                text = self._session.prompt()
                self._run_all(text)
            except KeyboardInterrupt:
                continue
            except (EOFError, Leave):
                break
        for sentence in self._runner.dialogue.close():
            self._say(sentence, "yellow")

    def _run_all(self, text: str) -> None:
        """Runs the lines of what was entered; behind a lost connection none, since they belong to what is lost."""
        lines = text.encode("utf-8", "surrogateescape").splitlines(keepends=True)
        try:
            entered = list(commands(lines))
        except Error as error:
            self._say(error.message, "bold red")
            return
        for number, (_, line) in enumerate(entered, 1):
            if not self._run(line) and number < len(entered):
                self._say(f"{len(entered) - number} more lines were not run", "yellow")
                return

    def _run(self, line: bytes) -> bool:
        """Runs a line; whether those behind it may be run. Raises Leave."""
        dialogue = self._runner.dialogue
        within = bool(dialogue.state.open or dialogue.state.multi)
        try:
            self._runner.run(line)
        except Interrupted as error:
            self._say(error.message, "yellow")
            self._reconnect()
        except OutcomeUnknown as error:
            self._say(error.message, "bold red")
        except ConnectionLost as error:
            self._say("\n".join(filter(None, (error.message, start_hint(dialogue.target, error)))), "bold red")
        except Error as error:
            self._say(error.message, "bold red")
            return True
        else:
            return True
        if within:
            self._forget_typed()
        return False

    def _reconnect(self) -> None:
        try:
            self._runner.dialogue.connect()
            self._say("and opened again", "yellow")
        except Error as error:
            self._say(error.message, "bold red")

    def _forget_typed(self) -> None:
        """What was typed ahead was meant for the inside of what is lost."""
        clear_typeahead(self._session.input)
        with contextlib.suppress(OSError, ValueError, termios.error):
            termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)

    def _say(self, text: str, style: str) -> None:
        self._runner.view.say(text, style)

    def _find_keys(self, prefix: bytes) -> list[bytes]:
        ordered = self._runner.catalogue.knows("RANGE")
        return self._keys.beginning_with(prefix, self._runner.dialogue.target, ordered)

    # what is drawn

    def _message(self) -> StyleAndTextTuples:
        dialogue = self._runner.dialogue
        if not dialogue.link.is_open:
            return [("class:lost", "not connected"), ("", "> ")]
        state = dialogue.state
        database = f"[{state.database}]" if state.database else ""
        return [("class:place", f"{dialogue.link.target}{database}"), ("class:state", state.label()), ("", "> ")]

    def _continuation(self, width: int, line_number: int, is_soft_wrap: int) -> str:
        return " " * width if is_soft_wrap else f"{'... ':>{width}}"

    def _toolbar(self) -> StyleAndTextTuples:
        """What the command takes that is being typed, and what it does."""
        text = get_app().current_buffer.document.text_before_cursor
        part = fragment(text.encode("utf-8", "surrogateescape"))
        words = [] if part is None else [*part.words, *filter(None, (part.word,))]
        usage, summary = described(words, self._runner)
        if not usage:
            return [("", summary)]
        width = max(20, get_app().output.get_size().columns - 1)
        wrapped = textwrap.wrap(usage, width, max_lines=_USAGE_LINES_MAX, placeholder=" …", break_on_hyphens=False)
        return [("class:usage", "\n".join(wrapped)), ("", f"\n{summary[:width]}")]


def described(words: list[bytes], runner: Runner) -> tuple[str, str]:
    """What a command takes, and what it does; a hint where nothing is known."""
    found = runner.catalogue.find(words)
    alias = ALIASES.get(words[0].decode("latin-1").lower()) if words else None
    if alias is not None and (found is None or words[0] == b"range"):
        return alias
    if found is not None:
        return found[0].usage, found[0].summary
    return "", _HINT


def _bindings() -> KeyBindings:
    """Enter ends what is typed, unless a quote is open."""
    bindings = KeyBindings()

    @Condition
    def is_whole() -> bool:
        return not quote_after(_without_comments(get_app().current_buffer.text))

    @bindings.add("enter", filter=has_focus(DEFAULT_BUFFER) & is_whole)
    def accept(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return bindings


def _without_comments(text: str) -> bytes:
    lines = text.encode("utf-8", "surrogateescape").split(b"\n")
    return b"\n".join(line for line in lines if not line.lstrip().startswith(b"#"))
