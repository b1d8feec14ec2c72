#!/bin/sh
# Runs a Kafka server in the foreground: kafka-server-start.sh server.properties [--override name=value]...
set -eu

if [ $# -eq 0 ]; then
    echo "usage: $(basename -- "$0") server.properties [--override name=value]..." >&2
    exit 64
fi

bin=$(dirname -- "$(readlink -f -- "$0")")
export KAFKA_HEAP_OPTS="${KAFKA_HEAP_OPTS:--Xms1G -Xmx1G}"
# The options that Apache's own start script gives a server.
export KAFKA_JVM_PERFORMANCE_OPTS="${KAFKA_JVM_PERFORMANCE_OPTS:--server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -Djava.awt.headless=true}"
export KAFKA_LOG4J_OPTS="${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=$(dirname -- "$bin")/config/log4j2.yaml}"
exec "$bin/kafka-run-class.sh" kafka.Kafka "$@"
