"""The benchmark suite: `python -m tests.bench`.

Measures the daemon as an operator would meet it: a process of its own, fed over a loopback
socket by a relay in another process, judged by its SQLite file and by what the kernel says of
its time and memory. Beside it, interleaved round by round, runs the pipeline that somebody would
write with the `atproto` SDK and its documented client. Since the server and the client share the
machine's cores, ratios of interleaved rounds say more than figures.

Nothing here imports the daemon: what is measured is the installed command.
"""
