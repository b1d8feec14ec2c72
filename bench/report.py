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

_LINE = "{:{width}} {:>9} {:>9} {:>9} {:8} {:16} {:>7} {:>7} {:>11}  {:16}  {}"
_HEAD = (
    *("", "median", "min", "max", "unit", "ratio (min-max)", "p50 ms", "p99 ms"),
    *("CPU µs each", "x bare (min-max)", "by process"),
)


@dataclass(frozen=True)
class Sample:
    """One round of one row.

    `value` and `ruler` are in `unit`; p50 and p99 are in milliseconds; `cpu` holds the CPU µs per request (or
    message) of each kind of process, `ruler_cpu` those of the ruler together.
    """

    row: str
    unit: str
    value: float
    ruler: float | None = None
    p50: float | None = None
    p99: float | None = None
    cpu: Mapping[str, float] = field(default_factory=dict)
    failed: int = 0
    ruler_cpu: float | None = None


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
    """Return one line per row: medians over its rounds, and the least and the most of values and ratios.

    The CPU time of all kinds of processes together comes first, and its ratio to that of the ruler.
    """
    rows: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        rows[sample.row].append(sample)
    lines: list[tuple[str, ...]] = [_HEAD]
    for name, rounds in rows.items():
        values = [sample.value for sample in rounds]
        together = [sum(sample.cpu.values()) for sample in rounds]
        each = {kind: median([sample.cpu[kind] for sample in rounds]) for kind in rounds[0].cpu}
        cpu = [f"{kind} {microseconds:.0f}" for kind, microseconds in each.items() if microseconds >= 0.5]
        failed = sum(sample.failed for sample in rounds)
        lines.append(
            (
                name,
                *map(_number, (median(values), min(values), max(values))),
                rounds[0].unit,
                _ratios((sample.value, sample.ruler) for sample in rounds),
                _middle(sample.p50 for sample in rounds),
                _middle(sample.p99 for sample in rounds),
                f"{median(together):.0f}" if each else "",
                _ratios(zip(together, (sample.ruler_cpu for sample in rounds), strict=True)),
                f"{', '.join(cpu)}{f'  FAILED: {failed}' if failed else ''}",
            )
        )
    width = max(len(line[0]) for line in lines)
    return "\n".join(_LINE.format(*line, width=width).rstrip() for line in lines)


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


def _ratios(pairs: Iterable[tuple[float, float | None]]) -> str:
    """Return the median, the least and the most of values divided by their rulers; empty without any."""
    ratios = [value / ruler for value, ruler in pairs if ruler]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else ""


def _middle(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _number(median(known)) if known else ""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
