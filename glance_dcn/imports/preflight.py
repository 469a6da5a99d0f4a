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

"""Whether an import can succeed, before it begins.

Whether each store can be written to, the staging folder has room, and Glance
would save an image of its size.

A download is as long as its server says. What a conversion takes is measured
by ``dcn_image_conversion`` before it writes any of it, when the image is
there; until then it is taken to be what the image takes, which is about right
for images that are not compressed.
"""

from __future__ import annotations

from collections import abc
from concurrent import futures
import logging
import os
import typing
import urllib.error
import urllib.request

from glance.common import utils as glance_utils
from oslo_config import cfg
from oslo_utils import units

from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.imports import stores
from glance_dcn.upstream import glance_interfaces

CONF = cfg.CONF
CONF.import_opt('image_size_cap', 'glance.common.config')
LOG = logging.getLogger(__name__)

# Seconds a server has for telling the length of a download.
_PATIENCE = 10
_CONVERSIONS = ('dcn_image_conversion', 'image_conversion')
# Formats that are not converted.
_KEPT = ('iso', 'aki', 'ari', 'ami')


class Refused(Exception):
    """The import cannot succeed."""


class NoRoom(Refused):
    """The import would not fit."""


class TooLarge(Refused):
    """The image is larger than Glance saves one."""


class NoAccess(Refused):
    """A store cannot be written to by this Glance."""


def check_access(names: abc.Collection[str | None],
                 all_must_succeed: bool) -> None:
    """Check that this Glance may write in enough of the stores of an import.

    :param names: of the stores; whether one of another type than ``dcn`` can
        be written to is not looked at
    :param all_must_succeed: whether all of them are needed, or one
    :raises NoAccess: if it may only read in too many
    """
    sites = [site for site in map(stores.site, names) if site]
    with futures.ThreadPoolExecutor(max(1, len(sites))) as pool:
        denied = list(filter(None, pool.map(
            lambda site: site.access.refusal(), sites)))
    if denied and (all_must_succeed or len(denied) == len(names)):
        raise NoAccess('; '.join(map(str, denied)))


def check(entry: journal.Entry) -> None:
    """Check that there is room for an import.

    :raises NoRoom: if there is not
    :raises TooLarge: if the download passes ``image_size_cap``
    """
    staging = os.path.dirname(entry.path)
    try:
        free = folder.free(staging)
        if entry.phase == journal.DOWNLOADING:
            download = image = entry.size or 0
        else:
            download, image = 0, os.stat(entry.path).st_blocks * 512
    except OSError as exc:
        LOG.info('Whether image %(image)s fits cannot be told: %(error)s', {
            'image': entry.image, 'error': exc})
        return
    converts = _converts(entry.formats.get('disk_format'))
    if download > CONF.image_size_cap and not converts:
        raise TooLarge(
            'The download has %d bytes, and an image may have %d '
            '(image_size_cap).' % (download, CONF.image_size_cap))
    conversion = image if converts else 0
    need = download + conversion
    if need > free:
        raise NoRoom(
            'There is no room to import the image: %s of staging space are '
            'needed (%s), and %s are free: %d bytes are missing. Try again '
            'later, or ask the operator for more staging space.' % (
                _mib(need), _parts(download, conversion), _mib(free),
                need - free))


def _parts(download: int, conversion: int) -> str:
    return ', '.join(
        '%s for its %s' % (_mib(size), what) for size, what in (
            (download, 'download'), (conversion, 'conversion')) if size)


def _mib(size: int) -> str:
    return '%d MiB' % -(-size // units.Mi)


def _converts(disk_format: str | None) -> bool:
    plugins = CONF.image_import_opts.image_import_plugins
    group = getattr(CONF, 'image_conversion', None)
    wanted = getattr(group, 'output_format', 'raw')
    return (any(name in plugins for name in _CONVERSIONS)
            and disk_format not in (wanted, *_KEPT))


def download_size(method: dict[str, typing.Any]) -> int | None:
    """Return the bytes of a download, if its server tells; or None.

    It is asked under the rules that Glance downloads by, and not followed
    elsewhere.
    """
    uri = method.get('uri') or ''
    if (method['name'] != 'web-download'
            or not uri.startswith(('http://', 'https://'))
            # What goes wrong with an address is logged: no password in it.
            or '@' in uri.split('/')[2]
            # Not asked at all is better than asked less safely than Glance
            # itself does it.
            or not glance_interfaces.usable(glance_interfaces.DOWNLOADS)
            or not _is_allowed(uri)):
        return None
    opener = urllib.request.build_opener(
        _StayThere, *glance_interfaces.download_handlers())
    request = urllib.request.Request(uri, method='HEAD')  # noqa: S310
    try:
        with opener.open(request, timeout=_PATIENCE) as answer:
            return _length(answer.headers.get('Content-Length'))
    except (OSError, ValueError, urllib.error.URLError) as exc:
        LOG.info('The length of a download cannot be told: %s', exc)
    except Exception as exc:
        # Whatever is wrong with the server: the download is to say so. What
        # http.client says may have the password of an address in it.
        LOG.info('The server of a download does not answer properly: %s',
                 type(exc).__name__)
    return None


def _is_allowed(uri: str) -> bool:
    check = getattr(glance_utils, 'validate_uri', None) or getattr(
        glance_utils, 'validate_import_uri', None)
    return check is not None and bool(check(uri))


def _length(text: str | None) -> int | None:
    size = int(text or 0)
    return size if size > 0 else None


class _StayThere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection."""

    def redirect_request(self, *unused: object) -> None:
        """Return no request: the answer counts as an error."""
