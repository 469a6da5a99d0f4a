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


import os

from glance_dcn.deploy import sitesfile
from tests.unit.deploy import base


class TestForm(base.SitesFileTestCase):

    def test_nodes_know_their_lines(self):
        self.path.write_text('a:\n  - b\n  - "c"\nd:\n  e: 1\n')
        root = sitesfile.load(self.path)
        self.assertEqual({'a': 1, 'd': 4}, root.lines)
        self.assertEqual([(2, 'b', True), (3, 'c', False)],
                         [(item.line, item.text, item.plain)
                          for item in root.items['a'].items])
        self.assertEqual({'e': 5}, root.items['d'].lines)

    def test_byte_order_mark(self):
        self.path.write_bytes(b'\xef\xbb\xbfa: 1\n')
        self.assertEqual('1', sitesfile.load(self.path).items['a'].text)

    def test_key_given_twice(self):
        self.assertRefused(3, "'a' is given twice; the first is in line 1",
                           'a: 1\nb: 2\na: 3\n')

    def test_anchors_and_aliases(self):
        bomb = 'a: &a [lol]\n' + ''.join(
            '%s: &%s [*%s, *%s]\n' % (this, this, last, last)
            for last, this in zip('abcdefgh', 'bcdefghi'))
        self.assertRefused(1, 'anchors', bomb)
        self.assertRefused(2, 'aliases', 'a: 1\nb: *a\n')

    def test_tags(self):
        self.assertRefused(1, 'tags', 'a: !!python/object:os.system x\n')
        self.assertRefused(1, 'tags', 'a: !!binary aGVsbG8=\n')

    def test_nested_without_end(self):
        for text in ('[' * 500000, '{a: ' * 200000, '- ' * 300000):
            self.assertRefused(1, 'nested deeper', text)

    def test_too_many_nodes(self):
        self.assertRefused(
            1, 'more than', 'a: [%s]' % ('x,' * 300000))

    def test_too_large(self):
        self.assertRefused(1, 'larger than 1024 KiB', '#' * (10 << 20))

    def test_endless_device(self):
        self.path.symlink_to('/dev/zero')
        exc = self.assertRaises(sitesfile.Mistake, sitesfile.load, self.path)
        self.assertIn('no regular file', str(exc))

    def test_pipe_without_a_writer(self):
        os.mkfifo(self.path)
        self.assertRaises(sitesfile.Mistake, sitesfile.load, self.path)

    def test_not_there(self):
        exc = self.assertRaises(sitesfile.Mistake, sitesfile.load, self.path)
        self.assertEqual('%s: it cannot be read: No such file or directory'
                         % self.path, str(exc))

    def test_not_utf8(self):
        self.path.write_bytes(b'a: 1\nb: 2\nc: \xff\n')
        exc = self.assertRaises(sitesfile.Mistake, sitesfile.load, self.path)
        self.assertEqual('%s:3: this is no text in UTF-8' % self.path,
                         str(exc))

    def test_control_characters(self):
        self.assertRefused(1, 'no YAML', 'a: "\x00"\n')
        self.assertRefused(3, 'no YAML', 'a: \u00e9\u00e9\u00e9\n\nb: "\x1f"\n')

    def test_not_yaml(self):
        self.assertRefused(3, 'no YAML', 'a: 1\nb: 2\n\tc: 3\n')

    def test_second_document(self):
        self.assertRefused(2, 'second document', 'a: 1\n---\nb: 2\n')

    def test_no_mapping(self):
        for text in ('', '- a\n', 'text\n'):
            self.assertRefused(1, 'a mapping of keys is expected', text)

    def test_key_that_is_no_text(self):
        self.assertRefused(1, 'a key must be text', '? [a]\n: b\n')
