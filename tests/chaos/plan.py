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

"""What a randomised run does: all of it is drawn beforehand, from a seed.

The plan knows nothing of how operations end. It goes by what would be if
every one succeeded, so that the same seed always gives the same operations
and faults; what a fault has spoiled, later operations find out.
"""

import dataclasses
import random

MIB = 1 << 20
CENTRAL = 'central'

#: How often each kind of operation is drawn, among those that are possible.
OPERATIONS = {'import': 26, 'copy': 18, 'download': 18, 'delete': 12,
              'delete-from': 8, 'clone': 8, 'list': 10}
#: How often each kind of fault is drawn.
FAULTS = {'kill': 3, 'kill-mon': 2, 'kill-osd': 3, 'freeze': 3,
          'freeze-osd': 2, 'restart': 2, 'cut': 3, 'fill': 1,
          'kill-glance': 3, 'stop-glance': 3, 'step-clock': 2,
          'delete-source': 2, 'forge': 3}
#: Kinds that end Glance processes, or run them in another way.
OF_WORKERS = ('kill-glance', 'stop-glance', 'step-clock')
#: Keys that forged records are written with: that of an edge, that of an edge
#: in a layout that lets it into all namespaces, and that of the home itself.
KEYS = ('edge', 'wide', 'home')
# Seconds a fault lasts, from and to, and how often: within every time limit,
# around the limits on connecting, beyond those on I/O.
_DURATIONS = (((0.3, 3), 6), ((3, 8), 3), ((12, 20), 1))
# Seconds for which a process is stopped; of which some are longer than it
# takes until it is taken for dead.
_STOPPED = (5, 60)
# Seconds by which a clock is stepped.
_STEPS = (200, 900)
# Images that faults make for themselves are numbered from here on.
_OWN = 100000
#: Added to the number of such an image for a second one.
WRITTEN = 100000
# MiB: a source that is removed is to be read for a while.
_SOURCE = 48
# More live images than these, and one is deleted.
_MANY = 25


@dataclasses.dataclass(eq=False)
class Image:
    """An image of the plan.

    :ivar number: by which everything of it is named
    :ivar home: site whose Glance made it; stores that this Glance and
        central's do not have are not its
    :ivar size: bytes
    :ivar data: bytes of it that are not zero
    :ivar stores: where it would be if all went well
    """

    number: int
    home: str
    size: int
    data: int
    stores: set = dataclasses.field(default_factory=set)


@dataclasses.dataclass(eq=False)
class Operation:
    """One call of a user, or a few that belong together.

    :ivar number: its place in the plan
    :ivar kind: of :data:`OPERATIONS`
    :ivar worker: (site, number of the Glance worker) it is asked from
    :ivar image: :class:`Image`, None for a list
    :ivar stores: targets of an import or a copy; the one store of a clone or
        a delete-from
    :ivar options: what else was drawn, by name
    """

    number: int
    kind: str
    worker: tuple
    image: Image = None
    stores: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)

    def __str__(self):
        text = '%d %s' % (self.number, self.kind)
        if self.image:
            text += ' image %d' % self.image.number
        if self.stores:
            text += ' at %s' % ','.join(self.stores)
        for item in sorted(self.options.items()):
            text += ' %s=%s' % item
        return text + ' by %s-%d' % self.worker


@dataclasses.dataclass(eq=False)
class Fault:
    """One fault of one site.

    :ivar number: its place among the faults
    :ivar kind: of :data:`FAULTS`
    :ivar site: whose
    :ivar after: number of the operation it follows
    :ivar delay: seconds from the start of that operation
    :ivar duration: seconds until it is taken back
    :ivar worker: number of the Glance worker, for those of workers
    :ivar image: :class:`Image` that it makes for itself, or None
    :ivar options: what else was drawn, by name
    """

    number: int
    kind: str
    site: str
    after: int
    delay: float
    duration: float
    worker: int
    image: Image = None
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def lane(self):
        """What it waits for: faults of one lane never overlap."""
        if self.kind in ('stop-glance', 'step-clock'):
            return '%s %s-%d' % (self.kind, self.site, self.worker)
        return self.kind if self.image else self.site

    def __str__(self):
        text = 'fault %d %s %s' % (self.number, self.kind, self.site)
        if self.kind in OF_WORKERS:
            text += '-%d' % self.worker
        for item in sorted(self.options.items()):
            text += ' %s=%s' % item
        if self.options or self.kind == 'kill-glance':
            return text
        return text + ' for %.1f s' % self.duration


class Plan:
    """Operations and faults of one run.

    :ivar operations: list of :class:`Operation`
    :ivar faults: list of :class:`Fault`, in the order of ``after``

    :param seed: int
    :param count: number of operations
    :param sites: names, central first
    :param workers: Glance workers at each site
    :param every: mean number of operations between two faults; 0: no faults
    :param kinds: kinds of faults
    :param longest: seconds no fault lasts longer than
    :param longest_stop: seconds no process is stopped for longer than
    :param size: largest image, MiB
    :param hasty: share of the deletions that do not wait for the image's
        import to end
    """

    def __init__(self, seed, count, sites, workers, every, kinds,
                 longest=20, size=12, hasty=.25, longest_stop=60):
        self._random = random.Random(seed)
        self._sites = list(sites)
        self._workers = workers
        self._size = size
        self._hasty = hasty
        self._longest_stop = longest_stop
        self._images = []
        self._live = []
        self.operations = [self._operation(number) for number in range(count)]
        self.faults = []
        if every and kinds:
            self._draw_faults(every, kinds, longest)

    def _weighted(self, weights):
        return self._random.choices(list(weights), list(weights.values()))[0]

    def _operation(self, number):
        possible = {kind: weight for kind, weight in OPERATIONS.items()
                    if kind in ('import', 'list') or self._live}
        kind = self._weighted(possible)
        if len(self._live) > _MANY and kind == 'import':
            kind = 'delete'
        draw = getattr(self, '_' + kind.replace('-', '_'))
        return draw(number) or self._import(number)

    def _import(self, number):
        home = self._site()
        size = self._random.randint(1, self._size * 16) * MIB // 16
        # A few with a size that fits no block.
        size -= self._random.choice((0, 0, 0, 511))
        image = Image(len(self._images), home, size,
                      int(size * self._random.choice((1, 1, .5, .1, 0))))
        stores = self._some(self._known(home))
        image.stores.update(stores)
        self._images.append(image)
        self._live.append(image)
        method = self._random.choice(('web-download', 'glance-direct'))
        options = {'method': method, 'must': self._random.random() < .5}
        if method == 'glance-direct':
            options['staged_by'] = self._random.randrange(self._workers)
        return Operation(number, 'import', self._worker(home), image, stores,
                         options)

    def _copy(self, number):
        lacking = [image for image in self._live
                   if set(self._known(image.home)) - image.stores]
        if not lacking:
            return None
        image = self._random.choice(lacking)
        stores = self._some(
            [site for site in self._known(image.home)
             if site not in image.stores])
        image.stores.update(stores)
        return Operation(number, 'copy', self._worker(image.home), image,
                         stores, {'must': self._random.random() < .5})

    def _download(self, number):
        image = self._random.choice(self._live)
        # Each Glance serves what it has a store of.
        able = [site for site in self._sites
                if site == CENTRAL or image.stores & {site, CENTRAL}]
        return Operation(number, 'download',
                         self._worker(self._random.choice(able)), image)

    def _delete(self, number):
        image = self._random.choice(self._live)
        self._live.remove(image)
        return Operation(number, 'delete', self._worker(image.home), image,
                         (), {'hasty': self._random.random() < self._hasty})

    def _delete_from(self, number):
        rich = [image for image in self._live if len(image.stores) > 1]
        if not rich:
            return None
        image = self._random.choice(rich)
        store = self._random.choice(sorted(image.stores))
        image.stores.remove(store)
        return Operation(number, 'delete-from', self._worker(image.home),
                         image, (store,))

    def _clone(self, number):
        image = self._random.choice(self._live)
        if not image.stores:
            return None
        return Operation(
            number, 'clone', self._worker(image.home), image,
            (self._random.choice(sorted(image.stores)),),
            {'format': self._random.choice((1, 2)),
             'seconds': round(self._random.uniform(0, 4), 1)})

    def _list(self, number):
        return Operation(number, 'list', self._worker(self._site()))

    def _site(self):
        """Draw a site whose Glance is asked: half of the time, central."""
        return self._random.choice(
            [CENTRAL] * (len(self._sites) - 1) + self._sites[1:])

    def _known(self, home):
        """Return the stores an image may be given."""
        return self._sites if home == CENTRAL else [home, CENTRAL]

    def _some(self, sites):
        return tuple(self._random.sample(
            list(sites), self._random.randint(1, len(sites))))

    def _worker(self, home):
        """Draw a worker: central knows all stores, an edge its own."""
        site = self._random.choice((home, CENTRAL))
        return site, self._random.randrange(self._workers)

    def _draw_faults(self, every, kinds, longest):
        weights = {kind: FAULTS[kind] for kind in FAULTS if kind in kinds}
        if len(self._sites) < 3:
            # It needs two sources and a target.
            weights.pop('delete-source', None)
        after = 0
        while True:
            after += self._random.randint(1, 2 * every - 1)
            if after >= len(self.operations):
                return
            (first, last), = self._random.choices(
                [span for span, _weight in _DURATIONS],
                [weight for _span, weight in _DURATIONS])
            self.faults.append(Fault(
                len(self.faults), self._weighted(weights),
                self._random.choice(self._sites), after,
                round(self._random.uniform(0, 1.5), 2),
                round(min(longest, self._random.uniform(first, last)), 2),
                self._random.randrange(self._workers)))
            more = getattr(
                self, '_draw_' + self.faults[-1].kind.replace('-', '_'), None)
            if more:
                more(self.faults[-1])

    def _draw_stop_glance(self, fault):
        fault.duration = round(min(self._longest_stop,
                                   self._random.uniform(*_STOPPED)), 2)

    def _draw_step_clock(self, fault):
        fault.options['offset'] = (self._random.choice((-1, 1))
                                   * self._random.randint(*_STEPS))

    def _draw_delete_source(self, fault):
        holders = self._random.sample(self._sites, 2)
        # The local source is read first.
        fault.site = CENTRAL if CENTRAL in holders else holders[0]
        fault.options = {
            'holders': ','.join(holders),
            'target': self._random.choice(
                [site for site in self._sites if site not in holders]),
            'pause': round(self._random.uniform(0, 1.5), 2)}
        size = _SOURCE * MIB
        fault.image = Image(_OWN + fault.number, CENTRAL, size, size)

    def _draw_forge(self, fault):
        fault.options['key'] = self._random.choice(KEYS)
        size = self._random.randint(1, self._size) * MIB
        fault.image = Image(_OWN + fault.number, CENTRAL, size, size // 2)


def content(image, seed):
    """Return the data of an image of the plan.

    :param image: :class:`Image`
    :param seed: of the run
    :returns: bytes: pieces of data, and zeros between them
    """
    source = random.Random('%d/%d' % (seed, image.number))
    data = bytearray(image.size)
    piece = min(image.size, 256 << 10)
    for _ in range(-(-image.data // piece) if image.data else 0):
        # Dense images are written through, sparse ones here and there.
        start = (_ * piece if image.data == image.size
                 else source.randrange(image.size))
        end = min(image.size, start + piece)
        data[start:end] = source.randbytes(end - start)
    return bytes(data)
