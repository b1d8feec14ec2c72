"""The samples of a measurement, as they come and as a table."""

import os
import platform
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import FrameType


@dataclass(frozen=True)
class Sample:
    """One round of one row.

    `value` and `ruler` are in `unit`; p50 and p99 are in milliseconds; `cpu` holds the CPU µs per request (or
    message) of each process.
    """

    row: str
    unit: str
    value: float
    ruler: float | None = None
    p50: float | None = None
    p99: float | None = None
    cpu: Mapping[str, float] = field(default_factory=dict)
    failed: int = 0


def show(samples: Generator[Sample, None, None]) -> None:
    """Print each sample to stderr as it comes, and the table at the end, also on Ctrl-C and SIGTERM.

    These two end the program with 130, once `samples` has cleaned up.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    seen: list[Sample] = []
    try:
        with closing(samples):
            for sample in samples:
                seen.append(sample)
                print(f"  {sample.row}: {sample.value:,.6g} {sample.unit}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        print(table(seen), flush=True)


def table(samples: Iterable[Sample]) -> str:
    """Return one line per row: median, min and max over its rounds."""
    rows: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        rows[sample.row].append(sample)
    lines = [
        f"{'':36} {'median':>9} {'min':>9} {'max':>9} {'unit':8} {'ratio':>5} {'p50 ms':>7} {'p99 ms':>7}"
        "  CPU µs each"
    ]
    for name, rounds in rows.items():
        values = [sample.value for sample in rounds]
        ratios = [sample.value / sample.ruler for sample in rounds if sample.ruler]
        processes = dict.fromkeys(process for sample in rounds for process in sample.cpu)
        cpu = [
            f"{process} {median([sample.cpu.get(process, 0.0) for sample in rounds]):.0f}"
            for process in processes
        ]
        failed = sum(sample.failed for sample in rounds)
        lines.append(
            f"{name:36} {_number(median(values)):>9} {_number(min(values)):>9} {_number(max(values)):>9} "
            f"{rounds[0].unit:8} {f'{median(ratios):.2f}' if ratios else '':>5} "
            f"{_middle([sample.p50 for sample in rounds]):>7} {_middle([sample.p99 for sample in rounds]):>7}"
            f"  {', '.join(cpu)}{f'  FAILED: {failed}' if failed else ''}"
        )
    return "\n".join(line.rstrip() for line in lines)


def machine() -> str:
    """Return the machine on which the figures were measured, and how busy it was before."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = "/".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}, {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, load before {load}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _middle(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _number(median(known)) if known else ""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
