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

"""Hostile files in a real process, which answers all the while."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time
import types
import unittest
from unittest import mock

import fixtures
from oslotest import base

from glance_dcn.images import child
from glance_dcn.images import errors
from glance_dcn.images import formats
from glance_dcn.images import inspection
from glance_dcn.images import inspection_server
from glance_dcn.images import limited

from tests.fuzz import made

KiB, MiB, GiB = made.KiB, made.MiB, made.GiB
_ROOT = pathlib.Path(__file__).parents[3]

# Less CPU time than the file needs, so that the outcome is certain, and enough
# for the others to be seen at work.
_LITTLE = limited.Limits(memory=512 * MiB, cpu=1, seconds=300, size=0)

_PATCHED = """
    import eventlet
    eventlet.monkey_patch()
    from glance_dcn.images import errors
    from glance_dcn.images import inspection
    from glance_dcn.images import inspection_server
    from glance_dcn.images import limited
    import sys

    counts = []

    def count():
        while True:
            counts.append(None)
            eventlet.sleep(0.001)

    eventlet.spawn(count)
    server = inspection_server.InspectionServer() if sys.argv[3:] else None
    assert inspection.inspect(sys.argv[1], server=server).format == 'vmdk'
    little = limited.Limits(memory=512 << 20, cpu=1, seconds=300, size=0)
    before, beats = len(counts), []
    try:
        inspection.inspect(sys.argv[2], lambda: beats.append(None),
                           server=server, limits=little)
    except errors.InspectionFailed as exc:
        assert 'more than 1 s of CPU' in exc.reasons[0], exc.reasons
    else:
        raise AssertionError('it was inspected')
    assert len(counts) - before > 20, len(counts) - before
    assert len(beats) > 2, len(beats)
    print('fine')
"""


class Counter(threading.Thread):
    """Counts, as a request would be answered, until it is stopped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.count = 0
        self._stopped = threading.Event()

    def run(self):
        while not self._stopped.wait(0.001):
            self.count += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self._stopped.set()
        self.join()


def refuse(*args, **kwargs):
    """Start no program: there is a server."""
    raise AssertionError('a program is started')


class InspectionTestCase(base.BaseTestCase):

    #: What inspects, None for a program for each file.
    server = None
    #: What starts such a program.
    run_program = staticmethod(limited.run)

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.log = self.useFixture(fixtures.FakeLogger())

    def made(self, data, name='image'):
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def enter(self, folder):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)

    def inspect_file(self, path, *args, **kwargs):
        kwargs.setdefault('run', self.run_program)
        return inspection.inspect(path, *args, server=self.server, **kwargs)

    def inspect(self, data, **kwargs):
        return self.inspect_file(self.made(data), **kwargs)

    def failed(self, *args, **kwargs):
        error = self.assertRaises(errors.InspectionFailed,
                                  self.inspect_file, *args, **kwargs)
        self.assertEqual(1, len(error.reasons))
        self.assertNotIn(str(self.folder), error.reasons[0])
        return error


class TestOutcomes(InspectionTestCase):

    def test_formats(self):
        for data, name, driver in (
                (b'', 'raw', 'raw'), (bytes(300 * KiB), 'raw', 'raw'),
                (made.qcow2(), 'qcow2', 'qcow2'),
                (made.vmdk(), 'vmdk', 'vmdk'),
                (b'conectix'.ljust(1024, b'\0'), 'vhd', 'vpc')):
            image = self.inspect(data)
            self.assertEqual(
                (name, driver, (), (), str(self.folder / 'image')),
                (image.format, image.driver, image.hazards, image.missing,
                 image.path))
            image.check_safe()
            image.check_whole()

    def test_refused(self):
        error = self.assertRaises(formats.Refused, self.inspect,
                                  b'QED\0'.ljust(KiB, b'\0'))
        self.assertIn('disallowed configuration', str(error))
        # What the inspectors said is in the log.
        self.assertIn('banned', self.log.output)

    def test_hazards(self):
        image = self.inspect(made.vmdk(made.DESCRIPTOR + b'RW 1 FLAT "x"\n'))
        self.assertIn('FLAT', image.hazards[0])
        error = self.assertRaises(errors.UnsafeImage, image.check_safe)
        self.assertIn('FLAT', error.reasons[0])

    def test_missing(self):
        image = self.inspect(made.qcow2(l1=[1 << 30]))
        image.check_safe()
        self.assertRaises(errors.UnsafeImage, image.check_whole)

    def test_changed(self):
        image = self.inspect(made.vmdk())
        os.utime(image.path, (1, 1))
        error = self.assertRaises(errors.UnsafeImage, image.check_safe)
        self.assertIn('changed', error.reasons[0])
        os.unlink(image.path)
        self.assertRaises(FileNotFoundError, image.check_safe)

    def test_odd_names(self):
        self.enter(self.folder)
        for name in ('-c', '--', 'a b', "a'b", 'a\nb', '$(id)'):
            path = self.made(made.vmdk(), name)
            self.assertEqual('vmdk', self.inspect_file(path).format)
            self.assertEqual(path, self.inspect_file(name).path)

    def test_what_is_no_file(self):
        os.mkfifo(self.folder / 'pipe')
        for path in (self.folder / 'pipe', self.folder, '/dev/zero'):
            self.assertRaises((errors.UnsafeImage, OSError),
                              self.inspect_file, str(path))
        self.assertRaises(FileNotFoundError, self.inspect_file,
                          str(self.folder / 'nothing'))

    def test_tolerated(self):
        data = bytearray(64 * KiB)
        data[446], data[510:512] = 0x55, b'\x55\xaa'
        if not formats.modern:
            self.skipTest('these inspectors do not know partition tables')
        self.assertRaises(formats.Refused, self.inspect, data)
        self.assertEqual('raw', self.inspect(
            data, tolerated={'mbr'}).format)


class TestHostile(InspectionTestCase):
    """The two attacks that once stalled a process, and what is like them."""

    def test_vmdk_of_empty_lines(self):
        # 98 KiB took minutes, in which no other thread ran.
        with Counter() as counter:
            image = self.inspect(made.vmdk_of_empty_lines())
            self.assertEqual(('vmdk', ()), (image.format, image.hazards))
            self.assertGreater(counter.count, 0)
            # 1 MiB would have taken hours.
            image = self.inspect(made.vmdk_of_empty_lines(1020 * KiB))
            self.assertEqual(('vmdk', ()), (image.format, image.hazards))

    def test_qcow2_of_overlapping_tables(self):
        # 100,000 tables of 2 MiB in 64 MiB: more than two hours.
        with Counter() as counter:
            image = self.inspect(made.qcow2_of_overlapping_tables())
            self.assertGreater(counter.count, 0)
        self.assertEqual(
            ('qcow2', ('its L2 tables are not where clusters begin',)),
            (image.format, image.missing))

    def test_over_its_limit_of_cpu(self):
        path = made.endless(self.folder / 'image')
        beats = []
        with Counter() as counter:
            error = self.failed(str(path), lambda: beats.append(None),
                                limits=_LITTLE)
            self.assertEqual(['inspecting it took more than 1 s of CPU; it '
                              'may be hostile'], error.reasons)
            self.assertGreater(counter.count, 20)
        self.assertGreater(len(beats), 2)

    def test_over_its_limit_of_time(self):
        path = made.endless(self.folder / 'image')
        limits = limited.Limits(cpu=100, seconds=.5, size=0)
        self.assertIn('more than 0.5 s', self.failed(
            str(path), limits=limits).reasons[0])

    def test_over_its_limit_of_memory(self):
        # A bit is kept for each cluster: 32 MiB, beside 40 of the program.
        path = self.made(made.qcow2(bits=9, l1=[1 << 30]))
        os.truncate(path, 1 << 37)
        self.assertEqual('qcow2', self.inspect_file(path).format)
        limits = limited.Limits(memory=64 * MiB, cpu=100, seconds=300, size=0)
        self.assertIn('more than 64 MiB of memory', self.failed(
            path, limits=limits).reasons[0])

    def test_inspector_that_fails(self):
        # This one takes it for a descriptor, which is not ASCII after all.
        if not formats.modern:
            self.skipTest('these inspectors do not look into text')
        error = self.assertRaises(
            formats.Refused, self.inspect, b'text ' * 200 + b'\xff' * KiB)
        self.assertEqual('its format cannot be inspected', str(error))
        self.assertIn('AttributeError', self.log.output)

    def test_ended_by_the_import(self):
        path = made.endless(self.folder / 'image')

        class Aborted(Exception):
            pass
        beats = []

        def beat():
            beats.append(None)
            if len(beats) > 2:
                raise Aborted
        self.assertRaises(Aborted, self.inspect_file, str(path), beat)

    def test_holes_give_no_time(self):
        path = made.endless(self.folder / 'image', length=1 << 40)
        limits = inspection.limits_of(os.stat(path))
        self.assertLess(limits.cpu, 20)
        # Of data there is more to read.
        limits = inspection.limits_of(mock.Mock(st_size=10 * GiB,
                                                st_blocks=10 * GiB // 512))
        self.assertGreater(limits.cpu, 50)
        self.assertGreater(limits.seconds, 1000)
        # A file system that does not count blocks.
        self.assertEqual(limits, inspection.limits_of(
            mock.Mock(st_size=10 * GiB, st_blocks=0)))

    @unittest.skipUnless(importlib.util.find_spec('eventlet'),
                         'eventlet is not installed')
    def test_process_that_eventlet_has_patched(self):
        lines = self.made(made.vmdk_of_empty_lines())
        path = made.endless(self.folder / 'endless')
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(_PATCHED),
             lines, str(path), *['server'] * bool(self.server)],
            env=dict(os.environ, PYTHONPATH=str(_ROOT)), timeout=300,
            capture_output=True, text=True)
        self.assertEqual('fine\n', done.stdout, done.stderr)


class TestOutcomesOfServer(TestOutcomes):

    def setUp(self):
        super().setUp()
        self.server = inspection_server.InspectionServer()
        self.run_program = refuse


class TestHostileToServer(TestHostile):

    def setUp(self):
        super().setUp()
        self.server = inspection_server.InspectionServer()
        self.run_program = refuse


class TestChild(InspectionTestCase):

    GOOD = ('{"format": "raw", "others": [], "hazards": [], '
            '"missing": []}')

    def answer(self, text, status=0):
        """Return what has the program answer something else."""
        return lambda *args, **kwargs: limited.Outcome(
            status, text.encode(), b'what it \x1b said')

    def test_answers_that_are_not_believed(self):
        path = self.made(b'')
        reasons = ['x'] * 17
        for answer in (
                '', '{', '[]', 'null', '[' * 100000, '"raw"', '{}',
                '{"format": "raw"}', '{"refused": 1}', '{"refused": "\\n"}',
                '{"errno": true}', '{"errno": -1}', '{"memory": false}',
                '{"refused": "x", "errno": 1}', '{"refused": "%s"}' % (
                    'x' * 501),
                *(json.dumps({'format': 'raw', 'others': [], 'hazards': [],
                              'missing': [], **change}) for change in (
                    {'more': 1}, {'hazards': ''}, {'format': '../raw'},
                    {'format': ['raw']}, {'others': 'vhd'},
                    {'others': ['../vhd']}, {'others': [1]},
                    {'others': reasons}, {'hazards': reasons},
                    {'missing': [1]})),
                '{"format": "raw", "hazards": [], "missing": []}',
                self.GOOD + ' ' * 65536):
            error = self.failed(path, run=self.answer(answer))
            self.assertEqual(['its format cannot be inspected'],
                             error.reasons, answer[:50])
            self.assertIn('what it ? said', str(error))

    def test_ends_otherwise(self):
        path = self.made(b'')
        good = self.GOOD
        self.assertEqual('raw', self.inspect_file(
            path, run=self.answer(good)).format)
        self.assertIn('cannot be inspected', self.failed(
            path, run=self.answer(good, 1)).reasons[0])
        self.assertIn('signal 11', self.failed(
            path, run=self.answer(good, -11)).reasons[0])

    def test_cannot_be_read(self):
        path = self.made(b'')
        error = self.assertRaises(OSError, self.inspect_file, path,
                                  run=self.answer('{"errno": 5}'))
        self.assertEqual((5, path), (error.errno, error.filename))

    def test_is_told_the_truth(self):
        # What it is told to compare with itself differs here.
        path = self.made(b'')
        for change, said in (({'version': [2, 7]}, 'Glance runs in 2.7'),
                             ({'inspectors': 'others'}, 'of others')):
            def run(command, limits, change=change, **kwargs):
                request = dict(json.loads(command[-1]), **change)
                return limited.run([*command[:-1], json.dumps(request)],
                                   limits, **kwargs)
            error = self.failed(path, run=run)
            self.assertIn(said, str(error))
            self.assertIn('python_interpreter', error.hint)

    def test_imports_only_what_it_needs(self):
        # What it imports is what each import waits for.
        code = textwrap.dedent("""
            import json, os, sys
            sys.argv = ['child', sys.argv[1]]
            os.dup2(os.open(%r, os.O_RDONLY), 0)
            sys.path.insert(0, %r)
            from glance_dcn.images import child
            child.main()
            print(sorted({name.split('.')[0] for name in sys.modules}))
            """ % (self.made(b''), str(_ROOT)))
        request = dict(inspection._request(), tolerated=[])
        said = subprocess.run(
            [sys.executable, '-I', '-S', '-B', '-c', code,
             json.dumps(request)], capture_output=True, text=True,
            check=True).stdout.splitlines()
        self.assertEqual({'format': 'raw', 'others': [], 'hazards': [],
                          'missing': []},
                         json.loads(said[0]))
        loaded = set(said[1][2:-2].split("', '"))
        self.assertIn('json', loaded)
        self.assertEqual(set(), loaded & {
            'eventlet', 'glance_store', 'oslo_config', 'rados', 'rbd',
            'sqlalchemy', 'taskflow'})
        if formats.modern:
            self.assertNotIn('glance', loaded)

    def test_examines_what_it_is_given(self):
        with open(self.made(made.vmdk()), 'rb') as file:
            self.assertEqual({'format': 'vmdk', 'others': [], 'hazards': [],
                              'missing': []}, child.examine(file))


class TestInterpreter(InspectionTestCase):

    def find(self, configured=None, **attributes):
        return inspection.find_interpreter(
            '/image', configured,
            types.SimpleNamespace(**{**vars(sys), **attributes}))

    def test_of_this_process(self):
        self.assertEqual(os.path.abspath(sys.executable), self.find())

    def test_configured(self):
        self.assertEqual('/bin/sh', self.find('/bin/sh'))
        self.assertTrue(os.path.isabs(self.find('python3')))
        self.assertRaises(errors.InspectionFailed, self.find, '/no/python')

    def test_of_a_program_that_has_python_built_in(self):
        # uWSGI is sys.executable there; run as one, it might serve.
        uwsgi = self.folder / 'uwsgi'
        uwsgi.write_text('#!/bin/sh\nexit 1\n')
        uwsgi.chmod(0o755)
        for executable in (str(uwsgi), '', None):
            found = self.find(executable=executable)
            self.assertIn('python', os.path.basename(found))
            self.assertEqual(sys.prefix, os.path.dirname(os.path.dirname(
                found)))
            self.assertEqual('raw', self.inspect(
                b'', interpreter=found).format)

    def test_none(self):
        nowhere = str(self.folder)
        error = self.assertRaises(
            errors.InspectionFailed, self.find, executable='/usr/bin/uwsgi',
            prefix=nowhere, exec_prefix=nowhere, base_prefix=nowhere,
            base_exec_prefix=nowhere)
        self.assertIn('python_interpreter', str(error))
        self.assertNotIn(nowhere, error.reasons[0])

    def test_is_no_python(self):
        error = self.failed(self.made(b''), interpreter='/bin/false')
        self.assertIn('python_interpreter', error.hint)

    def test_goes_without_an_environment(self):
        # What is in the working directory, or in PYTHONPATH, is not run.
        for name in ('json.py', 'struct.py', 'sitecustomize.py', 'glance_dcn'):
            (self.folder / name).write_text('raise SystemExit("hostile")')
        path = self.made(b'')
        self.useFixture(fixtures.EnvironmentVariable('PYTHONPATH',
                                                     str(self.folder)))
        self.enter(self.folder)
        self.assertEqual('raw', inspection.inspect(path).format)


class TestTime(InspectionTestCase):

    def test_of_nothing_but_tables(self):
        # The most that can be done with each byte; it is in proportion.
        used = []
        for length in (4 * MiB, 16 * MiB):
            path = self.made(made.qcow2(l1=range(
                128 * KiB, length, 64 * KiB)).ljust(length, b'\0'))
            with open(path, 'rb') as file:
                begun = time.process_time()
                self.assertEqual('qcow2', child.examine(file)['format'])
                used.append(time.process_time() - begun)
            self.assertLess(used[-1], inspection.limits_of(
                os.stat(path)).cpu)
        self.assertLess(used[1], 40 * used[0])
