#!/usr/bin/python3
"""What a node can say of itself: units, certificates, volumes, ports, and what it reaches.

Printed as JSON for `make diagnose`, which sends this file to the node, so that it works on one that was never
set up. With --textfile, what can be watched of it is written as metrics for Prometheus' node exporter.
Python's standard library alone, and on a broker confluent-kafka, as role kafka has placed it: it runs with
the system's interpreter.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib
import json
import os
import pathlib
import platform
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

CERTIFICATE_AUTHORITY = "/etc/timestamp-service/ca.crt"
# A certificate, and the key that belongs to it.
CERTIFICATES = (
    (CERTIFICATE_AUTHORITY, ""),
    ("/etc/kafka/server.pem", "/etc/kafka/server.pem"),
    ("/etc/nginx/timestamp-service.crt", "/etc/nginx/timestamp-service.key"),
    ("/etc/timestamp-service/peer.crt", "/etc/timestamp-service/peer.key"),
    ("/etc/timestamp-service/monitoring/node.crt", "/etc/timestamp-service/monitoring/node.key"),
    ("/etc/timestamp-service/monitoring/prometheus.crt", "/etc/timestamp-service/monitoring/prometheus.key"),
)
# Written by role postgresql into the settings of its clusters.
CLUSTERS = "/etc/postgresql/*/*/conf.d/timestamp-service.conf"
# Where it is, nginx's certificate is obtained by ACME (role nginx).
NGINX_FOLDER = "/etc/nginx/"
ACME_TIMER = "/etc/systemd/system/nginx-acme.timer"
VOLUMES = ("/", "/var/lib/kafka", "/var/lib/postgresql")
# Of Debian's time daemons: no two of them are installed.
TIME_UNITS = ("chrony.service", "ntpsec.service", "openntpd.service", "systemd-timesyncd.service")
UNIT_PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "UnitFileState")
SECONDS = 5
KAFKA_FOLDER = "/opt/kafka"
# What is to be the same on all nodes that have it: links to versions, and files.
SHARED = {
    "the application's release": "/opt/timestamp-service/current",
    "Kafka's version": f"{KAFKA_FOLDER}/current",
    "the authority of certificates": CERTIFICATE_AUTHORITY,
}
KAFKA_SETTINGS = "/etc/kafka/admin.properties"
KAFKA_SECRETS = "/etc/kafka/admin-secrets.properties"
# Units whose restarts are counted, where they are loaded.
COUNTED = (
    "timestamp-*.service",
    "kafka.service",
    "postgresql@*.service",
    "nginx.service",
    "keepalived.service",
    "prometheus*.service",
)
# Jobs that a play runs as units.
JOBS = {f"timestamp-{job}.service": job for job in ("backup", "rebuild", "restore")}
# What the number of updates that wait follows from.
PACKAGES = ("/var/lib/dpkg/status", "/var/lib/apt/lists")
REBOOT_MARK = "/run/reboot-required"
BACKUP_MARK = "/etc/timestamp-service/backup-saved"
# A voter that has not had all that the active controller had for so long is behind.
BEHIND_SECONDS = 10


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program; one that is missing or takes over 20 s counts as failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def clusters() -> list[pathlib.Path]:
    """Folders of settings of our clusters of PostgreSQL, but for those that were replaced and are kept."""
    folders = [pathlib.Path(path).parents[1] for path in sorted(glob.glob(CLUSTERS))]
    return [folder for folder in folders if "manual" not in text_of(folder / "start.conf").splitlines()]


def text_of(path: pathlib.Path) -> str:
    """The text of a file; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def certificates() -> list[dict[str, Any]]:
    """Each certificate: its path, when it begins and ends, if its key fits, and if ACME renews it.

    Times are those of Unix; those of a certificate that cannot be read are None.
    """
    found = []
    of_clusters = [(str(folder / "server.crt"), str(folder / "server.key")) for folder in clusters()]
    for path, key in (*CERTIFICATES, *of_clusters):
        if not os.path.exists(path):
            continue
        said = run("openssl", "x509", "-in", path, "-noout", "-dates", "-pubkey")
        begin, end, public = (*said.stdout.split("\n", 2), "", "", "")[:3]
        fits = not key or run("openssl", "pkey", "-in", key, "-pubout").stdout == public
        readable = said.returncode == 0 and begin.startswith("notBefore=") and end.startswith("notAfter=")
        times = [
            ssl.cert_time_to_seconds(one.partition("=")[2]) if readable else None for one in (begin, end)
        ]
        found.append(
            {
                "path": path,
                "not_before": times[0],
                "not_after": times[1],
                "key_fits": fits,
                "by_acme": path.startswith(NGINX_FOLDER) and os.path.exists(ACME_TIMER),
            }
        )
    return found


def shared() -> dict[str, str]:
    """What is to be the same on all nodes that have it, by its name: a version, or the SHA-256 of a file."""
    found = {}
    for what, path in SHARED.items():
        if os.path.islink(path):
            found[what] = os.path.basename(os.readlink(path))
        elif os.path.isfile(path):
            found[what] = f"sha256 {hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:12]}"
    return found


def volumes() -> list[dict[str, Any]]:
    """Each volume there: free and whole size in bytes, and the share of its inodes that is free (0 to 1)."""
    found = []
    data = r"^data_directory\s*=\s*'([^']*)'"
    settings = [re.search(data, text_of(folder / "postgresql.conf"), re.MULTILINE) for folder in clusters()]
    folders = [match[1] for match in settings if match and not match[1].startswith("/var/lib/postgresql/")]
    for path in (*VOLUMES, *folders):
        if os.path.isdir(path):
            state = os.statvfs(path)
            found.append(
                {
                    "path": path,
                    "free": state.f_bavail * state.f_frsize,
                    "size": state.f_blocks * state.f_frsize,
                    "free_inodes": state.f_favail / state.f_files if state.f_files else 1.0,
                }
            )
    return found


def units(names: list[str]) -> list[dict[str, str]]:
    """Ask systemd about units; for each that is not active, the end of its journal too."""
    if not names:
        return []
    said = run("systemctl", "show", "--property=" + ",".join(UNIT_PROPERTIES), *names)
    found = []
    for block in said.stdout.strip().split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if not unit.get("Id"):
            continue
        if unit.get("ActiveState") != "active":
            # What the process itself said last: systemd's own lines only repeat that it ended.
            journal = ("journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=3")
            unit["journal"] = run(*journal, f"_SYSTEMD_UNIT={unit['Id']}").stdout
        found.append(unit)
    return found


def outdated(names: list[str]) -> list[list[str]]:
    """Each unit, of these and of all that are noted, that runs with something else than what is on the disk.

    With it: the path of what is different.
    """
    noted = [path.name for path in pathlib.Path("/run/unit_state").glob("*.*")]
    said = run("/usr/local/lib/timestamp-service/unit_state", "compare", *sorted({*names, *noted}))
    return [line.split(" ", 1) for line in said.stdout.splitlines()]


def updates() -> dict[str, list[str]]:
    """Packages that wait for an update, and those of them whose update mends a fault of security.

    As the lists of packages say, which the node renews daily.
    """
    said = run("apt-get", "--simulate", "--quiet=2", "dist-upgrade")
    lines = [line.split(maxsplit=2) for line in said.stdout.splitlines() if line.startswith("Inst ")]
    secure = [name for _, name, rest in lines if "debian-security" in rest.lower()]
    return {"all": [name for _, name, _ in lines], "security": secure}


def reboot() -> list[str]:
    """Why the node waits for a reboot, such as programs that still run though an update has replaced them."""
    reasons = ["an update asks for it"] if os.path.exists(REBOOT_MARK) else []
    said = run("/usr/local/lib/timestamp-service/unit_state", "replaced")
    return reasons + [f"{name} runs what an update has replaced" for name in said.stdout.splitlines()]


def failed_units() -> list[str]:
    """Names of all units that systemd calls failed."""
    said = run("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full")
    return [line.split()[0] for line in said.stdout.splitlines() if line.strip()]


def time_unit() -> str:
    """Name of the unit that keeps the time; empty where there is none."""
    loaded = [one["Id"] for one in units(list(TIME_UNITS)) if one.get("LoadState") == "loaded"]
    return (loaded or [""])[0]


def reach(peer: str) -> dict[str, str]:
    """Open a TCP connection to ADDRESS:PORT; with Kafka a TLS one as well, trusting our CA alone."""
    host, _, port = peer.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), SECONDS) as plain:
            if port == "9092":
                context = ssl.create_default_context(cafile=CERTIFICATE_AUTHORITY)
                with context.wrap_socket(plain, server_hostname=host):
                    pass
    except (OSError, ValueError) as error:
        return {"peer": peer, "error": str(error) or type(error).__name__}
    return {"peer": peer, "error": ""}


def open_local(port: int, path: str) -> Any:
    """Open a path of a process on loopback; raises OSError."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(f"http://127.0.0.1:{port}{path}", timeout=SECONDS)


def ask(port: int) -> dict[str, Any]:
    """Ask a process on loopback if it is ready: the status (0 when it does not answer) and what it said."""
    try:
        with open_local(port, "/ready") as answer:
            return {"port": port, "status": answer.status, "said": ""}
    except urllib.error.HTTPError as error:
        return {"port": port, "status": error.code, "said": error.read(500).decode(errors="replace")}
    except OSError as error:
        return {"port": port, "status": 0, "said": str(error)}


def exporter(name: str, port: int) -> dict[str, str]:
    """Ask an exporter on loopback for its figures; the error is empty when it answers."""
    try:
        with open_local(port, "/metrics") as answer:
            answer.read()
    except OSError as error:
        return {"name": name, "error": str(error) or type(error).__name__}
    return {"name": name, "error": ""}


def targets(port: int) -> list[dict[str, str]]:
    """Ask Prometheus on this node for what it reads: job, host, and an error, which is empty when it does.

    What was down a moment ago may be up again before the next look: it counts as read for two minutes.
    """
    try:
        with open_local(port, "/api/v1/targets?state=active") as answer:
            active = json.load(answer)["data"]["activeTargets"]
        with open_local(port, "/api/v1/query?query=max_over_time(up[2m])==1") as answer:
            lately = {named(one["metric"]) for one in json.load(answer)["data"]["result"]}
    except (OSError, ValueError, KeyError) as error:
        return [{"job": "prometheus", "instance": "", "error": str(error) or type(error).__name__}]
    away = {named(one["labels"]) for one in active if one["health"] == "down"} - lately
    return [
        {
            "job": named(one["labels"])[0],
            "instance": one["labels"]["instance"],
            # One that has not been read yet is "unknown".
            "error": one["lastError"] if named(one["labels"]) in away else "",
        }
        for one in active
    ]


def named(labels: dict[str, str]) -> tuple[str, str]:
    """Return the process, or the job, and the host that labels of Prometheus name."""
    return labels.get("process", labels["job"]), labels["instance"]


def projections(port: int) -> list[dict[str, Any]]:
    """Ask the query API, by its metrics, which of the databases that it reads from are healthy."""
    try:
        with open_local(port, "/metrics") as answer:
            text = answer.read().decode()
    except OSError:
        # Whether it answers is the affair of `ask`.
        return []
    pattern = r'^timestamp_query_projection_%s\{.*projection="([^"]+)".*\} (\S+)$'
    healthy, lacks = (
        dict(re.findall(pattern % name, text, re.MULTILINE)) for name in ("healthy", "behind_messages")
    )
    return [
        {
            "at": name.partition("/")[0],
            "healthy": float(value) == 1.0,
            "lacks": int(float(lacks.get(name, 0))),
        }
        for name, value in healthy.items()
    ]


def database(port: int) -> dict[str, Any]:
    """Ask PostgreSQL on this node for its connections, and whether the table of records is there."""
    query = (
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
        " current_setting('max_connections'), to_regclass('public.timestamp_records') IS NOT NULL"
    )
    said = run("runuser", "-u", "postgres", "--", "psql", f"--port={port}", "-XAtc", query, "timestamps")
    if said.returncode:
        return {"error": said.stderr.strip().splitlines()[-1] if said.stderr.strip() else "psql failed"}
    used, most, table = said.stdout.strip().split("|")
    release = platform.freedesktop_os_release().get("VERSION_ID", "")
    return {
        "error": "",
        "connections": int(used),
        "most": int(most),
        "table": table == "t",
        "debian": release,
    }


def settings(path: str) -> dict[str, str]:
    """Return the properties of a file of Kafka's."""
    lines = (line.partition("=") for line in pathlib.Path(path).read_text().splitlines())
    return {name: value for name, _, value in lines if not name.startswith("#")}


def partitions(broker: str) -> dict[str, list[str]]:
    """Ask a broker for the partitions without a leader, and those of which a replica is not in sync."""
    major, minor = sys.version_info[:2]
    sys.path += glob.glob(f"{KAFKA_FOLDER}/confluent_kafka-*-cp{major}{minor}")
    client = importlib.import_module("confluent_kafka.admin").AdminClient(
        {
            "bootstrap.servers": broker,
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": CERTIFICATE_AUTHORITY,
            "sasl.mechanism": settings(KAFKA_SETTINGS)["sasl.mechanism"],
            "sasl.username": "admin",
            "sasl.password": settings(KAFKA_SECRETS)["admin_password"],
            "log_level": 0,
        }
    )
    found: dict[str, list[str]] = {"leaderless": [], "behind": []}
    for topic in client.list_topics(timeout=SECONDS).topics.values():
        for number, partition in topic.partitions.items():
            found["leaderless"] += [f"{topic.topic}-{number}"] if partition.leader < 0 else []
            found["behind"] += (
                [f"{topic.topic}-{number}"] if len(partition.isrs) < len(partition.replicas) else []
            )
    return found


def voters(broker: str) -> dict[str, list[int]]:
    """Ask a broker for the controllers that vote, and those of them that are behind the active one."""
    tool = f"{KAFKA_FOLDER}/current/bin/kafka-metadata-quorum.sh"
    said = run(
        *("env", "KAFKA_HEAP_OPTS=-Xmx64m -XX:TieredStopAtLevel=1", tool),
        *(f"--bootstrap-server={broker}", f"--command-config={KAFKA_SETTINGS}"),
        *("describe", "--replication"),
    )
    if said.returncode:
        raise OSError((said.stderr.strip() or "kafka-metadata-quorum failed").splitlines()[-1])
    found: dict[str, list[int]] = {"voters": [], "late": []}
    for line in said.stdout.splitlines():
        words = line.split()
        if words and words[-1] in ("Leader", "Follower"):
            found["voters"].append(int(words[0]))
            late = time.time() - int(words[-2]) / 1000 > BEHIND_SECONDS
            found["late"] += [int(words[0])] if late and words[-1] == "Follower" else []
    return found


def kafka(broker: str) -> dict[str, Any]:
    """Ask the broker of this node how the cluster is."""
    try:
        return {"error": "", **partitions(broker), **voters(broker)}
    # One of librdkafka's too, whose class is known only where it is.
    except Exception as error:
        return {"error": str(error) or type(error).__name__}


def state(question: dict[str, Any]) -> dict[str, Any]:
    """All that is asked for: units, peers and ports come from whoever asks."""
    return {
        "time": time.time(),
        "units": units(question.get("units", [])),
        "outdated": outdated([name for name in question.get("units", []) if not name.endswith(".timer")]),
        "updates": updates(),
        "reboot": reboot(),
        "time_unit": time_unit(),
        "failed_units": failed_units(),
        "certificates": certificates(),
        "shared": shared(),
        "volumes": volumes(),
        "firewall": run("nft", "list", "table", "inet", "timestamp_service").returncode == 0,
        "reached": [reach(peer) for peer in question.get("peers", [])],
        "ready": [ask(port) for port in question.get("ports", [])],
        "projections": projections(question["query"]) if question.get("query") else [],
        "database": database(question["database"]) if question.get("database") else None,
        "kafka": kafka(question["kafka"]) if question.get("kafka") else None,
        "exporters": [exporter(name, port) for name, port in question.get("exporters", {}).items()],
        "targets": targets(question["prometheus"]) if question.get("prometheus") else [],
    }


def shown(*names: str) -> list[dict[str, str]]:
    """Ask systemd about units by name or pattern; times are those of Unix, after an @."""
    properties = "--property=Id,ActiveState,NRestarts,ExecMainStartTimestamp"
    said = run("systemctl", "show", "--timestamp=unix", properties, *names)
    blocks = said.stdout.strip().split("\n\n")
    found = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
    return [unit for unit in found if unit.get("Id")]


def jobs() -> dict[str, float]:
    """The jobs that run, with the Unix time since when."""
    return {
        JOBS[unit["Id"]]: float(unit["ExecMainStartTimestamp"][1:])
        for unit in shown(*JOBS)
        if unit["ActiveState"] in ("active", "activating") and unit["ExecMainStartTimestamp"].startswith("@")
    }


def synchronized() -> bool | None:
    """Whether the clock is synchronized; None in a container, which has the clock of its host."""
    if run("systemd-detect-virt", "--quiet", "--container").returncode == 0:
        return None
    return run("timedatectl", "show", "--property=NTPSynchronized", "--value").stdout.strip() == "yes"


def security_updates(textfile: pathlib.Path) -> int:
    """How many updates for security wait: as the metrics of before say, if no package or list has changed.

    To count them anew takes a second of the processor.
    """
    before = re.search(r"^timestamp_node_security_updates (\d+)$", text_of(textfile), re.MULTILINE)
    changed = max((os.stat(path).st_mtime for path in PACKAGES if os.path.exists(path)), default=0.0)
    if before and textfile.stat().st_mtime > changed:
        return int(before[1])
    return len(updates()["security"])


def release() -> dict[str, str]:
    """What runs here, each by its version; empty where it is not installed."""
    versions = shared()
    return {
        "release": versions.get("the application's release", ""),
        "debian": text_of(pathlib.Path("/etc/debian_version")).strip(),
        "kernel": platform.release(),
        "postgresql": ", ".join(folder.parent.name for folder in clusters()),
        "kafka": versions.get("Kafka's version", "").rpartition("-")[2],
    }


def sample(name: str, value: float | str, **labels: str) -> str:
    """One line of Prometheus' text form."""
    escaped = {key: text.replace("\\", "\\\\").replace('"', '\\"') for key, text in labels.items()}
    inner = ",".join(f'{key}="{text}"' for key, text in escaped.items())
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def metrics(textfile: pathlib.Path) -> str:
    """What can be watched of the node in Prometheus' text form; the metrics of before are in `textfile`."""
    ends = [(one["path"], one["not_after"]) for one in certificates() if one["not_after"] is not None]
    there = volumes()
    clock = synchronized()
    saved = os.stat(BACKUP_MARK).st_mtime if os.path.exists(BACKUP_MARK) else None
    name = "timestamp_node_"
    families: list[tuple[str, str, list[str]]] = [
        (
            "timestamp_certificate_not_after_seconds",
            "Unix time at which a certificate ends.",
            [sample("timestamp_certificate_not_after_seconds", end, path=path) for path, end in ends],
        ),
        (
            f"{name}certificate_not_after_seconds",
            "The same, by the name that the alerts use.",
            [sample(f"{name}certificate_not_after_seconds", end, certificate=path) for path, end in ends],
        ),
        *(
            (
                f"timestamp_volume_{what}_bytes",
                f"{said} on the volume of a path.",
                [sample(f"timestamp_volume_{what}_bytes", one[what], path=one["path"]) for one in there],
            )
            for what, said in (("free", "Bytes that are free"), ("size", "Bytes in all"))
        ),
        (
            f"{name}failed_unit",
            "Units that systemd calls failed.",
            [sample(f"{name}failed_unit", 1, unit=unit) for unit in failed_units()],
        ),
        (
            f"{name}unit_restarts_total",
            "How often systemd has restarted a unit by itself.",
            [
                sample(f"{name}unit_restarts_total", unit["NRestarts"], unit=unit["Id"])
                for unit in shown(*COUNTED)
                if unit.get("NRestarts", "").isdigit()
            ],
        ),
        (
            f"{name}reboot_required",
            "Whether an update asks for a reboot.",
            [sample(f"{name}reboot_required", int(os.path.exists(REBOOT_MARK)))],
        ),
        (
            f"{name}security_updates",
            "Updates for security that wait.",
            [sample(f"{name}security_updates", security_updates(textfile))],
        ),
        (
            f"{name}clock_synchronized",
            "Whether the clock is synchronized; absent in a container.",
            [] if clock is None else [sample(f"{name}clock_synchronized", int(clock))],
        ),
        (
            f"{name}release_info",
            "What runs here, by its version.",
            [sample(f"{name}release_info", 1, **release())],
        ),
        (
            f"{name}job_running_since_seconds",
            "Unix time since when a job of a play runs.",
            [sample(f"{name}job_running_since_seconds", since, job=job) for job, since in jobs().items()],
        ),
        (
            f"{name}backup_last_success_seconds",
            "Unix time at which a backup was last saved from here.",
            [] if saved is None else [sample(f"{name}backup_last_success_seconds", f"{saved:.0f}")],
        ),
        (
            f"{name}facts_seconds",
            "Unix time at which this was written.",
            [sample(f"{name}facts_seconds", f"{time.time():.0f}")],
        ),
    ]
    lines = []
    for family, said, samples in families:
        if samples:
            kind = "counter" if family.endswith("_total") else "gauge"
            lines += [f"# HELP {family} {said}", f"# TYPE {family} {kind}", *samples]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Print the state, or write the metrics."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--textfile", help="write metrics to this file")
    parser.add_argument("question", nargs="?", default="{}", help="JSON: units, peers, ports, database")
    chosen = parser.parse_args(arguments)
    if chosen.textfile:
        # Never half a file: the exporter may read at any time.
        new = pathlib.Path(chosen.textfile + ".new")
        new.write_text(metrics(pathlib.Path(chosen.textfile)), encoding="utf-8")
        new.chmod(0o644)
        new.replace(chosen.textfile)
    else:
        json.dump(state(json.loads(chosen.question)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
