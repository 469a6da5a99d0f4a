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

"""``glance-dcn check``: whether this node and all sites are in order."""

from __future__ import annotations

import argparse

from glance_dcn.ceph import errors
from glance_dcn.checks import access
from glance_dcn.checks import guide
from glance_dcn.checks import nodes
from glance_dcn.checks import registry
from glance_dcn.checks import runner
from glance_dcn.checks import subjects
from glance_dcn.cmd import formats
from glance_dcn.cmd import node
from glance_dcn.cmd import output
from glance_dcn.tasks import deployment as deployments

_DESCRIPTION = """\
Looks at this node's Glance and, from here, at every site, all at the same
time, and says of each check whether it passed, and what to do where it did
not. Nothing is changed: what a user may do to images is tried out on a
scratch image, glance-dcn-scratch-..., which is removed again.

Run it as root on a node where Glance runs: it then finds out as well what
the user that Glance runs as can read.
"""
_EPILOG = """\
examples:
  glance-dcn check                       everything
  glance-dcn check --site dcn7           one site
  glance-dcn check --only conf,keyring   some checks of every site
  glance-dcn check --problems            what is not well, alone
  glance-dcn check --explain keyring     what a check may find, and the cure

exit status:
  0  nothing failed (there may be warnings, unless --strict)
  1  something failed
  2  wrong arguments, or a configuration that cannot be used
"""
_ROOM = 20
_COLUMNS = formats.Columns(('site', 'check', 'level', 'text', 'remedy',
                            'seconds'))
_HEADS = ('site', 'check', 'level', 'text')
# Why there is nothing to look at for a check, by its scope.
_NO_SITE = 'there is no site with a cluster'
_IDLE = {registry.SITE: _NO_SITE, registry.ALL: _NO_SITE,
         registry.NODE: '--site leaves this node out',
         registry.GLANCE: 'name a Glance with --glance, or as a worker of a '
                          'site in a sites file'}


def register(subparsers: output.Subparsers) -> None:
    """Add the subcommand to those of the command."""
    parser = output.add_command(
        subparsers, 'check', 'see whether this node and all sites are in '
        'order', _DESCRIPTION, _EPILOG, _COLUMNS, run=run, set_up=_set_up)
    node.add_sites(parser)
    parser.add_argument('--site', action='append', metavar='STORE',
                        help='only this site, and not the node; may be given '
                             'several times')
    parser.add_argument('--only', type=_names, default=[],
                        metavar='CHECK,...', help='only these checks')
    parser.add_argument('--problems', action='store_true',
                        help='show only what is not well')
    parser.add_argument('--strict', action='store_true',
                        help='warnings count as failures')
    parser.add_argument('--timeout', type=output.between(1, 600, 'seconds'),
                        default=10,
                        metavar='SECONDS', help='time for everything (10)')
    parser.add_argument('--user', metavar='NAME',
                        help='user that Glance runs as (glance, where root '
                             'asks and there is one)')
    parser.add_argument('--staging-room', default=_ROOM,
                        type=output.between(0, 1 << 20, 'GiB'),
                        metavar='GIB', help='GiB that the staging folder '
                        'shall have free (%d)' % _ROOM)
    parser.add_argument('--glance', action='append', default=[],
                        type=node.url, metavar='URL',
                        help='see that a Glance answers there; may be given '
                             'several times')
    parser.add_argument('--explain', nargs='?', const=[*registry.CHECKS],
                        type=_names, metavar='CHECK',
                        help='say what is checked and what may be found, and '
                             'check nothing')


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(',') if name.strip()]
    unknown = [name for name in names if name not in registry.CHECKS]
    if unknown:
        raise argparse.ArgumentTypeError(
            'there is no check %s; there are %s' % (
                ', '.join(unknown), ', '.join(registry.CHECKS)))
    return names


def _set_up(args: argparse.Namespace) -> None:
    if args.explain is None:
        node.set_up(args)


def run(args: argparse.Namespace) -> int:
    """Carry out the checks and return the exit status."""
    if args.explain is not None:
        if not formats.for_people(args):
            raise output.Failed('--explain says it in words, which have no '
                                'other format and no columns')
        print('\n'.join(guide.plain(registry.CHECKS[name])
                        for name in args.explain))
        return output.Exit.GOOD
    findings = runner.run(_subjects(args), args.timeout, args.only)
    shown = [finding for finding in findings
             if finding.level in (registry.WARN, registry.FAIL)
             or not args.problems and finding.level == registry.OK]
    formats.show(args, {'checks': shown if args.problems else findings},
                 [vars(finding) for finding in shown],
                 _text(shown, findings))
    bad = (registry.FAIL, registry.WARN) if args.strict else (registry.FAIL,)
    return (output.Exit.BAD if any(finding.level in bad
                                   for finding in findings)
            else output.Exit.GOOD)


def _subjects(args: argparse.Namespace) -> list[subjects.Subject]:
    """Return what is to be looked at."""
    # What is wrong with site files is told by a check.
    known = node.targets_of(args, tell=False)
    targets = node.choose(known, args.site)
    allowed = access.Access(args.user)
    deployment = deployments.deployment_id(args.conf)
    sites = [subjects.Site(target, allowed, deployment)
             for target in targets]
    # A database that hangs is told by a check; sites are looked at then, too.
    located = subjects.Located((target.name for target in known),
                               args.timeout / 3)
    for site in sites:
        site.located = located
    paths = [target.conf_file for target in targets if target.conf_file]
    things: list[subjects.Subject] = []
    if not args.site:
        paths.append(args.conf[nodes.STAGING].filesystem_store_datadir)
        things.append(subjects.Node(args.conf, allowed,
                                    int(args.staging_room * (1 << 30))))
    things += [*sites, *(subjects.Glance(name, url)
                         for name, url in _glances(args))]
    _refuse_idle(things, args.only)
    # In one go, before there are threads.
    allowed.ask(paths + [path for site in sites for path in _keyrings(site)])
    return things


def _refuse_idle(things: list[subjects.Subject], names: list[str]) -> None:
    """Refuse checks that would not be carried out, and not be missed.

    :raises output.Failed: if there are any
    """
    idle: dict[str, list[str]] = {}
    for check in runner.idle(things, names):
        idle.setdefault(_IDLE[check.scope], []).append(check.name)
    if idle:
        raise output.Failed('nothing to look at for ' + '; nor for '.join(
            '%s: %s' % (', '.join(dict.fromkeys(found)), why)
            for why, found in idle.items()))


def _glances(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return names and URLs of the Glances that shall answer."""
    said = node.deployment(args)
    return [*(('glance', url) for url in args.glance),
            *((site.name, url) for site in (said.sites if said else ())
              if not args.site or site.store in args.site
              for url in site.workers)]


def _keyrings(site: subjects.Site) -> list[str]:
    try:
        return list(site.factory.settings.keyrings)
    except errors.ClusterError:
        return []


def _text(shown: list[registry.Finding],
          findings: list[registry.Finding]) -> list[str | formats.Table]:
    """Return one line for each check, with its remedy, and their numbers."""
    rows = [(finding.site, finding.check, finding.level,
             ' '.join(finding.text.split())
             + ('; %s' % finding.remedy if finding.remedy else ''))
            for finding in shown]
    numbers = {level.value: sum(finding.level is level for finding in findings)
               for level in (registry.OK, registry.WARN, registry.FAIL,
                             registry.SKIP)}
    return [formats.Table(_HEADS, rows)] * bool(rows) + [
        '%(ok)d ok, %(warn)d warnings, %(fail)d failures, %(skip)d not '
        'possible because of those' % numbers]
