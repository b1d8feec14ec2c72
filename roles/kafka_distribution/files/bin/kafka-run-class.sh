#!/bin/sh
# Runs one of Kafka's main classes with the jars of this distribution: kafka-run-class.sh CLASS [ARGUMENT...]
# Read from the environment, as Apache's own script does: JAVA_HOME, CLASSPATH, KAFKA_HEAP_OPTS,
# KAFKA_JVM_PERFORMANCE_OPTS, KAFKA_LOG4J_OPTS, KAFKA_JMX_OPTS, KAFKA_OPTS.
set -eu

if [ $# -eq 0 ]; then
    echo "usage: $(basename -- "$0") CLASS [ARGUMENT...]" >&2
    exit 64
fi

home=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
command -v "$java" >/dev/null || {
    echo "no Java found: install one (Debian: default-jre-headless) or set JAVA_HOME" >&2
    exit 69
}

heap=${KAFKA_HEAP_OPTS:--Xmx256m}
# A tool lives for a second: the small collector starts quicker and takes less.
performance=${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC -Xshare:auto}
logging=${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=$home/config/tools-log4j2.yaml}

# These hold several options each and are meant to be split into words.
# shellcheck disable=SC2086
exec "$java" $heap $performance $logging ${KAFKA_JMX_OPTS:-} ${KAFKA_OPTS:-} \
    -cp "${CLASSPATH:+$CLASSPATH:}$home/libs/*" "$@"
