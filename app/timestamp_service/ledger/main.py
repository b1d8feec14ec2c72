"""The command `timestamp-ledger`: records instants at a rate and keeps a ledger, or checks a ledger."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from timestamp_service import settings
from timestamp_service.ledger import book
from timestamp_service.ledger.check import CheckError, check_api, check_table
from timestamp_service.ledger.client import Server
from timestamp_service.ledger.load import Load, Options
from timestamp_service.ledger.run import Run

EXIT_WRONG = 1
EXIT_USAGE = 2
# At most so many sentences about what is wrong are printed.
_PRINTED_MAX = 1000


def main() -> None:
    """Run the command of the process's arguments, and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command; return 0 when nothing is wrong, 1 when something is, 2 when it cannot be done."""
    chosen = _parser().parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except (OSError, ValueError, settings.SettingError, book.BookError, CheckError) as error:
        sys.stderr.write(f"timestamp-ledger: {error}\n")
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="timestamp-ledger", description=__doc__)
    commands = parser.add_subparsers(required=True)
    load = commands.add_parser("run", help="record at a rate until the duration is over, SIGTERM or SIGINT")
    load.set_defaults(run=_run)
    _connection_options(load, required=True)
    load.add_argument("--ledger", type=Path, required=True, metavar="FILE", help="a new file")
    load.add_argument("--rate", type=float, default=500, help="records a second (default: 500)")
    load.add_argument("--duration", type=float, metavar="SECONDS", help="default: until it is stopped")
    load.add_argument("--connections", type=int, default=64, help="default: 64")
    load.add_argument(
        "--get-rate", type=float, default=0, help="reads a second of acknowledged ids (default: 0)"
    )
    load.add_argument("--get-connections", type=int, default=8, help="default: 8")
    load.add_argument(
        "--get-age",
        type=float,
        default=10,
        metavar="SECONDS",
        help="read records acknowledged this long ago",
    )
    load.add_argument(
        "--timeout", type=float, default=20, metavar="SECONDS", help="of a request (default: 20)"
    )
    load.add_argument(
        "--give-up",
        type=float,
        default=300,
        metavar="SECONDS",
        help="stop retrying a record after this long (default: 300)",
    )
    load.add_argument(
        "--drain", type=float, default=30, metavar="SECONDS", help="wait at the end for unfinished records"
    )
    load.add_argument(
        "--progress", type=float, metavar="SECONDS", help="print the counts to stderr this often"
    )
    load.add_argument(
        "--without-keys",
        action="store_true",
        help="send no idempotency keys, and no record again: each attempt has an instant of its own",
    )
    load.add_argument(
        "--strict", action="store_true", help="count each failed request as wrong, also one that was repeated"
    )
    check = commands.add_parser(
        "check", help="check that each record of a ledger is there, once and unchanged"
    )
    check.set_defaults(run=_check)
    _connection_options(check, required=False)
    check.add_argument("--ledger", required=True, metavar="FILE", help="of a run; - is the standard input")
    check.add_argument(
        "--database",
        action="store_true",
        help="check the table of each database of DB_URL, by DB_USERNAME and DB_PASSWORD or DB_PASSWORD_FILE",
    )
    check.add_argument(
        "--wait",
        type=float,
        default=30,
        metavar="SECONDS",
        help="wait this long for the consumer (default: 30)",
    )
    check.add_argument("--sample", type=int, metavar="N", help="read only N records by their ids, not all")
    check.add_argument("--connections", type=int, default=8, help="default: 8")
    return parser


def _connection_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--url", required=required, help="of nginx: https://timestamps.example.com")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="trust this CA alone (default: the system's)")


def _run(chosen: argparse.Namespace) -> int:
    options = Options(
        server=Server.of(chosen.url, chosen.ca),
        file=chosen.ledger,
        rate=chosen.rate,
        duration=chosen.duration,
        connections=chosen.connections,
        get_rate=chosen.get_rate,
        get_connections=chosen.get_connections if chosen.get_rate else 0,
        get_age=chosen.get_age,
        timeout=chosen.timeout,
        give_up=chosen.give_up,
        drain=chosen.drain,
    )
    try:
        load = uvloop.run(_load(options, Run.new(keyed=not chosen.without_keys), chosen.progress))
    except ExceptionGroup as group:
        # The error of one of the tasks: the ledger cannot be written.
        raise group.exceptions[0] from None
    summary = load.summary()
    _print(summary)
    failed = summary["post"]["failed"] + summary["get"]["failed"]
    wrong = list(load.wrong)
    if chosen.strict and failed:
        wrong.append(f"{failed} requests failed")
    return _print_wrong(wrong)


async def _load(options: Options, run: Run, progress: float | None) -> Load:
    load = Load(options, run)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, load.stop)
    running = asyncio.ensure_future(load.run())
    while progress is not None and not running.done():
        await asyncio.wait([running], timeout=progress)
        sys.stderr.write(f"{json.dumps(load.summary())}\n")
        sys.stderr.flush()
    await running
    return load


def _check(chosen: argparse.Namespace) -> int:
    if chosen.ledger == "-":
        held = book.read(sys.stdin)
    else:
        with Path(chosen.ledger).open(encoding="ascii") as file:
            held = book.read(file)
    if chosen.database:
        databases = settings.read_databases(os.environ)
        verdicts = [check_table(database, held, chosen.wait) for database in databases]
    elif chosen.url is None:
        raise ValueError("give --url or --database")
    else:
        server = Server.of(chosen.url, chosen.ca)
        verdicts = [uvloop.run(check_api(server, held, chosen.wait, chosen.sample, chosen.connections))]
    for verdict in verdicts:
        _print(verdict.counts())
    return _print_wrong([sentence for verdict in verdicts for sentence in verdict.wrong()])


def _print(counts: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(counts)}\n")


def _print_wrong(wrong: Sequence[str]) -> int:
    for sentence in wrong[:_PRINTED_MAX]:
        sys.stderr.write(f"WRONG: {sentence}\n")
    if len(wrong) > _PRINTED_MAX:
        sys.stderr.write(f"WRONG: and {len(wrong) - _PRINTED_MAX} more\n")
    return EXIT_WRONG if wrong else 0
