"""Hosts that one operator can make without end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.protocol.hosts import registrable_domain


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("example.com", "example.com"),
        ("PDS.Example.COM.", "example.com"),
        ("a.b.c.example.com", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("pds.example.io", "example.io"),
        ("localhost", "localhost"),
        ("8.8.8.8", "8.8.8.8"),
        ("[2606:4700:0::1111]", "2606:4700::1111"),
    ],
)
def test_the_part_of_a_name_that_somebody_registered(host, domain):
    assert registrable_domain(host) == domain


@given(
    st.from_regex(r"([a-z0-9-]{1,10}\.){0,5}[a-z]{2,8}", fullmatch=True),
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
)
def test_more_labels_in_front_never_leave_the_domain(host, label):
    domain = registrable_domain(f"x.y.{host}")
    assert registrable_domain(f"{label}.x.y.{host}") == domain
    assert f"x.y.{host}".endswith(domain)
