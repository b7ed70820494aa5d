"""A lock that several programs share, with plain commands: SET NX PX to take it, compare-and-delete to give it back.

    make serve                                            # in one shell
    .venv/bin/python examples/lock.py                     # in another

redis-py has a Lock class, but that sends Lua scripts to the server. The same lock takes two steps without them:

- `SET name token NX PX milliseconds` takes it if nobody has it, and lets go by itself if its holder disappears.
- Only who still holds it may delete it, so the key is watched, compared with one's own token, and deleted in
  MULTI/EXEC. If anybody changes the key in between, EXEC does nothing.

A lock with a time limit protects work that may be done twice but had better not be: its holder can be slower than the
limit, and then somebody else holds it too.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis


class NotAcquired(Exception):
    """Somebody else held the lock all the time."""


@contextmanager
def lock(client: redis.Redis, name: str, *, hold_ms: int = 10_000, wait_s: float = 10) -> Iterator[str]:
    """Holds a lock while the block runs.

    Args:
        client: A connection, or a pool of them.
        name: The lock's key.
        hold_ms: After how many milliseconds it lets go in any case.
        wait_s: How many seconds to try.

    Yields:
        The token that stands under the key while the lock is held.

    Raises:
        NotAcquired: It could not be had within `wait_s`.
    """
    token = secrets.token_hex(16)
    give_up = time.monotonic() + wait_s
    while not client.set(name, token, nx=True, px=hold_ms):
        if time.monotonic() > give_up:
            raise NotAcquired(name)
        time.sleep(0.005)
    try:
        yield token
    finally:
        release(client, name, token)


def release(client: redis.Redis, name: str, token: str) -> bool:
    """Deletes the lock if it is still ours; whether it was."""
    with client.pipeline() as pipeline:
        while True:
            try:
                pipeline.watch(name)
                if pipeline.get(name) not in (token, token.encode()):  # str where the client decodes
                    return False  # it ran out, and perhaps somebody else holds it now
                pipeline.multi()
                pipeline.delete(name)
                pipeline.execute()
                return True
            except redis.WatchError:
                continue  # the key changed between the look and the deletion: look again


def main() -> None:
    """Several threads add to one number, reading and writing it in two steps: only the lock keeps the sum right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="where keyhaus runs (%(default)s)")
    parser.add_argument("--port", type=int, default=19272, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=25, help="how often each thread adds one (%(default)s)")
    options = parser.parse_args()
    client = redis.Redis(host=options.host, port=options.port)

    def work() -> None:
        for _ in range(options.rounds):
            with lock(client, "example:lock", wait_s=60):
                count = int(client.get("example:count") or 0)
                client.set("example:count", count + 1)

    try:
        client.delete("example:count", "example:lock")
    except redis.ConnectionError as error:
        sys.exit(f"No server at {options.host}:{options.port} ({error}). Start one with: make serve")
    threads = [threading.Thread(target=work) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = int(client.get("example:count") or 0)
    print(f"{options.threads} threads added {options.rounds} each: {count}")
    if count != options.threads * options.rounds:
        sys.exit("the lock did not hold")


if __name__ == "__main__":
    main()
