#!/bin/sh
# Describes the quorum of controllers, adds a voter and removes one.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.MetadataQuorumCommand "$@"
