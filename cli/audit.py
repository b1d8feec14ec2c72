"""`make audit`: Debian's lynis on every node, and testssl.sh against nginx on every web node.

Every finding is either fixed or waived in audit_waivers.yml with its reason. lynis is sent to a node, run
there and removed again; nothing is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cli.inventory import Host, Service
from cli.root import NO_ANSWER, NOT_ROOT

WAIVERS = Path(__file__).with_name("audit_waivers.yml")
HARDENING_INDEX = 80
# The severities of a check that testssl.sh could not make, for example because a connection failed.
NOT_CHECKED = ("WARN", "FATAL")
# The severities that are worse than good.
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
    """What an audit reports: where, its id, its text, and whether the audit could check it at all."""

    where: str
    id: str
    text: str
    checked: bool = True


def unwaived(findings: Iterable[Finding], waivers: Mapping[str, str]) -> list[Finding]:
    """Return the findings without a waiver."""
    return [finding for finding in findings if finding.id not in waivers]


def superfluous(findings: Iterable[Finding], waivers: Mapping[str, str]) -> list[str]:
    """Return the ids of waivers that no finding needs."""
    return sorted(set(waivers) - {finding.id for finding in findings})


def lynis_findings(where: str, report: str) -> tuple[int, list[Finding]]:
    """Read lynis' report: its hardening index, and its warnings and suggestions. Raises ValueError."""
    index = re.search(r"^hardening_index=(\d+)$", report, re.MULTILINE)
    if not index:
        raise ValueError("lynis did not finish")
    lines = re.findall(r"^(?:warning|suggestion)\[\]=([^|]+)\|([^|]*)\|([^|]*)", report, re.MULTILINE)
    return int(index[1]), [Finding(where, one, " ".join((text, detail))) for one, text, detail in lines]


def testssl_findings(where: str, report: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Read testssl.sh's report: everything that it rates worse than good."""
    # A number behind the id distinguishes several certificates.
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
    """Run lynis on a node; returns its report. Takes about a minute. Raises ValueError, saying why not."""
    done = subprocess.run(
        node.root_ssh(RUN_LYNIS),
        input=node.password_lines.encode() + archive,
        capture_output=True,
        check=False,
    )
    if done.returncode in (NO_ANSWER, NOT_ROOT):
        raise ValueError(done.stderr.decode(errors="replace").strip())
    return done.stdout.decode(errors="replace")


def run_testssl(address: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run testssl.sh against ADDRESS:PORT; returns its report. Takes 1 to 2 minutes. Raises ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["testssl", "--quiet", "--warnings", "off", "--color", "0", "--jsonfile", str(report)]
        done = subprocess.run([*command, *options, address], capture_output=True, text=True, check=False)
        if not report.exists():
            raise ValueError(f"testssl.sh did not finish: {(done.stderr or done.stdout).strip()[-500:]}")
        findings: list[dict[str, Any]] = json.loads(report.read_text())
        return findings


def tls_findings(node: Host) -> list[Finding]:
    """Run testssl.sh against nginx on a node."""
    return testssl_findings(node.short_name, run_testssl(f"{node.address}:443"))


def audit(service: Service) -> int:
    """Run both audits and print their findings; returns 1 when one is neither fixed nor waived."""
    waivers = yaml.safe_load(WAIVERS.read_text())
    archive = lynis_archive(waivers["lynis"])
    left: list[Finding] = []
    for node in service.nodes:
        try:
            index, findings = lynis_findings(node.short_name, run_lynis(node, archive))
        except ValueError as error:
            left.append(Finding(node.short_name, "report", str(error)))
            continue
        print(f"lynis    {node.short_name:<8} hardening index {index}", flush=True)
        if index < HARDENING_INDEX:
            left.append(Finding(node.short_name, "index", f"{index} is less than {HARDENING_INDEX}"))
        left += unwaived(findings, waivers["lynis"])
    tls: list[Finding] = []
    for node in service.nodes:
        if "web" in node.groups:
            try:
                findings = until_all_is_checked(partial(tls_findings, node), waivers["testssl"])
            except ValueError as error:
                left.append(Finding(node.short_name, "report", str(error)))
                continue
            print(f"testssl  {node.short_name:<8} {len(findings)} findings", flush=True)
            tls += findings
            left += unwaived(findings, waivers["testssl"])
    left += [
        Finding("here", one, "is waived, but no finding needs the waiver")
        for one in superfluous(tls, waivers["testssl"])
    ]
    for finding in left:
        print(f"FAIL     {finding.where:<8} {finding.id}: {finding.text}")
    print(f"{len(left)} findings are left." if left else "Every finding is fixed or waived.")
    return 1 if left else 0
