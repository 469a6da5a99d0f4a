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

"""What the tests of tasks share: sites, a home, and a database of Glance's."""

import contextlib
import pathlib
import signal
import subprocess
import sys
import time
import uuid

import fixtures
from glance.common import config
from glance import context
from glance import db
from oslo_config import cfg
from oslo_db import options as db_options
import rbd

from glance_dcn.ceph import client as clients
from glance_dcn.ceph import images
from glance_dcn.ceph import omap
from glance_dcn.ceph import records
from glance_dcn.sites import home as homes
from glance_dcn.sites import site as sites
from glance_dcn.tasks import queue as queues
from glance_dcn.tasks import runner as runners
from glance_dcn.tasks import store as stores
from glance_dcn.tasks import task as tasks
from glance_dcn.upstream import glance_db
from lab import process
from tests.functional import base

MIB = 1 << 20
ROOT = pathlib.Path(__file__).parents[3]
KEY = '0123456789abcdef'

# What a process of its own begins with: a site with a task queue whose home
# is another one, by the arguments (image, deployment, home's conf file, edge's
# conf file, name of the edge).
PREAMBLE = '''
import os, signal, sys, time
import rbd
from glance_dcn.ceph import client as clients, images, records
from glance_dcn.sites import existing
from glance_dcn.sites import site as sites
from glance_dcn.tasks import queue as queues
from glance_dcn.tasks import task as tasks
image, deployment, home, edge, name = sys.argv[1:6]
queue = queues.TaskQueue(deployment)
queue.add(sites.Site(clients.ClusterConfig(
    'home', 'images', home, 'glance', 5, 20), 22), True)
site = sites.Site(clients.ClusterConfig(
    name, 'images', edge, 'glance', 5, 20), 22, tasks=queue)
queue.add(site)
def say(text):
    print(text, flush=True)
def stop():
    say('stopped')
    os.kill(os.getpid(), signal.SIGSTOP)
'''


class GlanceDatabaseFixture(fixtures.Fixture):
    """A database of Glance's own, in a file.

    :param folder: pathlib.Path
    """

    def __init__(self, folder):
        super().__init__()
        self._folder = folder

    def _setUp(self):
        from glance.db.sqlalchemy import api
        from glance.db.sqlalchemy import models
        config.parse_args(args=[], default_config_files=[])
        self.addCleanup(cfg.CONF.reset)
        db_options.set_defaults(cfg.CONF)
        cfg.CONF.set_override(
            'connection', 'sqlite:///%s/glance.db' % self._folder,
            group='database')
        self.addCleanup(cfg.CONF.clear_override, 'connection', 'database')
        # The latter in Glance 26.
        for name in ('_main_context_manager', '_FACADE'):
            if hasattr(api, name):
                self.useFixture(fixtures.MonkeyPatch(
                    'glance.db.sqlalchemy.api.' + name, None))
        self.api = db.get_api()
        models.register_models(api.get_engine())
        self.context = context.get_admin_context()


class TasksTestCase(base.CephTestCase):
    """Two sites of the lab: central, which is home, and dcn0.

    Records are of a deployment of this test's own, so that neither other
    tests nor the lab's Glances act upon them.
    """

    def setUp(self):
        super().setUp()
        self.glance = self.useFixture(GlanceDatabaseFixture(
            pathlib.Path(self.useFixture(fixtures.TempDir()).path)))
        self.database = glance_db.of(cfg.CONF)
        self.image = self.image_name()
        self.deployment = uuid.uuid4().hex
        self.queue = queues.TaskQueue(self.deployment)
        self.home = self.site('central')
        self.edge = self.site('dcn0')
        self.queue.add(self.home, home=True)
        self.queue.add(self.edge)
        self.queue._database = self.database
        self.addCleanup(self.purge)

    def site(self, name):
        return sites.Site(clients.ClusterConfig(
            '%s-%s' % (name, self.image), 'images',
            str(self.cluster(name).conf), 'glance', 5, 20), 22,
            tasks=self.queue)

    def defer(self, action, site, image, pool=None, fsid=None, **fields):
        """Record a task for an image of a site."""
        self.queue.defer([tasks.Task(action, site.name, image,
                                     pool or site.pool, fsid or site.fsid,
                                     **fields)])

    def purge(self):
        """Leave nothing of the test."""
        self.queue.writes._periodic.stop()
        with self.home_pool() as ioctx:
            for key, text in list(omap.walk(ioctx, stores.OBJECT)):
                if self.deployment in text or self.image in key:
                    omap.remove(ioctx, stores.OBJECT, key)
        for name in ('central', 'dcn0'):
            with self.cluster(name).pool() as ioctx:
                self.remove_image(ioctx, self.image)

    @staticmethod
    def remove_image(ioctx, name):
        with contextlib.suppress(rbd.ImageNotFound):
            with rbd.Image(ioctx, name) as image:
                for snap in image.list_snaps():
                    with contextlib.suppress(rbd.InvalidArgument):
                        image.unprotect_snap(snap['name'])
                    image.remove_snap(snap['name'])
            rbd.RBD().remove(ioctx, name)

    @contextlib.contextmanager
    def home_pool(self, cluster='central'):
        """Open the namespace of the records of a site, as its Glance."""
        with self.cluster(cluster).pool(user='admin') as ioctx:
            ioctx.set_namespace(homes.NAMESPACE)
            yield ioctx

    def create(self, status='active', located=(), dropped=(), image=None):
        """Have Glance know an image, with locations at sites."""
        image = image or self.image
        self.glance.api.image_create(self.glance.context, {
            'id': image, 'status': status, 'locations': [
                {'url': site.uri(image), 'metadata': {}, 'status': 'active'}
                for site in (*located, *dropped)]})
        found = self.glance.api.image_get(self.glance.context, image)
        gone = [site.uri(image) for site in dropped]
        for location in found['locations']:
            if location['url'] in gone:
                self.glance.api.image_location_delete(
                    self.glance.context, image, location['id'], 'deleted')

    def destroy(self, image=None):
        """Have Glance delete an image that it knows."""
        self.glance.api.image_destroy(self.glance.context,
                                      image or self.image)

    def locate(self, site):
        """Have Glance note a location of the image."""
        self.glance.api.image_update(self.glance.context, self.image, {
            'status': 'active', 'locations': [
                {'url': site.uri(self.image), 'metadata': {},
                 'status': 'active'}]}, purge_props=False)

    def write(self, site=None, publish=True, commit=True, data=b'x'):
        """Write an image as the store does; return its internal ID."""
        site = site or self.edge
        with site.open_pool() as ioctx:
            with site.begin(ioctx, self.image, MIB) as endpoint:
                endpoint.image.write(data * 4096, 0)
                image_id = endpoint.image.id()
                if publish:
                    site.publish(endpoint, records.Record(MIB, 'digest'))
            if publish and commit:
                site.commit(self.image, image_id)
            return image_id

    def recorded(self, site=None):
        """Return the records of the image."""
        site = site or self.edge
        return self.queue.store.records(site.name, self.image)

    def runner(self, **kwargs):
        """Return a task runner, as of another process."""
        kwargs = dict({'expiry': 3, 'settled': 2}, **kwargs)
        return runners.TaskRunner(self.queue.store, self.queue.sites.get,
                                  self.database, **kwargs)

    def run_tasks(self, passes=1, runner=None):
        """Run the tasks, as one process does, and give its lease back."""
        runner = runner or self.runner()
        for _ in range(passes):
            runner._attempts.clear()
            runner.run()
        runner._lease.release()

    def settle(self, timeout=60, runner=None):
        """Have the tasks run until there are none of the image."""
        runner = runner or self.runner()

        def done():
            runner._attempts.clear()
            runner.run()
            return not self.recorded()
        process.wait_for('tasks to be done', done, timeout, interval=1)
        runner._lease.release()

    def identify(self, cluster='dcn0', name=None):
        with self.cluster(cluster).pool() as ioctx:
            return images.read_image_id(ioctx, name or self.image)

    def assertGone(self, cluster='dcn0'):
        self.assertNotIn(self.image, self.cluster(cluster).images())
        self.assertNotIn(self.image, self.cluster(cluster).trash())

    def assertThere(self, image_id=None, cluster='dcn0'):
        found = self.identify(cluster)
        self.assertIsNotNone(found)
        self.assertIn(image_id, (None, found))

    def assertWhole(self, data=b'x', cluster='dcn0'):
        """See that the published image has the data it was written with."""
        with self.cluster(cluster).pool() as ioctx, \
                rbd.Image(ioctx, self.image, read_only=True) as image:
            image.set_snap(images.SNAPSHOT)
            self.assertTrue(image.is_protected_snap(images.SNAPSHOT))
            self.assertEqual(data * 4096, image.read(0, 4096))

    def start(self, *lines):
        """Start a process of its own; see PREAMBLE."""
        code = PREAMBLE + '\n'.join(lines)
        started = subprocess.Popen(
            [sys.executable, '-c', code, self.image, self.deployment,
             str(self.cluster('central').conf),
             str(self.cluster('dcn0').conf), self.edge.name],
            cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.addCleanup(self.end, started)
        return started

    @staticmethod
    def end(started):
        if started.poll() is None:
            started.send_signal(signal.SIGCONT)
            started.kill()
        started.communicate()

    def await_line(self, started, line):
        """Wait until a process says something."""
        found = started.stdout.readline().strip()
        if found != line:
            _out, err = started.communicate(timeout=60)
            self.fail('%r and not %r: %s' % (found, line, err))

    def go_on(self, started, timeout=90):
        """Have a stopped process go on; return what it says then."""
        started.send_signal(signal.SIGCONT)
        out, err = started.communicate(timeout=timeout)
        self.addDetail('stderr', _text(err))
        return out.split()

    @staticmethod
    def sleep(seconds):
        time.sleep(seconds)


def _text(said):
    from testtools import content
    return content.text_content(said)
