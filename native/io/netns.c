/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "netns.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct netns_errand {
    int fd, result;
    int failed; /* errno of setns */
    int (*work)(void *context);
    void *context;
} netns_errand;

static void *netns_thread(void *given)
{
    netns_errand *e = given;
    if (setns(e->fd, CLONE_NEWNET) != 0)
        e->failed = errno;
    else
        e->result = e->work(e->context);
    return NULL;
}

int netns_run(const char *path, int (*work)(void *context), void *context, char *err, size_t errlen)
{
    if (path == NULL)
        return work(context);
    netns_errand e = {.fd = open(path, O_RDONLY | O_CLOEXEC), .result = -1, .work = work, .context = context};
    if (e.fd < 0) {
        snprintf(err, errlen, "network namespace %s: %s", path, strerror(errno));
        return -1;
    }
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, netns_thread, &e);
    if (failed == 0)
        pthread_join(thread, NULL);
    else
        e.failed = failed;
    close(e.fd);
    if (e.failed)
        snprintf(err, errlen, "network namespace %s: %s", path, strerror(e.failed));
    return e.failed ? -1 : e.result;
}
