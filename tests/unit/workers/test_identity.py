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

"""What is said of a worker's self reference; with real servers."""

import datetime
import http.server
import ipaddress
import os
import pathlib
import queue
import socket
import ssl
import threading

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography import x509
import fixtures
from oslotest import base

from glance_dcn.runtime import process
from glance_dcn.sites import worker_url
from glance_dcn.workers import identity as identities
from glance_dcn.workers import registry
from tests import runtimes


class Server(fixtures.Fixture):
    """An HTTP server.

    :param answers: called with the path of a request; returns its status and
        text
    :param address: what it listens on
    :param certificate: path of the certificate and key; None: no TLS
    :ivar requests: (path, headers) of the requests
    """

    def __init__(self, answers, address='127.0.0.1', certificate=None):
        super().__init__()
        self._answers = answers
        self._address = address
        self._certificate = certificate
        self.requests = []

    def _setUp(self):
        fixture = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                fixture.requests.append((self.path, dict(self.headers)))
                status, text = fixture._answers(self.path)
                self.send_response(status)
                if status == 302:
                    self.send_header('Location', text)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *unused):
                pass

        class Kind(http.server.ThreadingHTTPServer):
            address_family = (socket.AF_INET6 if ':' in self._address
                              else socket.AF_INET)
        server = Kind((self._address, 0), Handler)
        self.addCleanup(server.server_close)
        if self._certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
            server.socket = context.wrap_socket(server.socket,
                                                server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,),
                         daemon=True).start()
        self.addCleanup(server.shutdown)
        self.url = '%s://%s:%d' % (
            'https' if self._certificate else 'http',
            '[%s]' % self._address if ':' in self._address
            else self._address, server.server_address[1])


def certificate(path):
    """Write a self-signed certificate for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'worker')])
    now = datetime.datetime.now(datetime.timezone.utc)
    found = x509.CertificateBuilder().subject_name(name).issuer_name(
        name).public_key(key.public_key()).serial_number(
        x509.random_serial_number()).not_valid_before(
        now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(
            ipaddress.ip_address('127.0.0.1'))]), False).add_extension(
        x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    path.write_bytes(
        found.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM,
                            serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption()))


class ReferenceTestCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.identity = identities.WorkerIdentity(str(self.folder))
        self.useFixture(runtimes.Runtime())
        process.get(identities._Healthcheck).is_loaded = True
        for name in ('http_proxy', 'HTTP_PROXY', 'https_proxy', 'HTTPS_PROXY',
                     'REQUESTS_CA_BUNDLE'):
            self.useFixture(fixtures.EnvironmentVariable(name))
        for name in ('no_proxy', 'NO_PROXY'):
            self.useFixture(fixtures.EnvironmentVariable(name, '*'))

    def judge(self, url, others=(), public=None, **options):
        return identities.judge(url, public, self.identity, list(others),
                                **options)

    def assertWrong(self, verdict, *words):
        """It is wrong, and the text has these words and a cure."""
        self.assertEqual(registry.WRONG, verdict.state, verdict)
        [fault] = verdict.faults
        for word in ('worker_self_reference_url', *words,
                     'address of this worker alone'):
            self.assertIn(word, fault)

    def own(self, path):
        """Answer as this worker does."""
        secret = self.identity.challenged()
        return 200, 'OK %s' % identities.mark(secret) if secret else 'OK'

    def strange(self, path):
        """Answer as another worker does."""
        return 200, 'OK'


class FormTest(ReferenceTestCase):

    def test_missing(self):
        for url in (None, ''):
            self.assertWrong(self.judge(url), 'is not set')

    def test_missing_with_public_endpoint(self):
        self.assertWrong(self.judge(None, public='http://vip:9292'),
                         'is not set', 'public_endpoint, http://vip:9292')

    def test_mistakes(self):
        for url, words in (
                ('worker-1', 'is not absolute'),
                ('worker-1:9292', 'is not absolute'),
                ('//worker-1:9292', 'is not absolute'),
                ('/v2', 'is not absolute'),
                ('ftp://worker-1', 'begins with ftp://'),
                ('http://:9292', 'names no host'),
                ('http://worker-1:nine', 'is no URL'),
                ('http://worker-1:99999', 'is no URL'),
                ('http://[::1', 'is no URL'),
                ('http://worker 1:9292', 'is no URL'),
                (' http://worker-1:9292', 'is no URL'),
                ('http://me:secret@worker-1:9292', 'user name or password'),
                ('http://worker-1:9292?a=b', 'query'),
                ('http://worker-1:9292#x', 'fragment'),
                ('http://worker-1:9292/', 'ends with "/"'),
                ('http://worker-1:9292/image/', 'ends with "/"'),
                ('http://worker-1:9292/v2', 'version of the API'),
                ('http://worker-1/image/v2.15', 'version of the API'),
                ('http://0.0.0.0:9292', 'listens'),
                ('http://[::]:9292', 'listens')):
            verdict = self.judge(url)
            self.assertWrong(verdict, words)
            self.assertNotIn('secret', verdict.faults[0])
            self.assertFalse(verdict.passing)

    def test_of_no_mistake(self):
        for url in ('http://worker-1:9292', 'https://worker-1',
                    'http://[fd00::1]:9292', 'http://10.0.0.1:9292/image'):
            self.assertIsNone(worker_url.fault(url), url)


class AnsweredTest(ReferenceTestCase):

    def serve(self, answers, **kwargs):
        return self.useFixture(Server(answers, **kwargs))

    def test_by_this_worker(self):
        server = self.serve(self.own)
        self.assertEqual(identities.Verdict(registry.RIGHT, []),
                         self.judge(server.url))
        for path, headers in server.requests:
            self.assertEqual('/healthcheck', path)
            self.assertNotIn('X-Auth-Token', headers)

    def test_by_this_worker_disabled_by_file(self):
        server = self.serve(lambda path: (503, self.own(path)[1]))
        self.assertEqual(registry.RIGHT, self.judge(server.url).state)

    def test_below_a_path(self):
        server = self.serve(self.own)
        self.assertEqual(registry.RIGHT,
                         self.judge(server.url + '/image').state)
        self.assertEqual('/image/healthcheck', server.requests[0][0])

    def test_over_ipv6(self):
        server = self.serve(self.own, address='::1')
        self.assertEqual(registry.RIGHT, self.judge(server.url).state)

    def test_over_tls(self):
        path = self.folder / 'worker.pem'
        certificate(path)
        server = self.serve(self.own, certificate=path)
        verdict = self.judge(server.url)
        self.assertWrong(verdict, 'its certificate is not accepted')
        self.useFixture(fixtures.EnvironmentVariable('REQUESTS_CA_BUNDLE',
                                                     str(path)))
        self.assertEqual(registry.RIGHT, self.judge(server.url).state)

    def test_tls_where_there_is_none(self):
        server = self.serve(self.own)
        self.assertWrong(self.judge(server.url.replace('http:', 'https:')),
                         'does not speak TLS')

    def test_by_another_worker(self):
        server = self.serve(self.strange)
        verdict = self.judge(server.url)
        self.assertWrong(verdict, 'answered by another than this worker')
        self.assertFalse(verdict.passing)

    def test_by_a_load_balancer(self):
        turns = iter([self.own, self.strange] * 10)
        server = self.serve(lambda path: next(turns)(path))
        self.assertWrong(self.judge(server.url),
                         'other workers as well as this one', 'load balancer')

    def test_by_something_else(self):
        server = self.serve(lambda path: (404, 'OK'))
        verdict = self.judge(server.url)
        self.assertEqual(registry.UNPROVED, verdict.state)
        [fault] = verdict.faults
        self.assertIn('could not be proved', fault)
        self.assertIn('status 404', fault)

    def test_redirections_are_not_followed(self):
        other = self.serve(self.own)
        server = self.serve(lambda path: (302, other.url + path))
        self.assertEqual(registry.UNPROVED, self.judge(server.url).state)
        self.assertEqual([], other.requests)

    def test_without_the_plugin(self):
        # Another than this worker would seem to answer.
        process.get(identities._Healthcheck).is_loaded = False
        server = self.serve(self.strange)
        verdict = self.judge(server.url)
        self.assertEqual(registry.UNPROVED, verdict.state)
        self.assertIn('no backend', verdict.faults[0])

    def test_nobody_asks(self):
        server = self.serve(self.strange)
        verdict = identities.judge(server.url, None, self.identity, [],
                                   ask=False)
        self.assertEqual(registry.UNPROVED, verdict.state)
        self.assertEqual([], server.requests)

    def test_by_nobody(self):
        with socket.socket() as sock:
            sock.bind(('127.0.0.1', 0))
            verdict = self.judge('http://127.0.0.1:%d'
                                 % sock.getsockname()[1])
        self.assertWrong(verdict, 'nobody listens')
        self.assertTrue(verdict.passing)

    def test_too_late(self):
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def late(path):
            go_on.wait(20)
            return 200, ''
        server = self.serve(late)
        self.assertWrong(self.judge(server.url, timeout=(5, 0.2)),
                         'does not answer within')

    def test_host_that_is_not_known(self):
        self.assertWrong(self.judge('http://worker.invalid:9292'),
                         'its host is not known')

    def test_what_is_no_http(self):
        with socket.create_server(('127.0.0.1', 0)) as sock:
            def serve():
                while True:
                    try:
                        client, _address = sock.accept()
                    except OSError:
                        return
                    with client:
                        client.sendall(b'SSH-2.0-OpenSSH\r\n' * 100)
            threading.Thread(target=serve, daemon=True).start()
            self.assertWrong(self.judge('http://127.0.0.1:%d'
                                        % sock.getsockname()[1]),
                             'cannot be reached')
            sock.shutdown(socket.SHUT_RDWR)


class OthersTest(ReferenceTestCase):

    def setUp(self):
        super().setUp()
        self.server = self.useFixture(Server(self.own))

    def other(self, url, host=None):
        return registry.Worker('other-worker', 'central', url=url,
                               host=host or socket.gethostname())

    def test_same_as_that_of_another(self):
        for url in (self.server.url, self.server.url.upper().replace(
                'HTTP', 'http'), self.server.url + '/'):
            self.assertWrong(self.judge(self.server.url, [self.other(url)]),
                             'also that of worker other-worker')

    def test_unlike_that_of_others(self):
        others = [self.other(None), self.other('http://127.0.0.1:1'),
                  self.other('no URL'), self.other('http://x:port')]
        self.assertEqual(registry.RIGHT,
                         self.judge(self.server.url, others).state)

    def test_address_of_the_host_itself(self):
        stranger = self.other('http://10.0.0.7:9292', host='elsewhere')
        self.assertWrong(self.judge(self.server.url, [stranger]),
                         'address of the host itself', 'elsewhere')

    def test_several_at_once(self):
        server = self.useFixture(Server(self.strange))
        verdict = self.judge(server.url, [self.other(server.url)])
        self.assertEqual(registry.WRONG, verdict.state)
        self.assertEqual(2, len(verdict.faults))


class TestPlace(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.staging = self.useFixture(fixtures.TempDir()).path
        self.identity = identities.WorkerIdentity(self.staging)

    def test_identity_is_made_once(self):
        identity = self.identity.uuid()
        self.assertEqual(
            identity, identities.WorkerIdentity(self.staging + '/').uuid())
        other = self.useFixture(fixtures.TempDir()).path
        self.assertNotEqual(identity, identities.WorkerIdentity(other).uuid())
        # Nothing else is left behind.
        self.assertEqual(['identity'], os.listdir(self.identity.folder))

    def test_pipe_is_not_waited_for(self):
        os.mkdir(self.identity.folder)
        for name in ('challenge', 'identity'):
            os.mkfifo(os.path.join(self.identity.folder, name))
        answers = queue.Queue()
        threading.Thread(
            target=lambda: answers.put(self.identity.challenged()),
            daemon=True).start()
        # Or a healthcheck would hang.
        self.assertFalse(answers.get(timeout=5))
        self.assertRaises(ValueError, self.identity.uuid)

    def test_staging_folder_is_not_made(self):
        missing = identities.WorkerIdentity(
            os.path.join(self.staging, 'missing'))
        self.assertRaises(FileNotFoundError, missing.uuid)
        self.assertEqual([], os.listdir(self.staging))

    def test_identity_is_of_the_first_of_several(self):
        link, first = os.link, []

        def late(*args):
            if not first:
                first.append(None)
                first.append(identities.WorkerIdentity(self.staging).uuid())
            link(*args)
        self.useFixture(fixtures.MonkeyPatch('os.link', late))
        self.assertEqual([None, self.identity.uuid()], first)

    def test_identity_that_is_none(self):
        os.makedirs(self.identity.folder)
        pathlib.Path(self.identity.folder, 'identity').write_text(
            '../../etc\n')
        exc = self.assertRaises(ValueError, self.identity.uuid)
        self.assertIn('remove it', str(exc))

    def test_challenge(self):
        self.assertIsNone(self.identity.challenged())
        with self.identity.challenge() as secret:
            self.assertEqual(secret,
                             identities.WorkerIdentity(
                                 self.staging).challenged())
            with self.identity.challenge() as another:
                self.assertNotEqual(secret, another)
        self.assertIsNone(self.identity.challenged())

    def test_challenge_of_one_who_died(self):
        with self.identity.challenge():
            path = os.path.join(self.identity.folder, 'challenge')
            os.utime(path, (1, 1))
            self.assertIsNone(self.identity.challenged())


class TestAnswer(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.identity = identities.WorkerIdentity(
            self.useFixture(fixtures.TempDir()).path)
        self.useFixture(runtimes.Runtime())
        self.disabling = os.path.join(self.identity.staging, 'disabling')

    def app(self):
        """Return the healthcheck as Glance's paste configuration has it."""
        from oslo_middleware import healthcheck
        return healthcheck.Healthcheck.app_factory(
            {}, backends='disable_by_file',
            disable_by_file_path=self.disabling)

    def get(self, app, status=200):
        import webob
        response = webob.Request.blank(
            '/', headers={'Accept': 'text/plain'}).get_response(app)
        self.assertEqual(status, response.status_int)
        return response.text

    def test_has_the_secret_of_the_moment(self):
        before = self.get(self.app())
        self.assertIn('OK', before)
        identities.begin(self.identity)
        app = self.app()
        self.assertTrue(process.get(identities._Healthcheck).is_loaded)
        self.assertEqual(before.split(), self.get(app).split())
        with self.identity.challenge() as secret:
            self.assertIn(identities.mark(secret), self.get(app))
        self.assertEqual(before.split(), self.get(app).split())

    def test_leaves_the_answer_to_the_plugin(self):
        identities.begin(self.identity)
        identities.begin(self.identity)
        pathlib.Path(self.disabling).touch()
        with self.identity.challenge() as secret:
            text = self.get(self.app(), 503)
        self.assertEqual(['DISABLED', 'BY', 'FILE', 'glance-dcn', secret],
                         text.split())
