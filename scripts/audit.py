"""`make audit`: Debian's lynis on every node, and testssl.sh against nginx on every web node.

Every finding is either mended or waived in docs/waivers.yml with its reason. lynis is sent to a node, run
there and removed again; nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from inventory import PROJECT, Host, InventoryError, Service, read_service

WAIVERS = PROJECT / "docs/waivers.yml"
HARDENING_INDEX = 80
# What testssl.sh says of a check that it could not make, for example because a connection of its own failed.
NOT_CHECKED = ("WARN", "FATAL")
# What testssl.sh calls worse than good.
SEVERITIES = ("LOW", "MEDIUM", "HIGH", "CRITICAL", *NOT_CHECKED)
# How often testssl.sh may try, as it fails now and then on a busy computer.
ATTEMPTS = 3
RUN_LYNIS = """set -e
export folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"
tar -xz
chown -R 0:0 .
sh ./lynis audit system --quick --no-colors --profile "$folder/default.prf" >printed 2>&1 </dev/null
cat /var/log/lynis-report.dat
"""


@dataclass(frozen=True)
class Finding:
    """Something that an audit asks for: where, by which id, what it says, and if that was looked at."""

    where: str
    id: str
    text: str
    checked: bool = True


def unwaived(findings: Iterable[Finding], waivers: Mapping[str, str]) -> list[Finding]:
    """Return the findings without a waiver."""
    return [finding for finding in findings if finding.id not in waivers]


def superfluous(findings: Iterable[Finding], waivers: Mapping[str, str]) -> list[str]:
    """Return the ids of waivers that nothing asked for."""
    return sorted(set(waivers) - {finding.id for finding in findings})


def lynis_findings(where: str, report: str) -> tuple[int, list[Finding]]:
    """Read lynis' report: its hardening index, and its warnings and suggestions. Raises ValueError."""
    index = re.search(r"^hardening_index=(\d+)$", report, re.MULTILINE)
    if not index:
        raise ValueError(f"{where}: lynis did not reach its end")
    lines = re.findall(r"^(?:warning|suggestion)\[\]=([^|]+)\|([^|]*)\|([^|]*)", report, re.MULTILINE)
    return int(index[1]), [Finding(where, one, " ".join((text, detail))) for one, text, detail in lines]


def testssl_findings(where: str, report: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Read testssl.sh's report: what it calls worse than good."""
    # Several certificates are told apart by a number behind the id.
    return [
        Finding(
            where,
            re.sub(r" .*", "", entry["id"]),
            f"{entry['severity']}: {entry['finding']}",
            entry["severity"] not in NOT_CHECKED,
        )
        for entry in report
        if entry["severity"] in SEVERITIES
    ]


def until_all_is_checked(look: Callable[[], list[Finding]], waivers: Mapping[str, str]) -> list[Finding]:
    """Look again while something could not be checked, ATTEMPTS times at most; returns the last look."""
    for _ in range(ATTEMPTS):
        findings = look()
        if all(finding.checked for finding in unwaived(findings, waivers)):
            break
    return findings


def lynis_archive(waivers: Mapping[str, str]) -> bytes:
    """Pack Debian's lynis as a folder that runs by itself, with the waived tests left out of the index."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in ("/usr/share/lynis/.", "/etc/lynis/.", "/usr/sbin/lynis"):
            subprocess.run(["cp", "-r", source, name], check=True)
        with (folder / "default.prf").open("a", encoding="utf-8") as profile:
            profile.writelines(f"\nskip-test={one}" for one in waivers if one != "LYNIS")
            profile.write("\n")
        return subprocess.run(["tar", "-cz", "-C", name, "."], capture_output=True, check=True).stdout


def run_lynis(node: Host, archive: bytes) -> str:
    """Run lynis on a node; returns its report. Takes about a minute."""
    done = subprocess.run(
        [*node.ssh, "-o", "BatchMode=yes", RUN_LYNIS], input=archive, capture_output=True, check=False
    )
    return done.stdout.decode(errors="replace")


def run_testssl(address: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run testssl.sh against ADDRESS:PORT; returns its report. Takes one to two minutes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["testssl", "--quiet", "--warnings", "off", "--color", "0", "--jsonfile", str(report)]
        subprocess.run([*command, *options, address], capture_output=True, check=False)
        found: list[dict[str, Any]] = json.loads(report.read_text())
        return found


def tls_findings(node: Host) -> list[Finding]:
    """Run testssl.sh against nginx on a node."""
    return testssl_findings(node.short_name, run_testssl(f"{node.address}:443"))


def audit(service: Service) -> int:
    """Run both audits and print what they find; returns how many findings are neither mended nor waived."""
    waivers = yaml.safe_load(WAIVERS.read_text())
    archive = lynis_archive(waivers["lynis"])
    left: list[Finding] = []
    for node in service.nodes:
        index, findings = lynis_findings(node.short_name, run_lynis(node, archive))
        print(f"lynis    {node.short_name:<8} hardening index {index}", flush=True)
        if index < HARDENING_INDEX:
            left.append(Finding(node.short_name, "index", f"{index} is less than {HARDENING_INDEX}"))
        left += unwaived(findings, waivers["lynis"])
    seen: list[Finding] = []
    for node in service.nodes:
        if "web" in node.groups:
            found = until_all_is_checked(partial(tls_findings, node), waivers["testssl"])
            print(f"testssl  {node.short_name:<8} {len(found)} findings", flush=True)
            seen += found
            left += unwaived(found, waivers["testssl"])
    left += [
        Finding("here", one, "is waived, but nothing asks for it")
        for one in superfluous(seen, waivers["testssl"])
    ]
    for finding in left:
        print(f"FAIL     {finding.where:<8} {finding.id}: {finding.text}")
    print(f"{len(left)} findings are left." if left else "Every finding is mended or waived.")
    return len(left)


def main(arguments: Sequence[str]) -> int:
    """Audit the nodes of an inventory. Exits with 1 when a finding is neither mended nor waived."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inventory", required=True)
    chosen = parser.parse_args(arguments)
    try:
        return 1 if audit(read_service(chosen.inventory)) else 0
    except (InventoryError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
