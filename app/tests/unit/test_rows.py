from timestamp_service.database.records import Record
from timestamp_service.database.rows import arrays, copy_statement, copy_text, insert_statement

RECORDS = [
    Record(
        "01890a5d-ac96-774b-bcce-b302099a8057", "2009-09-28T19:03:12.123456789Z", "2023-11-14T22:13:20.12Z"
    ),
    Record("01890a5d-ac96-774b-bcce-b302099a8058", "0001-01-01T00:00:00Z", "2023-11-14T22:13:21Z"),
]


def test_both_ways_of_writing_have_the_same_values_and_columns() -> None:
    lines = copy_text(RECORDS).decode().splitlines()
    assert lines == [
        "01890a5d-ac96-774b-bcce-b302099a8057\t2009-09-28T19:03:12.123456Z\t789\t2023-11-14T22:13:20.12Z",
        "01890a5d-ac96-774b-bcce-b302099a8058\t0001-01-01T00:00:00Z\t0\t2023-11-14T22:13:21Z",
    ]
    columns = [array.strip("{}").split(",") for array in arrays(RECORDS)]
    assert ["\t".join(row) for row in zip(*columns, strict=True)] == lines
    names = "(id, event_timestamp, event_nanoseconds, created_at)"
    assert f"COPY records {names}" in copy_statement("records")
    assert f"INSERT INTO records {names}" in insert_statement("records")


def test_ids_are_returned_on_request() -> None:
    assert "RETURNING" not in insert_statement("records")
    assert insert_statement("records", returning=True).rstrip().endswith("RETURNING id::text")


def test_the_nanoseconds_are_the_events_alone() -> None:
    identifier = RECORDS[0].identifier
    read = Record.from_row(identifier, "2009-09-28 19:03:12.123456+00", 789, "2023-11-14 22:13:20.12+00")
    assert read == RECORDS[0]
