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

/* The clock of lab/clock.py, for LD_PRELOAD: the machine's, and an offset.
 *
 * The environment variable LAB_CLOCK names a file of eight bytes, which holds
 * the offset in nanoseconds. It is mapped: what is written to it counts at
 * once, in every process that has it. Only the time of day is changed; the
 * monotonic clocks go on, as they do when an administrator, or NTP, steps the
 * clock of a host.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
/* No machine has been up for as long: what is later is a time of day. */
#define TIME_OF_DAY 1000000000LL

static const int64_t none;
static const volatile int64_t *offset = &none;

__attribute__((constructor)) static void map(void)
{
    const char *path = getenv("LAB_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *found;

    if (fd < 0)
        return;
    found = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (found != MAP_FAILED)
        offset = found;
    close(fd);
}

static void add(struct timespec *ts, int64_t nanoseconds)
{
    int64_t sum = ts->tv_sec * SECOND + ts->tv_nsec + nanoseconds;

    ts->tv_sec = sum / SECOND;
    ts->tv_nsec = sum % SECOND;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
    int result = syscall(SYS_clock_gettime, clock, ts);

    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        add(ts, *offset);
    return result;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec ts;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &ts);
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    if (result)
        *result = ts.tv_sec;
    return ts.tv_sec;
}

/* Returns when the kernel is to wake a thread that waits until a time. */
static const struct timespec *until(const struct timespec *ts,
                                    struct timespec *copy)
{
    *copy = *ts;
    if (ts->tv_sec > TIME_OF_DAY)
        add(copy, -*offset);
    return copy;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond,
                           pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict ts)
{
    static int (*next)(pthread_cond_t *, pthread_mutex_t *,
                       const struct timespec *);
    struct timespec copy;

    if (!next)
        /* There is an older one of that name. */
        next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!next)
        next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    return next(cond, mutex, until(ts, &copy));
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex,
                            const struct timespec *restrict ts)
{
    static int (*next)(pthread_mutex_t *, const struct timespec *);
    struct timespec copy;

    if (!next)
        next = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    return next(mutex, until(ts, &copy));
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict ts)
{
    static int (*next)(sem_t *, const struct timespec *);
    struct timespec copy;

    if (!next)
        next = dlsym(RTLD_NEXT, "sem_timedwait");
    return next(sem, until(ts, &copy));
}
