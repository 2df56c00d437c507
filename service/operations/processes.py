"""The processes that the service has started, as Prometheus sees them: those that decode images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Children(Collector):
    """How many descendants this process has, and their memory. Where there is no /proc, nothing is told."""

    def describe(self) -> Iterator[Metric]:
        """Yield nothing, so that registering does not look."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield both gauges."""
        if not Path("/proc/self/stat").is_file():
            return
        found = descendants(os.getpid())
        yield GaugeMetricFamily(
            "manyeyes_decode_processes",
            "Processes that the service has started to decode images.",
            value=len(found),
        )
        yield GaugeMetricFamily(
            "manyeyes_decode_processes_resident_memory_bytes",
            "Memory that they hold together; pages that they share count for each.",
            value=sum(found.values()),
        )


def descendants(of: int) -> dict[int, int]:
    """Return the live descendants of a process, in its session: pid → resident bytes.

    Batch jobs lead sessions of their own, and are none of those that decode.
    """
    session = os.getsid(of)
    children: dict[int, list[int]] = defaultdict(list)
    resident: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            # The name in parentheses may itself hold parentheses and spaces.
            fields = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # It has ended meanwhile.
            continue
        state, parent, pages = fields[0], int(fields[1]), int(fields[21])
        if state != "Z" and int(fields[3]) == session:
            children[parent].append(int(entry))
            resident[int(entry)] = pages * _PAGE_BYTES
    found: dict[int, int] = {}
    unseen = list(children[of])
    while unseen:
        pid = unseen.pop()
        found[pid] = resident[pid]
        unseen += children[pid]
    return found
