"""Copies all strings of a redis-server, with their expiries, into a keyhaus: python copy_from_redis.py SOURCE TARGET.

SOURCE and TARGET are URLs such as redis://127.0.0.1:6379/0. What is no string is counted and left out. Keys that are
there already are written over. It can be run again: writers of the source may go on meanwhile, and a last run after
they have stopped copies what they have changed.
"""

from __future__ import annotations

import sys

import redis

PAGE = 1000


def copy(source: redis.Redis, target: redis.Redis) -> tuple[int, int]:
    """Copies page by page; how many keys were copied, and how many left out."""
    copied = left_out = 0
    cursor = 0
    while True:
        cursor, keys = source.scan(cursor, count=PAGE)
        with source.pipeline(transaction=False) as reads:
            for key in keys:
                reads.type(key)
                reads.dump(key)
                reads.execute_command("PEXPIRETIME", key)
            replies = reads.execute()
        with target.pipeline(transaction=False) as writes:
            for key, kind, dumped, expires in zip(keys, replies[::3], replies[1::3], replies[2::3], strict=True):
                if kind in (b"string", "string"):
                    writes.restore(key, max(expires, 0), dumped, replace=True, absttl=expires > 0)
                    copied += 1
                elif dumped is not None:  # else it has gone in between
                    left_out += 1
            writes.execute()
        if cursor == 0:
            return copied, left_out


def main() -> None:
    source, target = (redis.Redis.from_url(url) for url in sys.argv[1:3])
    copied, left_out = copy(source, target)
    print(f"{copied:,} strings copied, {left_out:,} keys of other types left out")


if __name__ == "__main__":
    main()
