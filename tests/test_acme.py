"""nginx's certificate by ACME: what nginx answers, when a certificate is due, and how it is exchanged.

The program of the node runs here with another certbot, nginx and systemctl, which note how they are called.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import rendered
import yaml
from rendered import ADDRESSES, PROJECT, WEB, Texts

PROGRAM = PROJECT / "roles/nginx/files/nginx_acme"
DIRECTORY = "https://acme.example.org/directory"
CHALLENGES = "location ^~ /.well-known/acme-challenge/ {"
FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >> "$(dirname "$0")/called"
"""
# It obtains a certificate for as many days as the file `days` says.
CERTBOT = (
    FAKE
    + """
folder=$(dirname "$0")
[ ! -e "$folder/refuses" ] || { echo 'The ACME server refuses.' >&2; exit 1; }
while [ "$1" != --cert-name ]; do shift; done
live=$folder/state/live/$2
mkdir -p "$live"
key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${key[@]}" -subj /CN=acme -days "$(cat "$folder/days")" \\
    -keyout "$live/privkey.pem" -out "$live/fullchain.pem" 2> /dev/null
env | grep ^REQUESTS_CA_BUNDLE= >> "$folder/called" || true
"""
)
BROKEN_NGINX = FAKE + "exit 1\n"


class Node:
    """A folder in the place of a node's folders, where nginx uses a certificate that is not by ACME."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live = folder / "state/live"
        (folder / "days").write_text("90")
        for name, text in (("certbot", CERTBOT), ("nginx", FAKE), ("systemctl", FAKE)):
            self.write_program(name, text)
        (folder / "nginx.crt").write_text("private")
        (folder / "nginx.key").write_text("private")
        self.set()

    def write_program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def set(self, names: str = "b.example.org,a.example.org", **settings: str) -> None:
        values = {"directory": DIRECTORY, "names": names, **settings}
        (self.folder / "acme.conf").write_text(
            "".join(f"{name}='{value}'\n" for name, value in values.items())
        )

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run the program with the node's folders here."""
        text = PROGRAM.read_text()
        for name, path in (
            ("settings", "acme.conf"),
            ("state", "state"),
            ("logs", "logs"),
            ("challenges", "challenges"),
            ("wanted", "wanted"),
            ("used", "nginx"),
        ):
            text, count = re.subn(rf"(?m)^{name}=/.*$", f"{name}={self.folder / path}", text)
            assert count == 1, name
        self.write_program("nginx_acme", text)
        return subprocess.run(
            ["bash", str(self.folder / "nginx_acme"), command],
            env={"PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )

    def succeed(self, *commands: str) -> str:
        """Run commands that must succeed; returns what they said."""
        said = ""
        for command in commands:
            done = self.run(command)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            said += done.stdout
        return said

    def is_due(self) -> bool:
        """Tell whether something is to be done; anything but yes and no is an error."""
        done = self.run("due")
        assert done.returncode in (0, 1), done.stderr
        assert (done.returncode == 0) == bool(done.stdout)
        return done.returncode == 0

    def called(self) -> list[str]:
        """Return how the other programs were called since the last time."""
        file = self.folder / "called"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def used(self) -> tuple[str, str]:
        return (self.folder / "nginx.crt").read_text(), (self.folder / "nginx.key").read_text()

    def obtained(self) -> tuple[str, str]:
        """Return the only certificate that there is, and its key."""
        (live,) = self.live.iterdir()
        return (live / "fullchain.pem").read_text(), (live / "privkey.pem").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_first_certificate_is_obtained_and_nginx_reloaded(node: Node) -> None:
    assert "There is no certificate" in node.succeed("due")
    node.succeed("prepare", "obtain")
    (call,) = node.called()
    folder = node.folder
    for option in (
        f"--server {DIRECTORY}",
        "--domains b.example.org,a.example.org",
        f"--webroot --webroot-path {folder}/challenges",
        f"--config-dir {folder}/state --work-dir {folder}/state/work --logs-dir {folder}/logs",
        "certonly --non-interactive --agree-tos",
        "--register-unsafely-without-email",
    ):
        assert option in call
    # Until the next step, nothing has changed for nginx.
    assert node.used() == ("private", "private")
    assert node.is_due()
    node.succeed("install")
    assert node.used() == node.obtained()
    assert (folder / "nginx.crt").stat().st_mode & 0o777 == 0o644
    assert (folder / "nginx.key").stat().st_mode & 0o777 == 0o600
    assert node.called() == [
        "systemctl --quiet is-active nginx.service",
        "nginx -t -q",
        "systemctl reload nginx.service",
    ]
    assert sorted(path.name for path in folder.glob("nginx.*")) == ["nginx.crt", "nginx.key"]


def test_nothing_is_done_while_nothing_is_due(node: Node) -> None:
    node.succeed("obtain", "install")
    before = node.used()
    node.called()
    assert not node.is_due()
    assert node.succeed("prepare", "obtain", "install") == "No certificate is due.\n"
    assert node.called() == []
    assert node.used() == before


@pytest.mark.parametrize(
    ("lasts", "left", "due"), [(90, 31, False), (90, 29, True), (6, 3, False), (6, 1, True)]
)
def test_certificate_is_due_when_a_third_of_its_time_is_left(
    node: Node, lasts: int, left: int, due: bool
) -> None:
    (node.folder / "days").write_text(str(lasts))
    node.succeed("obtain", "install")
    # The clock of the program goes ahead.
    seconds = (lasts - left) * 86400
    clock = f'[ "$*" != +%s ] || {{ echo $(($(/usr/bin/date +%s) + {seconds})); exit; }}'
    node.write_program("date", f'#!/bin/bash\n{clock}\nexec /usr/bin/date "$@"\n')
    assert node.is_due() == due
    before = node.used()
    node.succeed("obtain", "install")
    assert (node.used() != before) == due


def test_certificate_is_renewed_when_that_is_asked_for(node: Node) -> None:
    node.succeed("obtain", "install")
    before = node.used()
    (node.folder / "wanted").touch()
    assert node.is_due()
    node.succeed("obtain", "install")
    assert node.used() == node.obtained() != before
    assert not node.is_due()


@pytest.mark.parametrize(
    "settings", [{"directory": "https://other.example.org/"}, {"names": "b.example.org"}]
)
def test_another_directory_or_name_is_another_certificate(node: Node, settings: dict[str, str]) -> None:
    node.succeed("obtain", "install")
    first = node.used()
    # Their order is none of it.
    node.set(names="a.example.org,b.example.org")
    assert not node.is_due()
    node.set(**settings)
    assert node.is_due()
    node.succeed("obtain", "install")
    assert node.used() != first
    # The first one is still there.
    node.set()
    assert node.run("due").stdout == "nginx does not use the certificate yet.\n"
    assert node.succeed("obtain", "install").startswith("No certificate is due.")
    assert node.used() == first


def test_server_that_refuses_changes_nothing(node: Node) -> None:
    node.succeed("obtain", "install")
    before = node.used()
    (node.folder / "wanted").touch()
    (node.folder / "refuses").touch()
    (node.folder / "logs").mkdir()
    failed = node.run("obtain")
    assert failed.returncode == 1
    assert "The ACME server refuses." in failed.stderr
    (node.folder / "logs/letsencrypt.log").write_text(
        '{\n  "detail": "Too many certificates.",\n  "status": 429\n}\n'
    )
    failed = node.run("obtain")
    assert failed.returncode == 1
    assert 'The ACME server says: "Too many certificates.",\n' in failed.stderr
    assert node.used() == before
    # The next time tries again.
    assert node.is_due()


@pytest.mark.parametrize("broken", ["nginx", "systemctl reload"])
def test_certificate_that_nginx_does_not_take_is_given_back(node: Node, broken: str) -> None:
    program, _, command = broken.partition(" ")
    node.write_program(program, FAKE + (f'[ "$1" != {command} ]\n' if command else "exit 1\n"))
    node.succeed("obtain")
    failed = node.run("install")
    assert failed.returncode == 1
    assert "nginx does not take the new certificate, and goes on with the one that it has." in failed.stderr
    assert node.used() == ("private", "private")
    assert sorted(path.name for path in node.folder.glob("nginx.*")) == ["nginx.crt", "nginx.key"]
    assert node.is_due()


def test_certificate_without_its_key_is_not_used(node: Node) -> None:
    node.succeed("obtain")
    (live,) = node.live.iterdir()
    key = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        capture_output=True,
        check=True,
    )
    (live / "privkey.pem").write_bytes(key.stdout)
    failed = node.run("install")
    assert failed.returncode == 1
    assert "do not come together" in failed.stderr
    assert node.used() == ("private", "private")


def test_nginx_that_does_not_run_is_not_reloaded(node: Node) -> None:
    node.write_program("systemctl", FAKE + '[ "$2" != is-active ]\n')
    node.succeed("obtain", "install")
    assert node.used() == node.obtained()
    assert "systemctl reload nginx.service" not in node.called()


def test_certificate_that_cannot_be_read_is_obtained_again(node: Node) -> None:
    node.succeed("obtain", "install")
    (live,) = node.live.iterdir()
    (live / "fullchain.pem").write_text("nothing")
    assert "cannot be read" in node.succeed("due")
    node.succeed("obtain", "install")
    assert not node.is_due()


def test_settings_that_are_missing_are_an_error_and_not_a_no(node: Node) -> None:
    (node.folder / "acme.conf").unlink()
    assert node.run("due").returncode == 78


def test_hook_authority_and_address_are_used(node: Node) -> None:
    (node.folder / "hook-of-root").write_text("#!/bin/sh\n")
    node.set(
        hook=str(node.folder / "hook-of-root"), authority="/etc/nginx/acme-ca.crt", email="a@example.org"
    )
    (node.folder / "state").mkdir()
    node.succeed("prepare", "obtain")
    hook = node.folder / "state/hook"
    assert hook.stat().st_mode & 0o777 == 0o500
    call, environment = node.called()
    assert f"--manual-auth-hook {hook} auth --manual-cleanup-hook {hook} cleanup" in call
    assert "--preferred-challenges dns" in call
    assert "--webroot" not in call
    assert "--email a@example.org --no-eff-email" in call
    assert environment == "REQUESTS_CA_BUNDLE=/etc/nginx/acme-ca.crt"
    # It may hold a password.
    node.set()
    node.succeed("prepare")
    assert not hook.exists()


Render = Callable[..., str]


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Give a function that renders nginx.conf of the first web node with settings."""

    @cache
    def rendered_with(**settings: str) -> str:
        plays = rendered.plays(rendered.template_tasks, only=("nginx",))
        texts: Texts = rendered.run(tmp_path_factory.mktemp("acme"), plays, settings, WEB[0])
        return texts[WEB[0]]["nginx/nginx.conf.j2"]

    return rendered_with


def test_nginx_answers_challenges_at_port_80_and_all_else_stays(render: Render) -> None:
    off = render()
    assert "acme" not in off
    on = render(nginx_acme_directory=DIRECTORY)
    plain, secure = (on.partition("listen 443")[part] for part in (0, 2))
    assert CHALLENGES in plain
    assert "acme" not in secure
    # A web node that has no answer asks the others, and is not asked back.
    assert "try_files $uri @acme;" in plain
    assert re.findall(r"server (\S+):80 max_fails=0;", plain) == [ADDRESSES[name] for name in WEB[1:]]
    # Without these parts, it is the same file.
    rest = re.sub(r"(?ms)^  upstream acme \{.*?^  \}\n\n", "", on)
    rest = re.sub(r"(?ms)^    # By this an ACME server sees.*?(?=^  \}\n)", "", rest)
    assert rest == off


def test_nginx_answers_no_challenges_where_a_hook_does(render: Render) -> None:
    assert render(nginx_acme_directory=DIRECTORY, nginx_acme_hook="/some/hook") == render()


def test_challenges_are_written_where_nginx_looks_for_them(render: Render) -> None:
    root = re.search(r"root (\S+);", render(nginx_acme_directory=DIRECTORY))
    assert root
    assert f"\nchallenges={root[1]}\n" in PROGRAM.read_text()
    variables = yaml.safe_load((PROJECT / "roles/nginx/vars/main.yml").read_text())
    assert variables["nginx_acme_challenge_folder"] == root[1]
    assert f"\nsettings={variables['nginx_acme_settings_file']}\n" in PROGRAM.read_text()


def test_certificates_are_obtained_when_all_web_nodes_are_set_up() -> None:
    plays = yaml.safe_load((PROJECT / "playbooks/site.yml").read_text())
    order = [play.get("ansible.builtin.import_playbook", play.get("hosts")) for play in plays]
    assert order.index("web") < order.index("acme.yml") < order.index("summary.yml")
