"""Check 2: a graph of who must come before whom, from what clients were told; a circle in it is an anomaly.

    ww   wrote the version before          wr   wrote what was read
    rw   read what was overwritten         rt   had ended before the other began

It knows nothing of sequence numbers, of the store, or of the model. Anomalies have Adya's names: G0 is a circle of ww,
G1c of ww and wr, G-single has one rw, G2 more of them; with real time in it the circle is a "real-time" one. G1a is a
read of what was never committed, G1b one of a version that was not its writer's last.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import networkx as nx

from tests.support.isolation.observed import Observed, Place, Value
from tests.support.isolation.operations import FAR, Operation
from tests.support.isolation.workload import LISTS
from tests.support.simulate.oracle import Broken

WW, WR, RW, RT = "ww", "wr", "rw", "rt"
# The circles that are looked for, in this order: their name, their edges, and how many more edges of the kind rw.
_DATA: Final = frozenset((WW, WR))


class Graph:
    """The graph of one history."""

    def __init__(self, operations: list[Operation]) -> None:
        self._all = [Observed(operation) for operation in operations]
        self._writers: dict[tuple[Place, bytes], Observed] = {}
        for one in self._all:
            for place, values in one.writes.items():
                for value in values:
                    self._writers[place, value] = one
        read = {
            (place, value) for one in self._all if one.certain for place, seen in one.reads.items() for value in seen
        }
        # Whoever doesn't know whether it was committed was, if anybody has seen it.
        self._nodes = [
            one
            for one in self._all
            if one.certain
            or (not one.aborted and any((place, v) in read for place, vs in one.writes.items() for v in vs))
        ]
        self._edges: dict[tuple[Observed, Observed], set[str]] = {}

    def check(self) -> None:
        """Raises Broken, with the anomaly's name."""
        for one in self._nodes:
            self._check_reads(one)
        self._connect()
        for suffix, more in (("", frozenset[str]()), ("real-time ", frozenset((RT,)))):
            for name, circle in self._circles(_DATA | more, more):
                raise Broken(f"{suffix}{name}: {self._shown(circle)}")

    # single reads

    def _check_reads(self, reader: Observed) -> None:
        if reader.wrong:
            raise Broken(f"INTERNAL: {reader.wrong}: {reader}")
        for place, value in reader.reads.items():
            if len(set(value)) < len(value):
                raise Broken(f"DUPLICATE: {value} in {place}: {reader}")
            for element in value:
                writer = self._writers.get((place, element))
                if writer is None:
                    raise Broken(f"GARBAGE: nobody wrote {element!r} to {place}: {reader}")
                if writer.aborted:
                    raise Broken(f"G1a: {element!r} in {place} was never committed: {reader}: {writer}")
            writer = self._writers[place, value[-1]] if value else reader
            if writer is not reader and writer.writes[place][-1] != value[-1]:
                raise Broken(f"G1b: {value[-1]!r} in {place} is not the last of its writer: {reader}: {writer}")

    # edges

    def _add(self, before: Observed, after: Observed, kind: str) -> None:
        if before is not after:
            self._edges.setdefault((before, after), set()).add(kind)

    def _connect(self) -> None:
        places = {place for one in self._nodes for place in (*one.reads, *one.writes)}
        for place in sorted(places):
            if place[1] in LISTS:
                self._connect_list(place)
            else:
                self._connect_register(place)
        self._connect_times()

    def _connect_list(self, place: Place) -> None:
        """All reads are prefixes of the longest, which is the order of the versions."""
        readers = [one for one in self._nodes if place in one.reads]
        longest: Value = max((one.reads[place] for one in readers), key=len, default=())
        for one in self._nodes:  # one's own elements follow what one has read
            if place in one.reads and place in one.writes and len(one.reads[place]) == len(longest):
                longest = (*longest, *one.writes[place])
        writers = [self._writers[place, element] for element in longest]
        for before, after in pairwise(writers):
            self._add(before, after, WW)
        unseen = [one for one in self._nodes if place in one.writes and one not in writers]
        for reader in readers:
            value = reader.reads[place]
            if longest[: len(value)] != value:
                raise Broken(f"ORDER of versions: {value} is no beginning of {longest} in {place}: {reader}")
            if value:
                self._add(writers[len(value) - 1], reader, WR)
            following = next((one for one in writers[len(value) :] if one is not reader), None)
            for writer in unseen if following is None else (following,):
                self._add(reader, writer, RW)

    def _connect_register(self, place: Place) -> None:
        """A version comes before another where somebody has read the one and then written the other."""
        writers = [one for one in self._nodes if place in one.writes]
        following: dict[Value, list[Observed]] = {(): list(writers)}
        for writer in writers:
            if writer.reads.get(place):
                following.setdefault(writer.reads[place], []).append(writer)
                self._add(self._writers[place, writer.reads[place][0]], writer, WW)
        for reader in self._nodes:
            if place not in reader.reads:
                continue
            value = reader.reads[place]
            if value:
                self._add(self._writers[place, value[0]], reader, WR)
            for writer in following.get(value, ()):
                self._add(reader, writer, RW)

    def _connect_times(self) -> None:
        """Only the last ones to end before: the earlier ones come before those."""
        events = [(one.begun, 1, one) for one in self._nodes]
        events += [(one.ended, 0, one) for one in self._nodes if one.ended != FAR]
        frontier: list[Observed] = []
        for _, begins, one in sorted(events, key=lambda event: event[:2]):
            if begins:
                for before in frontier:
                    self._add(before, one, RT)
            else:
                frontier = [other for other in frontier if other.ended >= one.begun] + [one]

    # circles

    def _circles(self, plain: frozenset[str], more: frozenset[str]) -> Iterator[tuple[str, list[Observed]]]:
        if circle := self._circle(frozenset((WW,)) | more):
            yield "G0", circle
        if circle := self._circle(plain):
            yield "G1c", circle
        graph = self._graph(plain)
        for (reader, writer), kinds in self._edges.items():
            if RW in kinds and reader in graph and writer in graph:
                try:
                    yield "G-single", nx.shortest_path(graph, writer, reader)
                except nx.NetworkXNoPath:
                    continue
        if circle := self._circle(plain | {RW}):
            yield "G2", circle

    def _graph(self, kinds: frozenset[str]) -> nx.DiGraph[Observed]:
        graph: nx.DiGraph[Observed] = nx.DiGraph()
        for (before, after), there in self._edges.items():
            if there & kinds:
                graph.add_edge(before, after)
        return graph

    def _circle(self, kinds: frozenset[str]) -> list[Observed]:
        """A shortest circle of edges of these kinds."""
        graph = self._graph(kinds)
        for members in nx.strongly_connected_components(graph):
            if len(members) > 1:
                part = graph.subgraph(members)
                begin = min(members, key=lambda one: one.begun)
                paths = [nx.shortest_path(part, after, begin) for after in part.successors(begin)]
                return [begin, *min(paths, key=len)[:-1]]
        return []

    def _shown(self, circle: list[Observed]) -> str:
        lines = []
        for before, after in zip(circle, [*circle[1:], circle[0]], strict=True):
            kinds = "/".join(sorted(self._edges.get((before, after), ())))
            lines.append(f"{before}\n    -{kinds}->")
        return "\n" + "\n".join(lines)
