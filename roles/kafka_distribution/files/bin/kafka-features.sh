#!/bin/sh
# Describes and raises the levels of the cluster's features.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" org.apache.kafka.tools.FeatureCommand "$@"
