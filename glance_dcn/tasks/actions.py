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

"""What is to be done about a task, and doing it.

A record is a hint. Whether anything is removed is decided by what is there
now, its internal ID, and what Glance's database says: :func:`plan` and
:func:`plan_intent` decide, without any effect, :class:`Executor` acts. What
was decided is decided once more when the name lock is held, right before the
removal.

==================  ========================================================
never removed       what Glance's database does not know; an image in another
                    pool than the site's that the database never had a
                    location for; another image than the one that was meant;
                    an image that is being written
not yet removed     an image with a location, or to which a request or an
                    import may be about to add one
==================  ========================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import typing

import rbd

from glance_dcn.ceph import images
from glance_dcn.ceph import name_lock
from glance_dcn.tasks import task as tasks
from glance_dcn.upstream import glance_db

if typing.TYPE_CHECKING:
    import rados

    from glance_dcn.sites import site as sites
    from glance_dcn.tasks import store as stores

LOG = logging.getLogger(__name__)

# Seconds within which Glance has dropped the location of an image that it
# deletes from all its stores, of which some may take long.
_LONGEST_DELETION = 24 * 3600


class RetryLater(Exception):
    """A task cannot be done now.

    :ivar expected: whether that is no fault, such as that an image still has
        clones
    :ivar pause: seconds until the next attempt; None: as after others
    """

    def __init__(self, reason: str, expected: bool = False,
                 pause: float | None = None) -> None:
        super().__init__(reason)
        self.expected = expected
        self.pause = pause


class Verdict(enum.Enum):
    """What is to be done about a task.

    REMOVE: remove the image. PURGE: remove it from the trash. DROP: nothing;
    the record is void. WAIT: nothing yet. REFUSE: nothing, ever; an operator
    has to look at the record.
    """

    REMOVE = 'remove'
    PURGE = 'purge'
    DROP = 'drop'
    WAIT = 'wait'
    REFUSE = 'refuse'


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is to be done about a task, and why."""

    verdict: Verdict
    reason: str
    image_id: str | None = None


_UNKNOWN = Decision(
    Verdict.REFUSE, 'the database of Glance does not know the image: it may '
    'be that of another Glance; remove it with rbd, if it is not')


def plan(task: tasks.Task, site_pool: str,
         info: images.ImageInfo | None, answer: glance_db.Answer,
         creating: bool = False, waited: float = 0) -> Decision:
    """Decide what is to be done about a task; without any effect.

    :param creating: whether the one who asks holds the image in Glance, and
        is about to write it: it is not settled because of that
    :param waited: seconds for which the task has waited, by a monotonic clock
    """
    if task.pool != site_pool and not answer.was_named:
        return Decision(
            Verdict.REFUSE, 'pool %s is not that of the site, and Glance '
            'never had a location of the image there' % task.pool)
    if task.action is tasks.Action.PURGE:
        return _plan_purge(task, info, answer)
    if info is None:
        return Decision(Verdict.DROP, 'there is no such image')
    if task.image_id is not None and info.image_id != task.image_id:
        return Decision(Verdict.DROP, 'another image has its name')
    if task.action is tasks.Action.REMOVE_INCOMPLETE:
        unwanted = _plan_incomplete(task, info, answer)
        if unwanted is not None:
            return unwanted
    if (answer.location is glance_db.Location.NAMED
            and waited > _LONGEST_DELETION):
        return Decision(Verdict.DROP, 'Glance has kept its location')
    return _plan_removal(info, answer, creating)


def _plan_purge(task: tasks.Task, info: images.ImageInfo | None,
                answer: glance_db.Answer) -> Decision:
    if task.image_id is None:
        return Decision(Verdict.DROP, 'it does not tell which image it means')
    if answer.location is glance_db.Location.UNKNOWN:
        return _UNKNOWN
    if answer.location is glance_db.Location.NAMED and (
            info is None or info.image_id == task.image_id):
        # Glance was about to drop its location, or kept it in the end, or an
        # operator has moved the image, who may restore it.
        return Decision(Verdict.WAIT, 'Glance still has its location')
    # The image of that ID was removed from its name when Glance had dropped
    # its location; what has the name now is another.
    return Decision(Verdict.PURGE, 'it was moved to the trash', task.image_id)


def _plan_incomplete(task: tasks.Task, info: images.ImageInfo,
                     answer: glance_db.Answer) -> Decision | None:
    """Decide about an image whose writer failed; None: as about others."""
    if task.image_id is None and not info.blank:
        return Decision(Verdict.DROP, 'it may not be the image whose writing '
                        'was begun')
    if answer.location is glance_db.Location.NAMED:
        return Decision(Verdict.DROP, 'Glance has its location')
    if not info.published and (
            answer.location is not glance_db.Location.UNKNOWN):
        return Decision(Verdict.REMOVE, 'it is incomplete', info.image_id)
    return None


def _plan_removal(info: images.ImageInfo, answer: glance_db.Answer,
                  creating: bool) -> Decision:
    if answer.location is glance_db.Location.UNKNOWN:
        return _UNKNOWN
    if answer.location is glance_db.Location.NAMED:
        return Decision(Verdict.WAIT, 'Glance still has its location')
    if not answer.permits_removal and not creating:
        return Decision(Verdict.WAIT, 'the image is in use by an import, a '
                        'copy or an upload, which may add its location')
    return Decision(Verdict.REMOVE, 'Glance has no location of it',
                    info.image_id)


def plan_intent(intent: tasks.Intent, is_dead: bool,
                answer: glance_db.Answer | None, is_gone: bool) -> Decision:
    """Decide what is to be done about an intent; without any effect.

    :param is_dead: whether the lease of its writer has expired
    :param answer: None where it does not matter: while it is being written
    :param is_gone: whether nothing is left of the image
    """
    committed = intent.state is tasks.State.COMMITTED
    if answer is None or not (
            is_dead or committed or intent.state is tasks.State.REMOVING):
        return Decision(Verdict.WAIT, 'it is being written')
    if intent.state is not tasks.State.REMOVING:
        if answer.location is glance_db.Location.NAMED:
            return Decision(Verdict.DROP, 'Glance has its location')
        if committed and is_gone:
            # A copy or an import that failed elsewhere was undone.
            return Decision(Verdict.DROP, 'there is no such image')
        if committed and not answer.permits_removal:
            return Decision(Verdict.WAIT,
                            'Glance may be about to note its location')
    return Decision(Verdict.REMOVE, 'Glance has not noted its location'
                    if committed else 'its writer, %s, is dead'
                    % intent.created_by, intent.image_id)


class Executor:
    """Does the tasks of one site.

    :param check_lease: returns if this process still may act, and raises
        otherwise; it is called before each irreversible step
    """

    def __init__(self, store: stores.TaskStore,
                 database: glance_db.GlanceDatabase,
                 check_lease: typing.Callable[[], None] = lambda: None
                 ) -> None:
        self._store = store
        self._database = database
        self._check_lease = check_lease

    def plan(self, site: sites.Site, record: tasks.Record) -> Decision:
        """Return what would be done about a record now; without any effect.

        Whether a writer is alive is known to the task runner alone, which
        observes its lease: here it is taken to be.

        :raises RetryLater: if Glance's database does not answer
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away
        :raises rbd.Error, glance_dcn.ceph.omap.Error: if the cluster refuses
        """
        if isinstance(record, tasks.Intent):
            if record.state is not tasks.State.REMOVING:
                return self.plan_intent(site, record, is_dead=False)[0]
            record = remove_incomplete(record)
        other = _other_cluster(site, record)
        if other is not None:
            return other
        with site.open_pool(record.pool) as ioctx:
            return self.decide(site, ioctx, record)

    def plan_intent(self, site: sites.Site, intent: tasks.Intent,
                    is_dead: bool
                    ) -> tuple[Decision, glance_db.Answer | None]:
        """Return what is to be done about an intent, and what Glance says.

        :raises: as :meth:`plan`
        """
        committed = intent.state is tasks.State.COMMITTED
        if not (is_dead or committed):
            return plan_intent(intent, is_dead, None, False), None
        answer = self.ask(site, intent)
        is_gone = (committed and answer.location
                   is not glance_db.Location.NAMED and _is_gone(site, intent))
        return plan_intent(intent, is_dead, answer, is_gone), answer

    def decide(self, site: sites.Site, ioctx: rados.Ioctx, task: tasks.Task,
               creating: bool = False, waited: float = 0) -> Decision:
        """Return what is to be done about a task now; without any effect.

        :raises: as :meth:`plan`
        """
        return plan(task, site.pool, _inspect(ioctx, task),
                    self.ask(site, task), creating, waited)

    def ask(self, site: sites.Site,
            record: tasks.Record) -> glance_db.Answer:
        """Return what Glance's database says of the image of a record.

        :raises RetryLater: if it does not answer
        :raises glance_dcn.ceph.errors.ClusterError: if the site is away and
            its fsid is not known
        """
        uri = site.uri(record.image, record.pool)
        try:
            return self._database.ask(record.image, uri)
        except Exception as exc:
            raise RetryLater('the database of Glance does not answer: %s'
                             % exc) from exc

    def execute(self, site: sites.Site, task: tasks.Task,
                creating: str | None = None,
                waited: float = 0,
                ioctx: rados.Ioctx | None = None) -> Decision:
        """Do a task.

        :param creating: uid of the intent of the one who asks, who holds the
            name lock and is about to write the image; or None
        :param ioctx: of the task's pool, by which the name lock is held, where
            there is a ``creating``; another client would not be blocklisted
            with its holder
        :raises RetryLater: if it cannot be done now
        :raises glance_dcn.tasks.leases.LeaseLost: if this process may not act
        :raises: as :meth:`plan`
        """
        other = _other_cluster(site, task)
        if other is not None:
            return other
        try:
            with (contextlib.nullcontext(ioctx) if ioctx is not None
                  else site.open_pool(task.pool)) as pool:
                decision = self.decide(site, pool, task, bool(creating),
                                       waited)
                if decision.verdict is Verdict.PURGE:
                    self._purge(pool, task)
                elif decision.verdict is Verdict.REMOVE:
                    self._fence(site, task)
                    with (contextlib.nullcontext() if creating
                          else site.name_lock(pool, task.image)):
                        decision = self._remove(site, pool, task,
                                                decision, creating)
        except (name_lock.NotLocked, images.InUse) as exc:
            raise RetryLater(str(exc), expected=True) from exc
        if decision.verdict in (Verdict.WAIT, Verdict.REFUSE):
            raise RetryLater(decision.reason,
                             expected=decision.verdict is Verdict.WAIT)
        return decision

    @staticmethod
    def _fence(site: sites.Site, task: tasks.Task) -> None:
        """Blocklist the clients that may be at work on the image."""
        left = (site.connection.blocklist(task.addresses) if task.addresses
                else ())
        if left:
            raise RetryLater('clients %s cannot be blocklisted'
                             % ', '.join(sorted(left)))

    def _remove(self, site: sites.Site, ioctx: rados.Ioctx, task: tasks.Task,
                before: Decision, creating: str | None) -> Decision:
        """Remove an image, if that is decided under its lock, too."""
        decision = self.decide(site, ioctx, task, bool(creating))
        if decision.verdict is not Verdict.REMOVE:
            # Another has done it meanwhile, say.
            return decision
        if decision.image_id != before.image_id:
            raise RetryLater('another image has got its name meanwhile',
                             expected=True)
        self._check_not_written(task, decision, creating)
        self._check_lease()
        with contextlib.suppress(rbd.ImageNotFound):
            images.remove(
                ioctx, task.image, decision.image_id,
                task.snapshot or images.SNAPSHOT,
                trashing=lambda image_id: self._store.put(
                    purge(site, task.image, task.pool, image_id)),
                in_use_too=task.action is tasks.Action.DELETE)
        return decision

    def _check_not_written(self, task: tasks.Task, decision: Decision,
                           creating: str | None) -> None:
        """See that no process of this home writes or adopts the image.

        One that is committed waits for its location: the image is not settled
        in Glance until then, but that is not asked for a writer.

        :raises RetryLater: if one does
        """
        states = {tasks.State.WRITING}
        if creating:
            states.add(tasks.State.COMMITTED)
        for other in self._store.records(task.site, task.image):
            if (isinstance(other, tasks.Intent)
                    and other.uid not in (task.uid, creating)
                    and other.image_id == decision.image_id
                    and other.state in states):
                raise RetryLater('it is being written', expected=True)

    def _purge(self, ioctx: rados.Ioctx, task: tasks.Task) -> None:
        assert task.image_id is not None, 'plan() drops others'
        self._check_lease()
        try:
            images.purge(ioctx, task.image, task.image_id, task.snapshot)
        except rbd.ImageNotFound:
            if images.read_image_id(ioctx, task.image) == task.image_id:
                raise RetryLater('it is not in the trash yet', expected=True)


def _other_cluster(site: sites.Site, task: tasks.Task) -> Decision | None:
    if not task.fsid or not site.fsid or task.fsid == site.fsid:
        return None
    return Decision(Verdict.DROP, 'it was for cluster %s, in whose place the '
                    'store has another one' % task.fsid)


def _is_gone(site: sites.Site, intent: tasks.Intent) -> bool:
    """Return whether nothing is left of the image of an intent."""
    if intent.image_id is None:
        return False
    with site.open_pool(intent.pool) as ioctx:
        return (images.read_image_id(ioctx, intent.image) != intent.image_id
                and not images.is_being_removed(ioctx, intent.image,
                                                intent.image_id))


def _inspect(ioctx: rados.Ioctx, task: tasks.Task) -> images.ImageInfo | None:
    """Return what there is under the name of a task's image.

    Or what is left of it, where its removal was interrupted. Another image
    than the one that is meant is not opened: it may have been put there to
    harm this process.
    """
    image_id = task.image_id
    if image_id is not None:
        found = images.read_image_id(ioctx, task.image)
        if found != image_id:
            if images.is_being_removed(ioctx, task.image, image_id):
                return images.ImageInfo(image_id, blank=False)
            return images.ImageInfo(found) if found else None
    info = images.inspect(ioctx, task.image)
    if info is None:
        image_id = images.find_being_removed(ioctx, task.image)
        return (images.ImageInfo(image_id, blank=False) if image_id
                else None)
    return info


def purge(site: sites.Site, image: str, pool: str | None,
          image_id: str) -> tasks.Task:
    """Return the task that removes an image from the trash in the end."""
    return tasks.Task(tasks.Action.PURGE, site.name, image,
                      pool or site.pool, fsid=site.fsid, image_id=image_id,
                      snapshot=images.SNAPSHOT)


def remove_incomplete(intent: tasks.Intent) -> tasks.Task:
    """Return the task that removes what a dead writer has left."""
    return tasks.Task(
        tasks.Action.REMOVE_INCOMPLETE, intent.site, intent.image,
        intent.pool, fsid=intent.fsid, image_id=intent.image_id,
        addresses=(intent.address,) if intent.address else (),
        uid=intent.uid)
