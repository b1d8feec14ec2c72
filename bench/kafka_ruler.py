"""The ruler for producing: Kafka's own ProducerPerformance."""

import re
import subprocess
from itertools import count

from tests.integration.kafka import Kafka

# As large as a message of ours with its key.
_RECORD_BYTES = 130
_topics = count(1)


def records_per_second(kafka: Kafka, records: int) -> float:
    """Return how many acknowledged records a second it sends, in a topic of its own."""
    topic = f"ruler-{next(_topics)}"
    kafka.make_topic(topic, 12, {"message.timestamp.type": "LogAppendTime"})
    tool = ["java", "-Xmx256m", "-cp", kafka.libraries, "org.apache.kafka.tools.ProducerPerformance"]
    amount = ["--topic", topic, "--num-records", str(records), "--record-size", str(_RECORD_BYTES)]
    how = ["--throughput", "-1", "--producer-props", f"bootstrap.servers={kafka.bootstrap}", "acks=all"]
    finished = subprocess.run([*tool, *amount, *how], capture_output=True, text=True, timeout=180, check=True)
    rates = re.findall(rf"^{records} records sent, ([\d.]+) records/sec", finished.stdout, re.MULTILINE)
    if not rates:
        raise RuntimeError(f"ProducerPerformance failed: {finished.stdout}{finished.stderr}")
    return float(rates[-1])
