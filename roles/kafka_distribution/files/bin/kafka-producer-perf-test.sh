#!/bin/sh
# Measures how fast records are produced.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.ProducerPerformance "$@"
