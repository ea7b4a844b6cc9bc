/* SPDX-License-Identifier: Apache-2.0
 *
 * netns.h - something done in another network namespace, by a thread that lives for nothing else: the caller's never changes.
 */
#ifndef PAL_IO_NETNS_H
#define PAL_IO_NETNS_H

#include <stddef.h>

/* Runs work(context) in the namespace that `path` is a file of (/proc/PID/ns/net, /proc/self/fd/N), or in the caller's own
 * (NULL); returns what it returns. -1 with a sentence in err where the namespace can't be entered. */
int netns_run(const char *path, int (*work)(void *context), void *context, char *err, size_t errlen);

#endif
