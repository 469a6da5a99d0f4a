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

"""Checks of one site's cluster, in the order in which they are made."""

from __future__ import annotations

import os
import stat
import typing

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import trial
from glance_dcn.checks import registry
from glance_dcn.checks import subjects
from glance_dcn.deploy import model
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import home as homes

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    import rados

FAIL, WARN, SITE = registry.FAIL, registry.WARN, registry.SITE
Found = registry.Found

# Seconds; bytes per second; parts of a cluster.
_FAR = .25
_SLOW = 1 << 20
_TIGHT = .1
# Seconds for each monitor.
_MONITOR_TIMEOUT = 2
_CAPS = ('on the cluster, run "ceph auth caps %(user)s %(caps)s", with what '
         'else the user needs')


@registry.check(
    'conf', SITE, 'The conf file of the cluster can be read by Glance',
    absent=(FAIL, 'conf file %(path)s is not there',
            'put it there, or correct rbd_store_ceph_conf in [%(site)s]'),
    unreadable=(FAIL, 'conf file %(path)s cannot be read by user %(user)s '
                '(%(error)s)', 'give the user the right to read it and to '
                'enter its folders'),
    writable=(WARN, 'conf file %(path)s may be written by everybody (mode '
              '%(mode)s)', 'chmod o-w %(path)s: it decides which files '
              'librados reads'),
    unusable=(FAIL, 'conf file %(path)s is not usable: %(error)s',
              'compare it with the one of the installation guide'),
    no_fsid=(WARN, 'conf file %(path)s names no fsid',
             'write the fsid of the cluster, which "ceph fsid" shows, into '
             'its [global]: without it Glance must reach the site to know '
             'which images are there'))
def conf(site: subjects.Site) -> str:
    """Check the conf file and its rights."""
    path = site.target.conf_file
    if path:
        if not os.path.exists(path):
            raise Found('absent', path=path)
        _check_readable(site, path)
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & stat.S_IWOTH:
            raise Found('writable', path=path, mode='%o' % mode)
    try:
        fsid = site.factory.settings.fsid
    except errors.ClusterError as exc:
        raise Found('unusable', path=path or 'ceph.conf', error=exc.reason)
    if not fsid:
        raise Found('no_fsid', path=path or 'ceph.conf')
    return path or 'found by librados'


def _check_readable(site: subjects.Site, path: str) -> None:
    assert site.access is not None, 'it is that of a check'
    error = site.access.why_unreadable(path)
    if error:
        raise Found('unreadable', path=path, user=site.access.user,
                    error=error)


@registry.check(
    'keyring', SITE, 'The keyring can be read by Glance, and by few others',
    needs=('conf',),
    absent=(FAIL, 'no keyring of %(user)s is there (%(path)s)',
            'put it there, or name it as keyring under [%(user)s] in the '
            'conf file, or correct rbd_store_user in [%(site)s]'),
    unreadable=(FAIL, 'keyring %(path)s cannot be read by user %(user)s '
                '(%(error)s)', 'chown root:%(user)s %(path)s; chmod 0640 '
                '%(path)s'),
    open=(WARN, 'keyring %(path)s can be read by everybody (mode %(mode)s)',
          'chmod 0640 %(path)s, and chown it to the group of Glance\'s user: '
          'the key lets its holder change every image of the site'))
def keyring(site: subjects.Site) -> str:
    """Check the keyring and its rights."""
    paths = site.factory.settings.keyrings
    if not paths:
        return 'none is needed'
    there = [path for path in paths if os.path.exists(path)]
    if not there:
        raise Found('absent', path=', '.join(paths))
    path = there[0]
    _check_readable(site, path)
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & stat.S_IROTH:
        raise Found('open', path=path, mode='%o' % mode)
    return '%s, mode %o' % (path, mode)


@registry.check(
    'monitors', SITE, 'The monitors can be reached', needs=('conf',),
    silent=(FAIL, 'the site cannot be reached: %(error)s',
            'see that the site is up, that the ports of its monitors (3300, '
            '6789) can be reached from this node, and mon_host in the conf '
            'file'),
    some=(WARN, '%(silent)s of %(all)d monitors cannot be reached: '
          '%(which)s', 'see that those monitors are up and can be reached '
          'from this node: should the others fail, the site is lost to it'))
def monitors(site: subjects.Site,
             answers: Callable[[str, int, float], str | None] = trial.answers
             ) -> str:
    """Connect to the cluster, and to each monitor."""
    try:
        site.connect()
    except errors.Unreachable as exc:
        raise Found('silent', error=exc.reason)
    except errors.ClusterError as exc:
        # They answered: what they said is told by the checks that follow.
        site.error = exc
        return 'they answer'
    try:
        found = trial.monitors(site.connected)
    except trial.Error:
        return 'they answer'
    silent = {}
    for name, places in found:
        why = [answers(host, port, _MONITOR_TIMEOUT)
               for host, port in places]
        if all(why):
            silent[name] = why[0]
    if silent:
        raise Found('some', silent=len(silent), all=len(found),
                    which=', '.join('%s (%s)' % item
                                    for item in sorted(silent.items())))
    return 'all %d answer' % len(found)


@registry.check(
    'login', SITE, 'The cluster knows the user and its key',
    needs=('keyring', 'monitors'),
    refused=(FAIL, 'the user is refused: %(error)s',
             'compare key and caps that "ceph auth get %(user)s" shows on the '
             'cluster with the keyring, or correct rbd_store_user in '
             '[%(site)s]'),
    failed=(FAIL, 'cannot log in: %(error)s',
            'see the conf file and keyring of [%(site)s]'))
def login(site: subjects.Site) -> str:
    """Report whether the cluster accepted the key."""
    if isinstance(site.error, errors.Refused):
        raise Found('refused', error=site.error.reason)
    if site.error and not isinstance(site.error, errors.WrongCluster):
        raise Found('failed', error=site.error.reason)
    return 'as %s' % site.user


@registry.check(
    'fsid', SITE, 'The cluster is the one the configuration means',
    needs=('login',),
    other=(FAIL, 'it is another cluster: %(error)s',
           'rbd_store_ceph_conf in [%(site)s] must name a conf file with the '
           'fsid and mon_host of one cluster'),
    unlike=(FAIL, 'the cluster that answers has fsid %(found)s, but the sites '
            'file says %(wanted)s', 'correct the sites file, or the conf '
            'file of the site'))
def fsid(site: subjects.Site) -> str:
    """Compare the fsid with the expected one."""
    if site.error:
        raise Found('other', error=site.error.reason)
    if site.target.fsid not in (None, site.fsid):
        raise Found('unlike', found=site.fsid, wanted=site.target.fsid)
    return str(site.fsid)


@registry.check(
    'pool', SITE, 'The pool is there, and its OSDs answer', needs=('fsid',),
    absent=(FAIL, 'the cluster has no pool %(pool)s',
            'correct rbd_store_pool in [%(site)s], or create it: "ceph osd '
            'pool create %(pool)s" and "rbd pool init %(pool)s"'),
    refused=(FAIL, 'pool %(pool)s refuses %(user)s (%(error)s)', _CAPS),
    silent=(FAIL, 'the OSDs of pool %(pool)s do not answer (%(error)s)',
            'see with "ceph -s" whether the cluster is healthy, and that the '
            'ports of its OSDs can be reached from this node'))
def pool(site: subjects.Site) -> str:
    """Open the pool, and send a request to its OSDs."""
    try:
        site.open()
    except errors.Unreachable as exc:
        raise Found('silent', error=exc.reason)
    except errors.Misconfigured:
        raise Found('absent')
    try:
        clients.ask_osds(site.opened)
    except trial.Error as exc:
        raise Found('refused' if errors.is_denied(exc) else 'silent',
                    error=exc)
    if site.keeps_records:
        try:
            site.kept = site.home.run(cluster_identity.load, site.deployment)
        except cluster_identity.Error:
            site.kept = None
    return site.target.pool


@registry.check(
    'rights', SITE, 'The user may do to images what Glance does',
    needs=('pool',),
    missing=(FAIL, '%(user)s may not %(right)s images in pool %(pool)s '
             '(%(error)s)', _CAPS),
    failed=(FAIL, 'a scratch image in pool %(pool)s: %(right)s failed '
            '(%(error)s)', 'see with "ceph -s" whether the cluster is '
            'healthy and has room'))
def rights(site: subjects.Site,
           sweep: Callable[[rados.Ioctx], object] = trial.sweep,
           try_all: Callable[[rados.Ioctx, Callable[[], bool]], list[str]] = (
               trial.rights)) -> str:
    """Do all operations of Glance to a scratch image."""
    try:
        if site.target.access is model.Access.READ_ONLY:
            done = trial.reading(site.opened)
        else:
            sweep(site.opened)
            done = try_all(site.opened, site.going_on)
    except trial.Refused as exc:
        raise Found('missing' if errors.is_denied(exc.error)
                    else 'failed', right=exc.right, error=exc.error)
    return ', '.join(done)


@registry.check(
    'excess', SITE, 'The user may do no more than it should',
    needs=('pool',),
    writes=(FAIL, 'the key of this Glance (%(user)s) may write there; '
            'expected read-only', _CAPS + '; or, if this Glance is to write '
            'there, set edge_access: read-write in the sites file, or leave '
            'dcn_access out of [%(site)s]'),
    blocklists=(FAIL, '%(user)s may blocklist clients of the cluster; '
                'expected read-only', _CAPS),
    records=(FAIL, '%(user)s can reach the records of that site, which are '
             'in namespace ' + homes.NAMESPACE + ' of pool %(pool)s', _CAPS),
    no_records=(FAIL, '%(user)s cannot reach the records of this site, which '
                'are in namespace ' + homes.NAMESPACE + ' of pool %(pool)s',
                _CAPS))
def excess(site: subjects.Site) -> str:
    """Try what the user should not be allowed, changing nothing."""
    with site.open_namespace(homes.NAMESPACE) as ioctx:
        reads = trial.may_read(ioctx)
        writes = trial.may_write(ioctx)
    if site.target.access is model.Access.OWNER:
        if not reads or not writes:
            raise Found('no_records')
        return 'it is the user of the site itself'
    if reads or writes:
        raise Found('records')
    if site.target.access is model.Access.READ_WRITE:
        return 'it can reach no records'
    if trial.may_write(site.opened):
        raise Found('writes')
    if trial.may_blocklist(site.connected):
        raise Found('blocklists')
    return 'it may only read'


@registry.check(
    'round-trip', SITE, 'The site is near enough', needs=('pool',),
    far=(WARN, 'a round trip takes %(ms).0f ms',
         'nothing fails for that, but to open an image takes a dozen round '
         'trips: see whether the way to the site is the right one'))
def round_trip(site: subjects.Site) -> str:
    """Measure the smallest request to an OSD."""
    seconds = trial.round_trip(site.opened)
    site.measured('round-trip', seconds=seconds)
    if seconds > _FAR:
        raise Found('far', ms=1000 * seconds)
    return '%.1f ms' % (1000 * seconds)


@registry.check(
    'throughput', SITE, 'Data moves at a fair rate', needs=('rights',),
    slow=(WARN, 'one request at a time moves %(write).2f MiB/s there and '
          '%(read).2f MiB/s back', 'an image takes that long: see the '
          'bandwidth of the way to the site, and who else uses it'))
def throughput(site: subjects.Site) -> str:
    """Measure the rates of writing and reading a scratch object."""
    if site.target.access is model.Access.READ_ONLY:
        return 'not measured, as nothing may be written there'
    write, read = trial.throughput(site.opened)
    site.measured('throughput', write=write, read=read)
    rates = {'write': write / (1 << 20), 'read': read / (1 << 20)}
    if min(write, read) < _SLOW:
        raise Found('slow', **rates)
    return ('%(write).0f MiB/s there, %(read).0f MiB/s back, one request at '
            'a time' % rates)


@registry.check(
    'room', SITE, 'The cluster has room', needs=('pool',),
    tight=(WARN, '%(free).1f GiB of %(total).1f GiB are free',
           'delete images or add OSDs: a full cluster takes no more'),
    unread=(WARN, 'the free space cannot be read (%(error)s)',
            'see with "ceph -s" whether the cluster is healthy'))
def room(site: subjects.Site) -> str:
    """Read the free space."""
    try:
        total, free = trial.room(site.connected)
    except trial.Error as exc:
        if errors.is_denied(exc):
            return 'the user may not ask'
        raise Found('unread', error=exc)
    if total is None or free is None:
        return 'the cluster does not say, as it has no manager'
    site.measured('room', total=total, free=free)
    figures = {'free': free / (1 << 30), 'total': total / (1 << 30)}
    if free < _TIGHT * total:
        raise Found('tight', **figures)
    return '%(free).1f GiB of %(total).1f GiB are free' % figures


@registry.check(
    'own-pool', registry.ALL, 'No other site has the same pool, and the '
    'cluster is still the same one',
    twin=(FAIL, 'it has pool %(pool)s of cluster %(fsid)s, which is that of '
          'site %(other)s already', 'correct rbd_store_ceph_conf or '
          'rbd_store_pool in [%(site)s]: the two would delete each other\'s '
          'images'),
    same=(WARN, 'its cluster %(fsid)s is that of site %(other)s too',
          'correct rbd_store_ceph_conf in [%(site)s], unless two sites share '
          'a cluster on purpose'),
    changed=(FAIL, 'its cluster has fsid %(fsid)s, and had fsid %(kept)s '
             'since %(since)s', 'if the site was rebuilt, and what it held is '
             'lost, run "glance-dcn site accept %(site)s"; if not, correct '
             'rbd_store_ceph_conf in [%(site)s]'))
def own_pool(subject: subjects.Sites) -> str:
    """Compare the cluster with those of others, and with the one recorded."""
    site = subject.site
    for other in subject.others:
        if other.fsid == site.fsid and other.target.pool == site.target.pool:
            raise Found('twin', other=other.name)
    if subject.kept and subject.kept.fsid != site.fsid:
        raise Found('changed', kept=subject.kept.fsid,
                    since=health.format_time(subject.kept.since))
    for other in subject.others:
        if other.fsid == site.fsid:
            raise Found('same', other=other.name)
    return 'cluster and pool are its own'
