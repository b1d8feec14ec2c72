#!/bin/sh
# Says the id of the cluster, lists its brokers, and unregisters one that is gone.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.ClusterTool "$@"
