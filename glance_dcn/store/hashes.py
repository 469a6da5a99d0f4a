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

"""Hashes that are computed once an image, however many stores it goes to.

Glance gives each store of an import the same data and wants the checksum and
the multihash from each. The first ``add()`` of an image in this process
computes them; the others compute the content digest alone, which costs only
the data, and take over the hashes when it proves equal content.
"""

import collections
import threading

# Images whose hashes are remembered; a record takes well under 1 KiB.
_REMEMBERED = 256


class SharedHashes:
    """The hashes of the images that this process has stored lately."""

    def __init__(self):
        self._images = collections.OrderedDict()
        self._changed = threading.Condition()

    def claim(self, image_id):
        """Ask to be the one who computes the hashes of an image.

        :returns: True: compute, then call :meth:`share` or :meth:`give_up`.
            False: they are known, or somebody is computing them; see
            :meth:`wait`
        """
        with self._changed:
            if image_id in self._images:
                return False
            self._images[image_id] = None
            return True

    def share(self, image_id, record):
        """Tell the hashes that were computed.

        :param record: :class:`glance_dcn.ceph.records.Record`
        """
        with self._changed:
            self._images[image_id] = record
            self._images.move_to_end(image_id)
            while len(self._images) > _REMEMBERED:
                oldest = next(iter(self._images))
                if self._images[oldest] is None:
                    break
                del self._images[oldest]
            self._changed.notify_all()

    def give_up(self, image_id):
        """Tell that they were not computed after all."""
        with self._changed:
            self._images.pop(image_id, None)
            self._changed.notify_all()

    def wait(self, image_id, timeout):
        """Return the record of an image, once it is computed.

        :param timeout: seconds to wait for whoever computes it
        :returns: the record, or None if it was given up or takes longer
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._computing(image_id),
                                   timeout)
            return self._images.get(image_id)

    def _computing(self, image_id):
        return image_id in self._images and self._images[image_id] is None
