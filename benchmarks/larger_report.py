"""What the benchmark of data larger than RAM has found, and how it is told."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import msgspec

from benchmarks.driver import Driven
from benchmarks.report import Sheet, spread
from benchmarks.subjects import Rate

_OURS = "keyhaus"
_COUNTERS = (
    "flushes", "write_stalls", "write_stall_ms", "memtable_bytes", "row_cache_hits", "row_cache_misses",
    "row_cache_bytes", "level0_files",
)  # fmt: skip


class Load(msgspec.Struct, frozen=True):
    """The load of one subject.

    Attributes:
        per_second: Rows a second, from first to last.
        tenths_per_second: The same of each tenth of the rows.
        cpu_us: CPU time for each row of all its processes, background work of that time included.
        client_busy: How much of its core the load generator used.
        settled_seconds: How long it was busy afterwards.
        disk_bytes: What its files took then.
    """

    per_second: float
    tenths_per_second: list[float]
    cpu_us: float
    client_busy: float
    settled_seconds: float
    disk_bytes: int


class Mixed(msgspec.Struct, frozen=True):
    """Hot reads alone, then beside cold ones; what a random read took the disk itself just before."""

    alone: Driven
    hot: Driven
    cold: Driven
    disk_us: float


class Restart(msgspec.Struct, frozen=True):
    """Seconds until the first row was read after kill -9, of a clean stop, and until the first row after that."""

    killed_seconds: float
    stopping_seconds: float
    clean_seconds: float


class Findings(msgspec.Struct):
    """Everything, by the subject's name; slices in the order in which they were measured.

    `rates` is by phase, verb and pipeline first: `cold GET 16`. `memory_bytes` holds the greatest of each phase,
    `counters` what a server told about itself after each.
    """

    versions: dict[str, str]
    memory_bound_mb: int
    loads: dict[str, Load] = {}
    rates: dict[str, dict[str, list[Rate]]] = {}
    idle_read_bytes_per_second: dict[str, list[float]] = {}
    disk_us: dict[str, list[float]] = {}
    mixed: dict[str, list[Mixed]] = {}
    restarts: dict[str, list[Restart]] = {}
    memory_bytes: dict[str, dict[str, int]] = {}
    counters: dict[str, dict[str, dict[str, str]]] = {}


def sheets(found: Findings) -> list[Sheet]:
    """The tables that have something in them."""
    made = (_loads(found), _rates(found), _mixed(found), _restarts(found), _memory(found), _told(found))
    return [sheet for sheet in made if sheet.rows]


def _name(found: Findings, subject: str) -> str:
    return f"{subject} {found.versions[subject]}"


def _ratio(ours: list[float] | None, theirs: list[float], name: str) -> str:
    if ours is None or name == _OURS:
        return "–"
    return spread([a / b for a, b in zip(ours, theirs, strict=False) if b])


def _loads(found: Findings) -> Sheet:
    ours = found.loads.get(_OURS)
    rows = [
        [
            _name(found, name),
            f"{load.per_second:,.0f}",
            "–" if ours is None or name == _OURS else f"{ours.per_second / load.per_second:.2f}",
            _ratio(ours.tenths_per_second if ours else None, load.tenths_per_second, name),
            f"{load.cpu_us:.2f}",
            f"{load.client_busy:.0%}",
            f"{load.settled_seconds:.1f}",
            f"{load.disk_bytes / 1e6:,.0f}",
        ]
        for name, load in found.loads.items()
    ]
    heads = ["load", "rows/s", "keyhaus / it", "by tenths [min–max]", "µs CPU", "client busy", "busy afterwards, s"]
    return Sheet("load", [*heads, "MB on disk"], rows)


def _rates(found: Findings) -> Sheet:
    rows = []
    for title, by_name in found.rates.items():
        phase, verb, pipeline = title.split()
        ours = [rate.per_second for rate in by_name[_OURS]] if _OURS in by_name else None
        for name, rates in by_name.items():
            speeds = [rate.per_second for rate in rates]
            idle = found.idle_read_bytes_per_second.get(name, [])
            rows.append(
                [
                    f"{phase} {verb}",
                    _name(found, name),
                    pipeline,
                    spread(speeds, ",.0f"),
                    _ratio(ours, speeds, name),
                    f"{_median(rates, 'cpu_us'):.2f}",
                    f"{_median(rates, 'p99_ms'):.2f}" if _median(rates, "p99_ms") else "–",
                    f"{_median(rates, 'read_bytes'):,.0f}",
                    f"{statistics.median(idle):,.0f}" if phase == "overwrite" and idle else "–",
                    spread(found.disk_us.get(name, []), ".0f") if phase == "cold" else "–",
                    f"{_median(rates, 'client_busy'):.0%}" if _median(rates, "client_busy") else "–",
                    f"{_median(rates, 'strangers'):.0%}",
                ]
            )
    heads = ["phase", "", "P", "operations/s [min–max]", "keyhaus / it [min–max]", "µs CPU", "p99 ms"]
    heads += ["bytes read each", "read/s idle", "disk µs", "client busy", "strangers"]
    return Sheet("rates: medians of the slices", heads, rows, words=2)


def _median(rates: list[Rate], attribute: str) -> float:
    return float(statistics.median(getattr(rate, attribute) for rate in rates))


def _mixed(found: Findings) -> Sheet:
    rows = []
    for name, slices in found.mixed.items():
        ratios = [one.hot.latencies.p99_ms / max(1e-6, one.alone.latencies.p99_ms) for one in slices]
        rows.append(
            [
                _name(found, name),
                *(
                    f"{statistics.median(figures):.3f}"
                    for figures in (
                        [one.alone.latencies.p50_ms for one in slices],
                        [one.hot.latencies.p50_ms for one in slices],
                    )
                ),
                spread([one.alone.latencies.p99_ms for one in slices], ".3f"),
                spread([one.hot.latencies.p99_ms for one in slices], ".3f"),
                spread(ratios),
                f"{statistics.median(one.alone.per_second for one in slices):,.0f}",
                f"{statistics.median(one.hot.per_second for one in slices):,.0f}",
                f"{statistics.median(one.cold.per_second for one in slices):,.0f}",
                f"{statistics.median(one.cold.latencies.p99_ms for one in slices):.2f}",
                spread([one.disk_us for one in slices], ".0f"),
                f"{busy:.0%}" if (busy := statistics.median(one.hot.client_busy for one in slices)) else "–",
            ]
        )
    heads = ["hot GETs", "p50 ms alone", "beside cold", "p99 ms alone [min–max]", "beside cold [min–max]"]
    heads += ["p99 ratio [min–max]", "hot/s alone", "hot/s beside", "cold/s", "cold p99 ms", "disk µs"]
    heads += ["client busy"]
    return Sheet("latency of hot reads, alone and beside cold reads", heads, rows)


def _restarts(found: Findings) -> Sheet:
    rows = [
        [
            _name(found, name),
            spread([one.killed_seconds for one in rounds]),
            spread([one.stopping_seconds for one in rounds]),
            spread([one.clean_seconds for one in rounds]),
        ]
        for name, rounds in found.restarts.items()
    ]
    heads = ["restart", "first row after kill -9, s [min–max]", "clean stop, s [min–max]", "first row after it, s"]
    return Sheet("restart", heads, rows)


def _memory(found: Findings) -> Sheet:
    phases = list(dict.fromkeys(phase for peaks in found.memory_bytes.values() for phase in peaks))
    rows = []
    for name, peaks in found.memory_bytes.items():
        most = max(peaks.values())
        bound = found.memory_bound_mb
        verdict = ("within" if most <= bound * 1e6 else "OVER") + f" {bound} MB" if name == _OURS else "–"
        cells = (f"{peaks[phase] / 1e6:,.0f}" if phase in peaks else "–" for phase in phases)
        rows.append([_name(found, name), *cells, f"{most / 1e6:,.0f}", verdict])
    return Sheet("memory: greatest PSS of all its processes, MB", ["memory", *phases, "greatest", "bound"], rows)


def _told(found: Findings) -> Sheet:
    """What keyhaus tells about itself after each phase, as far as it does."""
    phases = found.counters.get(_OURS, {})
    names = [name for name in _COUNTERS if any(name in told for told in phases.values())]

    def rows() -> Iterator[list[str]]:
        for phase, told in phases.items():
            yield [phase, *(f"{int(told[name]):,}" if told.get(name, "").isdigit() else "–" for name in names)]

    return Sheet("keyhaus' INFO after each phase", ["after", *names], list(rows()) if names else [])
