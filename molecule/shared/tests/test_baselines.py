"""The DevSec baselines (dev-sec.io) for ssh, Linux, PostgreSQL and nginx: each control by its id.

A control is tested here, or waived with its reason in cli/audit_waivers.yml; none is both or neither.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import yaml
from testinfra.host import Host

from cli import audit

GROUP = "nodes"
WAIVERS: Mapping[str, str] = yaml.safe_load(audit.WAIVERS.read_text())["devsec"]
CIPHERS = (
    "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com,"
    "aes256-ctr,aes192-ctr,aes128-ctr"
)
# Debian 13 has more in front of them.
EXCHANGES = (
    "sntrup761x25519-sha512@openssh.com,curve25519-sha256,curve25519-sha256@libssh.org,"
    "diffie-hellman-group-exchange-sha256"
)
MACS = (
    "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com,umac-128-etm@openssh.com,"
    "hmac-sha2-512,hmac-sha2-256"
)
SSHD: Mapping[str, str] = {
    "sshd-01": f"ciphers {CIPHERS}",
    "sshd-02": f"kexalgorithms {EXCHANGES}",
    "sshd-03": f"macs {MACS}",
    "sshd-06": "permitrootlogin without-password",
    "sshd-07": "port 22",
    "sshd-08": "addressfamily any",
    "sshd-11": "strictmodes yes",
    "sshd-12": "syslogfacility AUTH",
    "sshd-13": "loglevel VERBOSE",
    "sshd-17": "permituserenvironment no",
    "sshd-18": "logingracetime 30",
    "sshd-20": "maxsessions 10",
    "sshd-21": "maxstartups 10:30:100",
    "sshd-22": "pubkeyauthentication yes",
    "sshd-23": "ignorerhosts yes",
    "sshd-24": "ignoreuserknownhosts yes",
    "sshd-25": "hostbasedauthentication no",
    "sshd-27": "passwordauthentication no",
    "sshd-28": "permitemptypasswords no",
    "sshd-30": "kerberosauthentication no",
    "sshd-31": "kerberosorlocalpasswd no",
    "sshd-32": "kerberosticketcleanup yes",
    "sshd-33": "gssapiauthentication no",
    "sshd-34": "gssapicleanupcredentials yes",
    "sshd-35": "tcpkeepalive no",
    "sshd-36": "clientaliveinterval 300",
    "sshd-38": "permittunnel no",
    "sshd-40": "allowagentforwarding no",
    "sshd-41": "gatewayports no",
    "sshd-42": "x11forwarding no",
    "sshd-43": "x11uselocalhost yes",
    "sshd-44": "printmotd no",
    "sshd-45": "printlastlog no",
    "sshd-46": "banner none",
}
SYSCTL: Mapping[str, Mapping[str, str]] = {
    "sysctl-02": {"net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.default.rp_filter": "1"},
    "sysctl-03": {"net.ipv4.icmp_ignore_bogus_error_responses": "1"},
    "sysctl-04": {"net.ipv4.icmp_echo_ignore_broadcasts": "1"},
    "sysctl-09": {"net.ipv4.conf.all.arp_announce": "2"},
    "sysctl-10": {"net.ipv4.tcp_rfc1337": "1"},
    "sysctl-11": {"net.ipv4.tcp_syncookies": "1"},
    "sysctl-13": {
        "net.ipv4.conf.all.accept_source_route": "0",
        "net.ipv4.conf.default.accept_source_route": "0",
        "net.ipv6.conf.all.accept_source_route": "0",
        "net.ipv6.conf.default.accept_source_route": "0",
    },
    "sysctl-14": {"net.ipv4.conf.all.accept_redirects": "0", "net.ipv4.conf.default.accept_redirects": "0"},
    "sysctl-15": {"net.ipv4.conf.all.secure_redirects": "0", "net.ipv4.conf.default.secure_redirects": "0"},
    "sysctl-16": {"net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.default.send_redirects": "0"},
    "sysctl-17": {"net.ipv4.conf.all.log_martians": "1", "net.ipv4.conf.default.log_martians": "1"},
    "sysctl-20": {"net.ipv6.conf.all.accept_redirects": "0", "net.ipv6.conf.default.accept_redirects": "0"},
}
# A command that prints nothing where all is right.
SILENT: Mapping[str, str] = {
    "sshd-48": "awk '$5 ~ /^[0-9]+$/ && $5 < 2047' /etc/ssh/moduli",
    "os-01": "find / -xdev -name .rhosts -o -xdev -name hosts.equiv",
    "os-04": "printenv PATH | tr : '\\n' | grep -x -e '' -F -e .",
    "os-07": "for file in passwd group; do cut -d: -f3 /etc/$file | sort | uniq -d; done",
    "os-09": "find / -xdev -iname .netrc",
    "package-01": "dpkg-query -W -f '${db:Status-Status}\\n' inetd openbsd-inetd inetutils-inetd xinetd"
    " 2>/dev/null | grep -x installed",
    "package-02": "dpkg-query -W -f '${db:Status-Status}\\n' telnetd 2>/dev/null | grep -x installed",
    "package-03": "dpkg-query -W -f '${db:Status-Status}\\n' rsh-server 2>/dev/null | grep -x installed",
    "package-05": "dpkg-query -W -f '${db:Status-Status}\\n' nis ypserv 2>/dev/null | grep -x installed",
    "package-06": "dpkg-query -W -f '${db:Status-Status}\\n' tftpd tftpd-hpa atftpd"
    " 2>/dev/null | grep -x installed",
    "package-10": "dpkg-query -W -f '${db:Status-Status}\\n' prelink 2>/dev/null | grep -x installed",
}
# Path, owner, group and the most that its mode may hold.
FILES: Mapping[str, tuple[str, str, str, int]] = {
    "sshd-04": ("/etc/ssh", "root", "root", 0o755),
    "sshd-47": ("/etc/ssh/sshd_config.d/10-timestamp-service.conf", "root", "root", 0o600),
    "os-02": ("/etc/shadow", "root", "shadow", 0o640),
    "os-03": ("/etc/passwd", "root", "root", 0o644),
}
# Of PostgreSQL: a query, and what it must answer.
QUERIES: Mapping[str, tuple[str, str]] = {
    "postgres-04": (
        "SELECT count(*) FROM pg_language WHERE NOT lanpltrusted AND lanname NOT IN ('internal', 'c')",
        "0",
    ),
    "postgres-06": (
        "SELECT count(*) FROM pg_authid WHERE rolcanlogin AND rolpassword NOT LIKE 'SCRAM-SHA-256$%'",
        "0",
    ),
    "postgres-07": ("SELECT count(*) FROM pg_roles WHERE rolsuper OR rolcreaterole OR rolcreatedb", "1"),
    "postgres-08": (
        "SELECT count(*) FROM pg_class, aclexplode(relacl)"
        " WHERE relname = 'pg_authid' AND grantee <> relowner",
        "0",
    ),
    "postgres-12": ("SHOW ssl_ciphers", "HIGH:MEDIUM:+3DES:!aNULL"),
}
POSTGRESQL: Mapping[str, str] = {
    "postgres-01": "systemctl is-active 'postgresql@*' | grep -v -x active",
    "postgres-03": "pgrep --count --full '^/usr/lib/postgresql/.*/bin/postgres ' | grep -v -x 1",
    "postgres-09": "find /var/lib/postgresql/*/main ! -user postgres -o -perm /022",
    "postgres-14": "grep --count -w -e peer -e ident /etc/postgresql/*/main/pg_hba.conf | grep -v -x 1",
}
NGINX: Mapping[str, str] = {
    # The dashboard has an nginx, a unit and a user of its own.
    "nginx-01": "ps -C nginx -o user=,unit=,args= | grep ' nginx.service .*worker' | grep -v ^www-data",
    "nginx-02": "find /etc/nginx/nginx.conf ! -user root -o -perm /022",
    "nginx-03": "grep -e sites-enabled -e conf.d /etc/nginx/nginx.conf",
    "nginx-04": "ps -C nginx -o unit=,args= | grep --count '^nginx.service .*nginx: master' | grep -v -x 1",
    "nginx-05": "grep --count '^ *server_tokens off;' /etc/nginx/nginx.conf | grep -v -x 1",
    "nginx-10": "grep --count 'X-Content-Type-Options nosniff' /etc/nginx/nginx.conf | grep -x 0",
}
TESTED = [*SSHD, *SYSCTL, *SILENT, *FILES, *QUERIES, *POSTGRESQL, *NGINX]
# Every control of the four baselines (of nginx the older one, without the rules of a military guideline).
CONTROLS = {
    *(f"nginx-{number:02}" for number in range(1, 11)),
    *(f"postgres-{number:02}" for number in range(1, 16)),
    *(f"sshd-{number:02}" for number in range(1, 49) if number != 26),
    *(f"os-{number:02}" for number in range(1, 11)),
    "os-05b",
    *(f"package-{number:02}" for number in range(1, 11) if number != 4),
    *(f"sysctl-{number:02}" for number in range(1, 35) if number not in (18, 31)),
    "sysctl-31a",
    "sysctl-31b",
}


def test_every_control_is_tested_or_waived() -> None:
    assert len(TESTED) == len(set(TESTED))
    assert set(TESTED) & set(WAIVERS) == set()
    assert set(TESTED) | set(WAIVERS) == CONTROLS


def test_ssh_is_as_the_baseline_says(node: Host) -> None:
    settings = (
        node.check_output("sshd -T").replace("mlkem768x25519-sha256,sntrup761x25519-sha512,", "").splitlines()
    )
    assert {control: line for control, line in SSHD.items() if line not in settings} == {}


def test_banner_does_not_name_debian(node: Host) -> None:
    assert "DebianBanner no" in node.file(FILES["sshd-47"][0]).content_string


def test_kernel_is_as_the_baseline_says(node: Host) -> None:
    names = [name for wanted in SYSCTL.values() for name in wanted]
    actual = dict(line.split(" = ", 1) for line in node.run("sysctl " + " ".join(names)).stdout.splitlines())
    wrong = {
        (control, name): actual.get(name, "missing")
        for control, wanted in SYSCTL.items()
        for name, value in wanted.items()
        # A kernel without IPv6 has none of its parameters.
        if actual.get(name, value if ".ipv6." in name else "missing") != value
    }
    assert wrong == {}


def silent(node: Host, commands: Mapping[str, str]) -> dict[str, str]:
    """Return what was printed by those of the commands that print something; an error of theirs counts."""
    results = {control: node.run(command) for control, command in commands.items()}
    printed = {control: (result.stdout + result.stderr).strip() for control, result in results.items()}
    return {control: text for control, text in printed.items() if text}


def test_system_is_as_the_baseline_says(node: Host) -> None:
    assert silent(node, SILENT) == {}
    for control, (path, user, group, mode) in FILES.items():
        file = node.file(path)
        assert (file.user, file.group) == (user, group), control
        assert file.mode & ~mode == 0, control


def test_postgresql_is_as_the_baseline_says(node: Host) -> None:
    if not node.file("/etc/postgresql").exists:
        pytest.skip("no PostgreSQL on this node")
    assert silent(node, POSTGRESQL) == {}
    answers = {
        control: node.check_output("runuser -u postgres -- psql -XAtc %s", query)
        for control, (query, _) in QUERIES.items()
    }
    assert answers == {control: answer for control, (_, answer) in QUERIES.items()}


def test_nginx_is_as_the_baseline_says(node: Host) -> None:
    if not node.file("/etc/nginx").exists:
        pytest.skip("no nginx on this node")
    assert silent(node, NGINX) == {}
