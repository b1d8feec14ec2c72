"""Traces: which process reports where, what Zipkin's unit is, and which settings are refused."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import rendered
import yaml
from rendered import ADDRESSES, KAFKA, ROLES, WEB, Texts

import playbooks

URL = "https://traces.example.org/api/v2/spans"
UNITS = ("timestamp-command", "timestamp-query", "timestamp-consumer", "timestamp-consumer-kafka2")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    """Give the files of nodes with a collector elsewhere."""
    settings = {"timestamp_traces_url": URL, "timestamp_traces_networks": ["203.0.113.0/24"]}
    plays = rendered.plays(rendered.template_tasks, only=("timestamp", "zipkin"))
    return rendered.run(tmp_path_factory.mktemp("traced"), plays, settings)


def traces_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(TRACES_\w+)=(.*)$", text, re.MULTILINE))


def test_processes_report_to_the_collector_and_leave_the_share_to_nginx(texts: Texts) -> None:
    for unit in (*UNITS, *(f"{unit}-next" for unit in UNITS)):
        found = traces_of(texts[WEB[0]][f"{unit}/process.env.j2"])
        # One consumer of a node takes the lines of nginx, also while a release runs beside it.
        lines = found.pop("TRACES_NGINX_SOCKET", None)
        assert lines == ("/run/timestamp-consumer/nginx.sock" if unit == "timestamp-consumer" else None)
        assert found == {
            "TRACES_URL": URL,
            "TRACES_PER_SECOND": "10",
            "TRACES_SHARE": "0",
            "TRACES_SLOW_SECONDS": "1",
        }
        service = texts[WEB[0]][f"{unit}/process.service.j2"]
        assert "IPAddressAllow=localhost 192.0.2.0/24 203.0.113.0/24\n" in service
    # It takes the place of a consumer, whose folder it has not.
    moving = traces_of(texts[WEB[0]]["timestamp-consumer-moving/process.env.j2"])
    assert moving["TRACES_NGINX_SOCKET"] == ""


def test_they_report_nowhere_by_default_and_to_zipkin_beside_them(tmp_path: Path) -> None:
    plays = [{"hosts": "web", "gather_facts": False, "roles": [{"role": "timestamp", "tags": "never"}]}]
    expression = "{{ timestamp_api_units.query.environment.TRACES_URL | default('') }}"
    plays[0]["post_tasks"] = [rendered.debug("timestamp", {}, {"url": expression})]
    grouped = {"zipkin": {"hosts": {WEB[0]: None}}}
    written = rendered.inventory

    def with_zipkin(folder: Path) -> dict[str, object]:
        described = written(folder)
        described["nodes"]["children"] |= grouped
        return described

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rendered, "inventory", with_zipkin)
        found = rendered.run(tmp_path, plays, {})
    assert found[WEB[0]]["url"] == "http://127.0.0.1:9411/api/v2/spans"
    assert found[WEB[1]]["url"] == ""


def test_unit_of_zipkin(texts: Texts, tmp_path: Path) -> None:
    text = texts[WEB[0]]["zipkin/zipkin.service.j2"]
    assert "--armeria.ports[0].ip=127.0.0.1 --armeria.ports[0].port=9411 " in text
    unit = tmp_path / "zipkin.service"
    unit.write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", text, flags=re.MULTILINE))
    for command in (("verify", "--man=no"), ("security", "--offline=true", "--threshold=13")):
        done = subprocess.run(
            ["systemd-analyze", *command, str(unit)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "Unknown" in done.stderr) == (0, False), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("web", "zipkin", "settings", "said"),
    [
        (WEB[:1], [], {}, ""),
        (WEB, [], {}, ""),
        (WEB[:1], WEB[:1], {}, ""),
        (WEB[:1], WEB[:1], {"zipkin_spans_max": 200_000, "zipkin_heap_mb": 250}, ""),
        (WEB, WEB, {}, "Empty the group zipkin"),
        (WEB, WEB[:1], {}, "Empty the group zipkin"),
        (WEB[:1], KAFKA[:1], {}, "Empty the group zipkin"),
        (WEB[:1], WEB[:1], {"zipkin_spans_max": 102_401}, "Set zipkin_heap_mb to 129 or more"),
    ],
)
def test_settings_that_lose_spans_are_refused(
    tmp_path: Path, web: list[str], zipkin: list[str], settings: dict[str, int], said: str
) -> None:
    groups = {"web": web, "zipkin": zipkin, "postgresql": KAFKA[:1], "kafka": KAFKA[:1]}
    hosts = {name: {"node_address": ADDRESSES[name]} for name in (*WEB, KAFKA[0])}
    children = {name: {"hosts": dict.fromkeys(members)} for name, members in groups.items()}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": children}}))
    tasks = [{"ansible.builtin.import_role": {"name": "zipkin", "tasks_from": "preflight"}}]
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "web", "gather_facts": False, "tasks": tasks}])
    )
    settings = {"cache_folder": str(tmp_path), "ansible_connection": "local", **settings}  # type: ignore[dict-item]
    done = playbooks.run(
        *("-i", "hosts.yml", f"--extra-vars={json.dumps(settings)}", "play.yml"),
        folder=tmp_path,
        ANSIBLE_ROLES_PATH=str(ROLES),
    )
    assert (done.returncode == 0) == (not said), done.stdout + done.stderr
    assert said in playbooks.on_one_line(done)
