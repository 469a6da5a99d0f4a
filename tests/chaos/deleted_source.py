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

"""Sources that are removed while they are copied, as an operator might.

The location in Glance then names data that is not there. The copy must come
right from another source, or fail.
"""

import contextlib
import threading

import requests

from lab import process
from tests.chaos import operations
from tests.chaos import plan as plans


class DeletedSources:
    """Removes sources of copies, and the locations of what is gone.

    :param stage: :class:`tests.chaos.stage.Stage`
    :param actions: :class:`tests.chaos.operations.Operations`
    """

    def __init__(self, stage, actions):
        self._stage = stage
        self._actions = actions
        # (image, site) whose location is to be dropped.
        self._broken = []

    def cause(self, fault):
        """Copy an image, and remove one of its sources meanwhile.

        :param fault: :class:`tests.chaos.plan.Fault`
        :returns: what came of the copy, in words
        :raises lab.process.LabError: if there is no image with two sources,
            or the one could not be removed
        """
        known = self._actions.known[fault.image.number]
        holders = set(fault.options['holders'].split(','))
        outcome = self._run(fault, 'import', sorted(holders),
                            method='web-download')
        if not holders <= known.confirmed:
            raise process.LabError('there are no two sources: import %s, %s'
                                   % outcome)
        copied = []
        copying = threading.Thread(target=lambda: copied.append(self._run(
            fault, 'copy', [fault.options['target']])))
        copying.start()
        try:
            self._stage.wait(fault.options['pause'])
            self._remove(known, fault.site)
        finally:
            copying.join()
        self._drop_location(known, fault.site)
        return 'copy %s %s' % copied[0]

    def repair(self):
        """Drop the locations that could not be dropped yet."""
        broken, self._broken = self._broken, []
        for known, site in broken:
            # One that stays is found by the check.
            with contextlib.suppress(process.LabError,
                                     requests.RequestException):
                self._drop_location(known, site)

    def _run(self, fault, kind, stores, **options):
        return self._actions.run(plans.Operation(
            -1, kind, (plans.CENTRAL, fault.worker), fault.image,
            tuple(stores), dict(options, must=False)))

    def _remove(self, known, site):
        image = 'images/%s' % known.id
        # Even if it comes half the way.
        known.removed.add(site)
        self._broken.append((known, site))
        for command in (('snap', 'unprotect', image + '@snap'),
                        ('snap', 'rm', '--no-progress', image + '@snap'),
                        ('rm', '--no-progress', image)):
            self._stage.rbd(site, *command)

    def _drop_location(self, known, site):
        """Have Glance drop a location, or the image if it is the last."""
        api = self._stage.api(plans.CENTRAL)
        answer = api.request('DELETE', '/v2/stores/%s/%s' % (site, known.id))
        if answer.status_code == 403:
            known.doomed = True
            answer = api.request('DELETE', '/v2/images/%s' % known.id)
        if answer.status_code in (204, 404):
            self._broken = [entry for entry in self._broken
                            if entry != (known, site)]
            return
        raise process.LabError('the location at %s of image %s was not '
                               'dropped: %s %s' % (
                                   site, known.id,
                                   *operations.refusal(answer)))
