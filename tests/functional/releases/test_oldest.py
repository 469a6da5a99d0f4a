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

"""The oldest Glance, on eventlet, with the libraries of its time.

In short what ``tools/run-matrix.sh glance-26-eventlet`` runs in full.
"""

import sys
import unittest

import fixtures

from glance_dcn.imports import journal
from lab import glance
from lab import release
from tests.functional.api import base
from tests.functional.api import databases
from tests.kills import run
from tests.kills import scene as scenes
from tests import releases

_OLDEST = 26


class _Glance(glance.OnEventlet):

    def start(self):
        if not self.etc.exists():
            # Tables of its own: those of the lab are of the newest release.
            self.sync_database()
        super().start()


@releases.since(release.NEWEST)
@unittest.skipIf(sys.version_info >= (3, 12),
                 'Glance %d is older than this Python' % _OLDEST)
class OldestTest(base.ApiTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # All that is started from here on is of that release.
        cls.use_for_class(fixtures.MonkeyPatch(
            'lab.wsgi.BIN', release.programs(_OLDEST)))
        database = cls.use_for_class(databases.Database(
            base.lab(), cls.make_folder()))
        cls.scene = cls.use_for_class(scenes.Scene(
            program=_Glance, database=database.url))

    def setUp(self):
        super().setUp()
        self.api = self.use_own(self.scene.own)

    def test_imported_copied_read_deleted(self):
        image_id = self.new_image(self.api, disk_format='qcow2')
        self.api.images.image_import(image_id, 'web-download',
                                     stores=['central'], uri=self.scene.url)
        image = self.api.wait(image_id, 'central')
        self.assertEqual('raw', image['disk_format'])
        self.assertDescribes(image, self.scene.raw)
        self.api.images.image_import(image_id, 'copy-image', stores=['dcn0'])
        image = self.api.wait(image_id, 'central', 'dcn0')
        self.assertLocated(image, 'central', 'dcn0')
        self.assertStored(image_id, self.scene.raw, 'central', 'dcn0')
        self.assertIn('Copied', self.api.messages(image_id)[-1])
        self.assertSame(self.scene.raw, self.api.download(image_id))
        self.api.images.delete(image_id)
        self.assertNoTrace(image_id, 'central', 'dcn0')

    def test_killed_while_it_copies(self):
        found = run.one(self.scene, 'copy-image',
                        run.reaches(journal.COPYING), limit=90)
        self.assertEqual([], found.wrong)
        self.assertEqual('resumed', found.outcome)
