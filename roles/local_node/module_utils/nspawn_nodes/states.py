"""Bring all machines of a spec into a state: started, stopped or absent. Each repeats without effect."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import contents, machines, network, root_image
from .spec import Node, Spec, faults
from .system import NodeError, erase, lock, make_folder, read, run, write

POWER_OFF_SECONDS = 90.0


@dataclass
class Report:
    """What was done (or, in check mode, would be), one sentence each, and what a person should know."""

    check: bool
    actions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def do(self, sentence: str) -> bool:
        """Note an action; says whether it is to be done really."""
        self.actions.append(sentence)
        return not self.check


def started(spec: Spec, report: Report) -> None:
    """Make what is missing and boot what does not run; returns when ssh answers on every machine."""
    problems = faults(spec)
    if problems:
        raise NodeError(" ".join(problems))
    with _locked(spec, report):
        _check_owner(spec)
        down = [node for node in spec.nodes if not machines.is_running(spec, node)]
        new = [node for node in down if not (node.folder / "image").exists()]
        if down:
            # Fails here, before anything is made, when the machines would have no name server.
            contents.names(spec)
        if not network.is_up(spec) and report.do(f"Make the network {spec.bridge}"):
            report.warnings += network.up(spec)
        for node in new:
            report.do(f"Make the machine {node.machine}")
        for node in down:
            report.do(f"Boot the machine {node.machine}")
        if report.check:
            return
        make_folder(spec.state_folder, 0o700)
        write(spec.state_folder / "owner", f"{spec.work_tree}\n")
        public = contents.user_key(spec)
        if new:
            _make(spec, new, report)
        keys = [(node, contents.host_key(node)) for node in spec.nodes]
        above = spec.ssh_folder.stat()
        known = spec.ssh_folder / "known_hosts"
        if write(known, contents.known_hosts(keys), owner=(above.st_uid, above.st_gid)):
            report.do(f"Write {known}")
        for node in spec.nodes:
            if node in down:
                _boot(spec, node, public)
            elif contents.authorize(node, public):
                report.do(f"Let the new ssh key into {node.machine}")
        _await(spec, down)
        for node in new:
            report.warnings += _settle(spec, node)


def stopped(spec: Spec, report: Report) -> None:
    """Power the machines off in order and remove the network; their data stays."""
    if not spec.state_folder.exists() and not network.exists(spec):
        return
    with _locked(spec, report):
        _check_owner(spec)
        _end(spec, report, orderly=True)


def absent(spec: Spec, report: Report) -> None:
    """Erase the machines with their data, and all that was made for them on this computer but the cache."""
    if not spec.state_folder.exists() and not network.exists(spec):
        return
    with _locked(spec, report):
        if not spec.force:
            _check_owner(spec, gone_is_fine=True)
        if _is_foreign(spec.state_folder):
            raise NodeError(f"{spec.state_folder} was not made by this role: it is left alone.")
        _end(spec, report, orderly=False)
        if spec.state_folder.exists() and report.do(f"Erase {spec.state_folder}"):
            # What says that the folder is ours goes last: a removal that is interrupted can be repeated.
            for inside in spec.state_folder.iterdir():
                if inside.is_dir():
                    erase(inside)
            erase(spec.state_folder)
        if not report.check:
            spec.lock_file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                spec.state_folder.parent.rmdir()


def _locked(spec: Spec, report: Report) -> contextlib.AbstractContextManager[None]:
    """Keep two runs from working on the same machines; check mode leaves not even a lock behind."""
    return contextlib.nullcontext() if report.check else lock(spec.lock_file, patience=120)


def _is_foreign(state_folder: Path) -> bool:
    """Say whether a folder holds something, but not what this role writes first."""
    if not state_folder.exists() or (state_folder / "owner").exists():
        return False
    return any(not path.name.startswith(".") for path in state_folder.iterdir())


def _check_owner(spec: Spec, gone_is_fine: bool = False) -> None:
    """Keep one work tree from taking the machines of another for its own."""
    owner = (read(spec.state_folder / "owner") or "").strip()
    if owner in ("", str(spec.work_tree)):
        return
    if Path(owner).exists():
        raise NodeError(
            f"The nodes of {spec.state_folder} belong to another work tree, {owner}. Run `make down` there, "
            "or erase them from here by `make down FORCE=1`."
        )
    if not gone_is_fine:
        raise NodeError(
            f"The nodes of {spec.state_folder} belong to the work tree {owner}, which is gone. Erase them by "
            f"`make down`; or, if that work tree is now {spec.work_tree}, write this path into "
            f"{spec.state_folder}/owner."
        )


def _known(spec: Spec) -> list[Node]:
    """Return the nodes of the spec and those of which the state folder alone knows (renamed ones, say)."""
    nodes = list(spec.nodes)
    names = {node.machine for node in nodes}
    if spec.state_folder.is_dir():
        for folder in sorted(spec.state_folder.iterdir()):
            if (
                (folder / "root").is_dir()
                and folder.name not in names
                and not folder.name.startswith("image-")
            ):
                nodes.append(Node(folder.name, folder.name, address="", folder=folder))
    return nodes


def _make(spec: Spec, nodes: Iterable[Node], report: Report) -> None:
    """Give each new machine its folder, over the unpacked image."""
    archive, built = root_image.ensure(
        spec.cache_folder, spec.suite, spec.mirror, spec.packages, spec.certificate_authorities_folder
    )
    if built:
        report.do(f"Build the image {archive.name}")
    image = root_image.unpack(archive, spec.state_folder)
    for node in nodes:
        for name in ("upper", "work", "root"):
            make_folder(node.folder / name)
        write(node.folder / "image", f"{image}\n")


def _boot(spec: Spec, node: Node, public: str) -> None:
    machines.outlive(node, patience=30)
    machines.clear(spec, node)
    machines.mount(node)
    contents.fill(spec, node, public, network.packet_size())
    make_folder(machines.package_folder(spec, node))
    machines.start(spec, node)


def _await(spec: Spec, booted: list[Node]) -> None:
    """Wait until every machine answers; those just booted have to let Ansible's key in as well."""
    end = time.monotonic() + spec.wait_seconds
    for node in spec.nodes:
        while not _answers(node):
            if node in booted and not machines.is_running(spec, node):
                raise NodeError(f"The machine {node.machine} ended while it booted:\n{_console(node)}")
            if time.monotonic() > end:
                raise NodeError(
                    f"The machine {node.machine} runs but does not answer on {node.address} port 22 after "
                    f"{spec.wait_seconds:g} s: try `make stop` and `make up`. Its console:\n{_console(node)}"
                )
            time.sleep(0.1)
    for node in booted:
        run([*_ssh(spec, node), "true"], timeout=30)


def _answers(node: Node) -> bool:
    """Say whether an ssh server greets on a machine's address."""
    try:
        with socket.create_connection((node.address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _ssh(spec: Spec, node: Node) -> list[str]:
    return [
        "ssh",
        "-F", "none",
        "-i", str(spec.ssh_folder / "id_ed25519"),
        "-o", f"UserKnownHostsFile={spec.ssh_folder / 'known_hosts'}",
        "-o", "IdentitiesOnly=yes",
        "-o", "BatchMode=yes",
        "-o", "ConnectTimeout=10",
        f"root@{node.address}",
    ]  # fmt: skip


def _settle(spec: Spec, node: Node) -> list[str]:
    """Wait for a new machine's boot to end; a unit that failed in it is a fault of the image."""
    command = [
        *_ssh(spec, node),
        "systemctl is-system-running --wait || systemctl --failed --plain --no-legend",
    ]
    try:
        said = run(command, timeout=spec.wait_seconds).split()
    except NodeError as failure:
        return [str(failure)]
    return [] if said == ["running"] else [f"The new machine {node.machine} is not well: {' '.join(said)}"]


def _console(node: Node) -> str:
    return (read(node.folder / "console.log") or "")[-2000:]


def _end(spec: Spec, report: Report, orderly: bool) -> None:
    """Take every machine, its mounts and the network out of memory."""
    nodes = _known(spec)
    running = [node for node in nodes if machines.is_running(spec, node)]
    for node in running:
        report.do(f"{'Power off' if orderly else 'Kill'} the machine {node.machine}")
    wired = network.exists(spec)
    if wired:
        report.do(f"Remove the network {spec.bridge}")
    if report.check:
        return
    if orderly:
        for node in machines.stop(spec, running, POWER_OFF_SECONDS):
            report.warnings.append(
                f"{node.machine} did not power off within {POWER_OFF_SECONDS:g} s: it was killed."
            )
    for node in nodes:
        if orderly:
            machines.outlive(node, patience=30)
        if machines.is_traced(spec, node):
            machines.clear(spec, node)
    if wired:
        network.down(spec)
