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

"""The configuration of the Glance on this node, for the commands."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import typing

from oslo_config import cfg
from oslo_db import options as db_options

from glance_dcn.ceph import client as clients
from glance_dcn.checks import nodes
from glance_dcn.cmd import output
from glance_dcn.deploy import load
from glance_dcn.deploy import model
from glance_dcn.deploy import stores
from glance_dcn import opts
from glance_dcn.sites import home as homes
from glance_dcn.sites import worker_url
from glance_dcn.status import cluster
from glance_dcn.status import inventory
from glance_dcn.status import snapshot
from glance_dcn.tasks import deployment as deployments

if typing.TYPE_CHECKING:
    from glance_dcn.tasks import queue

# Glance's own, in the folder that OS_GLANCE_CONFIG_DIR names.
_FILES = ('glance-image-import.conf', 'glance-api.conf')
#: Stores that Glance makes for itself: those of
# glance.common.wsgi_app.RESERVED_STORES, whose import would start Glance.
RESERVED = {'os_glance_staging_store': 'file',
            'os_glance_tasks_store': 'file'}
_TYPES = ('dcn', 'rbd')
# What is to be known of a store.
_OPTIONS = ('rbd_store_pool', 'rbd_store_ceph_conf', 'rbd_store_user',
            'rados_connect_timeout', 'dcn_access')
_GROUP = 'glance_dcn'
# What a store that says nothing has.
_POOL = 'images'


def read(args: argparse.Namespace) -> cfg.ConfigOpts:
    """Read the configuration as Glance does, without setting stores up.

    :raises oslo_config.cfg.Error: if it cannot be used
    """
    # It registers options of the command line, whatever is read.
    from glance.common import config  # noqa: F401
    arguments = ['--config-file=%s' % path for path in args.config_file]
    arguments += ['--config-dir=%s' % path for path in args.config_dir]
    # By that name it finds glance-api.conf.d.
    cfg.CONF(args=arguments, project='glance', prog='glance-api',
             default_config_files=default_files())
    if 'enabled_backends' not in cfg.CONF:
        # That is where older releases of Glance register it.
        cfg.CONF.import_opt('enabled_backends', 'glance.common.wsgi')
    if not cfg.CONF.enabled_backends:
        raise cfg.Error(
            'enabled_backends is not set in %s; run this where Glance runs, '
            'or name its files with --config-file, --config-dir, or '
            'OS_GLANCE_CONFIG_DIR' % (', '.join(
                cfg.CONF.config_file or ()) or 'any file: none was found'))
    return cfg.CONF


def default_files() -> list[str]:
    """Return the configuration files Glance would read."""
    folder = os.environ.get('OS_GLANCE_CONFIG_DIR', '').strip()
    if not folder:
        return _with_import_options(
            cfg.find_config_files(project='glance', prog='glance-api'))
    try:
        names = os.listdir(folder)
    except OSError as exc:
        raise cfg.Error('the folder %s, which OS_GLANCE_CONFIG_DIR names, '
                        'cannot be read: %s' % (folder, exc.strerror)) from exc
    files = [os.path.join(folder, name) for name in _FILES if name in names]
    if not files:
        raise cfg.Error('the folder %s, which OS_GLANCE_CONFIG_DIR names, has '
                        'neither %s' % (folder, ' nor '.join(_FILES)))
    return _in_order(files)


def _with_import_options(files: list[str]) -> list[str]:
    """Return files with the glance-image-import.conf that is beside them."""
    for path in files:
        if os.path.basename(path) == _FILES[1]:
            other = os.path.join(os.path.dirname(path), _FILES[0])
            if os.path.exists(other):
                return _in_order([other, *files])
    return files


def _in_order(files: list[str]) -> list[str]:
    """Return the files of Glance as they are read there.

    Under a WSGI server glance-image-import.conf comes first. TripleO names it
    last; its own has the stores in it, which those of others never have.
    """
    for path in files:
        if os.path.basename(path) == _FILES[0] and _sets_stores(path):
            return [*(other for other in files if other != path), path]
    return files


def _sets_stores(path: str) -> bool:
    try:
        with open(path, errors='replace') as source:
            return any(re.match(r'enabled_backends\s*[=:]', line)
                       for line in source)
    except OSError:
        # It is told when it is read.
        return False


def read_all(args: argparse.Namespace) -> cfg.ConfigOpts:
    """Read the configuration, and have all options of Glance known.

    :raises oslo_config.cfg.Error: if it cannot be used
    """
    # They register the options of imports; before it is read, as some are
    # of the command line.
    import glance.async_.flows.api_image_import  # noqa: F401
    import glance.async_.flows.plugins.image_conversion  # noqa: F401
    import glance_store
    conf = read(args)
    # The process of a service waits for its database; a person does not.
    db_options.set_defaults(conf)
    conf.set_override('max_retries', 0, group='database')
    enabled = dict(conf.enabled_backends or {})
    glance_store.register_store_opts(conf, reserved_stores=dict(RESERVED))
    for name in RESERVED:
        if name not in enabled and conf.enabled_backends:
            conf.enabled_backends.pop(name, None)
    ours = [name for name, kind in enabled.items() if kind == 'dcn']
    for group, options in opts.list_opts():
        # Those that are not of the process are those of each of our stores.
        for name in [group] if group == _GROUP else ours:
            conf.register_opts(options, group=name)
    return conf


def set_up(args: argparse.Namespace) -> None:
    """Read the configuration for a command, as its ``conf``."""
    args.conf = read_all(args)


def targets(conf: cfg.ConfigOpts, tell: bool = True) -> list[cluster.Target]:
    """Return where the sites of this node's Glance are.

    :returns: that of the default store first
    """
    default = conf.glance_store.default_backend
    files = (_site_files(conf.glance_dcn.sites_dir, tell)
             if conf.glance_dcn.sites_dir else {})
    home = homes.choose(conf, files)
    enabled = conf.enabled_backends or {}
    settings: dict[str, dict[str, typing.Any]] = {
        name: {option: getattr(conf[name], option, None)
               for option in _OPTIONS}
        for name, kind in enabled.items() if kind in _TYPES}
    settings.update((name, said) for name, said in files.items()
                    if name not in enabled)
    found = [dataclasses.replace(_target(
        name, default, home, said.get('rbd_store_pool', _POOL),
        said.get('rbd_store_ceph_conf'), said.get('rbd_store_user'),
        int(said.get('rados_connect_timeout', -1)), said.get('dcn_access')),
        order=order) for order, (name, said) in enumerate(settings.items())]
    return sorted(found, key=lambda target: not target.default)


def deployment(args: argparse.Namespace) -> model.Deployment | None:
    """Return the deployment of ``--sites-file``, or None without it.

    :raises glance_dcn.deploy.sitesfile.Mistake: if the file is wrong
    """
    return load.load(args.sites) if args.sites else None


def targets_of(args: argparse.Namespace,
               tell: bool = True) -> list[cluster.Target]:
    """Return where the sites are: those of ``--sites-file``, or this node's.

    :returns: the central or default site first
    """
    said = deployment(args)
    if said is None:
        return targets(args.conf, tell)
    central = said.central.store
    # As the central Glance reaches them.
    return [dataclasses.replace(
        _target(site.store, central, central, site.pool,
                stores.conf_path(said.paths.ceph, site.ceph), site.ceph.user,
                site.limits.connect_timeout or -1, site.ceph.access.value),
        fsid=site.ceph.fsid) for site in said.stores_of(said.central)]


def some_targets_of(args: argparse.Namespace) -> list[cluster.Target]:
    """Return where the sites are, of which there must be one.

    :raises output.Failed: if there is none; see :func:`targets_of`
    """
    found = targets_of(args)
    if not found:
        raise output.Failed('no store of enabled_backends is of type dcn or '
                            'rbd; there are: %s'
                            % _listed(args.conf.enabled_backends))
    return found


def refuse_without_stores(known: queue.TaskQueue) -> None:
    """Refuse a configuration that has no store of type dcn.

    :raises output.Failed: if there is none; it tells which there are
    """
    if not known.sites:
        raise output.Failed('no store is of type dcn; there are: %s; run this '
                            'where Glance has one, or correct '
                            'enabled_backends in [DEFAULT]'
                            % _listed(_enabled()))


def refuse_without_home(known: queue.TaskQueue) -> None:
    """Refuse a configuration in which no store keeps the records.

    :raises output.Failed: if there is none
    """
    refuse_without_stores(known)
    if known.home.site is None:
        raise output.Failed('no store keeps the records: set default_backend '
                            'in [glance_store], or home_store in '
                            '[glance_dcn], to one of type dcn, of which '
                            'there are: %s' % ', '.join(sorted(known.sites)))


def _enabled() -> dict[str, str]:
    return (cfg.CONF.enabled_backends or {}
            if 'enabled_backends' in cfg.CONF else {})


def _listed(stores: dict[str, str] | None) -> str:
    return ', '.join('%s:%s' % item
                     for item in (stores or {}).items()) or 'none'


def url(text: str) -> str:
    """Return the URL of an argument, of http or https."""
    if worker_url.fault(text.rstrip('/')):
        raise argparse.ArgumentTypeError(
            '%r is no URL; write it as http://HOST:PORT or https://HOST:PORT'
            % text)
    return text


def add_sites(parser: argparse.ArgumentParser) -> None:
    """Add ``--sites-file`` to a subcommand."""
    parser.add_argument(
        '--sites-file', '--sites', dest='sites', metavar='FILE',
        help='take the sites from this sites file, and not from the '
             'configuration of this node\'s Glance; their conf files and '
             'keyrings must be on this node')


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Add ``--timeout`` to a subcommand that takes a snapshot."""
    parser.add_argument(
        '--timeout', type=output.seconds, metavar='SECONDS',
        help='time for sites and the database to answer (%d; 120 for a '
             'database that answers, to count many images)' % snapshot.ANSWER)


def take_snapshot(args: argparse.Namespace, targets: list[cluster.Target],
                  wanted: inventory.Filter | None = None, limit: int = 0,
                  database: inventory.Database | None = None
                  ) -> snapshot.Snapshot:
    """Return a snapshot of the deployment of this node's Glance.

    :raises output.Failed: if the database cannot be read
    """
    try:
        return snapshot.take(targets, args.timeout, wanted, limit,
                             deployments.deployment_id(args.conf), database)
    except inventory.DatabaseUnavailable as exc:
        raise output.Failed(
            'the database of Glance cannot be read: %s; see connection in '
            '[database], and that the database is up, or allow more time '
            'with --timeout' % exc, output.Exit.UNABLE) from exc


def _site_files(path: str, tell: bool) -> dict[str, dict[str, str]]:
    folder = nodes.site_folder(path)
    contents = folder.read(settled=False)
    if contents is None:
        if tell:
            output.complain('the folder of site files %s cannot be used, and '
                            'its sites are left out: %s; correct sites_dir '
                            'in [glance_dcn], or the folder'
                            % (path, folder.mistake))
        return {}
    for name, mistake in contents.mistakes.items() if tell else ():
        output.complain('site file %s is not taken: %s'
                        % (os.path.join(path, name + '.conf'), mistake))
    return contents.sites


def _target(name: str, default: str, home: str | None, pool: str,
            conf_file: str | None, user: str | None, timeout: int,
            access: str | None) -> cluster.Target:
    # A command does not wait for longer than that, whatever Glance does.
    longest = clients.CONNECT_TIMEOUT
    return cluster.Target(
        name, pool, conf_file or '', user,
        min(timeout, longest) if timeout > 0 else longest,
        default=name == default, access=model.Access(access) if access else
        model.Access.OWNER if name in (default, home)
        else model.Access.READ_WRITE, home=None if home is None
        else name == home)


def choose(found: list[cluster.Target],
           names: list[str] | None) -> list[cluster.Target]:
    """Return the targets of the sites of some names, of all without names.

    :raises output.Failed: if there is none of a name
    """
    unknown = set(names or ()) - {target.name for target in found}
    if unknown:
        raise output.Failed('there is no site %s; there are %s' % (
            ', '.join(sorted(unknown)),
            ', '.join(target.name for target in found) or 'none'))
    return [target for target in found if not names or target.name in names]
