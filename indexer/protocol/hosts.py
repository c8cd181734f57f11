"""Names of hosts: which of them are probably run by the same hands.

Whoever owns a domain makes as many names below it as they like, so a limit for each name is no
limit. The registrable domain is approximated without the public suffix list, which would have to
be kept fresh: a mistake only makes strangers share a limit that is generous for one operator.
"""

from __future__ import annotations

from ipaddress import ip_address

SECOND_LEVEL_CHARS_MAX = 3
"""`co.uk`, `com.au`, `ne.jp`: so short a label below a country's is taken for a registry's."""

COUNTRY_CHARS = 2


def registrable_domain(host: str) -> str:
    """The part of a host name that somebody registered; an address stands for itself.

    pds.example.com -> example.com      a.b.example.co.uk -> example.co.uk
    """
    name = host.lower().strip("[].")
    try:
        return str(ip_address(name))
    except ValueError:
        labels = name.split(".")
    if len(labels) <= 2:
        return name
    is_registry = len(labels[-1]) == COUNTRY_CHARS and len(labels[-2]) <= SECOND_LEVEL_CHARS_MAX
    return ".".join(labels[-3:] if is_registry else labels[-2:])
