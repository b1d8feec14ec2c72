#!/bin/sh
# Sends the lines of standard input to a topic.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.ConsoleProducer "$@"
