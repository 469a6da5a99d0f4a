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


"""``glance-dcn config``: the configuration that follows from a sites file."""

from __future__ import annotations

import argparse
import os
import typing

from glance_dcn.cmd import formats
from glance_dcn.cmd import output
from glance_dcn.cmd import sitesfile
from glance_dcn.deploy import diff
from glance_dcn.deploy import files
from glance_dcn.deploy import load
from glance_dcn.deploy import model
from glance_dcn.deploy import render

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

_RENDER = """\
Writes what the nodes of a site need, out of the sites file:

  plain     etc/glance/glance-api.conf.d/glance-dcn.conf, and for each
            cluster etc/ceph/NAME.conf and etc/ceph/NAME.client.USER.keyring,
            as they are to stand on a node; glance-api.conf, with database
            and Keystone, stays as it is
  tripleo   environment files for "openstack overcloud deploy" of the site's
            stack: glance.yaml, ceph_external.yaml, ceph_keys.yaml
  kolla     for the folder of a site's kolla-ansible, /etc/kolla:
            globals.d/glance-dcn.yml, and in config/glance
            glance-image-import.conf and the files of each cluster
  openstack-ansible
            for the folder of a site's openstack-ansible,
            /etc/openstack_deploy: user_zz_glance_dcn.yml, and in
            glance-dcn/SITE the files of each cluster
  operator  a kustomize overlay for the OpenStackControlPlane, with the
            GlanceAPIs of all the sites that are named, and their secrets

With one site and one worker the files stand in DIR itself; otherwise each
site has a folder in it, and each worker of a site with several, named after
its host. What is there already and is as it should be is left alone; each
file is replaced at once, and the one before is kept as FILE.bak, or as
FILE.bak.1 where FILE.bak is not of a rendered file. Files that are not
rendered are left alone, and so is what others have written into conf files
and keyrings of clusters, with owner, group and mode of these. A file that
would lose a section that others have written is refused, and so is a conf
file with such sections that is of another cluster, and a file of variables
that would replace what others have in theirs; nothing is written then.
"""
_RENDER_END = """\
examples:
  glance-dcn config render --site dcn0 --as plain --output /root/dcn0
      The files of dcn0, for its owner alone.
  glance-dcn config render --site dcn0 --as plain --output / --group glance
      The same onto this node, where Glance may read them.
  glance-dcn config render --site dcn0 --as plain --output / --dry-run
      What that would write.
  glance-dcn config render --all --as tripleo --output ~/stacks
      The environment files of every stack, each in ~/stacks/SITE.
  glance-dcn config render --site central --as kolla --output /etc/kolla
      What kolla-ansible takes for Glance at central, with the next
      "kolla-ansible reconfigure --tags glance".
  glance-dcn config render --all --as operator --output overlay
      One overlay; "oc kustomize overlay" shows what it makes of ../base.

exit status:
  0  done
  2  wrong arguments, something wrong in the sites file, a file that would
     lose or replace what others have written, or one of another cluster:
     nothing is written; or a file cannot be written
"""
_DIFF = """\
Compares what the sites file says with a running node, or with what it said
before. Nothing is written. Of secrets it says that they differ, not how.
"""
_DIFF_END = """\
examples:
  glance-dcn config diff --site dcn0 /
      This node, which is the one of dcn0. Best as root: what cannot be read
      is listed as unreadable.
  glance-dcn config diff --site central --worker 10.0.0.12 /mnt/node2
      A copy of etc/ of the second worker of central.
  glance-dcn config diff --from sites.yaml.old
      Which files change where, at all sites.

exit status:
  0  nothing differs
  1  something does
  2  wrong arguments, or something wrong in a sites file
"""

_FILES = formats.Columns(('site', 'node', 'file', 'mode', 'state'))
_CHANGES = formats.Columns(('site', 'node', 'what', 'file', 'details'))
# A change, with the names of its site and node.
_Change = tuple[str, str, diff.Change]
# Files of Glance that packages and deployers write.
_DEPLOYERS = ('glance-api.conf', 'glance-image-import.conf')


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    commands = output.add_group(
        subparsers, 'config',
        'make the configuration of sites out of a sites file')
    _register_render(commands)
    _register_diff(commands)


def _register_render(commands: output.Subparsers) -> None:
    parser = sitesfile.add_command(
        commands, 'render', 'write the files that sites need', _RENDER,
        _RENDER_END, _FILES, _render)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('--site', action='append', metavar='SITE', default=[],
                       help='render this site; may be given several times')
    which.add_argument('--all', action='store_true',
                       help='render all sites')
    _add_kind(parser)
    parser.add_argument('--worker', metavar='HOST',
                        help='only for this worker of a site with several')
    parser.add_argument('--output', required=True, metavar='DIR',
                        help='folder to write to; made if it is not there')
    parser.add_argument('--group', metavar='GROUP',
                        help='group that may read secrets (mode 0640); '
                             'without it, their owner alone (0600)')
    parser.add_argument('--dry-run', action='store_true',
                        help='write nothing, and show what would be written')


def _register_diff(commands: output.Subparsers) -> None:
    parser = sitesfile.add_command(
        commands, 'diff', 'compare the configuration with a running node, or '
        'with that of another sites file', _DIFF, _DIFF_END, _CHANGES, _diff)
    parser.add_argument('running', nargs='?', metavar='RUNNING_DIR',
                        help='the root of a node, or of a copy, with '
                             'etc/glance and etc/ceph')
    parser.add_argument('--from', dest='before', metavar='OLD',
                        help='an older sites file, in place of RUNNING_DIR')
    parser.add_argument('--site', action='append', metavar='SITE', default=[],
                        help='only this site; may be given several times '
                             'with --from')
    _add_kind(parser, 'plain')
    parser.add_argument('--worker', metavar='HOST',
                        help='which worker of a site with several')
    parser.add_argument('--group', metavar='GROUP',
                        help='group that may read secrets')


def _add_kind(parser: argparse.ArgumentParser,
              default: str | None = None) -> None:
    parser.add_argument('--as', dest='kind', choices=render.KINDS,
                        required=default is None, default=default,
                        metavar='FORM', help='for whom: %s%s' % (
                            ', '.join(render.KINDS),
                            ' (%s)' % default if default else ''))


def _render(args: argparse.Namespace) -> int:
    deployment = load.load(args.sites_file)
    sites = sitesfile.sites(deployment, args.site)
    # All of it is there, and right, before anything is written.
    found = render.render(deployment, sites, args.kind)
    if args.worker:
        found = [('', _worker(found, args.worker, sites))]
    placed = render.placed(found)
    group = files.gid(args.group) if args.group else None
    written = files.write(args.output, [file for _node, file in placed],
                          group, args.dry_run)
    rows = [(rendering.site, rendering.node, file.path,
             '%04o' % done.mode, done.state)
            for (rendering, file), done in zip(placed, written)]
    _print(args, rows,
           [note for _prefix, rendering in found for note in rendering.notes]
           + ['%s has what others have written: it keeps its owner and its '
              'group, and gets mode %04o; give Glance the right to read it, '
              'with setfacl say'
              % (os.path.join(args.output, done.file.path), done.mode)
              for done in written if done.withheld]
           + _contradictions(args.output, placed)
           + ['nothing was written (--dry-run)'] * args.dry_run)
    return output.Exit.GOOD


def _contradictions(folder: str,
                    placed: list[tuple[files.Rendering, files.File]]
                    ) -> list[str]:
    """Return notes of what the files of deployers say otherwise."""
    found = []
    for _rendering, file in placed:
        path = os.path.join(folder, file.path)
        above, name = os.path.split(os.path.dirname(file.path))
        if name == 'glance-api.conf.d':
            found += ['%s says %s otherwise; take it out there, for a Glance '
                      'that is started with --config-file reads that file '
                      'last' % (os.path.join(folder, other), option)
                      for other, option in diff.contradicted(
                          file, folder, [os.path.join(above, deployers)
                                         for deployers in _DEPLOYERS])]
        if file.kind is files.Kind.VARIABLES:
            found += ['%s of %s does not count any more; that of %s does'
                      % (variable, other, path) for other, variables
                      in files.other_variables(path, file).items()
                      for variable in sorted(variables)]
    return found


def _worker(found: list[tuple[str, files.Rendering]], name: str,
            sites: list[model.Site]) -> files.Rendering:
    """Return the rendering of one worker."""
    if len(sites) > 1:
        raise output.Failed('--worker needs one --site')
    known = {rendering.node: rendering for _prefix, rendering in found}
    if name not in known:
        raise output.Failed('site %s has no worker %r; it has: %s' % (
            sites[0].name, name, ', '.join(filter(None, known)) or
            'one only, which needs no --worker'))
    return known[name]


def _print(args: argparse.Namespace, rows: Sequence[Sequence[object]],
           notes: list[str]) -> None:
    notes = [*dict.fromkeys(notes)]
    found = [dict(zip(_FILES.names, row)) for row in rows]
    formats.show(args, {'files': found, 'notes': notes}, found,
                 notes=['Note: %s.' % note for note in notes])


def _diff(args: argparse.Namespace) -> int:
    if (args.running is None) == (args.before is None):
        raise output.Failed('give either RUNNING_DIR or --from OLD')
    deployment = load.load(args.sites_file)
    changes = (_with_running(args, deployment) if args.before is None
               else _with_older(args, deployment))
    lines = []
    for site, node, change in changes:
        lines.append('%s  %s  %s' % (
            '/'.join(filter(None, (site, node))) or '-', change.kind,
            change.path))
        lines += ['    %s' % line for line in change.details]
    found = [dict(site=site, node=node, file=change.path, what=change.kind,
                  details=change.details) for site, node, change in changes]
    formats.show(args, {'changes': found}, found,
                 lines or ['Nothing differs.'])
    return output.Exit.BAD if changes else output.Exit.GOOD


def _with_running(args: argparse.Namespace,
                  deployment: model.Deployment) -> list[_Change]:
    if len(args.site) != 1:
        raise output.Failed('say with one --site which site the node in '
                            '%s is of' % args.running)
    if args.kind != 'plain':
        raise output.Failed('a running node is compared --as plain')
    sites = sitesfile.sites(deployment, args.site)
    found = render.render(deployment, sites, args.kind)
    if args.worker:
        rendering = _worker(found, args.worker, sites)
    elif len(found) > 1:
        raise output.Failed('say with --worker which one of %s the node is'
                            % ', '.join(rendering.node for _prefix,
                                        rendering in found))
    else:
        rendering = found[0][1]
    group = files.gid(args.group) if args.group else None
    return [(rendering.site, rendering.node, change)
            for change in diff.with_folder(rendering.files, args.running,
                                           group)]


def _with_older(args: argparse.Namespace,
                deployment: model.Deployment) -> list[_Change]:
    if args.worker:
        raise output.Failed('--worker does not go with --from')
    before = load.load(args.before)
    known = [*dict.fromkeys(site.name for site in (*deployment.sites,
                                                   *before.sites))]
    for name in args.site:
        if name not in known:
            sitesfile.sites(deployment, [name])
    found = [_by_node(side, args.site, args.kind)
             for side in (before, deployment)]
    return [(*node, change)
            for node in sorted(found[0].keys() | found[1].keys())
            for change in diff.with_rendered(found[0].get(node, []),
                                             found[1].get(node, []))]


def _by_node(deployment: model.Deployment, names: list[str],
             kind: str) -> dict[tuple[str, str], list[files.File]]:
    """Return the rendered files of each node of each site."""
    sites = [site for site in deployment.sites
             if not names or site.name in names]
    groups = [[site] for site in sites] if kind == 'operator' else [sites]
    return {(rendering.site, rendering.node): rendering.files
            for group in groups
            for _prefix, rendering in render.render(deployment, group, kind)}
