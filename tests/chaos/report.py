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

"""The summary of a randomised run."""

import collections
import statistics

OUTCOMES = ('ok', 'partial', 'failed', 'refused', 'unanswered', 'unfinished',
            'skipped', 'wrong', 'broken')


def operations(done):
    """Return the table of operations by kind and outcome, as text.

    :param done: list of :class:`tests.chaos.run.Done`
    """
    kinds = sorted({entry.what.kind for entry in done})
    used = [outcome for outcome in OUTCOMES
            if any(entry.outcome == outcome for entry in done)]
    lines = [('operation', 'number', *used, 'median s', 'longest s')]
    for kind in [*kinds, 'all']:
        mine = [entry for entry in done if kind in (entry.what.kind, 'all')]
        counts = collections.Counter(entry.outcome for entry in mine)
        seconds = [entry.seconds for entry in mine] or [0]
        lines.append((kind, len(mine), *(counts[name] or '-'
                                         for name in used),
                      '%.1f' % statistics.median(seconds),
                      '%.1f' % max(seconds)))
    return table(lines)


def faults(done):
    """Return the table of faults by kind, as text.

    :param done: list of :class:`tests.chaos.run.Done`
    """
    outcomes = sorted({entry.outcome for entry in done})
    lines = [('fault', 'number', *outcomes)]
    for kind in sorted({entry.what.kind for entry in done}):
        mine = [entry for entry in done if entry.what.kind == kind]
        counts = collections.Counter(entry.outcome for entry in mine)
        lines.append((kind, len(mine), *(counts[name] or '-'
                                         for name in outcomes)))
    return table(lines)


def violations(found):
    """Return the table of violations by kind, and each of them, as text.

    :param found: list of :class:`tests.chaos.check.Violation`
    """
    if not found:
        return 'violations: none'
    counts = collections.Counter(entry.kind for entry in found)
    rows = [('violation', 'number'), *sorted(counts.items())]
    return '%s\n\n%s' % (table(rows), '\n'.join(map(str, found)))


def table(lines):
    """Align rows of cells, the first column to the left."""
    widths = [max(len(str(line[column])) for line in lines)
              for column in range(len(lines[0]))]
    return '\n'.join(
        '  '.join(str(cell).ljust(width) if column == 0
                  else str(cell).rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths))
                  ).rstrip()
        for line in lines)
