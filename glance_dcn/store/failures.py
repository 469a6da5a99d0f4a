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

"""What goes wrong at a site, said in glance_store's exceptions."""

from __future__ import annotations

import contextlib
import errno
import functools
import typing

from glance_store import exceptions
import rbd

from glance_dcn.ceph import errors
from glance_dcn.ceph import name_lock
from glance_dcn.engine import errors as engine_errors
from glance_dcn.tasks import store as task_store

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

    import rados

    from glance_dcn.sites import existing
    from glance_dcn.sites import site as sites
    from glance_dcn.store import location

_Method = typing.TypeVar('_Method', bound='Callable[..., typing.Any]')

#: Glance answers 503 to this one; older releases of glance_store lack it.
TimeoutError = getattr(exceptions, 'TimeoutError',
                       exceptions.BackendException)


class Blocklisted(exceptions.BackendException):
    """The cluster has cut this client off (blocklisted it)."""

    errno = errno.ESHUTDOWN


class Away(exceptions.RemoteServiceUnavailable,
           exceptions.BadStoreConfiguration):
    """The site does not answer.

    Glance answers a download 503 on the former, if no location is left. The
    latter is what stock rbd raises.
    """


class Elsewhere(exceptions.NotFound, exceptions.BadStoreUri):
    """The location is in the cluster of another store.

    Where Glance does not know the store of a location, glance_store asks all
    in turn, and the next one after the former only. A deletion must not raise
    it: Glance would drop the location.
    """


class WriteDenied(exceptions.StorageWriteDenied):
    """The key of this Glance may only read at the site: 503 for an upload."""


class LastCopy(exceptions.InUseByStore):
    """The image may have no data left if it is removed from this store."""


class DeleteDenied(exceptions.Forbidden, exceptions.InUseByStore):
    """The image lies where the key of this Glance may only read.

    Glance answers 403 on the former to the deletion of an image, and 409 on
    the latter to the removal from one store, with the message.
    """


class ForeignLocation(DeleteDenied, exceptions.BadStoreUri):
    """What is to be deleted is not in the cluster of its store."""


def retried_if_blocklisted(method: _Method) -> _Method:
    """Call a method once more, on a new connection, after a blocklisting.

    Stock, which connects for each operation, does not notice either.
    """
    @functools.wraps(method)
    def retried(self: typing.Any, *args: typing.Any,
                **kwargs: typing.Any) -> typing.Any:
        try:
            return method(self, *args, **kwargs)
        except Blocklisted:
            return method(self, *args, **kwargs)
    return typing.cast('_Method', retried)


@contextlib.contextmanager
def open_pool(site: sites.Site,
              pool: str | None = None) -> Iterator[rados.Ioctx]:
    """Open a pool for a while; None: the site's.

    :raises exceptions.BadStoreConfiguration: if the cluster does not answer or
        the options do not fit it
    """
    with contextlib.ExitStack() as stack:
        try:
            ioctx = stack.enter_context(site.open_pool(pool))
        except errors.ClusterError as exc:
            raise unusable(site, exc) from exc
        yield ioctx


@contextlib.contextmanager
def explained(site: sites.Site, name: str) -> Iterator[None]:
    """Say what Ceph and the engine raise in glance_store's terms.

    Those that say something about the image itself are left alone.
    """
    try:
        yield
    except (rbd.ImageExists, rbd.ImageNotFound):
        raise
    except task_store.NotRecorded as exc:
        raise TimeoutError(str(exc))
    except errors.Unreachable as exc:
        raise unusable(site, exc) from exc
    except engine_errors.SizeMismatch as exc:
        raise exceptions.Invalid(
            'Size mismatch: expected %s bytes, got %s bytes'
            % (exc.expected, exc.found))
    except (engine_errors.RequestError, name_lock.NameLockError,
            rbd.OSError) as exc:
        raise failure(site, exc, name, exc.errno) from exc


@contextlib.contextmanager
def explained_opening(site: sites.Site,
                      loc: location.StoreLocation) -> Iterator[None]:
    """Say in glance_store's terms why an image cannot be opened."""
    try:
        yield
    except errors.ClusterError as exc:
        raise unusable(site, exc) from exc
    except engine_errors.RequestError as exc:
        if exc.errno == errno.ENOENT:
            raise not_found(site, loc) from exc
        if exc.errno == errno.ETIMEDOUT:
            raise Away(message=str(exc)) from exc
        raise failure(site, exc, loc.image, exc.errno) from exc


def raised_late(exc: Exception) -> Iterator[bytes]:
    """Return an iterator that raises an error with its first chunk."""
    raise exc
    yield b''


def failure(site: sites.Site, exc: BaseException, name: str,
            code: int | None) -> exceptions.BackendException:
    """Return what to raise for what an image's cluster has answered."""
    if code in (errno.ENOSPC, errno.EDQUOT):
        return exceptions.StorageFull(
            message='Store %s has no room for image %s: %s'
                    % (site.name, name, exc))
    if code in (errno.EPERM, errno.EACCES):
        denied = site.access.refusal()
        if denied:
            return WriteDenied(str(denied))
        return exceptions.BadStoreConfiguration(
            store_name=site.name, reason='pool %s refuses the user (%s); '
            'see rbd_store_pool and rbd_store_user in [%s], and the osd '
            'caps of that user' % (site.pool, exc, site.name))
    if code == errno.ESHUTDOWN:
        return Blocklisted(str(exc))
    return exceptions.BackendException(
        'Store %s failed with image %s: %s' % (site.name, name, exc))


def unusable(site: sites.Site, exc: errors.ClusterError
             ) -> exceptions.BackendException:
    """Return what to raise if a cluster cannot be used."""
    if isinstance(exc, (errors.Unreachable, errors.Exhausted)):
        return Away(message=str(exc))
    return exceptions.BadStoreConfiguration(store_name=site.name,
                                            reason=str(exc))


def elsewhere(site: sites.Site, loc: location.StoreLocation,
              fsid: str | None) -> Elsewhere:
    """Return what to raise if a location is in another store's cluster."""
    return Elsewhere(message='%s is not a location of store %s, whose '
                     'cluster has %s' % (
                         loc.get_uri(), site.name,
                         'fsid %s' % fsid if fsid else 'another fsid'))


def not_found(site: sites.Site,
              loc: location.StoreLocation) -> exceptions.NotFound:
    """Return what to raise if there is no image at a location."""
    return exceptions.NotFound(
        message='RBD image %s does not exist in store %s'
                % (loc.get_uri(), site.name))


def duplicate(site: sites.Site,
              exc: existing.Refused) -> exceptions.Duplicate:
    """Return what to raise if another image is in the way."""
    return exceptions.Duplicate(message='Store %s: %s' % (site.name, exc))
