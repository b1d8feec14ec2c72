"""A Prometheus as a process on loopback, filled with figures, and the dashboard in front of it."""

import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.integration.processes import Process, free_port, until

ROLE = Path(__file__).resolve().parents[3] / "roles/monitoring"
DASHBOARD = ROLE / "files/dashboard"
_NGINX = (ROLE / "templates/nginx.conf.j2").read_text()
_POLICY = re.findall(r'add_header Content-Security-Policy "([^"]+)"', _NGINX)
_PATHS = re.findall(r"location ~ (\^/api/\S+)", _NGINX)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# The figures go on after now: what the rules add would be too old otherwise.
_SETTINGS = """
global: {evaluation_interval: 1s}
rule_files: [alerts.yml]
storage: {tsdb: {out_of_order_time_window: 1h}}
"""


@contextmanager
def prometheus(folder: Path, figures: str) -> Iterator[str]:
    """Run one with `figures` (OpenMetrics' text) and our rules, which fire at once; yield its URL."""
    folder.mkdir()
    (folder / "figures.txt").write_text(figures)
    subprocess.run(
        [
            "promtool",
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            "--max-block-duration=800h",
            "figures.txt",
            "data",
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    rules = (ROLE / "files/alerts.yml").read_text()
    (folder / "alerts.yml").write_text(re.sub(r"(?m)^ +for: .*\n", "", rules))
    (folder / "prometheus.yml").write_text(_SETTINGS)
    port = free_port()
    command = [
        shutil.which("prometheus") or "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--storage.tsdb.retention.time=100d",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.external-url=https://mon:9443/",
    ]
    process = Process("prometheus", command, folder, {"PATH": "/usr/bin:/bin"})
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        process.check_running()
        try:
            with _DIRECT.open(f"{url}/api/v1/rules", timeout=5) as answer:
                return b'"health":"unknown"' not in answer.read()
        except OSError:
            return False

    try:
        until("Prometheus has evaluated its rules", ready, 60)
        yield url
    finally:
        process.end()


class Site:
    """The dashboard on loopback; `prometheus` is the URL that its four paths lead to, none if it is away."""

    def __init__(self, prometheus: str | None) -> None:
        """Serve what the monitoring host's nginx would."""
        site = self
        self.prometheus = prometheus

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site._answer(self)

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        file = DASHBOARD / (path[1:] or "index.html")
        status, kind, body = 404, "text/plain", b"not found"
        if re.search(_PATHS[0], path):
            status, kind, body = self._ask(handler.path)
        elif file.parent == DASHBOARD and file.is_file():
            status, kind, body = 200, _TYPES.get(file.suffix, "text/plain"), file.read_bytes()
        handler.send_response(status)
        handler.send_header("Content-Security-Policy", _POLICY[0])
        handler.send_header("X-Content-Type-Options", "nosniff")
        handler.send_header("Content-Type", f"{kind}; charset=utf-8")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _ask(self, path: str) -> tuple[int, str, bytes]:
        if self.prometheus is None:
            return 502, "text/html", b"<h1>502 Bad Gateway</h1>"
        try:
            with _DIRECT.open(f"{self.prometheus}{path}", timeout=25) as answer:
                return 200, "application/json", answer.read()
        except urllib.error.HTTPError as error:
            return error.code, "application/json", error.read()

    def end(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
