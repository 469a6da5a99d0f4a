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


"""Whether the sites of a deployment go together."""

from __future__ import annotations

import typing

from glance_dcn.deploy import model
from glance_dcn.deploy import sitesfile

if typing.TYPE_CHECKING:
    from collections.abc import Iterator


def check(path: str, sites: tuple[model.Site, ...], line: int) -> None:
    """Raise Mistake if sites do not go together.

    :param line: to name where no site is to blame
    """
    central = [site for site in sites if site.central]
    if not central:
        raise sitesfile.Mistake(path, line, 'no site is the central one; '
                                'give one of them central: true')
    if len(central) > 1:
        raise sitesfile.Mistake(
            path, central[1].line, 'site %s is central, but so is %s (line '
            '%d); there can be one' % (central[1].name, central[0].name,
                                       central[0].line))
    for site, other, what in _clashes(sites):
        raise sitesfile.Mistake(path, site.line, 'site %s has %s, and so has '
                                'site %s (line %d)' % (
                                    site.name, what, other.name, other.line))
    _check_logins(path, sites, central[0])


def _check_logins(path: str, sites: tuple[model.Site, ...],
                  central: model.Site) -> None:
    """Raise Mistake if one cephx user would need two kinds of rights."""
    at_central = {central.ceph.user: ('that of central itself',
                                      model.Access.OWNER)}
    login = central.at_central or central.from_central
    if login:
        raise sitesfile.Mistake(path, login.line, 'site %s is the central '
                                'one: at_central and from_central are for '
                                'the others' % central.name)
    for site in sites:
        login = site.from_central
        if login and login.user == site.ceph.user:
            raise sitesfile.Mistake(
                path, login.line, 'client.%s is the user of site %s itself: '
                'the central Glance needs another one there, which cannot '
                'reach the records of the site' % (login.user, site.name))
        login = site.at_central
        if login:
            whose, access = at_central.setdefault(
                login.user, ('that of site %s' % site.name,
                             site.edge_access))
            if access is not site.edge_access:
                raise sitesfile.Mistake(
                    path, login.line, 'site %s cannot have client.%s at '
                    'central: it is %s, which has other rights'
                    % (site.name, login.user, whose))


def _clashes(sites: tuple[model.Site, ...]
             ) -> Iterator[tuple[model.Site, model.Site, str]]:
    """Give sites, others before them, and what they share."""
    seen: dict[tuple[str, object], model.Site] = {}
    for site in sites:
        # oslo.config, and some file systems, do not tell case apart.
        owned: list[tuple[str, object, str]] = [
            ('name', site.name.lower(), 'the name %s' % site.name)]
        if site.store:
            cluster = site.ceph
            owned += [
                ('store', site.store.lower(), 'the store %s' % site.store),
                ('cluster', cluster.name.lower(),
                 'a cluster of the name %s' % cluster.name),
                ('pool', (cluster.fsid, site.pool), 'pool %s of the cluster '
                 'with fsid %s' % (site.pool, cluster.fsid))]
        owned += [('worker', url.lower(), 'the worker %s' % url)
                  for url in site.workers]
        for kind, key, what in owned:
            if (kind, key) in seen:
                yield site, seen[kind, key], what
            seen[kind, key] = site
