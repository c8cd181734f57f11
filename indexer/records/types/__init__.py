"""One module a record type, each with a `RECORD_TYPE`; the registry finds them here."""
