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

"""Checks of the configuration of the Glance on this node, and of Glances."""

from __future__ import annotations

import difflib
import ipaddress
import os
import socket
import sys
import typing
import urllib.parse

from oslo_config import cfg
from oslo_utils import units
import requests

from glance_dcn.checks import registry
from glance_dcn.checks import subjects
from glance_dcn.deploy import model
from glance_dcn.deploy import stores as rendered
from glance_dcn.imports import folder
from glance_dcn import opts
from glance_dcn.sites import folder as site_files
from glance_dcn.sites import home as homes
from glance_dcn.sites import worker_url
from glance_dcn.status import inventory
from glance_dcn.upstream import glance_interfaces
from glance_dcn.upstream import plugins

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Mapping

FAIL, WARN, NODE = registry.FAIL, registry.WARN, registry.NODE
Found = registry.Found

_GROUP = 'glance_dcn'
STAGING = 'os_glance_staging_store'

_CONVERSION, _STOCK_CONVERSION = 'dcn_image_conversion', 'image_conversion'
_STAGING_PLUGIN = 'dcn_distributed_staging'
# The order that plugins must have: the others need the staged file, and a
# compressed image cannot be converted.
_ORDER = (_STAGING_PLUGIN, 'image_decompression', _CONVERSION)
# Bytes below which the staging folder is full.
_LEAST = units.Gi
# Seconds that a Glance has to answer.
_GLANCE_TIMEOUT = 4
# Seconds that the database has to answer.
_DATABASE_TIMEOUT = 10


def _installed(namespace: str) -> set[str]:
    """Return the names of the plugins installed in a namespace."""
    return {point.name for point in plugins.entry_points(namespace)}


@registry.check(
    'stores', NODE, 'Every store is known, and one of them is the default',
    folder=(FAIL, 'the folder of site files %(path)s cannot be used '
            '(%(error)s)',
            'see that it is there, owned by root, and writable by root '
            'alone, or correct sites_dir in [glance_dcn]'),
    files=(FAIL, 'site files in %(path)s are not taken: %(names)s',
           'correct them, or render them with "glance-dcn config render"'),
    kind=(FAIL, 'store %(store)s has type %(kind)s, of which there is no '
          'driver%(like)s', 'correct its type in enabled_backends in '
          '[DEFAULT], or install the driver'),
    none=(FAIL, 'no store of enabled_backends is of type dcn',
          'set enabled_backends = central:dcn, dcn0:dcn, ... in [DEFAULT]'),
    default=(FAIL, 'default_backend is %(default)r, which is no store of '
             'enabled_backends', 'name one of %(stores)s as default_backend '
             'in [glance_store]'),
    home=(FAIL, 'default_backend %(default)s is not of type dcn, several '
          'stores are, and none of them is said to keep the records, which '
          'other sites must not be able to write', 'let %(default)s be of '
          'type dcn, or set home_store in [glance_dcn]'),
    strange=(FAIL, 'home_store is %(home)r, which is no store of type dcn',
             'correct home_store in [glance_dcn]'),
    guarded=(FAIL, 'home_store is %(home)s, where this Glance has dcn_access '
             '= %(access)s: it can keep no records there', 'let home_store in '
             '[glance_dcn] name the store of the own site, or take dcn_access '
             'out of [%(home)s], whose user needs the whole pool then'),
    driver=(FAIL, 'the store driver dcn is not there', 'install glance-dcn '
            'into the Python that Glance runs in (%(python)s)'))
def stores(node: subjects.Node) -> str:
    """Check enabled_backends, and the sites of sites_dir."""
    backends = node.conf.enabled_backends or {}
    if 'dcn' not in backends.values():
        raise Found('none')
    default = node.conf.glance_store.default_backend
    if default not in backends:
        raise Found('default', default=default,
                    stores=', '.join(sorted(backends)))
    drivers = _installed('glance_store.drivers')
    if 'dcn' not in drivers:
        raise Found('driver', python=sys.executable)
    for store, kind in sorted(backends.items()):
        if kind not in drivers:
            like = difflib.get_close_matches(kind, drivers, 1)
            raise Found('kind', store=store, kind=kind, like=like and (
                ' (did you mean %s?)' % like[0]) or '')
    added = _sites_of_files(node.conf)
    home = homes.choose(node.conf, added)
    if home is None:
        raise Found('home', default=default)
    if home not in added and backends.get(home) != 'dcn':
        raise Found('strange', home=home)
    access = getattr(getattr(node.conf, home, None), 'dcn_access', None)
    if node.conf.glance_dcn.home_store and access not in (
            None, model.Access.OWNER.value):
        raise Found('guarded', home=home, access=access)
    count = len(set(backends) | added)
    return '%d store%s, %s is the default' % (count, 's' * (count != 1),
                                              default)


def site_folder(path: str) -> site_files.Folder:
    """Return the folder of site files, which logs nothing.

    It takes no file with a value that an option cannot have.
    """
    known = {option.name: option for group, options in opts.list_opts()
             if group != _GROUP for option in options}

    def check(_name: str, values: Mapping[str, str]) -> None:
        for name in values.keys() & known.keys():
            try:
                known[name].type(values[name])
            except (ValueError, TypeError) as exc:
                raise site_files.Mistake('%s: %s' % (name, exc)) from exc
    return site_files.Folder(path, check, tell=False)


def _sites_of_files(conf: cfg.ConfigOpts) -> set[str]:
    """Return the names of the sites of sites_dir."""
    path = conf.glance_dcn.sites_dir
    if not path:
        return set()
    folder_of = site_folder(path)
    found = folder_of.read(settled=False)
    if found is None:
        raise Found('folder', path=path, error=folder_of.mistake)
    if found.mistakes:
        raise Found('files', path=path, names='; '.join(
            '%s: %s' % item for item in found.mistakes.items()))
    return set(found.sites)


@registry.check(
    'database', NODE, 'Glance\'s database answers',
    silent=(FAIL, 'the database does not answer (%(error)s)',
            'see connection in [database], and that the database is up'))
def database(node: subjects.Node) -> str:
    """Count the images in the database."""
    try:
        count = inventory.Database().ask(inventory.count, _DATABASE_TIMEOUT)
    except Exception as exc:
        raise Found('silent', error=str(exc).splitlines()[0])
    return 'it has %d image%s' % (count, 's' * (count != 1))


@registry.check(
    'interfaces', NODE, 'This Glance has all that glance_dcn builds on',
    missing=(FAIL, 'glance_dcn cannot use all of Glance %(release)s: '
             '%(faults)s', 'install a release of glance-dcn that supports '
             'this Glance; until then %(off)s'))
def interfaces(node: subjects.Node) -> str:
    """Prove the private interfaces of the Glance that is installed."""
    found = glance_interfaces.Proofs(node.conf).faults()
    if found:
        raise Found(
            'missing', release=glance_interfaces.release(),
            faults='; '.join('%s (%s)' % (interface.name, text)
                             for interface, text in found.items()),
            off='; '.join(interface.off for interface in found))
    return 'Glance %s, %d interfaces proved' % (
        glance_interfaces.release(), len(glance_interfaces.INTERFACES))


@registry.check(
    'copies', NODE, 'Copies go straight from cluster to cluster',
    off=(WARN, 'direct_copy is off: stock Glance copies images, which stages '
         'all of each', 'set direct_copy = true in [glance_dcn]'),
    stock=(FAIL, 'the plugin copy_image of glance_dcn is not the one that '
           'Glance uses', 'install glance-dcn into the Python that Glance '
           'runs in; another package must not have a plugin of that name'),
    method=(FAIL, 'copy-image is not among enabled_import_methods',
            'add copy-image to enabled_import_methods in [DEFAULT]'))
def copies(node: subjects.Node,
           ours_wins: Callable[[str], bool] = plugins.ours_wins) -> str:
    """Check whether glance_dcn's copy_image replaces stock's."""
    plugins.prefer_ours()
    if not ours_wins('copy_image'):
        raise Found('stock')
    if 'copy-image' not in node.conf.enabled_import_methods:
        raise Found('method')
    if not node.conf.glance_dcn.direct_copy:
        raise Found('off')
    return 'glance_dcn does them'


@registry.check(
    'plugins', NODE, 'The import plugins are enabled, and in order',
    unknown=(FAIL, 'image_import_plugins names %(name)s, which is not '
             'installed', 'install it, or take it off image_import_plugins '
             'in [image_import_opts]'),
    missing=(FAIL, '%(name)s is not in image_import_plugins',
             'set image_import_plugins = [%(wanted)s] in [image_import_opts] '
             'of glance-image-import.conf or glance-api.conf'),
    both=(FAIL, 'image_import_plugins has both %(stock)s and %(ours)s',
          'take %(stock)s off it: the image would be converted twice'),
    order=(FAIL, 'in image_import_plugins, %(first)s must come before '
           '%(second)s', 'set image_import_plugins = [%(wanted)s] in '
           '[image_import_opts]'),
    unguarded=(WARN, '%(name)s is not in image_import_plugins: what a worker '
               'imports when it dies stays locked for an hour, and is left '
               'lying', 'set image_import_plugins = [%(wanted)s] in '
               '[image_import_opts]'))
def import_plugins(
        node: subjects.Node,
        installed: Callable[[str], set[str]] = _installed) -> str:
    """Check the names and order of image_import_plugins."""
    found = list(node.conf.image_import_opts.image_import_plugins)
    known = installed('glance.image_import.plugins')
    for name in found:
        if name not in known and name != 'no_op':
            raise Found('unknown', name=name)
    if _CONVERSION not in found:
        raise Found('missing', name=_CONVERSION, wanted=_in_order(found))
    if _STOCK_CONVERSION in found:
        raise Found('both', stock=_STOCK_CONVERSION, ours=_CONVERSION)
    wanted = _ordered(found)
    for have, want in zip(found, wanted):
        if have != want:
            raise Found('order', first=want, second=have,
                        wanted=', '.join(wanted))
    if _STAGING_PLUGIN not in found:
        raise Found('unguarded', name=_STAGING_PLUGIN,
                    wanted=_in_order(found))
    return ', '.join(found)


def _in_order(found: list[str]) -> str:
    """Return the right value of image_import_plugins."""
    others = [name for name in found if name not in (
        _STOCK_CONVERSION, _CONVERSION, _STAGING_PLUGIN, 'no_op')]
    return ', '.join(_ordered([*others, _STAGING_PLUGIN, _CONVERSION]))


def _ordered(found: list[str]) -> list[str]:
    """Return plugins in the order they must have, the staging plugin first."""
    ours = sorted(filter(_ORDER.__contains__, found), key=_ORDER.index)
    result = [ours.pop(0) if name in _ORDER else name for name in found]
    if _STAGING_PLUGIN in result:
        result.remove(_STAGING_PLUGIN)
        result.insert(0, _STAGING_PLUGIN)
    return result


@registry.check(
    'raw', NODE, 'Images are stored raw, so that Nova and Cinder can clone '
    'them', needs=('plugins',),
    other=(FAIL, 'output_format is %(found)s: images are stored as that',
           'set output_format = raw in [image_conversion]: what is not raw '
           'is downloaded and converted by each compute node'))
def raw(node: subjects.Node) -> str:
    """Check the format that images are converted to."""
    found = node.conf.image_conversion.output_format
    if found != 'raw':
        raise Found('other', found=found)
    return 'output_format is raw'


@registry.check(
    'locations', NODE, 'Nova and Cinder see the locations of images',
    hidden=(FAIL, 'show_multiple_locations is off: Nova and Cinder do not '
            'see where images are, and download them instead of cloning',
            'set show_multiple_locations = true in [DEFAULT]'),
    direct=(WARN, 'show_image_direct_url is off: older releases of Nova and '
            'Cinder look for it', 'set show_image_direct_url = true in '
            '[DEFAULT]'))
def locations(node: subjects.Node) -> str:
    """Look at what Glance shows of locations."""
    if not node.conf.show_multiple_locations:
        raise Found('hidden')
    if not node.conf.show_image_direct_url:
        raise Found('direct')
    return 'they are shown'


@registry.check(
    'quota', NODE, 'An image may have a location in every store',
    needs=('stores',),
    few=(WARN, 'image_location_quota is %(quota)d, and there are %(count)d '
         'stores: a location that Nova or a user adds to an image is refused '
         'once it has as many', 'set image_location_quota = %(wanted)d in '
         '[DEFAULT]; "glance-dcn config render" does so'))
def quota(node: subjects.Node) -> str:
    """Compare the number of locations that an image may have."""
    found = node.conf.image_location_quota
    if found < 0:
        return 'it may have any number of locations'
    count = len(set(node.conf.enabled_backends or {})
                | _sites_of_files(node.conf))
    if found < count:
        # With what may be added until the next look at it.
        raise Found('few', quota=found, count=count,
                    wanted=rendered.locations(count))
    return '%d locations, %d store%s' % (found, count, 's' * (count != 1))


@registry.check(
    'staging', NODE, 'Uploads are staged on a local disk with room',
    absent=(FAIL, 'the staging folder %(path)s is not there',
            'make it, owned by user %(user)s, or correct '
            'filesystem_store_datadir in [os_glance_staging_store]'),
    unwritable=(FAIL, 'user %(user)s cannot write to the staging folder '
                '%(path)s (%(error)s)', 'chown %(user)s %(path)s'),
    remote=(FAIL, 'the staging folder %(path)s is on a file system of type '
            '%(kind)s', 'stage on a local disk: set filesystem_store_datadir '
            'in [os_glance_staging_store]; what is staged is read several '
            'times, and need not be shared between nodes'),
    full=(FAIL, 'the staging folder %(path)s has %(free).1f GiB free',
          'make room: imports fail'),
    small=(WARN, 'the staging folder %(path)s has %(free).1f GiB free, less '
           'than %(wanted).1f GiB', 'make room for the largest images that '
           'are imported at the same time, before and after conversion, or '
           'say with --staging-room how much is enough'))
def staging(node: subjects.Node,
            file_system: Callable[[str], str | None] = folder.file_system
            ) -> str:
    """Check the staging folder: rights, file system and free space."""
    path = node.conf[STAGING].filesystem_store_datadir
    user = node.access.user
    if not os.path.isdir(path):
        raise Found('absent', path=path, user=user)
    error = node.access.why_unwritable(path)
    if error:
        raise Found('unwritable', path=path, user=user, error=error)
    kind = file_system(path)
    if kind in folder.NETWORK:
        raise Found('remote', path=path, kind=kind)
    info = os.statvfs(path)
    free = info.f_bavail * info.f_frsize
    node.measured('staging', free=free)
    figures = {'path': path, 'free': free / units.Gi}
    if free < min(_LEAST, node.room):
        raise Found('full', **figures)
    if free < node.room:
        raise Found('small', wanted=node.room / units.Gi, **figures)
    return '%(path)s, %(free).1f GiB free' % figures


@registry.check(
    'self-reference', NODE, 'Other Glances reach this one by the URL that it '
    'gives them',
    unset=(FAIL, 'worker_self_reference_url is not set',
           'set it in [DEFAULT] to the URL at which the Glances of all '
           'nodes reach this one, not one that several share: what is staged '
           'here is only here'),
    malformed=(FAIL, 'worker_self_reference_url %(url)s %(reason)s',
               'write it as http://HOST:PORT or https://HOST:PORT'),
    unknown=(FAIL, 'the host of worker_self_reference_url %(url)s is not '
             'known (%(error)s)', 'correct the name service, or write an '
             'address'),
    foreign=(FAIL, 'worker_self_reference_url %(url)s leads to %(address)s, '
             'which is no address of this node', 'set it to the URL of this '
             'very node, not of another or of a load balancer'),
    silent=(FAIL, 'no Glance answers at worker_self_reference_url %(url)s '
            '(%(error)s)', 'see that Glance runs here, and listens at that '
            'address and port'))
def self_reference(node: subjects.Node) -> str:
    """Check that worker_self_reference_url leads here."""
    url: str | None = node.conf.worker_self_reference_url
    if not url:
        raise Found('unset')
    fault = worker_url.fault(url)
    if fault:
        raise Found('malformed', url=url, reason=fault)
    host = urllib.parse.urlsplit(url).hostname
    try:
        places = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise Found('unknown', url=url, error=exc.strerror or exc)
    for family, _kind, _protocol, _name, address in places:
        if not _is_here(family, address):
            raise Found('foreign', url=url, address=address[0])
    error = why_silent(url)
    if error:
        raise Found('silent', url=url, error=error)
    return url


def _is_here(family: int, address: tuple[typing.Any, ...]) -> bool:
    """Return whether an address is one of this node's."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent. To bind proves nothing: where a load balancer
            # may run, net.ipv4.ip_nonlocal_bind lets any address be bound.
            probe.connect((address[0], 9, *address[2:]))
        except OSError:
            return False
        # What goes to oneself comes from the same address.
        own = probe.getsockname()[0]
    return own == address[0] or ipaddress.ip_address(
        address[0].partition('%')[0]).is_loopback


def why_silent(url: str) -> str | None:
    """Return why no Glance answers at a URL, or None if one does."""
    try:
        # The list of versions, which needs no login.
        answer = requests.get(url.rstrip('/') + '/versions',
                              timeout=_GLANCE_TIMEOUT, allow_redirects=False)
    except requests.RequestException as exc:
        return _reason(exc)
    if answer.status_code not in (200, 300):
        return 'status %d' % answer.status_code
    try:
        versions = answer.json()['versions']
    except (ValueError, KeyError, TypeError):
        versions = None
    if not versions:
        return 'what answers is no Glance'
    return None


def _reason(exc: BaseException) -> str:
    if isinstance(exc, requests.Timeout):
        return 'no answer within %d s' % _GLANCE_TIMEOUT
    cause: BaseException | None = exc
    while cause is not None:
        # What the system said is at the bottom of what libraries made of it.
        text = getattr(cause, 'strerror', None)
        if text:
            return str(text)
        cause = cause.__cause__ or cause.__context__
    return type(exc).__name__


@registry.check(
    'glance', registry.GLANCE, 'A Glance answers',
    silent=(FAIL, 'no Glance answers at %(url)s (%(error)s)',
            'see that it runs, and that this node reaches it'))
def glance(subject: subjects.Glance) -> str:
    """Ask for the versions of the API."""
    error = why_silent(subject.url)
    if error:
        raise Found('silent', error=error)
    return subject.url
