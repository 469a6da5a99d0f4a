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

from glance_store import driver

from lab import glance

GLANCE = int(metadata.version('glance').partition('.')[0])


#: Decorator of tests of what came with glance_store 4.6.
with_weights = unittest.skipUnless(
    any(opt.name == 'weight' for opt in driver.Store.MULTI_BACKEND_OPTIONS),
    'this glance_store knows no weights')
#: Decorator of tests of what came with glance_store 5.0.
with_defaults = unittest.skipUnless(
    hasattr(driver, 'SHARED_CONF_GROUP'),
    'this glance_store has no defaults of all stores')
#: Decorator of tests of what Glance does not do on eventlet.
under_wsgi = unittest.skipIf(glance.SERVER == 'eventlet',
                             'Glance on eventlet does not ask itself')


def since(release):
    """Return a decorator of tests of what came with a release of Glance."""
    return unittest.skipIf(release > GLANCE,
                           'this is there from Glance %d on' % release)


def before(release):
    """Return a decorator of tests of what went with a release of Glance."""
    return unittest.skipIf(release <= GLANCE,
                           'this is gone since Glance %d' % release)
