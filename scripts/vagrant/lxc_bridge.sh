#!/bin/sh
# Creates or removes the bridge of the Vagrant machines' private network: LXC runs it as root before a container
# starts and after it has stopped.
# usage: scripts/vagrant/lxc_bridge.sh up|down BRIDGE HOST_ADDRESS MTU
set -eu
action=$1 bridge=$2 address=$3 mtu=$4

case $action in
    up)
        ip link show dev "$bridge" >/dev/null 2>&1 || ip link add name "$bridge" type bridge
        ip address replace "$address/24" dev "$bridge"
        ip link set dev "$bridge" mtu "$mtu" up
        ;;
    down)
        # The interface of the stopped container may not be removed yet: only those that are up count.
        if [ -z "$(ip -oneline link show master "$bridge" up 2>/dev/null)" ]; then
            ip link delete dev "$bridge" 2>/dev/null || true
        fi
        ;;
esac
