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

"""``glance-dcn site``: the clusters of the stores, and of a sites file."""

from __future__ import annotations

import argparse
import os
import pathlib
import typing

import glance_store

from glance_dcn.ceph import errors
from glance_dcn.ceph import health
from glance_dcn.ceph import users
from glance_dcn.cmd import formats
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.cmd import sitesfile
from glance_dcn.deploy import cephconf
from glance_dcn.deploy import files
from glance_dcn.deploy import load
from glance_dcn.deploy import model
from glance_dcn.deploy import site_entry
from glance_dcn.deploy import sitesfile as mistakes
from glance_dcn.runtime import process
from glance_dcn.sites import cluster_identity
from glance_dcn.sites import site as sites
from glance_dcn.status import poll
from glance_dcn.status import snapshot
from glance_dcn.tasks import deployment as deployments
from glance_dcn.tasks import queue

_LIST = """\
Lists the sites of this node's Glance, or those of a sites file: how each is
from here, the fsid of its cluster, what this Glance may do there, and what it
makes of the site:

  default   it is the default store
  used      it is a store
  refused   it is a store that Glance refuses: the reason tells why
  no store  this node's Glance has no store of the name, yet or any more

"recorded" is the fsid that Glance has recorded, and holds the cluster to.
Neither Glance nor its database is asked.
"""
_LIST_END = """\
examples:
  glance-dcn site list
  glance-dcn site list -f value -c name -c fsid
  glance-dcn site list --sites-file /etc/glance-dcn/sites.yaml -f json

exit status:
  0  every site is up, and Glance has a store there and uses it
  1  one is not, or what Glance has recorded cannot be read
  2  wrong arguments, or a configuration that cannot be used
"""
_SHOW = """\
Connects to the cluster of a store of this node's Glance, as that does, and
says whether it is up, with its fsid and pool, or why it is not.
"""
_SHOW_END = """\
examples:
  glance-dcn site show dcn3
  glance-dcn site show dcn3 -f value -c fsid

exit status:
  0  it is up
  1  it is not
  2  wrong arguments, no such store, or a configuration that cannot be used
"""
_ACCEPT = """\
Takes the cluster that a store has now for the right one. A store whose
cluster has another fsid than before is refused, as its conf file may name the
wrong one: accept it only where the site was rebuilt, and what it held is
lost.
"""
_ACCEPT_END = """\
examples:
  glance-dcn site list -c name -c fsid -c recorded
      Which cluster does each store have, and which one had it?
  glance-dcn site accept dcn3

exit status:
  0  it is accepted
  2  wrong arguments, no such store, or a configuration that cannot be used
  3  it cannot be reached
"""
_IMPORT = """\
Makes an entry for the sites file: from a running cluster, which is asked for
its fsid, monitors and pools, or from what "openstack overcloud export ceph"
has written. The entry is printed; with --add it is added to the sites file,
the rest of which stays as it is to the byte. Keys are never printed. The entry
names the files with the keys that its Glance needs at central, and the central
Glance at its cluster: make them with "glance-dcn site key".
"""
_IMPORT_END = """\
examples:
  glance-dcn site import dcn3 --ceph-conf /etc/ceph/dcn3.conf \\
      --user glance --keyring /etc/ceph/dcn3.client.glance.keyring --add
      Ask the cluster of dcn3; the entry refers to the keyring where it is.
  glance-dcn site import --export ceph-export-2-stacks.yaml --add
      Every cluster of a TripleO export. Its keys are written into the folder
      keys beside the sites file, each for its owner alone.

exit status:
  0  done
  2  wrong arguments, a cluster that refuses the user, or a sites file that
     would not be right any more: it is left as it is
  3  the cluster does not answer
"""
_KEY = """\
Makes a cephx user with the capabilities that a Glance needs at the cluster of
a site, and no others, and writes its keyring, for its owner alone, to where
the sites file refers to. It is the Glance of that site, which may do anything
in the pool, or with --for that of another one: the central Glance may read,
write and remove images of an edge; an edge may read those of central, and
write there only if the sites file says "edge_access: read-write". Neither can
reach the records that a site keeps in its pool.

The user, its pools and the fsid are those of the sites file. A user that is
there keeps its key; if it has other capabilities, others may need them, and
it is left as it is. The key is never printed.

It has to be run with the conf file and a keyring of the site's cluster that
may make users, such as client.admin's.
"""
_KEY_END = """\
examples:
  glance-dcn site key dcn3 --ceph-conf /etc/ceph/ceph.conf \\
      --keyring /etc/ceph/ceph.client.admin.keyring
      For the Glance of dcn3 at its own cluster.
  glance-dcn site key dcn3 --for central --ceph-conf dcn3.conf
      For the central Glance at the cluster of dcn3.
  glance-dcn site key central --for dcn3 --ceph-conf central.conf
      For the Glance of dcn3 at the cluster of central.
  glance-dcn site key dcn3 --ceph-conf ceph.conf --user glance \\
      --pool images --output dcn3.client.glance.keyring
      For a site that is in no sites file yet.

exit status:
  0  done
  2  wrong arguments, or a cluster that refuses it, or is not that of the site
  3  the cluster does not answer
"""
_SITES = formats.Columns(
    ('name', 'state', 'fsid', 'recorded', 'access', 'glance', 'pool',
     'reason'),
    ('name', 'state', 'fsid', 'access', 'glance', 'reason'))
_SITE = formats.Columns(('store', 'state', 'fsid', 'pool', 'error'),
                        single=True)
_ACCEPTED = formats.Columns(('store', 'fsid', 'before', 'error'), single=True)
_ENTRIES = formats.Columns(('name', 'fsid', 'mons', 'user', 'pool', 'added'))
_MADE = formats.Columns(('site', 'user', 'pools', 'access', 'what', 'keyring',
                         'state'), single=True)
# A site as it stands in a sites file, and where which keyring is to be.
_Entry = dict[str, typing.Any]
_Key = tuple[str, files.File]


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommands to those of the command."""
    commands = output.add_group(
        subparsers, 'site', 'list or show sites, accept that one has another '
        'cluster, or prepare one for the sites file')
    listing = output.add_command(
        commands, 'list', 'list all sites, and what Glance makes of them',
        _LIST, _LIST_END, _SITES, run=_list, set_up=node.set_up)
    node.add_sites(listing)
    listing.add_argument(
        '--timeout', type=output.seconds, default=snapshot.ANSWER,
        metavar='SECONDS', help='time for sites to answer (%(default)s)')
    for parser in (
            output.add_command(
                commands, 'show', 'connect to the cluster of a store and say '
                'how it is', _SHOW, _SHOW_END, _SITE, run=_show),
            output.add_command(
                commands, 'accept', 'take the cluster that a store has now '
                'for the right one, after its site was rebuilt', _ACCEPT,
                _ACCEPT_END, _ACCEPTED, run=_accept)):
        parser.add_argument('store', metavar='STORE',
                            help='name of the store in enabled_backends')
    _register_import(commands)
    _register_key(commands)


def _list(args: argparse.Namespace) -> int:
    targets = node.some_targets_of(args)
    stores = {target.name: target
              for target in node.targets(args.conf, tell=False)}
    polling = poll.Poll(targets, deployments.deployment_id(args.conf))
    found = polling.wait(args.timeout)
    rows = []
    for target, state in zip(targets, found):
        store = stores.get(target.name)
        recorded = (polling.kept or {}).get(target.name)
        rows.append({
            'name': target.name, 'state': state.state,
            'fsid': state.fsid or state.expected,
            'recorded': recorded.fsid if recorded else None,
            'access': target.access.value, 'pool': target.pool,
            'glance': 'no store' if store is None else
            'refused' if state.refused else
            'default' if store.default else 'used', 'reason': state.reason})
    unread = any(state.unread for state in found)
    formats.show(args, {'sites': rows, 'unread': unread}, rows, notes=[
        'What Glance has recorded of the clusters cannot be read.'] * unread)
    return output.Exit.BAD if unread or any(
        row['state'] != health.UP or row['glance'] == 'no store'
        for row in rows) else output.Exit.GOOD


def _show(args: argparse.Namespace) -> int:
    site = _find(args.store)
    if site is None:
        return _none(args, state=None, fsid=None, pool=None)
    error = None
    try:
        with site.open_pool():
            state, text = health.UP, 'up, fsid %s, pool %s' % (site.fsid,
                                                               site.pool)
    except errors.ClusterError as exc:
        state, error = site.health.state, str(exc)
        text = '%s: %s' % (state, error)
    _print(args, '%s: %s' % (site.name, text), error, state=state,
           fsid=site.fsid, pool=site.pool)
    return output.Exit.GOOD if error is None else output.Exit.BAD


def _accept(args: argparse.Namespace) -> int:
    site = _find(args.store)
    if site is None:
        return _none(args, fsid=None, before=None)
    try:
        before, now = process.get(
            cluster_identity.ClusterIdentities).accept(site)
    except errors.ClusterError as exc:
        _print(args, str(exc), str(exc), fsid=None, before=None)
        return output.status_of(exc)
    _print(args, '%s: fsid %s is accepted; it was %s' % (
        site.name, now, before or 'not known'), fsid=now, before=before)
    return output.Exit.GOOD


def _print(args: argparse.Namespace, text: str, error: str | None = None,
           **fields: str | None) -> None:
    row = dict({'store': args.store}, **fields, error=error)
    formats.show(args, row, [row], [text])


def _none(args: argparse.Namespace, **fields: str | None) -> int:
    """Say that there is no such store, and return the exit status."""
    known = process.get(queue.TaskQueue).sites
    text = '%s is no store of type dcn; these are: %s' % (
        args.store, ', '.join(sorted(known)) or 'none')
    _print(args, text, text, **fields)
    return output.Exit.WRONG


def _find(store: str) -> sites.Site | None:
    """Return the site of a store, or None."""
    try:
        found = glance_store.get_store_from_store_identifier(store).site
    except (glance_store.UnknownScheme, AttributeError):
        return None
    return found if isinstance(found, sites.Site) else None


def _register_import(commands: output.Subparsers) -> None:
    parser = sitesfile.add_command(
        commands, 'import', 'make an entry for the sites file', _IMPORT,
        _IMPORT_END, _ENTRIES, _import)
    parser.add_argument('name', nargs='?', metavar='SITE',
                        help='name of the site; with --export, of the '
                             'cluster in it: without, all of them')
    parser.add_argument('--ceph-conf', metavar='FILE',
                        help='conf file of the running cluster')
    parser.add_argument('--keyring', metavar='FILE',
                        help='keyring of the user; the entry refers to it')
    parser.add_argument('--user', metavar='USER', default='glance',
                        help='cephx user, without "client." (%(default)s)')
    parser.add_argument('--export', metavar='FILE',
                        help='output of "openstack overcloud export ceph"')
    parser.add_argument('--pool', default='images', metavar='POOL',
                        help='pool of the images (%(default)s)')
    parser.add_argument('--store', metavar='STORE',
                        help='name of its store, if images are there under '
                             'another one than that of the site')
    parser.add_argument('--central', action='store_true',
                        help='it is the central site')
    parser.add_argument('--worker', action='append', default=[],
                        metavar='URL', help='URL of a Glance worker of the '
                        'site; may be given several times')
    parser.add_argument('--keys', metavar='DIR',
                        help='folder for keys of an export (keys, beside the '
                             'sites file)')
    parser.add_argument('--add', action='store_true',
                        help='add it to the sites file')


def _register_key(commands: output.Subparsers) -> None:
    parser = sitesfile.add_command(
        commands, 'key', 'make a cephx key for Glance at a site', _KEY,
        _KEY_END, _MADE, _key)
    parser.add_argument('name', metavar='SITE',
                        help='name of the site whose cluster it is')
    parser.add_argument('--for', dest='guest', metavar='SITE',
                        help='site whose Glance the user is for (the site of '
                             'the cluster)')
    parser.add_argument('--access', choices=[
        access.value for access in model.Access], help='what the user may '
        'do, where there is no sites file (owner)')
    parser.add_argument('--ceph-conf', required=True, metavar='FILE',
                        help='conf file of the cluster')
    parser.add_argument('--keyring', metavar='FILE',
                        help='keyring of the user that makes the key')
    parser.add_argument('--admin', default='admin', metavar='USER',
                        help='that user, without "client." (%(default)s)')
    parser.add_argument('--user', metavar='USER',
                        help='user to make, where there is no sites file')
    parser.add_argument('--pool', action='append', default=[],
                        metavar='POOL', help='pool the key is good for, '
                        'where there is no sites file; may be given several '
                        'times')
    parser.add_argument('--output', metavar='FILE',
                        help='keyring to write, in place of the one the '
                             'sites file refers to')
    parser.add_argument('--replace-caps', action='store_true',
                        help='of a user that is there, replace other '
                             'capabilities by those that Glance needs')


def _import(args: argparse.Namespace) -> int:
    if bool(args.ceph_conf) == bool(args.export):
        raise output.Failed('give either --ceph-conf, of a running '
                            'cluster, or --export')
    entries, keys = (_of_export(args) if args.export
                     else ([_of_cluster(args)], []))
    notes = _add_guests(args, entries)
    if args.add:
        _write(args, entries, keys)
    lines = ['%s: site %s is added' % (args.sites_file, found['name'])
             for found in entries] if args.add else [
        *(line for found in entries
          for line in files.yaml_text([found]).splitlines()),
        *('# The key is to be in %s; --add writes it.' % path
          for path, _file in keys)]
    formats.show(args, {
        'sites_file': args.sites_file, 'added': args.add, 'sites': entries,
        'keyrings': [path for path, _file in keys], 'notes': notes}, [
            dict(found['cluster'], name=found['name'], added=args.add,
                 pool=args.pool) for found in entries], lines, [
            '%sNote: %s.' % ('' if args.add else '# ', note)
            for note in notes])
    return output.Exit.GOOD


def _add_guests(args: argparse.Namespace, entries: list[_Entry]) -> list[str]:
    """Name the keys that Glances need at clusters of other sites.

    :returns: texts that say which keys are to be made, and how
    """
    try:
        central = load.load(args.sites_file).central.ceph.name
    except mistakes.Mistake:
        # There is none yet, or it is told when it is written.
        central = 'central'
    notes = []
    for found in entries:
        if found.get('central'):
            continue
        name = found['name']
        for key, path in (
                ('at_central', '%s.client.glance-%s.keyring' % (central,
                                                                name)),
                ('from_central', '%s.client.glance-central.keyring' % name)):
            found[key] = {'key': {'file': os.path.join('keys', path)}}
        notes.append(
            'make the keys of %s with "glance-dcn site key %s --for central" '
            'and "glance-dcn site key CENTRAL --for %s", CENTRAL being the '
            'central site' % (name, name, name))
    return notes


def _write(args: argparse.Namespace, entries: list[_Entry],
           keys: list[_Key]) -> None:
    """Add entries to the sites file, and write the keys they refer to."""
    prepared = site_entry.prepare(args.sites_file, entries)
    for path, file in keys:
        if os.path.lexists(path) and (
                pathlib.Path(path).read_text() != file.text):
            raise output.Failed('%s is there already, with another key; '
                                'move it away, or name another folder '
                                'with --keys' % path)
    for path, file in keys:
        files.write(os.path.dirname(path), [file])
    site_entry.write(args.sites_file, *prepared)


def _of_cluster(args: argparse.Namespace) -> _Entry:
    """Return the entry of a running cluster."""
    if not args.name:
        raise output.Failed('say how the site is called')
    found = users.describe(args.name, args.ceph_conf, args.user,
                           args.keyring)
    if args.pool not in found['pools']:
        raise output.Failed('the cluster of %s has no pool %r; it has: %s'
                            % (args.name, args.pool,
                               ', '.join(sorted(found['pools']))))
    keyring = args.keyring and os.path.abspath(args.keyring)
    return _entry(args, args.name, found['fsid'], found['mons'], args.user,
                  keyring)


def _of_export(args: argparse.Namespace) -> tuple[list[_Entry], list[_Key]]:
    """Return the entries of an export, and their keyrings."""
    folder = os.path.abspath(args.keys or os.path.join(
        os.path.dirname(os.path.abspath(args.sites_file)), 'keys'))
    clusters = [found for found in site_entry.read_export(args.export)
                if args.name in (None, found.name)]
    if not clusters:
        raise output.Failed('%s has no cluster %s'
                            % (args.export, args.name or ''))
    if len(clusters) > 1 and (args.central or args.worker or args.store):
        raise output.Failed('%s has several clusters; name the one that '
                            '--central, --worker or --store is for'
                            % args.export)
    entries: list[_Entry] = []
    keys: list[_Key] = []
    for found in clusters:
        name = '%s.client.%s.keyring' % (found.name, found.user)
        if os.path.basename(name) != name:
            raise output.Failed('%r cannot be the name of a cluster'
                                % found.name)
        keys.append((os.path.join(folder, name), files.File(
            name, cephconf.keyring(found.user, found.key), files.SECRET,
            (found.key,), files.Kind.CEPH)))
        entries.append(_entry(args, found.name, found.fsid, found.mons,
                              found.user, keys[-1][0], found.pools))
    return entries, keys


def _entry(args: argparse.Namespace, name: str, fsid: str, mons: list[str],
           user: str, keyring: str | None,
           pools: tuple[str, ...] = ()) -> _Entry:
    found: _Entry = {'name': name}
    if args.store:
        found['store'] = args.store
    if args.central:
        found['central'] = True
    found['cluster'] = {'fsid': fsid, 'mons': mons, 'user': user}
    if keyring:
        found['cluster']['key'] = {'file': keyring}
    # Nova and Cinder of a stack have the same user: whatever is made of the
    # sites file must leave it what it may do.
    others = [pool for pool in pools if pool != args.pool]
    if others:
        found['cluster']['extra_pools'] = others
    if args.pool != 'images':
        found['pool'] = args.pool
    if args.worker:
        found['workers'] = args.worker
    return found


def _key(args: argparse.Namespace) -> int:
    user, pools, access, path, fsid = _wanted(args)
    caps = cephconf.caps(pools, access)
    key, before = users.make_key(
        args.name, args.ceph_conf, args.admin, args.keyring, fsid, user,
        caps, args.replace_caps)
    if not model.is_key(key):
        raise output.Failed('the cluster gave no key of the usual form')
    folder, name = os.path.split(os.path.abspath(path))
    [done] = files.write(folder, [files.File(
        name, cephconf.keyring(user, key), files.SECRET, (key,),
        files.Kind.CEPH)])
    what = ('made' if before is None else 'there' if before == caps
            else 'given other capabilities')
    row = {'site': args.name, 'user': user, 'pools': pools,
           'access': access.value, 'what': what, 'keyring': path,
           'state': done.state}
    formats.show(args, row, [row], [
        '%s: client.%s is %s, for pools %s, %s; keyring %s is %s' % (
            args.name, user, what, ', '.join(pools), access.value, path,
            done.state)])
    return output.Exit.GOOD


def _wanted(args: argparse.Namespace
            ) -> tuple[str, list[str], model.Access, str, str | None]:
    """Return user, pools, access, path of the keyring, and fsid if known."""
    if args.user or args.pool or args.access:
        if args.guest or not (args.user and args.pool and args.output):
            raise output.Failed('without a sites file, --user, --pool and '
                                '--output are all needed, and --for is not '
                                'taken')
        access = model.Access(args.access or model.Access.OWNER.value)
        return args.user, args.pool, access, args.output, None
    deployment = load.load(args.sites_file)
    [site] = sitesfile.sites(deployment, [args.name])
    if site.cluster is None:
        raise output.Failed('site %s has no cluster' % site.name)
    if args.guest not in (None, site.name):
        [guest] = sitesfile.sites(deployment, [args.guest])
        # As the Glance of the other one sees it.
        seen = {other.name: view
                for other, view in deployment.guests_of(site)}
        if guest.name not in seen:
            raise output.Failed('the Glance of site %s has no store of %s, '
                                'and needs no key there' % (guest.name,
                                                            site.name))
        site = seen[guest.name]
    cluster = site.ceph
    path = args.output or (cluster.key and cluster.key.file)
    if not path:
        raise output.Failed('the sites file refers to no file with the key '
                            'of client.%s at %s; name one with --output'
                            % (cluster.user, site.name))
    return (cluster.user, [*cluster.extra_pools, site.pool], cluster.access,
            path, cluster.fsid)
