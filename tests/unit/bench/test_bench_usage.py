"""What a measured process is charged with."""

import os
import subprocess
import sys

from tests.bench.process import read_usage

MEMORY_BYTES = 50_000_000
PROGRAM = f"""
held = bytearray(b"x") * {MEMORY_BYTES}
print("ready", flush=True)
input()
end = __import__("time").process_time() + 0.3
while __import__("time").process_time() < end:
    pass
"""


def test_a_process_answers_for_those_that_it_started():
    before = read_usage(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        during = read_usage(os.getpid())
        child.communicate("go on\n")
    after = read_usage(os.getpid())
    assert during.rss_bytes - before.rss_bytes >= MEMORY_BYTES
    assert during.rss_bytes_max - before.rss_bytes_max >= MEMORY_BYTES
    assert after.cpu_s - before.cpu_s >= 0.3
    assert after.rss_bytes < during.rss_bytes
