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


"""The imports and copies that this process is at.

Each has an entry in the journal, which says how far it is. Those who do the
work say here what they begin; of an image that nobody has announced, because
the import plugin is not used, nothing is kept.
"""

import logging
import os
import time

from glance_dcn.engine import native
from glance_dcn.staging import durable
from glance_dcn.staging import folder
from glance_dcn.staging import journal

LOG = logging.getLogger(__name__)

_WORDS = {
    journal.ACCEPTED: 'The import is accepted',
    journal.DOWNLOADING: 'Staging the image',
    journal.STAGED: 'The image is staged',
    journal.INSPECTED: 'The image is inspected',
    journal.CONVERTING: 'Converting the image',
    journal.CONVERTED: 'The image is converted',
    journal.STORING: 'Storing the image',
    journal.COPYING: 'Copying the image',
}

_lock = native.lock()
_imports = {}
_listeners = []
_pid = None


def on_begin(function):
    """Have a function called with each entry that is begun, or written to.

    That is what somebody else has to know who is to undo it.

    :param function: it must not wait, and must raise nothing
    """
    if function not in _listeners:
        _listeners.append(function)


def _tell(entry):
    for listener in _listeners:
        listener(entry)


class Import:
    """An import or a copy that is going on.

    :ivar saved: when its task was saved last, by the monotonic clock
    :ivar flowing: whether a thread was seen to work on it
    :ivar missed: how often in a row nobody was seen to work on it
    :ivar refusal: why a plugin has refused it, for users; or None
    :ivar companions: what others keep with it while it goes on, by name

    :param held: :class:`glance_dcn.staging.journal.Held`
    """

    def __init__(self, held):
        self.held = held
        self.saved = time.monotonic()
        self.flowing = False
        self.missed = 0
        self.refusal = None
        self.companions = {}
        # Parts of the image that are in, 0 to 1, by store.
        self._parts = {}
        self._vouchings = {}

    @property
    def entry(self):
        """Its :class:`glance_dcn.staging.journal.Entry`."""
        return self.held.entry

    def enter(self, phase, **changes):
        """Begin a phase."""
        self.held.note(phase=phase, **changes)

    def vouch(self, phase, path, kind, then, known=None):
        """Begin a phase that has staged data; see :func:`vouch`."""
        size = folder.size(path)
        if size is None or (phase != journal.CONVERTED
                            and self._is_vouched_for(kind, size)):
            self.enter(phase)
            then()
            return
        self._prove(kind, journal.Proof(size), phase=phase)
        vouching = durable.Vouching(
            path, lambda size, digest: self._prove(
                kind, journal.Proof(size, digest)), then, known,
            delay=durable.DELAY)
        self._vouchings[kind] = vouching
        vouching.start()

    def _is_vouched_for(self, kind, size):
        """Return whether it is done already, or being done.

        It was before the import was resumed, or is since it was accepted.
        """
        known = self.entry.proofs.get(kind)
        if known is None or known.size != size:
            return False
        vouching = self._vouchings.get(kind)
        if vouching is not None and not vouching.over:
            return True
        return (known.digest is not None
                and durable.is_current(self.entry.boot))

    def _prove(self, kind, proof, **changes):
        self.held.change(lambda entry: dict(
            changes, proofs=dict(entry.proofs, **{kind: proof})))

    def stop_vouching(self, keep=False):
        """End what is done to vouch for staged data.

        :param keep: without what was to be done then
        """
        for vouching in list(self._vouchings.values()):
            vouching.close(keep)

    def progress(self, store, part):
        """Take note of the part of the image that a store has, 0 to 1."""
        self._parts[store] = part

    def message(self):
        """Return what users are told: the phase, and percent if known."""
        entry = self.entry
        text = _WORDS.get(entry.phase, entry.phase)
        if entry.phase == journal.STORING and self._parts:
            return '%s: %s' % (text, ', '.join(
                '%s: %d %%' % (store, 100 * part)
                for store, part in sorted(self._parts.items())))
        if entry.phase == journal.DOWNLOADING:
            return text + self._staged()
        return text

    def _staged(self):
        try:
            done = os.stat(self.entry.path).st_size
        except OSError:
            return ''
        if self.entry.size:
            return ': %d %%' % min(100, 100 * done // self.entry.size)
        return ': %d MiB' % (done >> 20)


def begin(folder, entry):
    """Announce an import; once more does no harm.

    :param folder: :class:`glance_dcn.staging.journal.Journal`
    :param entry: :class:`glance_dcn.staging.journal.Entry`
    :returns: :class:`Import`, or None if no journal can be kept
    """
    known = get(entry.task)
    if known is not None:
        return known
    try:
        begun = adopt(folder.begin(entry))
    except (journal.Busy, OSError) as exc:
        LOG.error('The import of image %(image)s has no journal, and is lost '
                  'if this worker dies: %(error)s', {
                      'image': entry.image, 'error': exc})
        return None
    _tell(entry)
    return begun


def adopt(held):
    """Go on with an entry that this process holds.

    :param held: :class:`glance_dcn.staging.journal.Held`
    :returns: :class:`Import`
    """
    _forget_parents()
    going_on = Import(held)
    with _lock:
        _imports[held.entry.task] = going_on
    return going_on


def end(task):
    """Forget an import: its task has come to its end."""
    with _lock:
        going_on = _imports.pop(task, None)
    if going_on is not None:
        going_on.stop_vouching()
        going_on.held.close()


def give_up(task):
    """Leave an import that nobody works on to the recovery."""
    with _lock:
        going_on = _imports.pop(task, None)
    if going_on is not None:
        going_on.stop_vouching(keep=True)
        # The clients are alive: they do other work, and clean up themselves.
        going_on.held.note(begun={})
        going_on.held.release()


def get(task):
    """Return the :class:`Import` of a task, or None."""
    return _imports.get(task) if _pid == os.getpid() else None


def of(image):
    """Return the :class:`Import` of an image, or None.

    The last one that was begun: the one before may have done its work, and not
    be closed yet.
    """
    return next((going_on for going_on in reversed(everything())
                 if going_on.entry.image == image), None)


def everything():
    """Return all imports of this process."""
    if _pid != os.getpid():
        return []
    with _lock:
        return list(_imports.values())


def enter(image, phase, **changes):
    """Say that the import of an image begins a phase."""
    going_on = of(image)
    if going_on is not None:
        going_on.enter(phase, **changes)


def refuse(image, reason):
    """Record why the import of an image is refused.

    :param reason: what users are told, should Glance say less in the end
    """
    going_on = of(image)
    if going_on is not None:
        going_on.refusal = reason


def vouch(image, phase, path, kind, then=lambda: None, known=None):
    """Say that the import of an image begins a phase that has staged data.

    Its length is in the journal at once. Beside the import it is brought to
    the disk, and its digest then is in the journal too.

    :param image: ID of the image
    :param phase: phase of the journal
    :param path: path of the staged file
    :param kind: the disk format it was converted to, or
        :data:`glance_dcn.staging.journal.AS_STAGED`
    :param then: called when that is done or has failed, or the import is
        over; it may raise OSError
    :param known: see :class:`glance_dcn.staging.durable.Vouching`
    """
    going_on = of(image)
    if going_on is None:
        then()
    else:
        going_on.vouch(phase, path, kind, then, known)


def writes(image, store, instance):
    """Say that a client is about to write an image to a store.

    :param image: ID of the image
    :param store: identifier of the store
    :param instance: the client's RADOS instance ID
    """
    going_on = of(image)
    if going_on is None:
        return

    def change(entry):
        # Several stores are written to at the same time.
        begun = {*entry.begun.get(store, ()), instance}
        return {'begun': dict(entry.begun, **{store: sorted(begun)}),
                'phase': journal.COPYING if entry.phase == journal.COPYING
                else journal.STORING}
    going_on.held.change(change)
    _tell(going_on.entry)


def meter(image, store, size):
    """Return what is to be called with each piece of data that is stored.

    :param size: bytes of the image; 0 if unknown
    :returns: function of one argument, the data; None if nobody wants it
    """
    going_on = of(image)
    if going_on is None or not size:
        return None
    done = 0

    def tap(data):
        nonlocal done
        done += len(data)
        going_on.progress(store, done / size)
    return tap


def saved(task):
    """Take note that a task was just saved."""
    going_on = get(task)
    if going_on is not None:
        going_on.saved = time.monotonic()


def _forget_parents():
    """In a child of a fork: what goes on is the parent's."""
    global _lock, _pid
    if _pid != os.getpid():
        _lock = native.lock()
        _imports.clear()
        _pid = os.getpid()
