"""The operator's door: XRPC methods, health and metrics over HTTP.

Sees the rest of the daemon only through `indexer.ports`. Whatever a client sends, it gets a JSON
answer with a status that says whose fault it was.
"""
