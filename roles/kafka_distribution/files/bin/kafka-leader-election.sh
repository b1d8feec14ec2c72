#!/bin/sh
# Lets partitions be led by the first of their replicas again.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.LeaderElectionCommand "$@"
