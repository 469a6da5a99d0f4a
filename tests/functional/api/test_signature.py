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

"""Signed images: the store hands all data to Glance's verifier."""

import base64
import datetime
import pathlib
import uuid

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography import x509
from cryptography.x509 import oid
import fixtures
from glanceclient import exc as client_exc

from tests.functional.api import base
from tests.functional.api import keymanager

_ROOT = pathlib.Path(__file__).parents[3]


def _certificate(key):
    """Return a certificate of a key, signed by itself, as DER."""
    name = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, 'test')])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(True, False, False, False, False, False, False,
                          False, False)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - day,
        now + day).add_extension(usage, critical=True).sign(
            key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.DER)


class SignatureTest(base.OwnGlanceTestCase):
    """A Glance with a key manager that knows one certificate."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.make_folder()
        cls.key = rsa.generate_private_key(65537, 2048)
        cls.certificate = str(uuid.uuid4())
        (folder / cls.certificate).write_bytes(
            _certificate(cls.key))
        environment = {keymanager.FOLDER: str(folder),
                       'PYTHONPATH': str(_ROOT)}
        with fixtures.Fixture() as patches:
            for item in environment.items():
                patches.useFixture(fixtures.EnvironmentVariable(*item))
            cls.start_own(base.rbd_stores(), overrides={
                'key_manager': {'backend': '%s.FolderKeyManager'
                                % keymanager.__name__}})

    def setUp(self):
        super().setUp()
        self.data = base.random_data()

    def signed(self, data, **changes):
        """Make the record of an image with a signature of some data."""
        signature = self.key.sign(
            data, padding.PSS(padding.MGF1(hashes.SHA256()),
                              padding.PSS.MAX_LENGTH), hashes.SHA256())
        return self.new_image(self.api, **dict({
            'img_signature': base64.b64encode(signature).decode(),
            'img_signature_hash_method': 'SHA-256',
            'img_signature_key_type': 'RSA-PSS',
            'img_signature_certificate_uuid': self.certificate}, **changes))

    def test_good(self):
        image_id = self.signed(self.data)
        self.api.upload(image_id, self.data)
        self.assertEqual('active', self.api.images.get(image_id)['status'])
        self.assertStored(image_id, self.data, 'central')
        self.assertIn('Successfully verified signature for image %s'
                      % image_id, self.own.log)

    def test_good_into_two_stores(self):
        image_id = self.signed(self.data)
        self.api.stage(image_id, self.data)
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=['central', 'dcn0'])
        self.api.wait(image_id, 'central', 'dcn0')
        self.assertStored(image_id, self.data, 'central', 'dcn0')

    def test_bad(self):
        image_id = self.signed(self.data[:-1] + b'?')
        self.assertRaises(client_exc.HTTPBadRequest, self.api.upload,
                          image_id, self.data)
        self.assertEqual('queued', self.api.images.get(image_id)['status'])
        self.assertNoTrace(image_id, *base.SITES)

    def test_bad_into_two_stores(self):
        image_id = self.signed(b'other data')
        self.api.stage(image_id, self.data)
        self.api.images.image_import(image_id, 'glance-direct',
                                     stores=['central', 'dcn0'])
        image = self.api.wait(image_id, status='queued',
                              failed=('central', 'dcn0'))
        self.assertEqual([], image['locations'])
        self.assertNoTrace(image_id, *base.SITES)

    def test_certificate_that_is_not_there(self):
        image_id = self.signed(
            self.data, img_signature_certificate_uuid=str(uuid.uuid4()))
        self.assertRaises(client_exc.HTTPBadRequest, self.api.upload,
                          image_id, self.data)
        self.assertEqual('queued', self.api.images.get(image_id)['status'])
        self.assertNoTrace(image_id, *base.SITES)
