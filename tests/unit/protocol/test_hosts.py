"""Hosts that one operator can make without end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.protocol.hosts import host_group, registrable_domain


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("example.com", "example.com"),
        ("PDS.Example.COM.", "example.com"),
        ("a.b.c.example.com", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("pds.example.io", "example.io"),
        ("x.abc.de", "abc.de"),
        ("x.city.kawasaki.jp", "city.kawasaki.jp"),
        ("one.github.io", "github.io"),
        ("de", "de"),
        ("localhost", "localhost"),
        ("8.8.8.8", "8.8.8.8"),
        ("[2606:4700:0::1111]", "2606:4700::1111"),
    ],
)
def test_the_part_of_a_name_that_somebody_registered(host, domain):
    assert registrable_domain(host) == domain


@pytest.mark.parametrize(
    ("url", "group"),
    [
        ("https://pds1.example.com", "example.com"),
        ("https://pds2.example.com:8443", "example.com"),
        ("https://198.51.99.7", "198.51.99.7"),
        ("http://127.0.0.1:2583", "127.0.0.1:2583"),
        ("http://localhost:2584", "localhost:2584"),
        ("https://[fd00::1]", "[fd00::1]"),
    ],
)
def test_hosts_are_counted_by_domain_and_those_of_a_developer_one_by_one(url, group):
    assert host_group(url) == group


@given(
    st.from_regex(r"([a-z0-9-]{1,10}\.){0,5}[a-z]{2,8}", fullmatch=True),
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
)
def test_more_labels_in_front_never_leave_the_domain(host, label):
    domain = registrable_domain(f"x.y.{host}")
    assert registrable_domain(f"{label}.x.y.{host}") == domain
    assert f"x.y.{host}".endswith(domain)
