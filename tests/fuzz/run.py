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

"""Runs the changed files through the inspection, and judges each outcome."""

import collections
import dataclasses
import json
import os
import pathlib
import pickle
import re
import sys
import time

from glance_dcn.images import errors
from glance_dcn.images import formats
from glance_dcn.images import inspection
from glance_dcn.images import inspection_server
from glance_dcn.images import limited
from glance_dcn.images import qemu_img
from tests.fuzz import changes
from tests.fuzz import seeds

_MiB = 1 << 20
_ROOT = pathlib.Path(__file__).parents[2]
# What is inspected can be of these formats.
_FORMATS = {'raw', 'qcow2', 'vhd', 'vhdx', 'vmdk', 'vdi', 'iso', 'luks'}
# Files that one process examines.
_BATCH = 500
# What converting one may take. These limits are to be met by some.
_CONVERT = limited.Limits(memory=1 << 30, cpu=10, seconds=60,
                          size=256 * _MiB, space=64 * _MiB)


@dataclasses.dataclass
class Result:
    """What became of the files.

    :ivar outcomes: how many there are of each
    :ivar wrong: texts, of files whose outcome is neither a format nor a
        refusal with a reason, or that passed a limit
    :ivar cpu: the most CPU time that inspecting one took, in seconds
    :ivar share: the largest part of its limit that one took
    """

    outcomes: collections.Counter = dataclasses.field(
        default_factory=collections.Counter)
    kinds: collections.Counter = dataclasses.field(
        default_factory=collections.Counter)
    wrong: list = dataclasses.field(default_factory=list)
    cpu: float = 0
    share: float = 0

    def count(self, what):
        """Count an outcome, without the numbers that are in it."""
        self.outcomes[re.sub(r'0x[0-9a-f]+|\d+', 'N', what)[:60]] += 1


class Run:
    """A run of changed files.

    :param folder: folder to work in
    :param seed: the same seed, the same changes
    :param files: the sound files, if they are made already
    """

    def __init__(self, folder, seed, files=None):
        self.folder = pathlib.Path(folder)
        self._server = inspection_server.InspectionServer()
        self.seed = seed
        self.files = files or seeds.make(self.folder)
        self._seeds = self.folder / 'seeds'
        self._seeds.write_bytes(pickle.dumps(self.files))
        self.result = Result()
        self._answers = {}

    def examine(self, first, last):
        """Examine files, many in one limited process."""
        while first < last:
            first = self._batch(first, min(last, first + _BATCH))

    def _batch(self, first, last):
        """Examine files until one ends the process; return the next one."""
        outcome = limited.run(
            ['env', '-C', str(_ROOT), sys.executable, '-m',
             'tests.fuzz.batch', str(self._seeds), str(self.seed), str(first),
             str(last), str(self.folder)],
            limited.Limits(memory=600 * _MiB, cpu=7200, seconds=14400))
        number = first - 1
        for line in outcome.output.decode().splitlines():
            number, _space, said = line.partition(' ')
            number = int(number)
            if not said:
                self.result.wrong.append(
                    'file %d ended its process (status %d): %s' % (
                        number, outcome.status, outcome.last_messages()))
                break
            self._judge(number, json.loads(said))
        if number < first:
            raise RuntimeError(outcome.last_messages(2000))
        return number + 1

    def _judge(self, number, said):
        answer = said['answer']
        self._answers[number] = answer
        self.result.kinds[said['name']] += 1
        self.result.cpu = max(self.result.cpu, said['cpu'])
        self.result.share = max(self.result.share,
                                said['cpu'] / said['limit'])
        if said['cpu'] > said['limit']:
            self._is_wrong(number, 'it took %(cpu).1f s of CPU' % said)
        if answer.get('format') in _FORMATS:
            reasons = answer['hazards'] or answer['missing']
            self.result.count('%s%s' % (
                answer['format'], ': ' + reasons[0] if reasons else ''))
        elif answer.get('refused'):
            self.result.count(answer['refused'])
        else:
            self._is_wrong(number, 'its answer is %s' % answer)

    def _is_wrong(self, number, what):
        self.result.wrong.append('file %d of seed %d: %s' % (
            number, self.seed, what))

    def sample(self, numbers):
        """Run some of the files through all that an import does.

        Those that have been examined are compared with that.
        """
        for number in numbers:
            path = self.folder / 'sample'
            _name, changed = changes.make(self.files, self.seed, number)
            changed.write(path)
            begun = time.monotonic()
            try:
                self.result.count('sample: ' + self._imported(number, path))
            except Exception as exc:
                self._is_wrong(number, '%s: %s' % (type(exc).__name__, exc))
            if time.monotonic() - begun > 600:
                self._is_wrong(number, 'it took too long')
            path.unlink()

    def _imported(self, number, path):
        expected = self._answers.get(number)
        try:
            image = inspection.inspect(str(path), server=self._server)
        except formats.Refused as exc:
            self._compare(number, expected, {'refused': str(exc)})
            return 'refused'
        self._compare(number, expected, {
            'format': image.format, 'others': list(image.others),
            'hazards': list(image.hazards),
            'missing': list(image.missing)})
        target = str(self.folder / 'target')
        try:
            qemu_img.info(image, _CONVERT)
            qemu_img.check(image, _CONVERT)
            qemu_img.measure(image, 'qcow2', _CONVERT)
            qemu_img.convert(image, target, limits=_CONVERT)
        except errors.UnsafeImage as exc:
            return 'refused' if exc.reasons else self._is_wrong(
                number, 'it is refused without a reason')
        except errors.QemuImgError as exc:
            if os.path.exists(target):
                self._is_wrong(number, 'it left a target')
            return 'qemu-img: %s' % exc.reason
        try:
            # What is inside may be an image, too, and a hostile one.
            return 'converted to %s' % inspection.inspect(
                target, server=self._server).format
        except formats.Refused:
            return 'converted, and refused'
        finally:
            os.unlink(target)

    def _compare(self, number, expected, found):
        # Formats that are found at once are named in any order.
        if expected is not None and expected != found and not (
                'format is not clear' in str(expected)
                and 'format is not clear' in str(found)):
            self._is_wrong(number, 'its process found %s and not %s' % (
                found, expected))


def summary(result, seconds):
    """Return what became of the files, as text."""
    lines = ['%6d  %s' % (count, what)
             for what, count in result.outcomes.most_common()]
    return '\n'.join([
        '%d files of %d kinds in %.0f s' % (
            sum(result.kinds.values()), len(result.kinds), seconds),
        'most CPU time of one: %.2f s; largest part of its limit: %.1f %%'
        % (result.cpu, 100 * result.share), *lines, *result.wrong,
        '%d are wrong' % len(result.wrong)])
