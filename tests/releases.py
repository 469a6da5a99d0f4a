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


"""Which release of Glance the tests run with, for what depends on it."""

from importlib import metadata
import unittest

GLANCE = int(metadata.version('glance').partition('.')[0])


def since(release):
    """Return a decorator of tests of what came with a release of Glance."""
    return unittest.skipIf(GLANCE < release,
                           'this is there from Glance %d on' % release)


def before(release):
    """Return a decorator of tests of what went with a release of Glance."""
    return unittest.skipIf(GLANCE >= release,
                           'this is gone since Glance %d' % release)
