#!/bin/sh
# Prints the first or last offset of each partition.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.GetOffsetShell "$@"
