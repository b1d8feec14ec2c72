"""`make box`: a Vagrant box of Debian 13 or 12 from Debian packages alone, for libvirt or lxc.

It starts from the image that role local_node makes of Debian packages, and adds what every Vagrant box has:
the user vagrant with Vagrant's well-known key, which Vagrant replaces at the first boot, sudo, and DHCP. One
for libvirt has a kernel and a boot loader too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nspawn_nodes import root_image
from nspawn_nodes.system import NodeError, erase, run, succeeds, write

from cli.inventory import PROJECT

# Debian 13 and 12; the first is taken unless another one is asked for.
SUITES = ("trixie", "bookworm")
AUTHORITIES = Path("/usr/local/share/ca-certificates")
VAGRANT_KEYS = "/usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub"
BASE_PACKAGES = PROJECT / "roles/local_node/files/root_packages.txt"
# Beside those of the local nodes. The cloud kernel is small: it has only the drivers of virtual machines.
PACKAGES = {
    "lxc": ("rsync", "systemd-resolved"),
    "libvirt": (
        "initramfs-tools",
        "linux-image-cloud-{architecture}",
        "rsync",
        "systemd-resolved",
        "udev",
        "zstd",
    ),
}
VIRSH = ("virsh", "--connect", "qemu:///system")
# Where vagrant-libvirt keeps disks.
POOL = "default"
DISK_GIBIBYTES = 12
SECTOR_BYTES = 512
# Where the one partition of the disk begins: the usual alignment, which leaves room for the boot loader.
FIRST_SECTOR = 2048

NETWORK = """\
[Match]
Name=eth0

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[DHCPv4]
ClientIdentifier=mac
"""
# Names are not resolved by multicast.
RESOLVER = """\
[Resolve]
LLMNR=no
MulticastDNS=no
"""
# The image has no host keys, so that no two machines share one.
HOST_KEYS = """\
[Unit]
Description=Create the host keys of ssh
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""
LXC_CONFIG = """\
lxc.include = /usr/share/lxc/config/common.conf
lxc.arch = {machine}
lxc.net.0.type = veth
lxc.net.0.link = lxcbr0
lxc.net.0.flags = up
lxc.apparmor.profile = unconfined
# systemd in the container manages groups of its own, and sets limits by them.
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
"""
EXTLINUX = """\
default debian
prompt 0
timeout 1
label debian
  kernel /boot/{kernel}
  append initrd=/boot/{initrd} root=/dev/vda1 ro net.ifnames=0 console=ttyS0 quiet
"""


def sudo() -> list[str]:
    """Return the prefix of a command that needs root."""
    return [] if os.geteuid() == 0 else ["sudo"]


def cache_folder() -> Path:
    """Return the folder that group variables of the inventories call cache_folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "timestamp-service"


def name_of(suite: str) -> str:
    """Return the name of the box of a release of Debian."""
    return f"timestamp-service/{suite}64"


def packages(provider: str, architecture: str) -> list[str]:
    """Return the Debian packages of a box beside those that Debian itself calls essential."""
    own = (name.format(architecture=architecture) for name in PACKAGES[provider])
    return [*BASE_PACKAGES.read_text().split(), *own]


def prepare(root: Path, public_key: str, suite: str) -> None:
    """Add to an unpacked image what every Vagrant machine has."""
    run(["chroot", str(root), "useradd", "--create-home", "--shell", "/bin/bash", "--user-group", "vagrant"])
    # https://developer.hashicorp.com/vagrant/docs/boxes/base
    run(["chroot", str(root), "chpasswd"], text="vagrant:vagrant\nroot:vagrant\n")
    owner = (root / "home/vagrant").stat()
    keys = root / "home/vagrant/.ssh"
    keys.mkdir(mode=0o700)
    os.chown(keys, owner.st_uid, owner.st_gid)
    write(keys / "authorized_keys", public_key, 0o600, (owner.st_uid, owner.st_gid))
    write(root / "etc/sudoers.d/vagrant", "vagrant ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    write(root / "etc/ssh/sshd_config.d/vagrant.conf", "UseDNS no\n")
    write(root / "etc/hostname", f"{suite}\n")
    write(root / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {suite}\n")
    write(root / "etc/systemd/network/20-eth0.network", NETWORK)
    write(root / "etc/systemd/system/ssh-host-keys.service", HOST_KEYS)
    (root / "etc/systemd/resolved.conf.d").mkdir(exist_ok=True)
    write(root / "etc/systemd/resolved.conf.d/vagrant.conf", RESOLVER)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    run(["systemctl", f"--root={root}", "--quiet", "enable", "ssh-host-keys", "systemd-resolved"])


def make_disk(root: Path, image: Path) -> None:
    """Create a bootable disk from a prepared image: one ext4 partition, and extlinux as its boot loader."""
    write(root / "etc/fstab", "/dev/vda1 / ext4 defaults,noatime 0 1\n")
    kernel = max((root / "boot").glob("vmlinuz-*")).name
    (root / "boot/extlinux").mkdir()
    write(
        root / "boot/extlinux/extlinux.conf",
        EXTLINUX.format(kernel=kernel, initrd=kernel.replace("vmlinuz", "initrd.img", 1)),
    )
    raw = image.with_suffix(".raw")
    offset = FIRST_SECTOR * SECTOR_BYTES
    with raw.open("wb") as file:
        file.truncate(DISK_GIBIBYTES << 30)
    run(["sfdisk", "--quiet", str(raw)], text=f"{FIRST_SECTOR},,83,*\n")
    boot_code = Path("/usr/lib/EXTLINUX/mbr.bin").read_bytes()
    with raw.open("r+b") as file:
        file.write(boot_code)
    # Without features that extlinux does not know.
    run(
        [
            *("mkfs.ext4", "-q", "-F", "-O", "^64bit,^metadata_csum", "-m", "1", "-L", "root"),
            *("-E", f"offset={offset},nodiscard", "-d", str(root), str(raw)),
            f"{((DISK_GIBIBYTES << 30) - offset) >> 10}k",
        ]
    )
    mounted = image.with_suffix(".mounted")
    mounted.mkdir()
    # In its own mount namespace: nothing stays mounted, even if this fails.
    script = 'mount -o "loop,offset=$1" "$2" "$3" && extlinux --install "$3/boot/extlinux" && umount "$3"'
    isolated = ["unshare", "--mount", "--propagation", "private"]
    run([*isolated, "sh", "-c", script, "sh", str(offset), str(raw), str(mounted)])
    mounted.rmdir()
    run(["qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compression_type=zstd", str(raw), str(image)])
    raw.unlink()


def make_libvirt_box(root: Path, folder: Path) -> list[str]:
    """Put the files of a box for libvirt into the folder, and return their names."""
    make_disk(root, folder / "box.img")
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_GIBIBYTES}
    write(folder / "metadata.json", json.dumps(metadata))
    return ["metadata.json", "box.img"]


def make_lxc_box(root: Path, folder: Path) -> list[str]:
    """Put the files of a box for lxc into the folder, and return their names."""
    run(["tar", "--create", "--use-compress-program=gzip -1", "--numeric-owner", "--xattrs",
         f"--file={folder}/rootfs.tar.gz", f"--directory={root.parent}", f"./{root.name}"])  # fmt: skip
    write(folder / "lxc-config", LXC_CONFIG.format(machine=platform.machine()))
    write(folder / "metadata.json", json.dumps({"provider": "lxc", "version": "1.0.0"}))
    return ["metadata.json", "lxc-config", "rootfs.tar.gz"]


def build(provider: str, suite: str, cache: Path, public_key: str, box: Path) -> None:
    """Build a box, as root; takes about a minute, and half of that when its image is in the cache."""
    architecture = run(["dpkg", "--print-architecture"]).strip()
    archive, _ = root_image.ensure(cache, suite, "", packages(provider, architecture), AUTHORITIES)
    folder = Path(tempfile.mkdtemp(prefix="box-", dir=cache))
    try:
        root = root_image.unpack(archive, folder).rename(folder / "rootfs")
        prepare(root, public_key, suite)
        maker = {"libvirt": make_libvirt_box, "lxc": make_lxc_box}[provider]
        files = maker(root, folder)
        run(["tar", "--create", f"--file={box}", f"--directory={folder}", *files])
    finally:
        erase(folder)


def is_added(provider: str, suite: str) -> bool:
    """Return whether Vagrant has our box for the provider."""
    boxes = run(["vagrant", "box", "list", "--machine-readable"]).splitlines()
    entries = [line.split(",")[2:4] for line in boxes]
    return any(
        name == ["box-name", name_of(suite)] and kind == ["box-provider", provider]
        for name, kind in itertools.pairwise(entries)
    )


def add(provider: str, suite: str) -> None:
    """Build the box for a provider, and add it to Vagrant's in place of an older one. Raises NodeError."""
    keys = sorted(Path("/").glob(VAGRANT_KEYS.removeprefix("/")))
    if not keys:
        raise NodeError("Debian's package vagrant is not installed: run `make setup`.")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="box-", dir=cache))
    try:
        box = folder / "timestamp-service.box"
        # sudo does not keep PYTHONPATH.
        command = [
            *sudo(),
            "env",
            f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}",
            sys.executable,
            "-B",
            "-m",
            "scripts.vagrant.box",
        ]
        command += [
            "--provider",
            provider,
            "--suite",
            suite,
            "--cache",
            str(cache),
            "--key",
            str(keys[-1]),
            "--build",
            str(box),
        ]
        if subprocess.run(command, cwd=PROJECT, check=False).returncode:
            raise NodeError(f"The box for {provider} could not be built; the message is above.")
        run(["vagrant", "box", "add", "--force", "--name", name_of(suite), "--provider", provider, str(box)])
    finally:
        shutil.rmtree(folder)
    forget_volume(provider, suite)


def forget_volume(provider: str, suite: str) -> None:
    """Remove libvirt's copies of earlier boxes: vagrant-libvirt copies each box and keeps every copy."""
    if provider != "libvirt" or not succeeds([*VIRSH, "version"]):
        return
    if POOL not in run([*VIRSH, "pool-list", "--name"]).split():
        return
    for line in run([*VIRSH, "vol-list", POOL]).splitlines():
        if line.strip().startswith(f"{name_of(suite).replace('/', '-VAGRANTSLASH-')}_vagrant_box_image"):
            run([*VIRSH, "vol-delete", line.split()[0], "--pool", POOL])


def main(arguments: Sequence[str]) -> int:
    """Build a box for a provider and add it to Vagrant's boxes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--provider", choices=sorted(PACKAGES), required=True)
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0], help="Debian's release")
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--key", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--build", type=Path, metavar="FILE", help="only build, as root")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.build:
            build(chosen.provider, chosen.suite, chosen.cache, chosen.key.read_text(), chosen.build)
        else:
            add(chosen.provider, chosen.suite)
            name = name_of(chosen.suite)
            print(f"The box {name} for {chosen.provider} is added: TIMESTAMP_BOX={name} vagrant up")
    except NodeError as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
