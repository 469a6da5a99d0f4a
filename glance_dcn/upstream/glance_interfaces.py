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


"""The private interfaces of Glance that this package builds on.

What glance_dcn does for imports, copies and the background goes through
classes and attributes that are private to Glance, glance_store, stevedore and
oslo: a later release may rename any of them. Most are looked for with a
fallback, for releases differ, so that such a change would switch something
off in silence.

Each is an :class:`Interface` here, which is proved by what the installed
modules really have, never by a version number. Soon after its start each
process that serves Glance's API proves all of them and logs an error for each
that fails. Where safety hangs on one, the code that needs it asks
:func:`usable` first, and leaves its work undone without it.

A proof imports modules of Glance; it must not do so while Glance is being
loaded, and where eventlet has patched Glance it must run in the hub. Both is
dealt with here.
"""

from __future__ import annotations

import contextlib
import dataclasses
from importlib import metadata
import importlib.util
import inspect
import io
import logging
import sys
import time
import types
import typing
import urllib.request

from oslo_config import cfg

from glance_dcn.runtime import green
from glance_dcn.runtime import native
from glance_dcn.runtime import periodic
from glance_dcn.runtime import process
from glance_dcn.upstream import plugins

if typing.TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Iterator

LOG = logging.getLogger(__name__)

#: The option by which a process is known to be Glance's.
OPTION = 'worker_self_reference_url'

_ROUTER = 'glance.api.v2.router'
# Seconds until all is proved even if Glance is not seen to be loaded, between
# two checks whether it is, and between two proofs: nothing that is known is
# proved again, but a child of a fork may have to be told.
_PATIENCE, _PAUSE, _AGAIN = 20, 0.2, 3600


class Missing(Exception):
    """An interface is not what it should be; the message says how."""


@dataclasses.dataclass(frozen=True)
class Interface:
    """Something of Glance's that is private to it.

    :ivar name: by which it is known in messages
    :ivar needed: what it is needed for
    :ivar off: what is switched off, or lost, without it
    :ivar prove: called with the oslo.config object; raises anything at all,
        :class:`Missing` at best, if the interface is not there
    :ivar closed: whether safety hangs on it: what needs it is not done
        without it
    :ivar lacking: which releases lack it with good reason; they are proved
        to be of that kind
    """

    name: str
    needed: str
    off: str
    prove: Callable[[cfg.ConfigOpts], None]
    closed: bool = False
    lacking: str = ''


def release() -> str:
    """Return the release of Glance that is installed."""
    try:
        return metadata.version('glance')
    except metadata.PackageNotFoundError:
        return 'of an unknown release'


def loaded() -> bool:
    """Return whether Glance's API has been loaded by this process."""
    module = sys.modules.get(_ROUTER)
    return module is not None and not getattr(
        module.__spec__, '_initializing', False)


def serves_api(conf: cfg.ConfigOpts) -> bool:
    """Return whether this process is one that serves Glance's API.

    Under a WSGI server it is not called ``glance-api`` before release 33, but
    after the program of that server.
    """
    return (conf.prog == 'glance-api'
            or 'glance.common.wsgi_app' in sys.modules)


def forks_workers(conf: cfg.ConfigOpts) -> bool:
    """Return whether this process is the parent of those that serve.

    ``glance-api`` on eventlet sets up its stores before it forks its workers,
    and forks again whenever one has ended. Green threads survive that: what
    is begun in the parent would go on in both.
    """
    return (native.patched() and conf.prog == 'glance-api'
            and getattr(conf, 'workers', 0) != 0)


class Proofs:
    """What one process has proved so far.

    :param conf: of Glance
    :param is_loaded: returns whether Glance has been loaded
    :param patience: seconds until all is proved even if it has not
    """

    def __init__(self, conf: cfg.ConfigOpts = cfg.CONF,
                 is_loaded: Callable[[], bool] = loaded,
                 patience: float = _PATIENCE) -> None:
        self._conf = conf
        self._is_loaded, self._patience = is_loaded, patience
        self._faults: dict[Interface, str | None] = {}
        self._began = time.monotonic()
        self._told = False
        self._periodic = periodic.Periodic('dcn-interfaces', self.prove,
                                           _AGAIN)

    def start(self) -> None:
        """Prove all interfaces when Glance is loaded; wait for nothing."""
        self._periodic.start()

    def stop(self) -> None:
        """Prove none that is not asked for."""
        self._periodic.stop()

    def prove(self) -> None:
        """Wait until Glance is loaded, and prove all interfaces."""
        pause: native.Queue[None] = native.Queue()
        while (not self._is_loaded()
               and time.monotonic() - self._began < self._patience):
            # Not sleep(), which may be that of green threads.
            with contextlib.suppress(native.Empty):
                pause.get(timeout=_PAUSE)
        # The scrubber and others have stores as well.
        if (not self._told
                and (self._is_loaded() or serves_api(self._conf))
                and not self.faults()):
            self._told = True
            LOG.info('Glance %(release)s has all %(count)d private '
                     'interfaces that glance_dcn builds on', {
                         'release': release(), 'count': len(INTERFACES)})

    def faults(self) -> dict[Interface, str]:
        """Prove all interfaces, and return what is wrong with some."""
        return {interface: text for interface in INTERFACES
                if (text := self.fault(interface))}

    def fault(self, interface: Interface) -> str | None:
        """Return what is wrong with an interface, or None.

        It is proved once; what is wrong is logged then.
        """
        if interface not in self._faults:
            try:
                error = green.call(_prove, interface, self._conf)
            except green.Unavailable as exc:
                # Not for good.
                return str(exc)
            self._faults[interface] = error
            if error is not None:
                LOG.error('Glance %(release)s: glance_dcn cannot use %(name)s,'
                          ' %(needed)s (%(error)s). Therefore %(off)s. Install'
                          ' a release of glance-dcn that supports this Glance',
                          {'release': release(), 'name': interface.name,
                           'error': error, 'needed': interface.needed,
                           'off': interface.off})
        return self._faults[interface]

    def usable(self, interface: Interface) -> bool:
        """Return whether an interface is what it should be."""
        return self.fault(interface) is None


def start(conf: cfg.ConfigOpts) -> None:
    """Prove all interfaces soon, if this is a process of Glance's.

    Called as each store is set up, by processes of Glance and others.

    :param conf: that glance_store was set up with
    """
    # By no interface that is to be proved.
    if conf is cfg.CONF and 'glance' in sys.modules:
        process.get(Proofs).start()


def _prove(interface: Interface, conf: cfg.ConfigOpts) -> str | None:
    try:
        interface.prove(conf)
    except Missing as exc:
        return str(exc)
    except Exception as exc:
        return '%s: %s' % (type(exc).__name__, exc)
    return None


def _has(thing: object, *names: str) -> None:
    """Raise Missing unless something has attributes."""
    for name in names:
        if not hasattr(thing, name):
            raise Missing('%s has no %s' % (
                getattr(thing, '__name__', type(thing).__name__), name))


def _takes(function: Callable[..., typing.Any], *args: typing.Any,
           **kwargs: typing.Any) -> None:
    """Raise Missing unless a function can be called with arguments."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as exc:
        raise Missing('%s() has other parameters: %s' % (
            getattr(function, '__name__', function), exc)) from exc


def _constants(thing: typing.Any) -> Iterator[typing.Any]:
    """Give the constants in the code of a module, class or function."""
    if isinstance(thing, types.CodeType):
        for constant in thing.co_consts:
            yield from _constants(constant)
    elif isinstance(thing, (types.ModuleType, type)):
        name = thing.__name__
        for value in list(vars(thing).values()):
            # Not what a module has only imported.
            if isinstance(value, type) or inspect.isfunction(value):
                if (isinstance(thing, type)
                        or getattr(value, '__module__', None) == name):
                    yield from _constants(value)
            else:
                yield value
    elif inspect.isfunction(thing):
        yield from _constants(thing.__code__)
    else:
        yield thing


def _mentions(module: types.ModuleType, *names: str) -> None:
    """Raise Missing unless a module has some names as constants."""
    found = {constant for constant in _constants(module)
             if isinstance(constant, str)}
    for name in names:
        if name not in found:
            raise Missing('%s does not know %s' % (module.__name__, name))


def _prove_options(conf: cfg.ConfigOpts) -> None:
    if OPTION not in conf:
        raise Missing('there is no option %s' % OPTION)


def _prove_program(conf: cfg.ConfigOpts) -> None:
    if loaded() and not serves_api(conf):
        raise Missing('the process serves the API and is called %s'
                      % conf.prog)


def _prove_loading(_conf: cfg.ConfigOpts) -> None:
    if importlib.util.find_spec(_ROUTER) is None:
        raise Missing('there is no module %s' % _ROUTER)


def _prove_database(_conf: cfg.ConfigOpts) -> None:
    from glance.common import crypt
    from glance.common import exception
    from glance import context
    from glance import db
    from glance.db.sqlalchemy import models
    _has(exception, 'NotFound', 'Conflict', 'Duplicate')
    _takes(context.get_admin_context, show_deleted=True)
    _takes(crypt.urlsafe_decrypt, 'key', 'text')
    api = db.get_api()
    _takes(api.image_get, 'context', 'image', force_show_deleted=True)
    _takes(api.image_update, 'context', 'image', {}, from_state='status')
    _takes(api.image_location_delete, 'context', 'image', 1, 'deleted')
    _takes(api.image_set_property_atomic, 'image', 'name', 'value')
    _takes(api.image_delete_property_atomic, 'image', 'name', 'value')
    _takes(api.get_engine)
    _takes(api.task_get, 'context', 'task')
    _takes(api.task_update, 'context', 'task', {})
    for table, columns in ((models.Image, {'id', 'status', 'deleted'}),
                           (models.ImageLocation, {'value', 'status'}),
                           (models.ImageProperty, {'image_id', 'name',
                                                   'value', 'deleted'})):
        _has(table.__table__.columns, *columns)


def _prove_image_lock(_conf: cfg.ConfigOpts) -> None:
    from glance.async_.flows import api_image_import

    from glance_dcn.upstream import database
    _mentions(api_image_import, database.LOCK, database.HOST,
              database.IMPORTING, database.FAILED)
    _has(api_image_import.ImportActionWrapper, 'image_id',
         'assert_task_lock', 'drop_lock_for_task')


def _prove_downloads(_conf: cfg.ConfigOpts) -> None:
    download_handlers()


def download_handlers() -> list[type[urllib.request.BaseHandler]]:
    """Return the handlers by which Glance downloads from a user's address.

    Glance 33 connects to the address that it has checked, and to no other.
    Releases before it open an address plainly: there are none then.

    :raises Missing: if Glance opens addresses in a way that is not known
    """
    from glance.common.scripts import utils
    names = ('_ValidatedExternalHTTPHandler', '_ValidatedExternalHTTPSHandler')
    bases = (urllib.request.HTTPHandler, urllib.request.HTTPSHandler)
    found = [getattr(utils, name, None) for name in names]
    if any(found):
        for name, base, handler in zip(names, bases, found):
            if not (isinstance(handler, type) and issubclass(handler, base)):
                raise Missing('%s is not what it was' % name)
        return typing.cast('list[type[urllib.request.BaseHandler]]', found)
    if not _opens_plainly(utils):
        raise Missing('there is no %s, and downloads are not opened plainly'
                      % ' or '.join(names))
    return []


def _opens_plainly(utils: types.ModuleType) -> bool:
    """Whether Glance downloads with what Python has, and no more."""
    code = inspect.unwrap(utils.get_image_data_iter).__code__
    if 'urllib' not in code.co_names:
        return False
    handlers = [value for value in map(vars(utils).get, code.co_names)
                if isinstance(value, type)
                and issubclass(value, urllib.request.BaseHandler)]
    return ('urlopen' in code.co_names or 'build_opener' in code.co_names
            ) and all(issubclass(handler, urllib.request.HTTPRedirectHandler)
                      for handler in handlers)


def _prove_staged_readers(_conf: cfg.ConfigOpts) -> None:
    from glance.common.scripts import utils as script_utils
    from glance.common import utils
    file = io.BytesIO()
    for reader, names in (
            (script_utils.CallbackIterator(file, print),
             {'_source', '_callback'}),
            (utils.LimitingReader(file, 1), {'data'}),
            (utils.CooperativeReader(file), {'fd'})):
        _has(reader, *names)


def _prove_import_plugins(_conf: cfg.ConfigOpts) -> None:
    from glance.async_.flows._internal_plugins import copy_image
    from glance.async_.flows import api_image_import
    from glance.async_.flows.plugins import image_conversion
    from glance.common.scripts import utils
    _takes(copy_image.get_flow, backend=[])
    _has(image_conversion, 'conversion_plugin_opts')
    _takes(utils.get_task, 'tasks', 'task')
    _mentions(api_image_import, 'task_id', 'task_type', 'task_repo',
              'backend', 'import_req', 'action_wrapper')


def _prove_import_actions(_conf: cfg.ConfigOpts) -> None:
    from glance.async_.flows import api_image_import
    image = types.SimpleNamespace(image_id='image')
    actions = api_image_import._ImportActions(image)
    _has(actions, '_image', 'image_id', 'add_importing_stores',
         'remove_importing_stores', 'add_failed_stores',
         'remove_failed_stores', 'remove_location_for_store',
         'set_image_attribute')
    # A property, which looks at the image.
    _has(type(actions), 'image_locations')
    if actions._image is not image:
        raise Missing('_ImportActions._image is not the image')


def _prove_image_layers(_conf: cfg.ConfigOpts) -> None:
    from glance.api import common
    from glance import location
    from glance import quota
    image = types.SimpleNamespace(image_id='image', size=1, locations=[],
                                  extra_properties={})
    lower = location.ImageProxy(image, None, None, None)
    upper = quota.ImageProxy(lower, 'context', 'database', None)
    found, quotas = image_layers(upper)
    if found is not lower or quotas is not upper:
        raise Missing('the layers of an image have another order')
    if type(lower.locations) is not location.StoreLocations:
        raise Missing('locations are measured below the quotas, too')
    _takes(lower.locations.append, {})
    if (upper.context, upper.db_api) != ('context', 'database'):
        raise Missing('the layer of quotas has another form')
    _takes(common.check_quota, 'context', 1, 'database', image_id='image')


def image_layers(image: typing.Any) -> tuple[typing.Any, typing.Any]:
    """Return the layers of an image that know locations and quotas.

    The one of locations is what Glance itself sets the data of an import at.

    :param image: of Glance's domain model, in all its layers
    :returns: tuple of the layer of locations, and of that of quotas or None
    :raises Missing: if the layers are not known
    """
    from glance.domain import proxy
    from glance import location
    from glance import quota
    quotas = None
    layer = image
    while not isinstance(layer, location.ImageProxy):
        # One that is immutable, say, is none of these.
        if not isinstance(layer, proxy.Image):
            raise Missing('an image has a layer %s.%s' % (
                type(layer).__module__, type(layer).__name__))
        if isinstance(layer, quota.ImageProxy):
            quotas = layer
        layer = layer.base
    return layer, quotas


def _prove_task_executor(_conf: cfg.ConfigOpts) -> None:
    from glance.api import common
    from glance.async_ import taskflow_executor
    from glance import context
    from glance import gateway
    executor = taskflow_executor.TaskExecutor
    for name in ('_run', '_get_flow'):
        # Its base class has one that raises.
        if name not in vars(executor):
            raise Missing('TaskExecutor has no %s' % name)
    _takes(executor._run, 'self', 'task', 'type')
    _takes(executor._get_flow, 'self', 'task')
    _takes(executor, 'context', 'tasks', 'images', 'factory',
           admin_repo='images')
    # Whose frames tell what a thread works on.
    if 'task_id' not in executor._run.__code__.co_varnames:
        raise Missing('TaskExecutor._run() has no task_id')
    _takes(common.get_thread_pool, 'tasks_pool')
    for name in ('get_task_repo', 'get_repo', 'get_image_factory'):
        _takes(getattr(gateway.Gateway, name), 'self', 'context')
    _takes(context.RequestContext, user_id='', project_id='', request_id='',
           is_admin=True, roles=[], overwrite=False)


def _prove_task_events(_conf: cfg.ConfigOpts) -> None:
    from glance.db.sqlalchemy import models
    from sqlalchemy import inspection
    _has(inspection.inspect(models.TaskInfo).columns, 'task_id', 'input')


def _prove_reserved_stores(_conf: cfg.ConfigOpts) -> None:
    from glance_store import multi_backend
    if not isinstance(getattr(multi_backend, '_RESERVED_STORES', None), dict):
        raise Missing('glance_store.multi_backend has no _RESERVED_STORES, or '
                      'it is not a dict')


def _prove_store_map(_conf: cfg.ConfigOpts) -> None:
    from glance_store import location
    _has(location, 'SCHEME_TO_CLS_BACKEND_MAP')
    for stores in location.SCHEME_TO_CLS_BACKEND_MAP.values():
        for entry in stores.values():
            if not {'store', 'location_class'} <= set(entry):
                raise Missing('SCHEME_TO_CLS_BACKEND_MAP has other entries')


def _prove_entry_points(_conf: cfg.ConfigOpts) -> None:
    if not plugins.order_is_kept():
        raise Missing('stevedore does not keep its list of entry points')


def _prove_healthcheck(_conf: cfg.ConfigOpts) -> None:
    from oslo_middleware import healthcheck
    namespace = healthcheck.Healthcheck.NAMESPACE
    if namespace != plugins.HEALTHCHECK:
        raise Missing('its plugins are in namespace %s' % namespace)
    if not plugins.entry_points(namespace):
        raise Missing('it has no plugins')


def _prove_image_deletion(_conf: cfg.ConfigOpts) -> None:
    from glance import location
    deleted: list[str] = []
    locations: list[dict[str, typing.Any]] = [
        {'url': url, 'metadata': {}} for url in ('one', 'other')]

    def delete(context: object, image_id: str,
               entry: dict[str, typing.Any]) -> None:
        frame = sys._getframe(1)
        if (frame.f_code.co_name, frame.f_globals.get('__name__')) != (
                'delete', 'glance.location'):
            raise Missing('it is not ImageProxy.delete() that deletes')
        if frame.f_locals['self'].image.locations is not locations:
            raise Missing('ImageProxy.delete() has other attributes')
        deleted.append(entry['url'])

    image = types.SimpleNamespace(image_id='image', locations=locations,
                                  delete=lambda: None)
    location.ImageProxy(image, None, None, types.SimpleNamespace(
        delete_image_location_from_backend=delete)).delete()
    if deleted != ['one', 'other']:
        raise Missing('ImageProxy.delete() does not delete each location')
    _prove_removal(location)


def _prove_removal(location: types.ModuleType) -> None:
    """Prove how one location is taken from an image that stays."""
    from glance.api.v2 import images
    _has(images.ImagesController, 'delete_from_store')
    seen: list[tuple[typing.Any, ...]] = []

    def delete(*_args: object) -> None:
        frame = sys._getframe(1)
        names = frame.f_locals
        owner = names.get('self')
        seen.append((frame.f_code.co_name, names.get('location'),
                     list(getattr(owner, 'value', ())),
                     getattr(owner, 'image_proxy', None)))

    proxy = types.SimpleNamespace(
        context=None, image=types.SimpleNamespace(image_id='image'),
        store_utils=types.SimpleNamespace(
            delete_image_location_from_backend=delete))
    one, other = {'url': 'one'}, {'url': 'other'}
    location.StoreLocations(proxy, [one, other]).pop(0)
    if seen != [('pop', one, [other], proxy)]:
        raise Missing('StoreLocations.pop() does not remove one location')


def _prove_showing(_conf: cfg.ConfigOpts) -> None:
    from glance.api.v2 import images
    _has(images.ImagesController, 'index', 'show')
    if images.ImagesController.show.__module__ != (
            'glance.api.v2.images'):
        raise Missing('ImagesController.show() is defined elsewhere')


def _prove_searching(_conf: cfg.ConfigOpts) -> None:
    from glance_store import multi_backend
    for name in ('get', 'delete'):
        function = getattr(multi_backend, name, None)
        if not inspect.isfunction(function):
            raise Missing('there is no function %s()' % name)
        code = function.__code__
        if 'backends' not in code.co_varnames[code.co_argcount:]:
            raise Missing('%s() has no backends' % name)


def _prove_cache_worker(_conf: cfg.ConfigOpts) -> None:
    from glance.api.v2 import cached_images
    run = inspect.unwrap(cached_images.CacheWorker.run)
    if 'fetch_image_into_cache' not in run.__code__.co_names:
        raise Missing('CacheWorker.run() fetches no images')
    if run.__globals__.get('__name__') != 'glance.api.v2.cached_images':
        raise Missing('CacheWorker.run() is defined elsewhere')


def _prove_shared_options(conf: cfg.ConfigOpts) -> None:
    from glance_store import driver
    found = [hasattr(driver, name) for name in (
        'SHARED_CONF_GROUP', 'BackendGroupConfiguration')]
    if not all(found) and (any(found) or 'backend_defaults' in conf):
        raise Missing('there is a section for all stores, and no way to its '
                      'options')


OPTIONS = Interface(
    'the option %s' % OPTION,
    'by which a process is known to be Glance\'s',
    'deferred deletions are not carried out, imports of dead workers are not '
    'recovered, and workers do not know of each other',
    _prove_options, closed=True)
PROGRAM = Interface(
    'the name of the program',
    'by which a process is known to serve the API',
    'this worker sends no heartbeats, and does not check its %s' % OPTION,
    _prove_program, lacking='Glance 26 to 32 under a WSGI server, which are '
    'known by the module glance.common.wsgi_app')
LOADING = Interface(
    'the module %s' % _ROUTER,
    'by which Glance is known to be loaded',
    'recovery of imports begins %d s after the start' % _PATIENCE,
    _prove_loading)
DATABASE = Interface(
    'its database interface',
    'by which images and tasks are read and changed',
    'deferred deletions are not carried out, imports have no journal, and '
    'imports of dead workers are not recovered',
    _prove_database, closed=True)
IMAGE_LOCK = Interface(
    'the properties of an image that is imported',
    'by which an image is locked and its import is described',
    'imports have no journal, and imports of dead workers are not recovered',
    _prove_image_lock, closed=True)
DOWNLOADS = Interface(
    'the handlers of downloads',
    'by which an address that a user gives is opened safely',
    'the size of a download is not asked for, so that one that does not fit '
    'is found out when the staging space is full',
    _prove_downloads, closed=True,
    lacking='Glance 26 to 32, which open such an address plainly themselves')
STAGED_READERS = Interface(
    'the readers of a staged file',
    'by which holes are skipped, and the task is saved while a store waits '
    'for its turn',
    'imports read the holes of staged images, and may lose the lock of an '
    'image that waits for its turn for an hour',
    _prove_staged_readers)
IMPORT_PLUGINS = Interface(
    'the plugins of imports',
    'which those of glance_dcn build on',
    'those of glance_dcn are not loaded or fail: images are stored as they '
    'are, and copies are made by stock Glance',
    _prove_import_plugins)
IMPORT_ACTIONS = Interface(
    'the actions of an import',
    'by which the locations and stores of an image are changed',
    'copies are left to stock Glance, which stages all of each image',
    _prove_import_actions, closed=True)
IMAGE_LAYERS = Interface(
    'the layers of an image',
    'by which a location is added as Glance adds that of an import, which its '
    'quotas for locations do not measure',
    'copies are left to stock Glance, which stages all of each image',
    _prove_image_layers, closed=True)
TASK_EXECUTOR = Interface(
    'the executor of tasks',
    'by which an interrupted import is started again, and one without a '
    'thread is noticed',
    'interrupted imports are rolled back and not started again, and an '
    'import whose thread has died keeps its lock on the image',
    _prove_task_executor, closed=True)
TASK_EVENTS = Interface(
    'the model of a task',
    'by which an import is noted when it is accepted',
    'an import that waits for its turn is lost if its worker dies',
    _prove_task_events)
RESERVED_STORES = Interface(
    'the reserved stores of glance_store',
    'which must stay when enabled_backends is changed',
    'enabled_backends is left as it is: sites of sites_dir do not become '
    'stores, and GET /v2/info/stores/detail fails',
    _prove_reserved_stores, closed=True)
STORE_MAP = Interface(
    'the map of stores of glance_store',
    'by which stores come and go while Glance runs',
    'sites of sites_dir do not become stores, and changed limits are not '
    'followed',
    _prove_store_map)
ENTRY_POINTS = Interface(
    'the list of entry points of stevedore',
    'by which the plugin copy_image of glance_dcn comes before stock\'s',
    'copies are left to stock Glance, which stages all of each image',
    _prove_entry_points, closed=True)
HEALTHCHECK = Interface(
    'the healthcheck of oslo.middleware',
    'by which a worker recognises itself at its address',
    'it cannot be checked whether %s leads to this worker' % OPTION,
    _prove_healthcheck)
IMAGE_DELETION = Interface(
    'the deletion of an image',
    'by which an image is deleted from all its stores at once, or from none, '
    'and not from its last ones by two requests at once',
    'an image is deleted from one store after the other, which takes long '
    'where there are many, and stays in part if one of them refuses; and '
    'requests that remove it from one store each can remove all its data',
    _prove_image_deletion)
SHOWING = Interface(
    'the controller that shows images',
    'by which the order of locations to show is told from that to read',
    'locations of equal weight are shown in the order to read them, which '
    'changes with the health and the distance of sites',
    _prove_showing)
SEARCHING = Interface(
    'the search for the store of a location',
    'by which a location that Glance knows no store of is deleted by the '
    'store that has it',
    'such a location is deleted only if the first store has it',
    _prove_searching)
CACHE_WORKER = Interface(
    'the thread that fills the cache ahead',
    'by which it is told an error so that it does not end',
    'images are no longer cached ahead, until Glance is restarted, once one '
    'could not be read',
    _prove_cache_worker)
SHARED_OPTIONS = Interface(
    'the options of all stores of glance_store',
    'by which a store takes options from [backend_defaults]',
    'options in [backend_defaults] have no effect on dcn stores',
    _prove_shared_options, lacking='glance_store before 5.0, which has none')

#: All of them.
INTERFACES = (OPTIONS, PROGRAM, LOADING, DATABASE, IMAGE_LOCK, DOWNLOADS,
              STAGED_READERS, IMPORT_PLUGINS, IMPORT_ACTIONS, IMAGE_LAYERS,
              TASK_EXECUTOR, TASK_EVENTS, RESERVED_STORES, STORE_MAP,
              ENTRY_POINTS, HEALTHCHECK, IMAGE_DELETION, SHOWING,
              SEARCHING, CACHE_WORKER, SHARED_OPTIONS)


def usable(interface: Interface) -> bool:
    """Return whether an interface of this process is what it should be."""
    return process.get(Proofs).usable(interface)
