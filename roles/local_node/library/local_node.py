#!/usr/bin/python
"""The Ansible module of role local_node: what it does is in module_utils/nspawn_nodes."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.nspawn_nodes import states
from ansible.module_utils.nspawn_nodes.spec import Node, Spec
from ansible.module_utils.nspawn_nodes.system import NodeError

DOCUMENTATION = r"""
module: local_node
short_description: Make, boot, stop or erase systemd-nspawn machines on this computer
description:
  - Makes several systemd machines over one Debian image, joined by a bridge with NAT, and reachable by ssh.
  - Runs as root on the computer that holds the machines, whether systemd manages it or not.
options:
  state: {description: "started, stopped (the data stays) or absent.", type: str, default: started}
  nodes: {description: "IPv4 address of each machine by its inventory name.", type: dict, required: true}
  machine_prefix: {description: "Put before the short name to name the machine on this computer.", type: str}
  bridge: {description: "Name of the network bridge.", type: str, required: true}
  gateway: {description: "This computer's address on the bridge, as 10.77.0.1/24.", type: str, required: true}
  state_folder: {description: "Where the machines lie.", type: path, required: true}
  cache_folder: {description: "Where the image and downloaded packages are kept.", type: path, required: true}
  ssh_folder: {description: "Where the key pair and known_hosts are written.", type: path, required: true}
  work_tree: {description: "The work tree that the machines belong to.", type: path, required: true}
  role_folder: {description: "The folder of the role.", type: path, required: true}
  suite: {description: "Debian suite of the image.", type: str, required: true}
  mirror: {description: "Debian mirror of the image; empty for Debian's own.", type: str}
  packages: {description: "Packages of the image.", type: list, elements: str, required: true}
  nameservers: {description: "Name servers; empty for the computer's own.", type: list, elements: str}
  certificate_authorities_folder: {description: "Certificates that the machines trust too.", type: path}
  wait_seconds: {description: "How long the machines may take to answer.", type: float}
  force: {description: "Erase machines that belong to another work tree.", type: bool}
author: ["timestamp-service"]
"""

RETURN = r"""
actions: {description: "What was done, one sentence each.", type: list, elements: str, returned: always}
"""


def main() -> None:
    """Read the parameters, bring the machines into the state, and answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "default": "started", "choices": ["started", "stopped", "absent"]},
            "nodes": {"type": "dict", "required": True},
            "machine_prefix": {"type": "str", "default": ""},
            "bridge": {"type": "str", "required": True},
            "gateway": {"type": "str", "required": True},
            "state_folder": {"type": "path", "required": True},
            "cache_folder": {"type": "path", "required": True},
            "ssh_folder": {"type": "path", "required": True},
            "work_tree": {"type": "path", "required": True},
            "role_folder": {"type": "path", "required": True},
            "suite": {"type": "str", "required": True},
            "mirror": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "required": True},
            "nameservers": {"type": "list", "elements": "str", "default": []},
            "certificate_authorities_folder": {"type": "path", "default": "/usr/local/share/ca-certificates"},
            "wait_seconds": {"type": "float", "default": 60},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    report = states.Report(check=module.check_mode)
    action = {"started": states.started, "stopped": states.stopped, "absent": states.absent}[
        module.params["state"]
    ]
    try:
        action(spec_of(module.params), report)
    except NodeError as failure:
        module.fail_json(msg=str(failure), actions=report.actions)
    for warning in report.warnings:
        module.warn(warning)
    module.exit_json(changed=bool(report.actions), actions=report.actions)


def spec_of(parameters: dict[str, Any]) -> Spec:
    """Turn the module's parameters into a spec; raises NodeError where an address is none."""
    state_folder = Path(parameters["state_folder"])
    try:
        nodes = []
        for name, address in parameters["nodes"].items():
            machine = f"{parameters['machine_prefix']}{name.partition('.')[0]}"
            nodes.append(Node(name, machine, str(ipaddress.IPv4Address(address)), state_folder / machine))
        gateway = ipaddress.IPv4Interface(parameters["gateway"])
    except ValueError as error:
        raise NodeError(f"Not an IPv4 address: {error}") from error
    return Spec(
        nodes=tuple(nodes),
        state_folder=state_folder,
        cache_folder=Path(parameters["cache_folder"]),
        ssh_folder=Path(parameters["ssh_folder"]),
        work_tree=Path(parameters["work_tree"]),
        role_folder=Path(parameters["role_folder"]),
        bridge=parameters["bridge"],
        gateway=gateway,
        suite=parameters["suite"],
        mirror=parameters["mirror"],
        packages=tuple(parameters["packages"]),
        nameservers=tuple(parameters["nameservers"]),
        certificate_authorities_folder=Path(parameters["certificate_authorities_folder"]),
        wait_seconds=parameters["wait_seconds"],
        force=parameters["force"],
    )


if __name__ == "__main__":
    main()
