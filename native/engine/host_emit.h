/* SPDX-License-Identifier: Apache-2.0
 *
 * host_emit.h - a frame leaves: rewritten, with a tunnel header before it, among those that the sink will be given. Inlined where
 * verdicts are acted upon.
 */
#ifndef PAL_ENGINE_HOST_EMIT_H
#define PAL_ENGINE_HOST_EMIT_H

#include "host_internal.h"

PAL_INLINE host_out *host_next(host_worker *w)
{
    if (PAL_UNLIKELY(w->outs == HOST_OUT))
        host_flush(w);
    return &w->out[w->outs++];
}

PAL_INLINE void host_emit_vnic(host_worker *w, const host_view *v, uint32_t vnic)
{
    host_out *o = host_next(w);
    o->data = v->data;
    o->len = v->len;
    o->vnic = vnic;
    o->tep = PAL_NO_INDEX;
    o->outer = (pal_address){0};
    o->port = o->inner = 0;
    o->encap = PAL_ENCAP_GENEVE;
    o->offload = *v->offload;
}

/* The tunnel header goes into the bytes before the frame, which may be written. */
PAL_INLINE void host_emit_with(host_worker *w, const host_view *v, uint32_t tep, const geneve_header *g)
{
    const uint32_t encap = w->fabric->tep[tep].encap, head = encap_bytes(encap, g);
    host_out *o = host_next(w);
    encap_write(encap, v->data - head, g);
    o->data = v->data - head;
    o->len = v->len + head;
    o->vnic = PAL_UPLINK;
    o->tep = tep;
    o->outer = (pal_address){.family = w->fabric->tep[tep].family};
    memcpy(o->outer.addr, w->fabric->tep[tep].addr, 16);
    o->port = outer_port(v->p);
    o->inner = (uint16_t)head;
    o->encap = encap;
    o->offload = *v->offload;
}

PAL_INLINE void host_emit_tep(host_worker *w, const host_view *v, uint32_t tep)
{
    const geneve_header g = {.vni = w->fabric->segment[v->plan->to].vni, .protocol = GENEVE_ETHERNET, .ours = v->plan->onward,
                             .marks = GENEVE_ONWARD, .vnic = PAL_UPLINK};
    host_emit_with(w, v, tep, &g);
}

PAL_INLINE void host_rewrite(host_worker *w, const host_view *v)
{
    if (v->plan->routed)
        rewrite_routed(v->data, v->p->l3, v->p->family, v->plan->mac, w->fabric->gateway_mac_bytes);
}

/* A frame that passed: to one vNIC or TEP; or what forwarding refuses. */
PAL_INLINE void host_execute(host_worker *w, const host_view *v)
{
    switch (v->plan->kind) {
    case FORWARD_VNIC:
        host_rewrite(w, v);
        host_emit_vnic(w, v, v->plan->vnic);
        w->stats.passed++;
        return;
    case FORWARD_TEP:
        host_rewrite(w, v);
        host_emit_tep(w, v, v->plan->tep);
        w->stats.passed++;
        return;
    default:
        host_dropped(w, v->plan->reason);
        if (v->plan->error)
            host_error(w, v);
    }
}

#endif
