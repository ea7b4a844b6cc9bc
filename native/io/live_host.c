/* SPDX-License-Identifier: Apache-2.0
 *
 * live_host.c - live cards with a host's firewall and forwarding between them.
 */
#include "live.h"

#include <stdio.h>

static void live_host_burst(void *context, uint32_t worker, host_frame *frame, uint32_t n, uint64_t now_ns, host_sink *sink, void *sink_context)
{
    host_burst(host_worker_of(context, worker), frame, n, now_ns, sink, sink_context);
}

pal_live *pal_live_new(pal_host *host, uint32_t workers, char *err, size_t errlen)
{
    if (workers > 0 && host_worker_of(host, workers - 1) == NULL) {
        snprintf(err, errlen, "%u workers: the engine has fewer", workers);
        return NULL;
    }
    return live_new((live_switch){.burst = live_host_burst, .context = host}, workers, err, errlen);
}
