# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""The address of a worker: ``worker_self_reference_url``.

Glance puts the path of a request behind it, and keeps it with each staged
image, where users can see it.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse


def fault(url: str) -> str | None:
    """Return what is wrong with the form of an address, or None.

    :returns: what follows the name of the option in a sentence
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return 'is no URL'
    if port == 0 or re.search(r'[\s\x00-\x1f]', url):
        return 'is no URL'
    if not parts.scheme or not parts.netloc:
        return 'is not absolute: it lacks http:// or the host'
    if parts.scheme not in ('http', 'https'):
        return ('begins with %s:// and not with http:// or https://'
                % parts.scheme)
    if not parts.hostname:
        return 'names no host'
    if parts.username is not None or parts.password is not None:
        return 'has a user name or password in it, which are without effect'
    if parts.query or parts.fragment:
        return 'has a query or a fragment in it'
    if parts.path.endswith('/'):
        return ('ends with "/": Glance puts the path of a request, which '
                'begins with one, behind it')
    if re.search(r'/v[12](\.\d+)?$', parts.path):
        return ('ends with the version of the API, which is part of the path '
                'that Glance puts behind it')
    if is_address(parts.hostname, 'is_unspecified'):
        return ('names %s, at which a server listens, and which nothing can '
                'reach' % parts.hostname)
    return None


def is_address(host: str, kind: str) -> bool:
    """Return whether a host is an IP address of a kind.

    :param kind: name of a property of :class:`ipaddress.IPv4Address`
    """
    try:
        return bool(getattr(ipaddress.ip_address(host), kind))
    except ValueError:
        return False
