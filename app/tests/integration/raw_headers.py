"""Messages with headers whose names are any bytes, by the library below confluent_kafka."""

import ctypes
from pathlib import Path

import confluent_kafka

# librdkafka's rdkafka.h: rd_kafka_type_t, rd_kafka_vtype_t and RD_KAFKA_MSG_F_COPY.
_PRODUCER = 0
_END, _TOPIC, _VALUE, _KEY, _FLAGS, _HEADER = 0, 1, 4, 5, 7, 9
_COPY = 2


def produce(
    bootstrap: str, topic: str, messages: list[tuple[bytes, bytes]], headers: list[tuple[bytes, bytes]]
) -> None:
    """Send messages (key, value) with the same headers, and wait until they are acknowledged."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    (path,) = folder.glob("librdkafka*")
    library = ctypes.CDLL(str(path))
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    reason = ctypes.create_string_buffer(512)
    size = ctypes.c_size_t(len(reason))
    config = ctypes.c_void_p(library.rd_kafka_conf_new())
    for name, setting in ((b"bootstrap.servers", bootstrap.encode()), (b"log_level", b"0")):
        assert library.rd_kafka_conf_set(config, name, setting, reason, size) == 0, reason.value
    producer = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, config, reason, size))
    assert producer, reason.value
    for key, value in messages:
        arguments: list[object] = [_TOPIC, topic.encode(), _FLAGS, _COPY]
        arguments += [_KEY, key, ctypes.c_size_t(len(key)), _VALUE, value, ctypes.c_size_t(len(value))]
        for header, content in headers:
            arguments += [_HEADER, header, content, ctypes.c_ssize_t(len(content))]
        assert library.rd_kafka_producev(producer, *arguments, _END) == 0
    assert library.rd_kafka_flush(producer, 30_000) == 0
    library.rd_kafka_destroy(producer)
