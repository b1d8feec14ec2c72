"""The files that make a machine out of the image: names, addresses, keys."""

from __future__ import annotations

import ipaddress
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .spec import Node, Spec
from .system import NodeError, make_folder, read, run, write

HOSTS_MARK = "# Written when the machine was made by role local_node"
RESOLVER_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


def hosts(nodes: Iterable[Node]) -> str:
    """Return the text of a machine's /etc/hosts."""
    lines = [HOSTS_MARK, "127.0.0.1 localhost"]
    lines += [f"{node.address} {node.name} {node.short_name}" for node in nodes]
    return "\n".join(lines) + "\n"


def network_unit(node: Node, gateway: ipaddress.IPv4Interface, packet_size: int) -> str:
    """Return the text of a machine's systemd.network(5) file."""
    return f"""\
[Match]
Name=host0

[Link]
MTUBytes={packet_size}

[Network]
Address={node.address}/{gateway.network.prefixlen}
Gateway={gateway.ip}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


def resolver(texts: Iterable[str | None]) -> str:
    """Return a resolv.conf(5) for a machine: the first of these texts that names a server that it reaches.

    It reaches neither the host's own stub (127.0.0.53 and the like) nor one by IPv6, which it does not have.
    Raises NodeError.
    """
    found: list[str] = []
    for text in texts:
        lines = (text or "").splitlines()
        servers = [
            line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1
        ]
        found += servers
        usable = [server for server in servers if ":" not in server and not server.startswith("127.")]
        if usable:
            others = [line for line in lines if line.startswith(("search", "options"))]
            return "\n".join([*others, *(f"nameserver {server}" for server in usable)]) + "\n"
    raise NodeError(
        f"The nodes reach none of the name servers of this computer ({', '.join(found) or 'it has none'}):"
        " they need one with an IPv4 address that is not on loopback. Set local_node_nameservers in the"
        " inventory, for example to [192.0.2.53]."
    )


def names(spec: Spec) -> str:
    """Return a machine's resolv.conf(5): the servers of the inventory, or those of this computer."""
    if spec.nameservers:
        return "".join(f"nameserver {server}\n" for server in spec.nameservers)
    return resolver(read(path) for path in RESOLVER_FILES)


def known_hosts(keys: Iterable[tuple[Node, str]]) -> str:
    """Return a known_hosts file (sshd(8)) of the machines and their public keys."""
    return "".join(
        f"{node.address},{node.name},{node.machine} {' '.join(public.split()[:2])}\n" for node, public in keys
    )


def user_key(spec: Spec) -> str:
    """Return the public key by which Ansible reaches the machines, making the pair when it is missing."""
    make_folder(spec.ssh_folder.parent, 0o700)
    make_folder(spec.ssh_folder, 0o700)
    private = spec.ssh_folder / "id_ed25519"
    public = _key_pair(private, "timestamp-service local nodes")
    above = spec.ssh_folder.stat()
    for path in (private, private.with_name("id_ed25519.pub")):
        os.chown(path, above.st_uid, above.st_gid)
    return public


def host_key(node: Node) -> str:
    """Return a machine's public host key, making the pair when it is missing."""
    return _key_pair(node.folder / "ssh_host_ed25519_key", node.name)


def fill(spec: Spec, node: Node, user_public_key: str, packet_size: int) -> None:
    """Write the files into a machine's mounted file system; an /etc/hosts that a role wrote is kept."""
    root = node.root
    write(root / "etc/hostname", f"{node.short_name}\n")
    if (read(root / "etc/hosts") or HOSTS_MARK).startswith(HOSTS_MARK):
        write(root / "etc/hosts", hosts(spec.nodes))
    write(root / "etc/resolv.conf", names(spec))
    write(root / "etc/systemd/network/20-host0.network", network_unit(node, spec.gateway, packet_size))
    key = node.folder / "ssh_host_ed25519_key"
    write(root / "etc/ssh/ssh_host_ed25519_key", key.read_text(), 0o600)
    write(root / "etc/ssh/ssh_host_ed25519_key.pub", host_key(node))
    write(root / "usr/local/sbin/node-init", (spec.role_folder / "files/node-init").read_text(), 0o755)
    authorize(node, user_public_key)


def authorize(node: Node, user_public_key: str) -> bool:
    """Let the key, and no other, log in as root; says whether that changed anything."""
    make_folder(node.root / "root/.ssh", 0o700)
    return write(node.root / "root/.ssh/authorized_keys", user_public_key, 0o600)


def _key_pair(private: Path, comment: str) -> str:
    """Return the public half of a pair of keys; a missing half is made, never half a pair."""
    public = private.with_name(f"{private.name}.pub")
    if not private.exists():
        folder = Path(tempfile.mkdtemp(dir=private.parent, prefix=".keys-"))
        try:
            run(
                [
                    "ssh-keygen",
                    "-q",
                    "-t",
                    "ed25519",
                    "-N",
                    "",
                    "-C",
                    comment,
                    "-f",
                    str(folder / private.name),
                ]
            )
            (folder / public.name).rename(public)
            (folder / private.name).rename(private)
        finally:
            shutil.rmtree(folder)
    elif not public.exists():
        write(public, run(["ssh-keygen", "-y", "-f", str(private)]))
    return public.read_text()
