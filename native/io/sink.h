/* SPDX-License-Identifier: Apache-2.0
 *
 * sink.h - a file descriptor with a buffer in front, for writers. The first error sticks, and everything after it
 * is dropped: callers append without looking and ask once, at the end.
 */
#ifndef PAL_IO_SINK_H
#define PAL_IO_SINK_H

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "../core/base.h"

#define PAL_SINK_BYTES 262144u

typedef struct sink {
    int fd;
    int error;     /* 0, or -errno */
    size_t used;
    char buffer[PAL_SINK_BYTES];
} sink;

static inline void sink_write_through(sink *s, const void *data, size_t len)
{
    const char *p = data;
    while (len > 0 && s->error == 0) {
        const ssize_t n = write(s->fd, p, len);
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        } else if (n == 0) {
            s->error = -EIO; /* a device that takes nothing: trying again could go on for ever */
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            /* The caller's descriptor is non-blocking (a pipe, say): wait, as a blocking one would. */
            struct pollfd wait = {.fd = s->fd, .events = POLLOUT};
            if (poll(&wait, 1, -1) < 0 && errno != EINTR)
                s->error = -errno;
        } else if (errno != EINTR) {
            s->error = -errno;
        }
    }
}

static inline void sink_flush(sink *s)
{
    sink_write_through(s, s->buffer, s->used);
    s->used = 0;
}

/* Room for `len` contiguous bytes, len <= PAL_SINK_BYTES. The caller adds what it filled to `used`. */
PAL_INLINE char *sink_room(sink *s, size_t len)
{
    if (PAL_UNLIKELY(PAL_SINK_BYTES - s->used < len))
        sink_flush(s);
    return s->buffer + s->used;
}

PAL_INLINE void sink_append(sink *s, const void *data, size_t len)
{
    if (PAL_UNLIKELY(len > PAL_SINK_BYTES)) {
        sink_flush(s);
        sink_write_through(s, data, len);
    } else if (len > 0) {
        memcpy(sink_room(s, len), data, len);
        s->used += len;
    }
}

#endif
