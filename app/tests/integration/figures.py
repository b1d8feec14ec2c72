"""Figures of a service as Prometheus has them, for the dashboard: 90 days, with a good or a bad end."""

import math
from collections.abc import Callable, Iterator, Mapping

DAY = 86_400
# For how long it has been ill, if it is.
ILL = 1200
DATABASES = ("db1", "db2")
BROKERS = (*DATABASES, "db3")
WEB = ("web1", "web2")
NODES = (*BROKERS, "mon", *WEB)
PROJECTIONS = ("timestamp-consumer", "timestamp-consumer-db2")
# The share of acknowledgements within so many seconds.
WITHIN = {
    "0.0025": 0.35,
    "0.005": 0.7,
    "0.01": 0.9,
    "0.025": 0.97,
    "0.05": 0.992,
    "0.25": 1,
    "1": 1,
    "+Inf": 1,
}
REQUESTS = "timestamp_http_request_duration_seconds_count"

# The value at a Unix time; none where there is none.
Value = Callable[[float], float | None]


def rate(time: float) -> float:
    """Return records a second at a Unix time: few at night, and more each month."""
    return (55 + 40 * math.sin(2 * math.pi * time / DAY) + 9 * math.sin(time / 700)) * (1 + time % 1e8 / 4e8)


def times(now: float, days: float) -> Iterator[float]:
    """Yield Unix times, closer the newer they are, and some after `now`: none is old in a slow test."""
    time = now - days * DAY
    while time < now + 1200:
        yield time
        age = now - time
        time += 3600 if age > 8 * DAY else 300 if age > 1.1 * DAY else 60 if age > 7200 else 30


def growth(now: float) -> dict[float, float]:
    """Return how many records there are at each of the times of 90 days."""
    counts, count, before = {}, 0.0, now - 90 * DAY
    for time in times(now, 90):
        count += rate((time + before) / 2) * (time - before)
        counts[time] = count
        before = time
    return counts


def constant(value: float) -> Value:
    """Return a value that never changes."""
    return lambda _: value


def part(counts: Mapping[float, float], share: float) -> Value:
    """Return a share of counts."""
    return lambda time: counts[time] * share


def changed(before: float | None, after: float | None, at: float) -> Value:
    """Return a value that is another one since the Unix time `at`."""
    return lambda time: after if time >= at else before


class Figures:
    """What Prometheus has; a service that is `ill` lacks a broker, and one of its databases is behind."""

    def __init__(self, now: float, ill: bool) -> None:
        """Make figures until some minutes after the Unix time `now`."""
        self._now = now
        self._ill = ill
        self._since = now - ILL if ill else math.inf
        self._families: dict[str, list[str]] = {}
        self._web(growth(now))
        self._kafka()
        for number, node in enumerate(NODES):
            self._node(number, node)
        canary = {"instance": "mon", "job": "node"}
        self._add("timestamp_canary_enabled", canary, constant(1))
        self._add("timestamp_canary_last_success_seconds", canary, lambda time: time - time % 60 - 3)
        self._add("timestamp_canary_duration_seconds", canary, constant(0.083))

    def openmetrics(self) -> str:
        """Return them in OpenMetrics' text."""
        return "\n".join([*(line for lines in self._families.values() for line in lines), "# EOF", ""])

    def _add(self, name: str, labels: Mapping[str, str], value: Value, days: float = 0.04) -> None:
        written = ",".join(f'{key}="{text}"' for key, text in labels.items() if text)
        lines = self._families.setdefault(name, [])
        for time in times(self._now, days):
            number = value(time)
            # For one hour nothing was watched.
            if number is not None and not 8 * 3600 < self._now - time < 9 * 3600:
                lines.append(f"{name}{{{written}}} {number:.10g} {time:.3f}")

    def _web(self, counts: Mapping[float, float]) -> None:
        failed = {time: max(0, time - self._since) * 3.1 for time in counts}
        for instance in WEB:
            node = {"instance": instance, "job": "timestamp"}
            for process in ("timestamp-command", "timestamp-query", *PROJECTIONS):
                self._add("up", {**node, "process": process}, constant(1))
            command = {**node, "process": "timestamp-command"}
            for method, status, share in (("POST", "200", 0.5), ("GET", "200", 1.2), ("GET", "404", 0.01)):
                labels = {**command, "method": method, "route": "/api", "status": status}
                self._add(REQUESTS, labels, part(counts, share), 90)
            labels = {**command, "method": "POST", "route": "/api", "status": "503"}
            self._add(REQUESTS, labels, part(failed, 1), 90)
            self._add("timestamp_command_produced_total", command, part(counts, 0.5), 90)
            for bound, share in WITHIN.items():
                labels = {**command, "le": bound}
                name = "timestamp_command_acknowledgement_seconds_bucket"
                self._add(name, labels, part(counts, share / 2), 90)
            self._add("timestamp_projection_lag_checked_seconds", command, lambda time: time)
            for number, projection in enumerate(PROJECTIONS):
                written = {**node, "process": projection}
                self._add("timestamp_consumer_written_total", written, part(counts, 0.5), 90)
                self._behind({**command, "projection": projection}, self._since if number else math.inf)
            for database in DATABASES:
                labels = {**node, "process": "timestamp-query", "projection": database}
                self._add("timestamp_query_projection_healthy", labels, constant(1))

    def _behind(self, labels: Mapping[str, str], since: float) -> None:
        name = "timestamp_projection_oldest_unread_seconds"
        self._add(name, labels, lambda time: max(0.4 + 0.3 * math.sin(time / 900), time - since), 90)
        name = "timestamp_projection_unread_messages"
        self._add(name, labels, lambda time: max(3, (time - since) * 90))

    def _kafka(self) -> None:
        for instance in BROKERS:
            labels = {"instance": instance, "job": "kafka"}
            away = self._since if instance == "db3" else math.inf
            since = self._since
            self._add("up", labels, changed(1, 0, away))
            for name, before, after in (
                ("kafka_controller_activecontrollercount", float(instance == "db1"), None),
                ("kafka_controller_offlinepartitionscount", 0, None),
                ("kafka_replicas_leadercount", 8, None),
                ("kafka_replicas_underminisrpartitioncount", 0, 3),
                ("kafka_replicas_underreplicatedpartitions", 0, 8),
            ):
                there = before if after is None else after
                end = changed(before, None, away) if instance == "db3" else changed(before, there, since)
                self._add(name, labels, end)
            self._add("kafka_raft_log_end_offset", labels, lambda time: time)
            if instance in DATABASES:
                self._add("up", {"instance": instance, "job": "postgresql"}, constant(1))

    def _node(self, number: int, instance: str) -> None:
        labels = {"instance": instance, "job": "node"}
        self._add("up", labels, constant(1))
        self._add("timestamp_node_facts_seconds", labels, lambda time: time)
        self._add("node_time_seconds", labels, lambda time: time)
        # The size in bytes of each volume, and how fast it fills in bytes a second.
        volumes = {"/": (40e9, 500 + 400 * number), "/var/lib/kafka": (2e12, 210_000)}
        for path, (size, speed) in volumes.items():
            if path == "/" or instance in BROKERS:
                volume = {**labels, "path": path}
                free = size * (0.055 if self._ill and instance == "web2" else 0.6)
                self._add("timestamp_volume_free_bytes", volume, self._falling(free, speed), 8)
                self._add("timestamp_volume_size_bytes", volume, constant(size), 8)
        days = 12.4 if self._ill and instance == "db2" else 301.5 - number
        for file, left in (("ca.crt", 3210.5), (f"{instance}.crt", days)):
            certificate = {**labels, "certificate": f"/etc/timestamp-service/{file}"}
            end = constant(self._now + left * DAY)
            self._add("timestamp_node_certificate_not_after_seconds", certificate, end)
        old = instance == "db2"
        release = "0.1.9-77aa10b2c4d1" if self._ill and instance == "web2" else "0.2.0-1ff639c3babf"
        versions = {
            "release": release if instance in WEB else "",
            "debian": "12.11" if old else "13.2",
            "kernel": "6.1.0-40-amd64" if old else "6.12.48+deb13-amd64",
            "postgresql": ("15" if old else "17") if instance in DATABASES else "",
            "kafka": "4.3.1" if instance in BROKERS else "",
        }
        self._add("timestamp_node_release_info", {**labels, **versions}, constant(1))

    def _falling(self, free: float, speed: float) -> Value:
        return lambda time: free - (time - self._now) * speed
