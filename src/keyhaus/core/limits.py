"""Every bound that keyhaus has, by name.

What passes one gets an error that names it (`LimitExceeded`, or the dialect's own error where Redis has one), with
nothing half done. The connection is closed only where the stream can't be followed any more. Most can be set: the
settings of the same name, with dashes, in `core/settings.py`.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

DATABASES: Final = 16

# What one request may be.
KEY_BYTES_MAX: Final = 64 * KIB
BULK_BYTES_MAX: Final = 512 * MIB  # Redis' proto-max-bulk-len: a longer announcement is a protocol error
REQUEST_BYTES_MAX: Final = 128 * MIB
ARGUMENTS_MAX: Final = 1024 * KIB
INLINE_BYTES_MAX: Final = 64 * KIB  # Redis' PROTO_INLINE_MAX_SIZE, of length lines too
UNTERMINATED_BYTES_MAX: Final = 1 * KIB  # a line without an end that counts as one, where --text-unterminated allows it

# What one value may be.
VALUE_DEPTH_MAX: Final = 64  # levels of nesting
VALUE_BYTES_FREE: Final = 16 * MIB  # what one may stand for, however small it is: value-bytes in errors
VALUE_BYTES_FACTOR: Final = 16  # so much more for each byte of its MessagePack or its pickle
VALUE_BYTES_UNCHECKED: Final = 2 * KIB  # so short a MessagePack can't stand for much
KEY_PROBES_MAX: Final = 128  # others that a key of a dict or set may collide with, on average
KEYS_UNCHECKED: Final = 2 * KEY_PROBES_MAX  # so few keys of a dict or set can't collide more often
INTEGER_BYTES_MAX: Final = 1 * KIB  # a larger integer has more digits than Python writes out
INTEGER_DIGITS_MAX: Final = 2560  # of an integer in a pickle's text: so many bytes have fewer
PICKLE_MARKS_MAX: Final = 256  # open at once: a pickler has at most three for each level of nesting
PICKLE_FLOAT_BYTES_MAX: Final = 400  # of a float in a pickle's text

# What one typed key may be.
KEY_DEPTH_MAX: Final = 32  # tuples and frozensets within each other
KEY_INTEGER_BYTES_MAX: Final = 255  # of a number in one

# What one transaction, or a single command, may write.
TRANSACTION_BYTES_MAX: Final = 64 * MIB


# Interactive transactions.
TRANSACTIONS_MAX: Final = 10_000  # open at once
TRANSACTION_READ_BYTES_MAX: Final = 128 * MIB  # what one keeps of what it has locked and read, values aside
TRANSACTION_RANGES_MAX: Final = 1000  # ranges that do not touch, which one has locked or read: each is looked at often
LOCKED_RANGES_MAX: Final = 10_000  # of all transactions together: who writes into one looks at all of them
TRANSACTIONS_BYTES_MAX: Final = 512 * MIB  # what all open ones keep, what they are to write included
TRANSACTION_IDLE_MS: Final = 30_000
TRANSACTION_AGE_MS: Final = 300_000
LOCK_TIMEOUT_MS: Final = 10_000
OUTCOMES_MAX: Final = 100_000  # ended transactions that can be asked for; the one that ended first goes first
OUTCOME_KEPT_MS: Final = 600_000

# What one reply may be, and what may wait for a client that does not read.
REPLY_BYTES_MAX: Final = 512 * MIB
OUTPUT_BYTES_PAUSE: Final = 1 * MIB  # past it no further command of the connection is executed until it has read
PIPELINE_BYTES_PAUSE: Final = 1 * MIB  # requests that were received and not executed: past it nothing more is read

CLIENTS_MAX: Final = 10_000
CLIENT_NAME_BYTES_MAX: Final = 64 * KIB
WATCHED_BYTES_MAX: Final = 16 * MIB  # of one connection, with what each key costs beside its own bytes

# SCAN's cursors, of the whole server; the oldest goes first.
CURSORS_MAX: Final = 65_536
CURSOR_BYTES_MAX: Final = 16 * MIB

# What is bounded since it would stall everybody for too long.
COMMAND_NAMES_MAX: Final = 1000  # of one COMMAND INFO
CONFIG_PATTERNS_MAX: Final = 1000  # of one CONFIG GET
CONFIG_PATTERN_BYTES_MAX: Final = 16 * KIB  # all of them together
LCS_BYTES_MAX: Final = 1 * MIB  # of both strings of LCS: as many steps the walk through its table may take
LZF_BYTES_MAX: Final = 512 * KIB  # packed bytes of a compressed string that RESTORE takes

SCAN_COUNT_MAX: Final = 10_000  # keys that one page of SCAN or RANGE looks at
PAGE_BYTES_MAX: Final = 16 * MIB  # keys and values of one page of RANGE; a single larger row goes alone
RANDOM_KEY_SPREAD: Final = 64  # keys that RANDOMKEY looks at where most are on disk
SWEEP_KEYS_MAX: Final = 200  # keys that one commit of the expiry sweeper deletes

# The journal.
SEGMENT_BYTES: Final = 64 * MIB
SEGMENT_BYTES_MIN: Final = 64 * KIB
JOURNAL_BYTES_MAX: Final = 16 * GIB
GROUP_BYTES_PAUSE: Final = 8 * MIB  # the open group: past it writers wait (a single larger commit goes alone)
UNSYNCED_COMMITS_MAX: Final = 1 << 24  # and by as many numbers each start jumps

SLOWLOG_ENTRIES_MAX: Final = 128
LATENCY_ENTRIES_MAX: Final = 160

# What the store keeps in memory, and for how long.
MEMTABLE_BYTES: Final = 64 * MIB
ROW_CACHE_BYTES: Final = 64 * MIB
BLOCK_CACHE_BYTES: Final = 64 * MIB
SNAPSHOT_MS_MAX: Final = 300_000
SNAPSHOT_BYTES_MAX: Final = 64 * MIB
JOURNAL_RETAIN_BYTES: Final = 64 * MIB
FEED_BYTES: Final = 64 * MIB
FEED_TAIL_BYTES: Final = 4 * MIB  # of the newest commits, kept so that those who follow them need no disk

BACKUPS_KEPT: Final = 7  # in a directory that the server makes them in

# CHANGES.
CHANGES_COUNT: Final = 1000  # commits of one page, where no COUNT is given
CHANGES_COUNT_MAX: Final = 10_000
CHANGES_PLACES_MAX: Final = 1024  # where readers go on; the one that was used longest ago goes first

# Eviction in memory mode.
EVICTION_STEP_KEYS: Final = 64  # given up at once, before a command or in a turn of their own; about half a millisecond
EVICTION_SLACK_BYTES: Final = 64 * KIB  # more than there should be that no write waits for while keys are given up
EVICTION_SAMPLES_MAX: Final = 1000

# Files of rows.
ROW_BYTES_MAX: Final = 512 * MIB  # one row of a file, escapes and all: a line, a member, a cell
