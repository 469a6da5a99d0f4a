/* Licensed under the Apache License, Version 2.0 (the "License"); you may
 * not use this file except in compliance with the License. You may obtain
 * a copy of the License at
 *
 *      http://www.apache.org/licenses/LICENSE-2.0
 *
 * Unless required by applicable law or agreed to in writing, software
 * distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
 * WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
 * License for the specific language governing permissions and limitations
 * under the License.
 */

/* The wire of lab/wan.py for kernels that have no sch_netem.
 *
 *   wan NAMESPACE NEAR_DEVICE FAR_DEVICE SETTINGS
 *
 * Makes a TUN device here and one in the network namespace whose file is
 * NAMESPACE, and carries packets between them until it is ended; both devices
 * go with it. The file SETTINGS holds five numbers and is read again at
 * SIGHUP: one-way delay (us), rate (bit/s, 0: unlimited), loss (packets of a
 * million), cut (0 or 1), and a number that is written to the file
 * SETTINGS.done once the others count.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PACKET_MAX 16384        /* bytes, more than any MTU used */
#define PIPE_SIZE (32u << 20)   /* bytes in flight, each way */
#define QUEUE_NS 100000000ull   /* a router with 100 ms of buffer */
#define BATCH 64                /* packets before the other way has its turn */
#define NS 1000000000ull

struct slot {
    uint64_t due;               /* ns, CLOCK_MONOTONIC */
    uint32_t length;            /* bytes of the packet; 0: go on at start */
    unsigned char packet[];
};

/* One way of the wire: packets in order of departure, in a ring. */
struct pipe {
    int in, out;
    uint64_t idle_at;           /* ns: when the sender's line is free */
    size_t head, tail, used;    /* bytes */
    unsigned char *ring;
};

static struct {
    uint64_t delay_ns, rate;
    unsigned loss;
    int cut;
} setting;

static volatile sig_atomic_t changed = 1;

static void on_hup(int number)
{
    (void)number;
    changed = 1;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static void read_settings(const char *path)
{
    unsigned long long delay, rate;
    unsigned loss, serial;
    int cut;
    char done[4096];
    FILE *f = fopen(path, "re");

    if (!f)
        die(path);
    if (fscanf(f, "%llu %llu %u %d %u", &delay, &rate, &loss, &cut,
               &serial) != 5) {
        fprintf(stderr, "%s: not five numbers\n", path);
        exit(1);
    }
    fclose(f);
    setting.delay_ns = delay * 1000;
    setting.rate = rate;
    setting.loss = loss;
    setting.cut = cut;
    snprintf(done, sizeof done, "%s.done", path);
    f = fopen(done, "we");
    if (!f)
        die(done);
    fprintf(f, "%u\n", serial);
    fclose(f);
}

static int make_device(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        die("/dev/net/tun");
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    if (ioctl(fd, TUNSETIFF, &request))
        die(name);
    return fd;
}

static int make_device_in(const char *namespace, const char *name)
{
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int away = open(namespace, O_RDONLY | O_CLOEXEC);
    int fd;

    if (home < 0 || away < 0 || setns(away, CLONE_NEWNET))
        die(namespace);
    fd = make_device(name);
    if (setns(home, CLONE_NEWNET))
        die("setns");
    close(home);
    close(away);
    return fd;
}

static int is_lost(void)
{
    static uint64_t state = 88172645463325252ull;   /* xorshift64 */

    if (setting.cut)
        return 1;
    if (!setting.loss)
        return 0;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % 1000000 < setting.loss;
}

/* Return room for a packet of any length, or NULL when the ring is full. */
static struct slot *room(struct pipe *p)
{
    size_t most = sizeof(struct slot) + PACKET_MAX;

    if (p->used == 0)
        p->head = p->tail = 0;
    if (p->tail >= p->head && PIPE_SIZE - p->tail < 2 * most) {
        if (p->head < most || p->used == 0)
            return NULL;
        ((struct slot *)(p->ring + p->tail))->length = 0;
        p->tail = 0;
    }
    if (p->tail < p->head && p->head - p->tail < 2 * most)
        return NULL;
    return (struct slot *)(p->ring + p->tail);
}

static size_t step(const struct slot *s)
{
    return (sizeof *s + s->length + 15) & ~(size_t)15;
}

/* Take in what the kernel wants to send; return whether there was any. */
static int take(struct pipe *p)
{
    static unsigned char nowhere[PACKET_MAX];
    int packets = 0;

    for (; packets < BATCH; packets++) {
        struct slot *s = room(p);
        ssize_t got = read(p->in, s ? s->packet : nowhere, PACKET_MAX);
        uint64_t now;

        if (got <= 0)
            break;
        now = now_ns();
        if (p->idle_at < now)
            p->idle_at = now;
        if (!s || is_lost() ||
            (setting.rate && p->idle_at - now > QUEUE_NS))
            continue;
        if (setting.rate)
            p->idle_at += got * 8 * NS / setting.rate;
        s->due = p->idle_at + setting.delay_ns;
        s->length = got;
        p->tail += step(s);
        p->used += step(s);
    }
    return packets > 0;
}

/* Hand over what has arrived; return when the next packet does (ns). */
static uint64_t give(struct pipe *p)
{
    uint64_t now = now_ns();

    while (p->used) {
        struct slot *s = (struct slot *)(p->ring + p->head);

        if (!s->length) {
            p->head = 0;
            continue;
        }
        if (s->due > now)
            return s->due;
        if (!setting.cut && write(p->out, s->packet, s->length) < 0 &&
            errno != EAGAIN && errno != EIO && errno != EINVAL)
            die("write");
        p->used -= step(s);
        p->head += step(s);
    }
    return now + NS;
}

static void wait_until(uint64_t due, const struct pipe *ways,
                       const sigset_t *mask)
{
    struct pollfd polled[2] = {{ways[0].in, POLLIN, 0},
                               {ways[1].in, POLLIN, 0}};
    uint64_t now = now_ns(), left = due > now ? due - now : 0;
    struct timespec t = {left / NS, left % NS};

    ppoll(polled, 2, &t, mask);
}

int main(int argc, char **argv)
{
    struct pipe ways[2] = {0};
    struct sigaction hup = {.sa_handler = on_hup};
    sigset_t blocked, open_mask;

    if (argc != 5) {
        fprintf(stderr, "usage: wan NAMESPACE NEAR FAR SETTINGS\n");
        return 2;
    }
    /* SIGHUP arrives in ppoll() and nowhere else. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGHUP);
    sigprocmask(SIG_BLOCK, &blocked, &open_mask);
    sigdelset(&open_mask, SIGHUP);
    sigaction(SIGHUP, &hup, NULL);
    /* A wire does not wait for its turn on a busy machine. */
    prctl(PR_SET_TIMERSLACK, 1000ul);
    setpriority(PRIO_PROCESS, 0, -10);

    ways[0].in = ways[1].out = make_device(argv[2]);
    ways[0].out = ways[1].in = make_device_in(argv[1], argv[3]);
    for (int i = 0; i < 2; i++)
        if (!(ways[i].ring = malloc(PIPE_SIZE)))
            die("malloc");
    for (;;) {
        uint64_t due = UINT64_MAX;
        int busy = 0;

        if (changed) {
            changed = 0;
            read_settings(argv[4]);
        }
        for (int i = 0; i < 2; i++) {
            uint64_t next;

            busy |= take(&ways[i]);
            next = give(&ways[i]);
            if (next < due)
                due = next;
        }
        wait_until(busy ? 0 : due, ways, &open_mask);
    }
}
