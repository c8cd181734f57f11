"""The code behind each XRPC method: a module a subject, each giving NSID -> handler."""
