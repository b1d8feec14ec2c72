"""What `make audit` makes of the reports of lynis and testssl.sh."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli import audit
from cli.audit import Finding
from cli.inventory import Host, Service

REPORT = """lynis_version=3.0.8
warning[]=PKGS-7392|Found one or more vulnerable packages.|-|-|
suggestion[]=SSH-7408|Consider hardening SSH configuration|MaxSessions (set 10 to 2)|-|
hardening_index=81
"""


def test_report_of_lynis_is_read() -> None:
    index, findings = audit.lynis_findings("db", REPORT)
    assert index == 81
    assert [(finding.id, finding.where) for finding in findings] == [("PKGS-7392", "db"), ("SSH-7408", "db")]
    assert "MaxSessions" in findings[1].text


def test_report_without_an_index_is_no_report() -> None:
    with pytest.raises(ValueError, match="did not finish"):
        audit.lynis_findings("db", "lynis_version=3.0.8\n")


def test_report_of_testssl_is_read() -> None:
    report = [
        {"id": "TLS1", "severity": "OK", "finding": "not offered"},
        {"id": "cert_revocation <hostCert#1>", "severity": "HIGH", "finding": "none"},
    ]
    assert audit.testssl_findings("web", report) == [Finding("web", "cert_revocation", "HIGH: none")]


def test_check_that_testssl_could_not_make_differs_from_one_that_failed() -> None:
    report = [
        {"id": "scanProblem", "severity": "FATAL", "finding": "repeated TCP connect problems"},
        {"id": "sessionresumption_ticket", "severity": "WARN", "finding": "check failed"},
        {"id": "BREACH", "severity": "MEDIUM", "finding": "potentially vulnerable"},
    ]
    assert [finding.checked for finding in audit.testssl_findings("web", report)] == [False, False, True]


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([[True]], 1),
        ([[False], [True, True]], 2),
        ([[False]] * 9, audit.ATTEMPTS),
    ],
)
def test_what_could_not_be_checked_is_looked_at_again(looks: list[list[bool]], expected: int) -> None:
    made = iter([[Finding("web", "a", "", checked) for checked in look] for look in looks])
    taken: list[list[Finding]] = []

    def look() -> list[Finding]:
        taken.append(next(made))
        return taken[-1]

    assert audit.until_all_is_checked(look, {}) == taken[-1]
    assert len(taken) == expected


def test_waived_check_is_not_looked_at_again() -> None:
    waived = Finding("here", "engine_problem", "WARN: no engine", checked=False)
    looks = iter([[waived]])
    assert audit.until_all_is_checked(lambda: next(looks), {"engine_problem": "reason"}) == [waived]


def test_what_is_not_waived_is_left_and_a_waiver_for_nothing_is_named() -> None:
    findings = [Finding("web", "a", ""), Finding("web", "b", "")]
    assert audit.unwaived(findings, {"a": "reason", "c": "reason"}) == [findings[1]]
    assert audit.superfluous(findings, {"a": "reason", "c": "reason"}) == ["c"]


def test_every_node_and_nginx_on_every_web_node_is_audited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = {"db1": {"kafka"}, "db2": {"kafka", "postgresql"}, "web1": {"web"}, "web2": {"web"}}
    hosts = [
        Host(f"{name}.x", frozenset(of), ("ssh",), f"10.0.0.{number}")
        for number, (name, of) in enumerate(groups.items())
    ]
    service = Service("https://10.0.0.9", Path("ca.crt"), Path("secrets"), None, tuple(hosts))
    tried: list[str] = []
    bad = {"id": "new", "severity": "HIGH", "finding": "bad"}
    waived = [
        {"id": one, "severity": "LOW", "finding": "known"}
        for one in yaml.safe_load(audit.WAIVERS.read_text())["testssl"]
    ]

    def testssl(address: str) -> list[dict[str, str]]:
        tried.append(address)
        return [*waived, bad] if address == "10.0.0.3:443" else waived

    monkeypatch.setattr(audit, "lynis_archive", lambda _: b"")
    monkeypatch.setattr(audit, "run_lynis", lambda node, _: f"hardening_index=8{node.address[-1]}\n")
    monkeypatch.setattr(audit, "run_testssl", testssl)
    assert audit.audit(service) == 1
    assert tried == ["10.0.0.2:443", "10.0.0.3:443"]
    printed = capsys.readouterr().out
    for name, index in (("db1", 80), ("db2", 81), ("web1", 82), ("web2", 83)):
        assert f"lynis    {name:<8} hardening index {index}" in printed
    assert "FAIL     web2     new: HIGH: bad" in printed
    assert "1 findings are left." in printed


def test_every_waiver_has_a_reason() -> None:
    waivers = yaml.safe_load(audit.WAIVERS.read_text())
    assert set(waivers) == {"devsec", "lynis", "testssl"}
    for kind, entries in waivers.items():
        for one, reason in entries.items():
            assert str(reason).endswith("."), f"{kind} {one}"
