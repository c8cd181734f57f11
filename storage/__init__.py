"""The SQLite store: all SQL of the project, and the one connection that writes."""
