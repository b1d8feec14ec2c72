#!/bin/sh
# Shows and alters the settings of topics, brokers and users.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" kafka.admin.ConfigCommand "$@"
