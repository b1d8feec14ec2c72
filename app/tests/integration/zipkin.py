"""Zipkin, and an nginx with the settings that the role gives it for traces, as processes on loopback."""

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import jinja2

from tests.integration.processes import Server, free_port
from tests.integration.service import Service

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TEMPLATE = Path(__file__).resolve().parents[3] / "roles/nginx/templates/nginx.conf.j2"
# The settings around which a server is put here: they have all that is about correlation and traces.
_BEGIN, _END = "  # --- One correlationId", "  # --- Limits."
_NGINX = """\
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{}}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{settings}
  server {{
    listen 127.0.0.1:{port};
    access_log syslog:server=unix:{lines},nohostname,tag=nginx span if=$has_span;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header correlationId $forwarded_correlation_id;
    proxy_set_header traceparent $forwarded_traceparent;
    location / {{
      proxy_pass http://$route;
    }}
  }}
}}
"""


def zipkin_jar() -> Path:
    """Return Zipkin's jar: in $ZIPKIN_HOME, or the one that the role zipkin has fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timestamp-service/kafka"
    found = sorted(Path(os.environ.get("ZIPKIN_HOME") or cache).glob("zipkin-*/libs/zipkin-server-*.jar"))
    assert found, "there is no Zipkin: set ZIPKIN_HOME, or run playbooks/zipkin_distribution.yml"
    return found[-1]


class Zipkin(Server):
    """A server of its own, which keeps traces in memory."""

    def __init__(self, folder: Path) -> None:
        """Start it as the unit does."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api/v2/spans"
        jvm = ["java", "-Xmx128m", "-Xss256k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        listen = {"ip": "127.0.0.1", "port": self.port, "protocols[0]": "http"}
        options = [f"--armeria.ports[0].{name}={value}" for name, value in listen.items()]
        super().__init__("zipkin", [*jvm, "-jar", str(zipkin_jar()), *options], folder)
        self.start()

    def answers(self) -> bool:
        """Tell whether it takes spans."""
        try:
            return bool(self.get("/health")["status"] == "UP")
        except OSError:
            return False

    def get(self, path: str) -> Any:
        """Return what it answers. Raises OSError."""
        with _opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def trace(self, identifier: str) -> list[dict[str, Any]]:
        """Return the spans of a trace, in the order of their beginnings; none when it is not known."""
        try:
            spans: list[dict[str, Any]] = self.get(f"/api/v2/trace/{identifier}")
        except OSError:
            return []
        return sorted(spans, key=lambda span: span["timestamp"])


class Nginx(Server):
    """nginx in front of both APIs, over plain HTTP."""

    def __init__(self, folder: Path, command: Service, query: Service, lines: Path) -> None:
        """Report to the socket `lines`."""
        self.port = free_port()
        text = _TEMPLATE.read_text()
        part = text[text.index(_BEGIN) : text.index(_END)]
        settings = jinja2.Template(part).render(
            own="",
            nginx_upstream_connections=8,
            contract_nginx_socket_folder=folder,
            access_log=f"{folder}/access.json json",
            nginx_traced=True,
            nginx_traces_share_percent=0,
        )
        for api, service in (("command", command), ("query", query)):
            settings = settings.replace(f"unix:{folder}/{api}.sock", f"127.0.0.1:{service.port}")
        file = folder / "nginx.conf"
        file.write_text(_NGINX.format(folder=folder, settings=settings, port=self.port, lines=lines))
        user = "user root; " if os.geteuid() == 0 else ""
        options = ["-e", f"{folder}/error.log", "-c", str(file), "-g", f"{user}daemon off;"]
        super().__init__("nginx", ["nginx", *options], folder)
        self.start()

    def answers(self) -> bool:
        """Tell whether it listens."""
        try:
            with _opener.open(f"http://127.0.0.1:{self.port}/docs", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
