"""The clients of a history and what they do; on which ground, is somebody else's."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.support.isolation.callers import Caller
from tests.support.isolation.recorder import Recorder
from tests.support.isolation.workload import DATABASES, LISTS, REGISTERS, Workload
from tests.support.simulate.clients import House
from tests.support.simulate.oracle import Broken

NAMED_MAX = 6  # transactions that anybody may ask for
INQUIRED_MAX = 40
ROUNDS_MAX = 2000


class Cast:
    """Attributes:
    callers: The clients.
    house: Where a client connects to.
    """

    def __init__(
        self, generator: random.Random, recorder: Recorder, durabilities: list[str], workload: Workload
    ) -> None:
        self.random, self.recorder, self.workload = generator, recorder, workload
        self.callers = [Caller(recorder, number, durability) for number, durability in enumerate(durabilities)]
        recorder.callers = self.callers
        self.house: Callable[[Caller], House]

    def act(self) -> bool:
        """Somebody who waits for nothing sends something; whether there was anybody."""
        caller = self.random.choice(self.callers)
        if not caller.connected:
            caller.connect(self.house(caller))
        if not caller.idle:
            return False
        names = list(self.recorder.ledger.named)[-NAMED_MAX:]
        self._ask(caller, self.workload.requests(caller, names))
        return True

    def _ask(self, caller: Caller, requests: list[list[bytes]]) -> None:
        caller.ask(requests, self.recorder.tick(), self.recorder.time())

    def inquire(self) -> None:
        """After a restart somebody asks what became of the transactions of before (T9)."""
        names = list(self.recorder.ledger.named)[-INQUIRED_MAX:]
        caller = self.random.choice(self.callers)
        caller.connect(self.house(caller))
        self._ask(caller, [[b"TRANSACTION", b"STATUS", name] for name in names])

    def vanish(self) -> None:
        """Somebody is gone, in the middle of whatever it was."""
        caller = self.random.choice(self.callers)
        if caller.connected:
            self.recorder.vanished(caller, caller.disconnect)

    def finish(self, settle: Callable[[], None], wait_longer: Callable[[], bool]) -> None:
        """Everybody comes to an end. Raises Broken where somebody can't."""
        for _ in range(ROUNDS_MAX):
            settle()
            asked = False
            for caller in self.callers:
                if caller.connected and caller.idle and (request := self.workload.last(caller)) is not None:
                    self._ask(caller, [request])
                    asked = True
                    break
            if asked:
                continue
            waiting = [caller for caller in self.callers if caller.connected and not caller.idle]
            if not waiting:
                return
            if not wait_longer():
                raise Broken(f"STUCK: {[(caller.number, caller.call and caller.call.args) for caller in waiting]}")
        raise Broken("STUCK: it goes on and on")

    def look(self, settle: Callable[[], None]) -> None:
        """Reads everything, as the last one."""
        caller = self.callers[0]
        if not caller.connected:
            caller.connect(self.house(caller))
        requests = [[b"MGET", *LISTS, *REGISTERS]] if self.workload.graph else []
        for database in range(DATABASES):
            requests += [[b"SELECT", b"%d" % database], [b"RANGE", b"", b""], [b"DBSIZE"]]
        self._ask(caller, [[b"SELECT", b"0"], *requests, [b"SELECT", b"0"]])
        settle()
        if not caller.idle:
            raise Broken("STUCK: a plain read")

    def leave(self) -> None:
        """All connections are closed."""
        for caller in self.callers:
            if caller.connected:
                self.recorder.vanished(caller, caller.disconnect)
