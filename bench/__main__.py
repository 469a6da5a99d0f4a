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

"""The benchmark: ``python -m bench``. See README.rst."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time

import rados
import rbd

from bench import api
from bench import cases
from bench import chart
from bench import meters
from bench import options
from bench import report
from bench import scale
from bench import source as sources
from bench import stage as stages
from lab import deployment
from lab import process
from lab import wan

_FAILURES = (api.JobFailed, process.LabError, OSError, rbd.Error,
             rados.Error)


@dataclasses.dataclass
class Bench:
    """What the jobs find.

    :param stage: :class:`bench.stage.Stage`
    :param sources: dict of :class:`bench.source.Source` by name
    :param url: URL of the folder with their files
    :param bases: :class:`bench.cases.Bases`
    """

    stage: stages.Stage
    sources: dict
    url: str
    bases: cases.Bases


class Reporter:
    """Prints progress, with the time since the start."""

    def __init__(self):
        self._started = time.monotonic()

    def __call__(self, line):
        print('%7.1f s  %s' % (time.monotonic() - self._started, line),
              flush=True)


def run_cases(bench, args, say):
    """Run every case, the sides of each in turn.

    :returns: list of :class:`bench.report.Row`
    """
    rows = []
    for name in args.cases:
        kind = cases.NAMES[name]
        data = bench.sources[kind.source].data * max(1, kind.targets)
        group = [report.Row(name, kind.title, side, data)
                 for side in [*cases.GLANCES, *kind.references]
                 if side in args.sides]
        rows += group
        with _over(bench.stage, kind.quality):
            for number in range(args.runs):
                for row in group:
                    if not row.error:
                        outcome = _run_once(bench, kind, row,
                                            args.verify and number == 0)
                        say('%-14s %-8s run %d of %d: %s' % (
                            name, row.side, number + 1, args.runs, outcome))
    return rows


@contextlib.contextmanager
def _over(stage, quality):
    """Have the WAN link like that for a case."""
    if not quality:
        yield
        return
    stage.link.set(quality)
    # TCP knows the paths of its connections, not how they change.
    stage.restart()
    try:
        yield
    finally:
        stage.link.set(wan.Quality())


def _run_once(bench, kind, row, verify):
    """Run one job and note it in its row; return the outcome as text."""
    try:
        row.runs.append(measure(bench, kind, row.side, verify))
    except _FAILURES as exc:
        row.error = ' '.join(str(exc).split()) or repr(exc)
        _recover(bench, row)
        return 'FAILED: %s' % row.error
    return '%.2f s' % row.runs[-1].seconds


def measure(bench, kind, side, verify):
    """Run one job of one side.

    :param verify: whether its result is compared with the source
    :returns: :class:`bench.report.Run`
    """
    job = cases.job(bench, kind, side)
    job.prepare()
    try:
        result = _timed(bench, kind, job)
        if verify:
            job.check()
    except BaseException:
        # What went wrong first is what is told.
        with contextlib.suppress(*_FAILURES):
            job.clean()
        raise
    job.clean()
    return result


def _timed(bench, kind, job):
    stage = bench.stage
    targets = cases.targets(stage, kind)
    storage = meters.Storage(
        [stage.clusters[site] for site in targets],
        [stage.clusters[site] for site in {*targets, deployment.CENTRAL}],
        stage.link if kind.quality else None)
    meter = job.meter()
    storage.start()
    meter.start()
    started = time.monotonic()
    job.run()
    seconds = time.monotonic() - started
    cpu, memory = meter.stop()
    return report.Run(seconds, cpu, memory, *storage.stop())


def _recover(bench, row):
    """After a failure: let what comes next find nothing of it."""
    if row.side not in cases.GLANCES:
        return
    try:
        bench.bases.begin_anew(row.side)
    except _FAILURES as exc:
        row.error += '; then: %s' % exc


def facts(args):
    """Return how it was measured."""
    chosen = {name: value for name, value in vars(args).items()
              if isinstance(value, (int, float, str, list, bool))}
    return {
        'when': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
        'options': chosen,
        'cpus': os.cpu_count(),
        'kernel': platform.release(),
        'python': platform.python_version(),
        'ceph': process.run(['ceph', '--version']).split()[2],
        'plugins': deployment.IMPORT_PLUGINS,
        'versions': {name: importlib.metadata.version(name) for name in
                     ('glance', 'glance_store', 'glance_dcn')},
    }


def make_sources(args, folder, say):
    """Make the images that are measured.

    :returns: dict of :class:`bench.source.Source`
    """
    made = {
        'main': sources.make(folder, 'main', args.virtual_size,
                             args.data_share, args.fragment_size, args.seed),
        'small': sources.make(folder, 'small', args.small_size, 1.0,
                              args.small_size, args.seed + 1),
    }
    for source in made.values():
        sources.hashes(source)
    main = made['main']
    say('image: %d MiB, %d MiB of data in %d pieces' % (
        main.size >> 20, main.data >> 20, len(main.extents)))
    return made


def run(args, say):
    """Bring the stage up, measure, and take it down.

    :returns: list of :class:`bench.report.Row`
    """
    chosen = [cases.NAMES[name] for name in args.cases]
    stage = stages.Stage(
        args.state, args.sites,
        [side for side in cases.GLANCES if side in args.sides],
        any(kind.quality for kind in chosen),
        {'stock': args.stock_max_parallel, 'ours': args.our_max_parallel},
        args.timeout, say)
    try:
        stage.up()
        made = make_sources(args, stage.images, say)
        with sources.served(stage.images) as url:
            bench = Bench(stage, made, url,
                          cases.Bases(stage, made['main'], url))
            rows = run_cases(bench, args, say)
            _tidy(bench, say)
    finally:
        stages.clean_up(args.state)
    return rows


def _tidy(bench, say):
    """Delete the images, and tell of what is left behind."""
    try:
        bench.bases.remove()
        left = bench.stage.leftovers()
    except _FAILURES as exc:
        left = [str(exc)]
    if left:
        say('left behind: %s' % ', '.join(left))


def main(argv=None):
    """Run the benchmark and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['scale']:
        return scale.main(argv[1:])
    args = options.parse(argv)
    process.exit_on_sigterm()
    say = Reporter()
    try:
        rows = run(args, say)
        found = facts(args)
    except (process.LabError, OSError) as exc:
        print('bench: %s' % exc, file=sys.stderr)
        return 1
    print('\n%s\n\n%s' % (report.table(rows),
                          report.goal_table(report.goals(rows))))
    if args.json:
        args.json.write_text(json.dumps(report.as_dict(rows, found),
                                        indent=1))
    if args.svg:
        args.svg.write_text(chart.draw(
            rows, '%d MiB, %d %% data, Glance %s, Ceph %s' % (
                args.virtual_size >> 20, args.data_share * 100,
                found['versions']['glance'], found['ceph'])))
    return 1 if any(row.error for row in rows) else 0


if __name__ == '__main__':
    sys.exit(main())
