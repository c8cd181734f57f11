"""A daemon process that dies or is failed at any moment: its store is always some past of the network.

`python -m tests.crash` runs the campaigns; `tests/e2e/test_crash.py` is their short form.
"""
