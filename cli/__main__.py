"""Operate the nodes of an inventory; the Makefile's targets run these commands."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from cli import audit, dashboard, diagnose, down, logs, status, up
from cli.inventory import InventoryError, Service, read_service

Run = Callable[[Service, argparse.Namespace], int]


def _print(fact: object) -> int:
    print(fact)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cli", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, summary: str, run: Run) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.add_argument("--inventory", required=True, help="for example inventories/local")
        added.set_defaults(run=run)
        return added

    one = command(
        "up",
        "Create, boot and set up the local nodes, and record one timestamp.",
        lambda service, options: up.up(service, options.started),
    )
    one.add_argument("--started", type=float, default=time.time(), help="when `make up` began (Unix time)")

    command("stop", "Power the local nodes off.", lambda service, _: down.stop(service))

    one = command(
        "down",
        "Erase the local nodes.",
        lambda service, options: down.down(service, options.force),
    )
    one.add_argument("--force", action="store_true", help="do not ask")

    command("status", "Show the state of every unit.", lambda service, _: status.show(service))
    command("diagnose", "Check everything.", lambda service, _: diagnose.show(service))

    one = command(
        "logs",
        "Show the logs of the nodes.",
        lambda service, options: logs.show(
            service, options.node, options.unit, options.lines, options.follow
        ),
    )
    one.add_argument("--node", default="", help="full or short name of a node; all nodes without it")
    one.add_argument("--unit", default="", help="all units of the service without it")
    one.add_argument("--lines", type=int, default=100, help="entries of each node (100)")
    one.add_argument("--follow", action="store_true", help="show new lines until interrupted")

    one = command(
        "ssh",
        "Open a root shell on a node.",
        lambda service, options: logs.ssh(service, options.node, options.command),
    )
    one.add_argument("--node", default="", help="full or short name of a node")
    one.add_argument("--command", default="", help="run this instead of a shell")

    command(
        "dashboard",
        "Print the address of the dashboard, and how to log in.",
        lambda service, _: dashboard.show(service),
    )
    command("url", "Print the base URL.", lambda service, _: _print(service.url))
    command(
        "ca",
        "Print the path of the CA certificate.",
        lambda service, _: _print(service.certificate_authority),
    )
    command("audit", "Audit the nodes by lynis and testssl.sh.", lambda service, _: audit.audit(service))
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    run: Run = options.run
    try:
        return run(read_service(options.inventory), options)
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
