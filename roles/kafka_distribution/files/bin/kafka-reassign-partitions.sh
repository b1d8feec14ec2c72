#!/bin/sh
# Moves replicas of partitions to other brokers, and says how far that is.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.reassign.ReassignPartitionsCommand "$@"
