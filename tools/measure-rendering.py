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


"""Prints how long it takes to render the configuration of many sites.

    tools/measure-rendering.py [SITES]    200 sites, of 3 workers each
"""

import os
import pathlib
import sys
import tempfile
import time

from glance_dcn.deploy import files
from glance_dcn.deploy import load
from glance_dcn.deploy import render

_SITE = """\
- name: %(name)s
  central: %(central)s
  cluster:
    fsid: %(number)08x-e5ff-42a0-9f53-860403b29a33
    mons: [10.%(net)s.1, 10.%(net)s.2, 10.%(net)s.3]
    key: {file: key}
%(guests)s  workers:
  - http://11.%(net)s.1:9292
  - http://11.%(net)s.2:9292
  - http://11.%(net)s.3:9292
"""
_GUESTS = """\
  at_central: {key: {file: key}}
  from_central: {key: {file: key}}
"""
# Of Ceph's documentation: it opens nothing.
_KEY = 'AQD29WteAAAAABAAphgOjFD7nyjdYe8Lz0mQ5Q=='


def main(count):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / 'key').write_text(_KEY)
        (folder / 'key').chmod(0o600)
        path = folder / 'sites.yaml'
        path.write_text(sites_file(count))
        for kind in render.KINDS:
            measure(path, kind, folder / kind)


def sites_file(count):
    """Return a sites file of many sites, site0, site1, ..., as text.

    The file ``key`` beside it must have the key of all clusters.
    """
    return 'sites:\n' + ''.join(_SITE % {
        'name': 'site%d' % number, 'number': number + 1,
        'central': str(not number).lower(),
        'guests': _GUESTS if number else '',
        'net': '%d.%d' % divmod(number, 256)}
        for number in range(count))


def measure(path, kind, folder):
    """Render all sites as a kind, write them, and print the times."""
    started = time.monotonic()
    deployment = load.load(path)
    loaded = time.monotonic()
    placed = render.placed(render.render(deployment, deployment.sites, kind))
    rendered = time.monotonic()
    files.write(os.fspath(folder), [file for _node, file in placed])
    written = time.monotonic()
    print('%-8s  %d sites, %d files, %.1f MiB: read %.2f s, rendered %.2f s, '
          'written %.2f s, together %.2f s' % (
              kind, len(deployment.sites), len(placed),
              sum(len(file.text) for _node, file in placed) / (1 << 20),
              loaded - started, rendered - loaded, written - rendered,
              written - started))


if __name__ == '__main__':
    main(int(sys.argv[1]) if sys.argv[1:] else 200)
