"""The reason of an error of PostgreSQL, for the log: one line, without the statement or values of rows."""

import psycopg2

from timestamp_service.database.connections import DeadlineError

# Classes of errors (appendix A of PostgreSQL's manual) whose message quotes what was sent: data exceptions,
# syntax errors and rules of access, and what a function raises.
_QUOTING = ("22", "42", "P0")
# Of those, these quote nothing: a missing right, and a missing table.
_NOT_QUOTING = ("42501", "42P01")


def reason(error: Exception) -> str:
    """Return the reason of `error`.

    Its further lines, which quote the row (DETAIL) and the statement (LINE, CONTEXT), are left out.
    """
    if isinstance(error, DeadlineError):
        return "no answer in time"
    name = type(error).__name__
    if not isinstance(error, psycopg2.Error) or not error.pgcode:
        # From libpq, which has seen no row.
        return (str(error).strip().splitlines() or [name])[0]
    quotes = error.pgcode[:2] in _QUOTING and error.pgcode not in _NOT_QUOTING
    message = "" if quotes else (error.diag.message_primary or "").partition("\n")[0]
    return f"{message or name} ({error.pgcode})"
