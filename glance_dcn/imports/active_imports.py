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

"""The active imports and copies of this process.

Each has an entry in the journal, with its phase. Those who do the work report
here what they begin; nothing is kept where the import plugin is not used.

Between the request and the moment at which Glance makes the flow of an import
the task waits for its turn, for long where many imports go on; the image is
locked for it already. So its journal begins when SQLAlchemy tells this process
that it writes the task to the database.
"""

from __future__ import annotations

from collections import abc
import logging
import time
import typing

from oslo_config import cfg

from glance_dcn.imports import folder
from glance_dcn.imports import journal
from glance_dcn.runtime import native
from glance_dcn.runtime import process
from glance_dcn.tasks import task as tasks

LOG = logging.getLogger(__name__)

_MESSAGES = {
    journal.ACCEPTED: 'The import is accepted',
    journal.DOWNLOADING: 'Staging the image',
    journal.STAGED: 'The image is staged',
    journal.INSPECTED: 'The image is inspected',
    journal.CONVERTING: 'Converting the image',
    journal.CONVERTED: 'The image is converted',
    journal.STORING: 'Storing the image',
    journal.COPYING: 'Copying the image',
}


class _Begun:
    """The imports of one process, by task."""

    def __init__(self) -> None:
        self.lock = native.lock()
        self.by_task: dict[str, Import] = {}


class Imports:
    """The imports of this process, and those that are told of each.

    :param delay: seconds that staged data has to be in use until it is
        vouched for
    """

    def __init__(self, delay: float = folder.DELAY) -> None:
        self.delay = delay
        # What goes on is the parent's, not its child's.
        self.begun = process.ForkLocal(_Begun)
        self.listeners: list[abc.Callable[[journal.Entry], object]] = []
        self.conf: cfg.ConfigOpts | None = None


def on_begin(function: abc.Callable[[journal.Entry], object]) -> None:
    """Call a function with each entry that is begun or written to.

    :param function: must not wait, and must raise nothing
    """
    listeners = process.get(Imports).listeners
    if function not in listeners:
        listeners.append(function)


class Import:
    """An active import or copy.

    :ivar saved: when its task was saved last, by the monotonic clock
    :ivar flowing: whether a thread was seen to work on it
    :ivar missed: how often in a row no thread was seen to work on it
    :ivar refusal: why a plugin has refused it, for users
    :ivar companions: what others keep with it, by name
    :ivar parts: parts of the image that are stored, 0 to 1, by store
    """

    def __init__(self, held: journal.Held, delay: float = folder.DELAY
                 ) -> None:
        self.held = held
        self._delay = delay
        self.saved = time.monotonic()
        self.flowing = False
        self.missed = 0
        self.refusal: str | None = None
        self.companions: dict[str, typing.Any] = {}
        self.parts: dict[str, float] = {}
        self._vouchings: dict[str | None, folder.Vouching] = {}

    @property
    def entry(self) -> journal.Entry:
        """The entry in the journal."""
        return self.held.entry

    def enter(self, phase: str, **changes: typing.Any) -> None:
        """Begin a phase."""
        self.held.note(phase=phase, **changes)

    def vouch(self, phase: str, path: str, kind: str | None,
              then: abc.Callable[[], None],
              known: folder.Known | None = None) -> None:
        """Begin a phase that has staged data; see :func:`vouch`."""
        size = folder.size(path)
        if size is None or (phase != journal.CONVERTED
                            and self._is_vouched_for(kind, size)):
            self.enter(phase)
            then()
            return
        self._prove(kind, journal.Proof(size), phase=phase)
        vouching = folder.Vouching(
            path, lambda size, digest: self._prove(
                kind, journal.Proof(size, digest)), then, known,
            delay=self._delay)
        self._vouchings[kind] = vouching
        vouching.start()

    def _is_vouched_for(self, kind: str | None, size: int) -> bool:
        """Return whether that is done, or begun, before this phase."""
        known = self.entry.proofs.get(kind)
        if known is None or known.size != size:
            return False
        vouching = self._vouchings.get(kind)
        return (vouching is not None and not vouching.over
                or known.digest is not None
                and folder.is_current(self.entry.boot))

    def _prove(self, kind: str | None, proof: journal.Proof,
               **changes: typing.Any) -> None:
        self.held.change(lambda entry: dict(
            changes, proofs={**entry.proofs, kind: proof}))

    def stop_vouching(self, keep: bool = False) -> None:
        """End vouching for staged data, with or without what was to follow."""
        for vouching in list(self._vouchings.values()):
            vouching.close(keep)

    def message(self) -> str:
        """Return what users are told: the phase, and percent if known."""
        entry = self.entry
        text = _MESSAGES.get(entry.phase, entry.phase)
        if entry.phase == journal.STORING and self.parts:
            text += ': ' + ', '.join(
                '%s: %d %%' % (store, 100 * part)
                for store, part in sorted(self.parts.items()))
        elif entry.phase == journal.DOWNLOADING:
            done = folder.size(entry.path)
            if done is not None and entry.size:
                text += ': %d %%' % min(100, 100 * done // entry.size)
            elif done is not None:
                text += ': %d MiB' % (done >> 20)
        return text


def begin(journals: journal.Journal, entry: journal.Entry) -> Import | None:
    """Announce an import; once more does no harm.

    :returns: None if no journal can be kept
    """
    known = get(entry.task)
    if known is not None:
        return known
    try:
        begun = adopt(journals.begin(entry))
    except (journal.Busy, OSError) as exc:
        LOG.error('The import of image %(image)s has no journal, and is lost '
                  'if this worker dies: %(error)s', {
                      'image': entry.image, 'error': exc})
        return None
    for listener in process.get(Imports).listeners:
        listener(entry)
    return begun


def adopt(held: journal.Held) -> Import:
    """Continue the import of an entry that this process holds."""
    imports = process.get(Imports)
    going_on = Import(held, imports.delay)
    begun = imports.begun.get()
    with begun.lock:
        begun.by_task[held.entry.task] = going_on
    return going_on


def end(task: str) -> None:
    """Forget an import: its task has come to its end."""
    going_on = _pop(task)
    if going_on is not None:
        going_on.stop_vouching()
        going_on.held.close()


def give_up(task: str) -> None:
    """Leave an import that no thread works on to the recovery."""
    going_on = _pop(task)
    if going_on is not None:
        going_on.stop_vouching(keep=True)
        # The clients are alive: they do other work, and clean up themselves.
        going_on.held.note(begun={})
        going_on.held.release()


def get(task: str) -> Import | None:
    """Return the import of a task."""
    return process.get(Imports).begun.get().by_task.get(task)


def of(image: str) -> Import | None:
    """Return the import of an image that was begun last.

    The one before may have done its work, and not be closed yet.
    """
    return next((going_on for going_on in reversed(all_imports())
                 if going_on.entry.image == image), None)


def all_imports() -> list[Import]:
    """Return all imports of this process."""
    begun = process.get(Imports).begun.get()
    with begun.lock:
        return list(begun.by_task.values())


def enter(image: str, phase: str, **changes: typing.Any) -> None:
    """Enter a phase of the import of an image."""
    going_on = of(image)
    if going_on is not None:
        going_on.enter(phase, **changes)


def refuse(image: str, reason: str) -> None:
    """Record why an import is refused, for users, should Glance say less."""
    going_on = of(image)
    if going_on is not None:
        going_on.refusal = reason


def vouch(image: str, phase: str, path: str, kind: str | None,
          then: abc.Callable[[], None] = lambda: None,
          known: folder.Known | None = None) -> None:
    """Enter a phase of an import that has staged data.

    Its length is in the journal at once, its digest once it is on the disk.

    :param kind: the disk format it was converted to, or AS_STAGED
    :param then: called when that is done or has failed, or the import is
        over; it may raise OSError
    :param known: see :class:`glance_dcn.imports.folder.Vouching`
    """
    going_on = of(image)
    if going_on is None:
        then()
    else:
        going_on.vouch(phase, path, kind, then, known)


def writes(image: str, store: str, instance: int) -> None:
    """Record that a client is about to write an image to a store."""
    going_on = of(image)
    if going_on is None:
        return

    def change(entry: journal.Entry) -> dict[str, typing.Any]:
        # Several stores are written to at the same time.
        begun = {*entry.begun.get(store, ()), instance}
        return {'begun': dict(entry.begun, **{store: sorted(begun)}),
                'phase': journal.COPYING if entry.phase == journal.COPYING
                else journal.STORING}
    going_on.held.change(change)
    for listener in process.get(Imports).listeners:
        listener(going_on.entry)


def progress_callback(image: str, store: str, size: int
                      ) -> abc.Callable[[abc.Sized], None] | None:
    """Return a function to call with each chunk of stored data.

    :param size: bytes of the image; 0 if unknown, then there is no function
    """
    going_on = of(image)
    if going_on is None or not size:
        return None
    done = 0

    def progress(data: abc.Sized) -> None:
        nonlocal done
        done += len(data)
        going_on.parts[store] = done / size
    return progress


def saved(task: str) -> None:
    """Set the time at which a task was saved last to now."""
    going_on = get(task)
    if going_on:
        going_on.saved = time.monotonic()


def _pop(task: str) -> Import | None:
    begun = process.get(Imports).begun.get()
    with begun.lock:
        return begun.by_task.pop(task, None)


def listen(conf: cfg.ConfigOpts) -> None:
    """Record imports as soon as they are accepted; may be called again."""
    imports = process.get(Imports)
    if imports.conf is None:
        from glance.db.sqlalchemy import models
        from sqlalchemy import event
        event.listen(models.TaskInfo, 'after_insert', _inserted)
    imports.conf = conf


def _inserted(_mapper: object, _connection: object, info: typing.Any) -> None:
    """Open the journal; nothing is raised, for Glance would."""
    try:
        _accept(info.task_id, info.input or {})
    except Exception:
        LOG.exception('Task %s has no journal until it begins', info.task_id)


def _accept(task: str, asked: dict[str, typing.Any]) -> None:
    request = asked.get('import_req')
    # There are other types of tasks.
    conf = process.get(Imports).conf
    found = journal.of(conf) if conf and request else None
    if conf is None or not request or found is None:
        return
    entry = journal.Entry(
        task=task, image=asked['image_id'],
        method=request['method']['name'],
        stores=list(asked['backend']),
        path=folder.staged(conf, asked['image_id']),
        phase=journal.ACCEPTED, by=tasks.host_and_process())
    begin(found, entry)
    if entry.method == 'glance-direct':
        # It is all there, and the import may wait for long.
        vouch(entry.image, journal.ACCEPTED, entry.path, journal.AS_STAGED)
