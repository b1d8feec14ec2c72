#!/bin/sh
# Formats log folders and shows what they hold.
set -eu
exec "$(dirname -- "$(readlink -f -- "$0")")/kafka-run-class.sh" kafka.tools.StorageTool "$@"
