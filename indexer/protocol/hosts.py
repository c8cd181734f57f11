"""Names of hosts: which of them are probably run by the same hands.

Whoever owns a domain makes as many names below it as they like, so a limit for each name is no
limit. What somebody registered is told by the public suffix list, in the release that is installed:
nothing is fetched. Of its two parts only that of the registries counts. The other names services
that hand out names for nothing (`github.io`), where a name for each customer would again be as many
names as anybody likes; a service's customers share what is generous for one operator.
"""

from __future__ import annotations

from functools import cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from publicsuffixlist import PublicSuffixList


def registrable_domain(host: str) -> str:
    """The part of a host name that somebody registered; an address stands for itself.

    pds.example.com -> example.com      a.b.example.co.uk -> example.co.uk
    """
    name = host.lower().strip("[].")
    try:
        return str(ip_address(name))
    except ValueError:
        return _suffixes().privatesuffix(name) or name


def host_group(url: str) -> str:
    """Under what a host's use of us is counted: its registrable domain.

    Hosts of this machine or of a private network are a developer's: each port is its own.
    """
    parts = urlsplit(url)
    name = registrable_domain(parts.hostname or "")
    if name == "localhost" or _is_private(name):
        return parts.netloc
    return name


def _is_private(name: str) -> bool:
    try:
        return ip_address(name).is_private
    except ValueError:
        return False


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList(only_icann=True)
