#!/bin/sh
# Keeps packages that the plays upgrade from restarting what the plays restart themselves (role upgrade). It forbids nothing
# to anybody else, and may be removed.
case ${TIMESTAMP_SERVICE_UPGRADE:-}:$1 in
1:nginx* | 1:postgresql*) exit 101 ;;
esac
exit 0
