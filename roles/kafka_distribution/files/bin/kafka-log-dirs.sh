#!/bin/sh
# Says how many bytes each replica has, and how far it is behind.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.LogDirsCommand "$@"
