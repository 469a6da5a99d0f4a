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

"""A release of Glance that has renamed what is private to it.

Everything of Glance works there. What glance_dcn builds on it is off, and
says so.
"""

import pathlib
import re
import shutil

import fixtures

from lab import glance
from lab import process
from tests.functional.api import base
from tests.functional.api import stock

# What is renamed, throughout the source of Glance.
_RENAMED = {'_ImportActions': '_Actions'}


class ChangedEnvironment(stock.Environment):
    """A virtual environment of links, and of a Glance that was changed."""

    def __init__(self):
        super().__init__(ours=True)

    def _setUp(self):
        super()._setUp()
        [link] = (self.bin.parent / 'lib').glob(
            'python3*/site-packages/glance')
        source = link.resolve()
        link.unlink()
        shutil.copytree(source, link, ignore=shutil.ignore_patterns(
            'tests', '__pycache__'))
        for path in link.rglob('*.py'):
            text = path.read_text()
            changed = re.sub(r'\b(%s)\b' % '|'.join(_RENAMED),
                             lambda found: _RENAMED[found[0]], text)
            if changed != text:
                path.write_text(changed)


class ChangedGlanceTest(base.OwnGlanceTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        environment = cls.use_for_class(ChangedEnvironment())
        with fixtures.MonkeyPatch('lab.wsgi.BIN', environment.bin):
            cls.start_own({site: ('dcn', glance.rbd_store(
                base.lab().cluster(site))) for site in ('central', 'dcn0')})

    def test_it_says_so_and_copies_are_those_of_stock(self):
        log = pathlib.Path(self.own.worker.log)

        def said():
            return [line for line in log.read_text().splitlines()
                    if 'cannot use the actions of an import' in line]
        # Once for each process that serves, and that is one.
        [line] = process.wait_for('the error', said, 40)
        for word in (' ERROR ', '_ImportActions', 'Therefore copies are left '
                     'to stock Glance', 'Install a release of glance-dcn'):
            self.assertIn(word, line)
        data = base.random_data()
        image_id = self.uploaded(self.api, data, 'central')
        self.api.images.image_import(image_id, 'copy-image', stores=['dcn0'])
        self.api.wait(image_id, 'central', 'dcn0')
        self.assertStored(image_id, data, 'central', 'dcn0')
        for task in self.api.tasks(image_id).values():
            # Ours says from where to where.
            self.assertNotIn('of data from', task['message'] or '')
