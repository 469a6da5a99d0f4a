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

"""What a randomised run runs on: a lab of its own."""

import contextlib
import functools
import http.server
import json
import threading
import time

import rados

from lab import ceph
from lab import deployment
from lab import process
from lab import wsgi
from tests.chaos import plan as plans
from tests.functional.api import client
from tests.functional.api import databases

#: OSD capabilities of keys that an attacker at an edge has: to what is not
#: kept in a namespace, and to the whole pool.
CAPS = {'edge': "profile rbd pool=images namespace=''",
        'wide': 'profile rbd pool=images'}
# Shorter than the defaults, so that a fault of seconds is one.
_TIMEOUTS = {'rados_connect_timeout': 3, 'dcn_io_timeout': 10}


class Stage:
    """A deployment, the web server that imports come from, and clones.

    :ivar lab: :class:`lab.deployment.Deployment`
    :ivar clones: (site, name in pool vms) of the clones that are there

    :param state: folder for everything
    :param say: called with lines of text
    """

    def __init__(self, state, say):
        self.lab = deployment.Deployment(state, say)
        self.clones = []
        self._port = None
        self._apis = {}
        self._stack = contextlib.ExitStack()

    def up(self, sites, workers, database, store_type, wan, lender=None,
           clocks=False, edges=True):
        """Bring the deployment up; for the parameters see there.

        :param lender: folder of a lab whose Keystone and database server are
            used, None for own ones
        """
        services = None
        if lender:
            lent = databases.Database(deployment.Deployment(lender),
                                      self.lab.state.parent)
            lent.setUp()
            self._stack.callback(lent.cleanUp)
            services = {'lab': str(lender), 'database': lent.url}
        self.lab.create(sites, workers, database, store_type, wan, _TIMEOUTS,
                        services, clocks=clocks, edges=edges)
        self.lab.up()
        session = self.lab.keystone.session()
        # Every request needs it: got once, before there are many threads.
        session.get_token()
        self._apis = {
            (site, number): client.Api(self.lab.glance(site, number).url,
                                       session)
            for site in (sites if edges else sites[:1])
            for number in range(workers)}

    def down(self, delete):
        """End the deployment.

        :param delete: remove its folder, logs and all
        """
        with self._stack:
            if self.lab.state.exists():
                self.lab.down(delete=delete)

    @property
    def workers(self):
        """The (site, number) of all workers."""
        return list(self._apis)

    @property
    def database_url(self):
        """SQLAlchemy URL of the database of all Glances."""
        return (self.lab.facts['services'] or {}).get(
            'database') or self.lab.database.url('glance')

    def api(self, site, number=0):
        """Return the :class:`tests.functional.api.client.Api` of a worker."""
        return self._apis[site, number]

    def rbd(self, site, *arguments):
        """Run ``rbd`` at a site as Nova, and return what it prints.

        A program of its own: librbd may end the process that it is in when
        its cluster goes away.

        :raises lab.process.LabError: if it fails, or takes 20 s
        """
        return process.run(['rbd', '--conf', self.lab.cluster(site).conf,
                            '--id', 'openstack', *arguments], timeout=20)

    @contextlib.contextmanager
    def connect(self, site, key):
        """Connect to a site's cluster with a key that forgers have.

        :param key: one of :data:`CAPS`
        :returns: context manager that gives a connected rados.Rados
        """
        cluster = self.lab.cluster(site)
        with cluster.connect() as admin:
            found, = json.loads(ceph.command(admin, {
                'prefix': 'auth get-or-create', 'format': 'json',
                'entity': 'client.%s' % key,
                'caps': ['mon', 'profile rbd', 'osd', CAPS[key]]}))
        client = rados.Rados(
            conffile=str(cluster.conf), rados_id=key,
            conf={'key': found['key'], 'keyring': '',
                  'client_mount_timeout': '10', 'rados_mon_op_timeout': '10',
                  'rados_osd_op_timeout': '10'})
        client.connect(timeout=10)
        try:
            yield client
        finally:
            client.shutdown()

    def wait(self, seconds):
        """Wait for some seconds; not at all if they are negative."""
        time.sleep(max(0, seconds))

    def remove_clones(self):
        """Remove the clones that are left; the sites must be up."""
        for site, name in self.clones:
            if name in self.lab.cluster(site).images('vms'):
                self.rbd(site, 'rm', '--no-progress', 'vms/%s' % name)
        self.clones.clear()

    def wait_until_workers_answer(self):
        """Wait for every worker.

        :raises lab.process.LabError: if one does not answer for a minute
        """
        for worker, api in self._apis.items():
            process.wait_for('Glance %s-%d' % worker,
                             lambda url=api.url: wsgi.answers(
                                 url + '/healthcheck'), 60)

    def url(self, image):
        """Return where an image of the plan is downloaded from."""
        return 'http://127.0.0.1:%d/%d' % (self._port, image.number)

    @contextlib.contextmanager
    def serving(self, known, seed):
        """Serve the data of the images of a plan.

        :param known: dict of :class:`tests.chaos.operations.Known` by number
        :param seed: of the run
        """
        server = http.server.ThreadingHTTPServer(
            ('127.0.0.1', 0), functools.partial(_Handler, known, seed))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self._port = server.server_port
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):

    def __init__(self, known, seed, *args):
        self._known = known
        self._seed = seed
        super().__init__(*args)

    def do_GET(self):  # noqa: N802 (the name is http.server's)
        """Answer with the data of the image whose number is the path."""
        data = plans.content(self._known[int(self.path[1:])].image,
                             self._seed)
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)

    def log_message(self, *args):
        """Say nothing: Glance's own log tells what it downloads."""
