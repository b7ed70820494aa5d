"""A helper's process: calls, answers and errors over the wire, and who ends when who dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from keyhaus.core.errors import Corruption, StorageError
from keyhaus.core.helper_process import BACKGROUND_NICENESS, HelperProcess
from keyhaus.core.spawn import HelperLost
from keyhaus.server.spawn import LoopSpawn

TARGET = "tests.support.called:Target"


class Caller:
    """A helper whose answers are awaited."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, factory: str = TARGET, *args: Any, background: bool = False
    ) -> None:
        self._loop = loop
        self.helper = LoopSpawn(loop).helper("keyhaus-tested", factory, args, background=background)

    def ask(self, method: str, *args: Any) -> asyncio.Future[Any]:
        future = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            future.set_exception(error) if error else future.set_result(result)

        self.helper.call(method, args, done)
        return future


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


@pytest.fixture
def run(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, None]], None]:
    return lambda coroutine: loop.run_until_complete(asyncio.wait_for(coroutine, 60))


@pytest.fixture
def caller(loop: asyncio.AbstractEventLoop) -> Iterator[Caller]:
    caller = Caller(loop, TARGET, "one", b"two", [3])
    yield caller
    caller.helper.close()
    assert gone(caller.helper.pid)


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process has ended within a time, a zombie not counted as ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.005)
    return False


def test_the_object_is_made_with_its_arguments_and_called(run: Any, caller: Caller) -> None:
    async def story() -> None:
        assert await caller.ask("made_with") == ["one", b"two", [3]]
        for value in (None, True, 7, -1, 2.5, "text", b"\x00\xff", [], [b"a", None], {"a": [1]}):
            assert await caller.ask("echo", value) == value
        assert await caller.ask("echo", (1, (2,))) == [1, [2]]
        assert await caller.ask("nothing") is None

    run(story())


def test_answers_come_in_the_order_of_the_calls(run: Any, caller: Caller) -> None:
    async def story() -> None:
        order: list[int] = []
        asked = []
        for number in range(5000):
            asked.append(caller.ask("count", number))
            asked[-1].add_done_callback(lambda _, number=number: order.append(number))
            if number % 100 == 0:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*asked)
        assert order == list(range(5000))
        assert answers[4999] == [4997, 4998, 4999]

    run(story())


def test_an_answer_does_not_wait_for_a_long_call_behind_it(run: Any, caller: Caller) -> None:
    async def story() -> None:
        await caller.ask("echo", 0)
        begun = time.monotonic()
        first, second = caller.ask("echo", 1), caller.ask("sleep", 1.0)
        assert await first == 1
        assert time.monotonic() - begun < 0.5
        assert await second == "slept"

    run(story())


def test_frames_may_be_large_both_ways_and_the_loop_goes_on(run: Any, caller: Caller) -> None:
    async def story() -> None:
        await caller.ask("echo", 0)
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        ticking = asyncio.ensure_future(tick())
        data = os.urandom(1 << 20) * 100
        sent, behind = caller.ask("echo", data), caller.ask("echo", "behind")
        assert await sent == data
        assert await behind == "behind"
        assert len(await caller.ask("zeros", 130 << 20)) == 130 << 20
        assert turns > 10
        ticking.cancel()

    run(story())


def test_errors_keep_their_class(run: Any, caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    async def failure(kind: str) -> BaseException:
        with pytest.raises(Exception) as caught:
            await caller.ask("fail", kind)
        return caught.value

    async def story() -> None:
        error = await failure("corruption")
        assert isinstance(error, Corruption)
        assert (error.message, error.file, error.offset) == (
            "/data/000007.sst at offset 4711: bad sum",
            "/data/000007.sst",
            4711,
        )
        error = await failure("full")
        assert isinstance(error, OSError) and (error.errno, error.strerror, error.filename) == (
            28,
            "no space left",
            "/data/x",
        )
        assert isinstance(await failure("missing"), FileNotFoundError)
        error = await failure("key")
        assert isinstance(error, KeyError) and error.args == (17,)
        error = await failure("value")
        assert type(error) is ValueError and str(error) == "keys must ascend"
        for kind, text in (("storage", "in use"), ("closed", "closed")):
            error = await failure(kind)
            assert type(error) is StorageError and str(error) == text
        error = await failure("other")
        assert type(error) is StorageError and "ZeroDivisionError: by zero" in str(error)
        for method in ("no_such_method", "unpackable"):
            with pytest.raises(StorageError, match="internal error"):
                await caller.ask(method)
        assert await caller.ask("echo", "it goes on") == "it goes on"

    run(story())


@pytest.mark.parametrize("factory", ["tests.support.called:broken", "no.such.module:x", "os:no_such_name"])
def test_an_object_that_cannot_be_made_answers_each_call_with_the_reason(
    run: Any, loop: asyncio.AbstractEventLoop, factory: str
) -> None:
    async def story() -> None:
        caller = Caller(loop, factory)
        for _ in range(2):
            with pytest.raises(Corruption if "broken" in factory else StorageError):
                await caller.ask("echo", 1)
        caller.helper.close()
        assert gone(caller.helper.pid)

    run(story())


def test_signals_of_the_process_group_do_not_end_it(run: Any, caller: Caller) -> None:
    async def story() -> None:
        await caller.ask("fail", "interrupt")
        os.kill(caller.helper.pid, signal.SIGINT)
        os.kill(caller.helper.pid, signal.SIGTERM)
        assert await caller.ask("echo", 1) == 1

    run(story())


def test_it_has_a_name_and_a_niceness_and_imports_nothing_of_the_working_directory(
    run: Any, loop: asyncio.AbstractEventLoop
) -> None:
    async def story() -> None:
        caller = Caller(loop, TARGET, background=True)
        pid, niceness, name, path = await caller.ask("process")
        assert (pid, niceness - os.nice(0), name) == (caller.helper.pid, BACKGROUND_NICENESS, "keyhaus-tested")
        assert path not in ("", ".")
        caller.helper.close()
        assert gone(caller.helper.pid)

    run(story())


@pytest.mark.parametrize("how", ["kill", "exit", "stop"])
def test_a_lost_process_leaves_no_call_without_an_answer(
    run: Any, loop: asyncio.AbstractEventLoop, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyhaus.core.helper_process.END_SECONDS", 0.2)

    async def story() -> None:
        caller = Caller(loop)
        assert await caller.ask("echo", 1) == 1
        pending = [caller.ask("end"), *(caller.ask("echo", number) for number in range(100))]
        if how == "kill":
            pending = [caller.ask("sleep", 60), *pending]
            os.kill(caller.helper.pid, signal.SIGKILL)
        elif how == "stop":  # it hangs: nothing comes until it is closed, and then it is killed
            os.kill(caller.helper.pid, signal.SIGSTOP)
            pending = [caller.ask("echo", 1)]
            caller.helper.close()
        results = await asyncio.gather(*pending, return_exceptions=True)
        assert {type(result) for result in results} == {HelperLost} if how != "stop" else True
        for _ in range(2):
            with pytest.raises(HelperLost, match="keyhaus-tested"):
                await caller.ask("echo", 1)
        caller.helper.close()
        assert gone(caller.helper.pid)

    run(story())


def test_close_ends_it_at_once_in_the_middle_of_a_call(run: Any, loop: asyncio.AbstractEventLoop) -> None:
    async def story() -> None:
        caller = Caller(loop)
        await caller.ask("echo", 1)
        pending = caller.ask("sleep", 60)
        await asyncio.sleep(0.05)
        caller.helper.close()
        assert not pending.done()  # in the owner's next turn, not within the call
        with pytest.raises(HelperLost):
            await pending
        assert gone(caller.helper.pid, 3)
        caller.helper.close()

    run(story())


def test_close_from_within_an_answer_answers_the_others_too(run: Any, loop: asyncio.AbstractEventLoop) -> None:
    async def story() -> None:
        caller = Caller(loop)
        await caller.ask("echo", 1)
        caller.helper.call("echo", (1,), lambda result, error: caller.helper.close())
        others = [caller.ask("echo", number) for number in range(20)]
        results = await asyncio.gather(*others, return_exceptions=True)
        assert {type(result) for result in results} == {HelperLost}
        assert gone(caller.helper.pid)

    run(story())


def test_a_fault_of_who_asked_costs_nobody_else_an_answer(run: Any, loop: asyncio.AbstractEventLoop) -> None:
    faults: list[Any] = []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))

    async def story() -> None:
        caller = Caller(loop)

        def done(result: Any, error: BaseException | None) -> None:
            raise ZeroDivisionError

        caller.helper.call("echo", (1,), done)
        assert await caller.ask("echo", 2) == 2
        assert [type(fault) for fault in faults] == [ZeroDivisionError]
        caller.helper.close()
        assert gone(caller.helper.pid)

    run(story())


PARENT = """
import asyncio, sys
from keyhaus.core.helper_process import BACKGROUND_NICENESS, HelperProcess
async def main():
    loop = asyncio.get_running_loop()
    helper = HelperProcess(loop, "orphan", "tests.support.called:Target", ())
    ready = loop.create_future()
    helper.call("echo", (1,), lambda result, error: ready.set_result(None))
    await ready
    helper.call("sleep", (60,), lambda result, error: None)
    print(helper.pid, flush=True)
    await asyncio.sleep(0.1)
    WAY
asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["killed", "exit", "returns"])
def test_a_dead_parent_ends_it_in_the_middle_of_a_call(way: str) -> None:
    code = PARENT.replace(
        "WAY", {"killed": "await asyncio.sleep(60)", "exit": "import os; os._exit(0)", "returns": "helper.close()"}[way]
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen((sys.executable, "-c", code), stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if way == "killed":
            parent.kill()
        parent.wait(20)
        assert gone(pid, 3)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_the_engine_of_a_killed_server_can_be_opened_at_once(tmp_path: Path) -> None:
    code = PARENT.replace('"tests.support.called:Target", ()', f'"{TARGET}", ()')
    code = code.replace(
        f'"{TARGET}", ()', f'"keyhaus.engines.rocksdb:open_engine", ({str(tmp_path / "engine")!r}, {{}})'
    )
    code = code.replace('"echo", (1,)', '"stats", ()').replace('"sleep", (60,)', '"stats", ()')
    code = code.replace("WAY", "await asyncio.sleep(60)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen((sys.executable, "-c", code), stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.kill()
        loop = uvloop.new_event_loop()
        helper = HelperProcess(loop, "engine", "keyhaus.engines.rocksdb:open_engine", (str(tmp_path / "engine"), {}))
        answered = loop.create_future()
        helper.call("stats", (), lambda result, error: answered.set_result((result, error)))
        result, error = loop.run_until_complete(asyncio.wait_for(answered, 30))
        assert error is None and result["rows"] >= 0
        helper.close()
        loop.close()
        assert gone(helper.pid)


def test_a_death_behind_an_answer_and_before_unread_calls_is_noticed(run: Any, caller: Caller) -> None:
    """The socket has an answer then, an error, and its end; uvloop calls back once for all of them."""

    def meanwhile(seconds: float) -> None:
        time.sleep(seconds)  # not the loop's: nothing is read of what is answered

    async def story() -> None:
        assert await caller.ask("echo", 0) == 0
        answered, *asked = caller.ask("sleep", 0.5), caller.ask("sleep_on", 60)
        await asyncio.sleep(0.1)  # it has read both
        asked.append(caller.ask("echo", 1))
        await asyncio.sleep(0.1)  # sent, and never read
        meanwhile(0.6)
        caller.helper.kill()
        meanwhile(0.1)
        assert await answered == "slept"
        for future in asked:
            with pytest.raises(HelperLost):
                await future

    run(story())
