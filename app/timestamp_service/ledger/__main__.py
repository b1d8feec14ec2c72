"""`python -m timestamp_service.ledger` is the command `timestamp-ledger`."""

from timestamp_service.ledger.main import main

main()
