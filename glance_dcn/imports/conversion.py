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

"""``dcn_image_conversion``: stock's ``image_conversion``, fast and safe.

It makes every check of stock's, in stock's order, and sets what stock sets.
Besides, it measures the space that the image will take before it writes any
of it, keeps qemu-img within limits, reports progress, and tells users what is
wrong with their image.
"""

from __future__ import annotations

from collections import abc
import contextlib
import logging
import os
import time
import typing

from glance.async_.flows.plugins import image_conversion as stock
from glance.common import exception
from oslo_config import cfg
from oslo_utils import units
from taskflow.patterns import linear_flow
from taskflow import task

from glance_dcn.engine import errors
from glance_dcn.images import formats
from glance_dcn.images import inspection
from glance_dcn.images import inspection_server
from glance_dcn.images import qemu_img
from glance_dcn.imports import active_imports
from glance_dcn.imports import distributed_staging
from glance_dcn.imports import folder
from glance_dcn.imports import heartbeat
from glance_dcn.imports import journal
from glance_dcn.imports import options
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.sites import hashes

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

options.register(CONF)
# The output format is stock's own option.
CONF.register_opts(stock.conversion_plugin_opts, group='image_conversion')
CONF.import_opt('image_size_cap', 'glance.common.config')

# The inspection server of this process.

# What describes an image reads its header, and answers at once, or is at a
# loss.
_INFO_LIMITS = qemu_img.Limits(memory=units.Gi, cpu=20, seconds=25)
# Formats that no inspector knows, and that are stored as they are: kernels,
# RAM disks, and file systems without a partition table.
_OPAQUE = ('aki', 'ari', 'ami')
# Of these the first sector may look like a partition table and be none.
_NO_DISKS = ('aki', 'ari')

# Bytes up to which an image is hashed while it is converted. Stores that wait
# for hashes do not save the task, which would be long for larger ones.
_LARGEST_AHEAD = 128 * units.Gi


def get_flow(**kwargs: typing.Any) -> linear_flow.Flow:
    """Return the flow that converts a staged image.

    :param kwargs: see :func:`glance_dcn.imports.copy_image.get_flow`
    """
    targets = kwargs.get('backend') or []
    distributed_staging.remove_duplicates(targets)
    # It gets ready while the image is downloaded, or the task begins.
    inspection.prepare(
        process.get(inspection_server.InspectionServer),
        CONF.wsgi.python_interpreter)
    return linear_flow.Flow(kwargs['task_type']).add(_ConvertImage(
        kwargs['task_id'], kwargs['task_type'], kwargs['task_repo'],
        kwargs['action_wrapper'], targets,
        kwargs['import_req']['method']['name']))


class _ConvertImage(task.Task):
    """Puts the converted image in the place of the staged one.

    :param clock: as for :class:`glance_dcn.imports.heartbeat.Heartbeat`
    :param tool: what runs qemu-img, as :mod:`glance_dcn.images.qemu_img` does
    :param free: returns the bytes that are free in a folder
    """

    default_provides = 'file_path'

    def __init__(self, task_id: str, task_type: str, task_repo: typing.Any,
                 action_wrapper: typing.Any, targets: list[str | None],
                 method: str,
                 clock: abc.Callable[[], float] = time.monotonic,
                 tool: typing.Any = qemu_img,
                 free: abc.Callable[[str], int] = folder.free) -> None:
        super().__init__(name='%s-ConvertImage-%s' % (task_type, task_id))
        self._action_wrapper = action_wrapper
        self._targets = targets
        self._heartbeat = heartbeat.Heartbeat(task_repo, task_id,
                                              action_wrapper, clock)
        self._tool, self._free = tool, free
        self._phase = ''
        self._part: float | None = None
        self._source = self._target = ''
        self._downloads = method in journal.DOWNLOADS
        self._keeps = False
        self._formats: dict[str, str] = {}
        self._ahead: hashes.BackgroundHasher | None = None

    def execute(self, file_path: str, **kwargs: object) -> str:
        """Convert the image if need be; return the URI of the file to import.

        :raises glance.common.exception.UploadException: if it must not or
            cannot be converted
        """
        output = CONF.image_conversion.output_format
        self._source = file_path.split('file://')[-1]
        self._target = '%s.%s' % (self._source, output)
        with self._explained():
            try:
                # A worker that died may have left one behind. The lock of
                # the image is ours, so no other task is writing it.
                folder.discard(self._target, folder.aside(self._source))
                converted = self._convert(output)
            except BaseException:
                self._discard_target()
                raise
        return 'file://%s' % self._target if converted else file_path

    def revert(self, result: object, **kwargs: object) -> None:
        """Undo it: the image has its old format and has to be staged again.

        What was refused for lack of room can be imported later.
        """
        self._discard_target()
        try:
            if self._keeps and distributed_staging.roll_back(
                    self._action_wrapper, self._targets):
                return
            # This raises if another task has taken over: then the staged
            # file is not ours to remove.
            with self._action_wrapper as action:
                if action.image_status != 'queued':
                    action.set_image_attribute(status='queued')
                action.set_image_attribute(**self._formats)
                if self._downloads:
                    # The revert() of the download comes next, sets the same,
                    # and fails and keeps the image locked if it is set.
                    action.set_image_attribute(status='importing')
                if self._targets:
                    action.remove_importing_stores(self._targets)
                    action.add_failed_stores(self._targets)
        except exception.NotFound:
            LOG.info('Image %s was deleted while it was imported',
                     self._action_wrapper.image_id)
        folder.discard(self._source, folder.aside(self._source))

    def _discard_target(self) -> None:
        if self._ahead:
            self._ahead.cancel()
        folder.discard(self._target)

    def _convert(self, output: str) -> bool:
        """Make the target of the source; return whether there was need to."""
        with self._action_wrapper as action:
            declared = action.image_disk_format
        image = self._inspect(self._source, 'Inspecting the image',
                              declared).declared(declared)
        is_opaque = declared in _OPAQUE and image.format == 'raw'
        if image.format != declared and not is_opaque:
            raise _refusal('it is declared to be %s and its content is %s'
                           % (declared, image.format))
        active_imports.enter(self._action_wrapper.image_id, journal.INSPECTED)
        size = os.stat(self._source).st_size
        if image.format == 'iso' or is_opaque:
            _check_cap(size)
            return False
        report = self._tool.info(image, _INFO_LIMITS, self._beat)
        virtual_size = report.get('virtual-size', 0)
        if image.driver == 'vmdk':
            _check_vmdk(report)
        if declared == output:
            _check_cap(size)
            with self._action_wrapper as action:
                action.set_image_attribute(virtual_size=virtual_size)
            return False
        _check_virtual_size(virtual_size, output)
        self._enter('Measuring the image')
        self._tool.check(image, _measure_limits(), self._beat)
        limits = self._measure(image, virtual_size, output)
        active_imports.enter(self._action_wrapper.image_id, journal.CONVERTING)
        self._enter('Converting the image from %s to %s' % (declared, output),
                    0)
        ahead = self._hash_ahead(output, virtual_size)
        self._tool.convert(image, self._target, output, limits,
                           progress=self._set_part, cancelled=self._beat,
                           in_order=ahead is not None, described=True)
        if ahead:
            ahead.complete()
        self._finish(output, virtual_size)
        return True

    def _hash_ahead(self, output: str, virtual_size: int
                    ) -> hashes.BackgroundHasher | None:
        """Begin to hash what qemu-img is about to write; None if not hashed.

        Stores compute the hashes while they write, which takes longer than
        anything else of an import; ``dcn`` stores use these instead.
        """
        if (output != 'raw' or virtual_size > _LARGEST_AHEAD
                or not any(map(distributed_staging.site_of, self._targets))):
            return None
        self._ahead = hashes.BackgroundHasher(
            self._action_wrapper.image_id, self._target, virtual_size,
            (hashes.CHECKSUM, CONF.hashing_algorithm))
        return self._ahead if self._ahead.start() else None

    def _known_digest(self, seconds: float) -> tuple[int, str] | None:
        """Return length and content digest of the target, once hashed.

        Should the writer have gone back after that, the target is merely not
        trusted after a power cut.
        """
        record = process.get(hashes.SharedHashes).wait(
            self._action_wrapper.image_id, seconds)
        return (record.size, record.content) if record else None

    def _inspect(self, path: str, phase: str,
                 declared: str | None = None) -> inspection.Image:
        """Return what a file is by its content.

        :raises glance.common.exception.UploadException: if it is not safe
        """
        self._enter(phase)
        try:
            return inspection.inspect(
                path, self._beat, _tolerated(declared),
                CONF.wsgi.python_interpreter,
                process.get(inspection_server.InspectionServer))
        except formats.Refused as exc:
            raise _refusal(str(exc))
        except (exception.GlanceException, errors.EngineError, OSError):
            raise
        except Exception:
            LOG.exception('Unknown error inspecting image format')
            raise _refusal('its format cannot be inspected')

    def _measure(self, image: inspection.Image, virtual_size: int,
                 output: str) -> qemu_img.Limits:
        """Return the limits to convert within; sizes are in bytes.

        :raises glance.common.exception.UploadException: if it is too large
        """
        # For raw, qemu-img would measure the length. What a sparse file takes
        # is what a qcow2 file takes without its tables; those of a vmdk
        # file, which qemu-img cannot measure, are no larger.
        measured = self._tool.measure(image, 'qcow2', _measure_limits(),
                                      self._beat)
        need, size = measured['required'], measured['fully-allocated']
        if output == 'raw':
            need, size = max(0, need - (size - virtual_size)), virtual_size
        return qemu_img.Limits(
            memory=CONF.glance_dcn.conversion_memory_limit * units.Mi,
            cpu=CONF.glance_dcn.conversion_cpu_limit,
            seconds=CONF.glance_dcn.conversion_timeout,
            size=size + units.Mi, space=self._space(need))

    def _space(self, need: int) -> int:
        """Return how much the target may take on disk, in bytes."""
        most: int = CONF.glance_dcn.conversion_max_output_size * units.Gi
        if need > most:
            raise _refusal('it would take %d bytes of staging space, and %d '
                           'are allowed (conversion_max_output_size)'
                           % (need, most))
        free = self._free(os.path.dirname(self._source))
        if need > free:
            self._keeps = not self._downloads
            raise _refusal('it would take %d bytes of staging space, and %d '
                           'are free: %d bytes are missing'
                           % (need, free, need - free))
        return min(free, most)

    def _finish(self, output: str, virtual_size: int) -> None:
        """Let the target take the source's place."""
        detected = self._inspect(self._target,
                                 'Inspecting the converted image').format
        if detected != output:
            # One format was hidden inside another.
            raise _refusal('after conversion to %s its content is %s'
                           % (output, detected))
        size = os.stat(self._target).st_size
        _check_cap(size, 'after conversion it has')
        with self._action_wrapper as action:
            self._formats = {'disk_format': action.image_disk_format,
                             'container_format': action.image_container_format}
            action.set_image_attribute(
                virtual_size=virtual_size, disk_format=output,
                container_format='bare', size=size)
        # Now that the image says what it is, a power cut alone makes the
        # source worth something, until the target is on the disk.
        aside = folder.aside(self._source)
        os.replace(self._source, aside)
        active_imports.vouch(self._action_wrapper.image_id, journal.CONVERTED,
                             self._target, output,
                             lambda: folder.discard(aside),
                             self._known_digest if self._ahead and
                             not native.patched() else None)
        LOG.info('Converted image %s: size=%d disk_format=%s',
                 self._action_wrapper.image_id, size, output)

    def _enter(self, phase: str, part: float | None = None) -> None:
        """Begin a phase, and save the task.

        :param part: the part of it that is done, 0 to 1; None if not known
        :raises: as :meth:`glance_dcn.imports.heartbeat.Heartbeat.save`
        """
        self._phase, self._part = phase, part
        self._save()

    def _set_part(self, part: float) -> None:
        self._part = part

    def _beat(self) -> bool:
        """Save the task if it is time to; return False: do not cancel."""
        if self._heartbeat.due:
            self._save()
        return False

    def _save(self) -> None:
        part = '' if self._part is None else ': %d %%' % (100 * self._part)
        self._heartbeat.save(self._phase + part)

    @contextlib.contextmanager
    def _explained(self) -> abc.Iterator[None]:
        """Turn errors into what Glance makes the message of the task."""
        image_id = self._action_wrapper.image_id
        try:
            yield
            return
        except (errors.EngineError, OSError) as exc:
            LOG.error('Image %s cannot be converted: %s', image_id, exc)
            # Users need not know where images are staged.
            refusal = _refusal('; '.join(getattr(exc, 'reasons', [])) or str(
                exc).replace(self._source, 'the image'))
        except exception.ImageNotFound:
            refusal = _refusal('it was deleted meanwhile')
        except exception.UploadException as exc:
            refusal = exc
        active_imports.refuse(image_id, str(refusal))
        raise refusal


def _measure_limits() -> qemu_img.Limits:
    """Return the limits within which all of an image's tables are read."""
    seconds = CONF.glance_dcn.conversion_measure_timeout
    return qemu_img.Limits(memory=units.Gi, cpu=seconds, seconds=seconds)


def _check_virtual_size(virtual_size: int, output: str) -> None:
    """Refuse a disk that is too large, before more of its file is read."""
    largest = CONF.glance_dcn.conversion_max_virtual_size * units.Gi
    if virtual_size > largest:
        raise _refusal('its virtual size is %d bytes, and %d are allowed '
                       '(conversion_max_virtual_size)'
                       % (virtual_size, largest))
    if output == 'raw':
        _check_cap(virtual_size, 'its virtual size is')


def _check_cap(size: int, what: str = 'it has') -> None:
    """Refuse an image that Glance would not save for its size in bytes."""
    if size > CONF.image_size_cap:
        raise _refusal('%s %d bytes, and %d are allowed (image_size_cap)'
                       % (what, size, CONF.image_size_cap))


def _tolerated(declared: str | None) -> set[str]:
    """Return the checks of partition tables that need not succeed.

    Those that the operator tolerates, and for kernels and RAM disks "mbr".
    """
    # The option came with Glance 30.
    found = getattr(CONF.image_format, 'gpt_safety_checks_nonfatal', None)
    return {*(found or ()), *(['mbr'] if declared in _NO_DISKS else [])}


def _check_vmdk(report: dict[str, typing.Any]) -> None:
    """Refuse VMDK types that the operator has not allowed."""
    # The engine has refused those that name other files, or have no type.
    kind = report['format-specific']['data']['create-type']
    if kind not in CONF.image_format.vmdk_allowed_types:
        raise _refusal('its VMDK create-type %s is not allowed '
                       '(vmdk_allowed_types)' % kind)


def _refusal(reason: str) -> exception.UploadException:
    return exception.UploadException('The image cannot be converted: %s.'
                                     % reason.rstrip('.'))
