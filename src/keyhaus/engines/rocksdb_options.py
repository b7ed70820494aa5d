"""How RocksDB is set up, and how to see that it really is.

RocksDB here only keeps sorted files: runs come in whole, nothing is written through its own memtable and log. So what
matters is how files are laid out, and that everything is bounded:

- Memory: blocks, indexes and filters all live in the one block cache; indexes and filters are partitioned, so that a
  cache smaller than all of them still works (10 million keys have 12 MB of filters). Few files are held open.
- Disk: the information log has two small files, the manifest is rewritten at 8 MiB.
- Smoothness: what compaction writes is synced every MiB, so that no large sync stands in the way of the journal's.

Trap: `Rdict(path, options)` takes the options of a column family from what the database was made with. Only
`column_families={"default": options}` puts them in force; `settings_in_force` shows what is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
)

Compression: TypeAlias = Literal["none", "lz4", "zstd"]

_COMPRESSIONS: Final = {
    "none": DBCompressionType.none,
    "lz4": DBCompressionType.lz4,
    "zstd": DBCompressionType.zstd,
}
_INFORMATION_LOGS: Final = 2
_INFORMATION_LOG_BYTES: Final = 1 << 20
_MANIFEST_BYTES_MAX: Final = 8 << 20
_MEMTABLE_BYTES: Final = 1 << 20  # RocksDB's own; it only ever holds the tombstones of a `drop`


class RocksOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set.

    Attributes:
        block_cache_bytes: The memory for blocks, indexes and filters.
        block_bytes: How much one block holds before it is packed; a cold read reads one.
        bloom_bits: Bits a key of the Bloom filters; 0 for none.
        compression: How the blocks of runs and of the upper levels are packed.
        bottommost_compression: How those of the last level are packed.
        direct_reads: Whether reads go past the operating system's page cache.
        max_background_jobs: How many flushes and compactions run at once.
        max_open_files: How many files are held open.
        bytes_per_sync: After how many bytes a file that is being written is synced.
        target_file_bytes: How large compaction makes a file.
        level_base_bytes: How large the first level below level 0 may grow; each further one is ten times as large.
        level0_trigger: From how many files in level 0 they are compacted.
        compaction_bytes_per_second: How fast compaction may write; 0 for as fast as it can.
    """

    block_cache_bytes: int = 64 << 20
    block_bytes: int = 4096
    bloom_bits: int = 10
    compression: Compression = "lz4"
    bottommost_compression: Compression = "zstd"
    direct_reads: bool = False
    max_background_jobs: int = 2
    max_open_files: int = 512
    bytes_per_sync: int = 1 << 20
    target_file_bytes: int = 64 << 20
    level_base_bytes: int = 256 << 20
    level0_trigger: int = 4
    compaction_bytes_per_second: int = 0


def database_options(chosen: RocksOptions) -> Options:
    """The options of a database: to be given twice, as `options` and as those of the column family `default`."""
    options = run_options(chosen)
    options.create_if_missing(True)
    options.set_bottommost_compression_type(_COMPRESSIONS[chosen.bottommost_compression]())
    options.set_paranoid_checks(True)
    options.set_max_background_jobs(chosen.max_background_jobs)
    options.set_max_open_files(chosen.max_open_files)
    options.set_skip_stats_update_on_db_open(True)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_target_file_size_base(chosen.target_file_bytes)
    options.set_max_bytes_for_level_base(chosen.level_base_bytes)
    options.set_level_zero_file_num_compaction_trigger(chosen.level0_trigger)
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_keep_log_file_num(_INFORMATION_LOGS)
    options.set_max_log_file_size(_INFORMATION_LOG_BYTES)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_max_manifest_file_size(_MANIFEST_BYTES_MAX)
    options.set_manifest_preallocation_size(64 << 10)
    if chosen.compaction_bytes_per_second:
        options.set_ratelimiter(chosen.compaction_bytes_per_second, 100_000, 10)
    options.enable_statistics()
    return options


def run_options(chosen: RocksOptions) -> Options:
    """The options of a run's writer. A run is soon compacted: the last level's expensive packing is not for it."""
    options = Options(raw_mode=True)
    options.set_compression_type(_COMPRESSIONS[chosen.compression]())
    options.set_use_direct_reads(chosen.direct_reads)
    options.set_bytes_per_sync(chosen.bytes_per_sync)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(chosen.block_cache_bytes))
    table.set_block_size(chosen.block_bytes)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    if chosen.bloom_bits:
        table.set_bloom_filter(chosen.bloom_bits, block_based=False)
        table.set_partition_filters(True)
    options.set_block_based_table_factory(table)
    return options


def settings_in_force(directory: str) -> dict[str, str]:
    """What RocksDB says of the settings with which a database was last opened: the newest OPTIONS file, flat.

    The capacity of the block cache isn't among them: `RocksEngine.stats` has it.
    """
    newest = max(Path(directory).glob("OPTIONS-*[0-9]"), key=lambda path: int(path.name.rpartition("-")[2]))
    found: dict[str, str] = {}
    for line in newest.read_text().splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", "[")):
            found[name] = value
    return found
