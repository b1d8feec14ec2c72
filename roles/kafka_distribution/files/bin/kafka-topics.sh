#!/bin/sh
# Lists, describes, makes and alters topics.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.TopicCommand "$@"
