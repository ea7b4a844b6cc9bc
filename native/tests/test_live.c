/* SPDX-License-Identifier: Apache-2.0
 *
 * test_live.c - workers, without any network: a card is one end of a socket pair, which like a TAP takes and gives a frame and
 * its virtio header a call. Whose a frame is; the ring between workers; a card that is full holds up no other; commands.
 */
#define _GNU_SOURCE
#include "../io/live.c"
#include "../io/live_worker.c"
#include "../io/netns.c"
#include "../io/tap.c"
#include "../io/uplink.c"
#include "../io/uplink_tap.c"
#include "../io/uplink_udp.c"
#include "check.h"
#include "support/packets.h"

#include <dirent.h>

static frame f;
static uint8_t data[FRAME_ROOM];

/* ---- whose it is ------------------------------------------------------------------------------------------------------- */

static void test_owner(uint32_t family)
{
    static uint8_t l4[200];
    check_where = family == PAL_FAMILY_V4 ? "owner v4" : "owner v6";
    uint32_t seen = 0;
    for (uint8_t host = 2; host < 60; host++) {
        memset(l4, 0, sizeof l4);
        frame_ip(&f, family, 1, host, PROTO_TCP, l4, 40);
        const uint32_t owner = owner_of(f.b, f.len, 7);
        seen |= 1u << owner;
        frame_ip(&f, family, host, 1, PROTO_TCP, l4, 40);
        CHECK_U64(owner_of(f.b, f.len, 7), owner);
        store_be16(l4, 4000); /* other ports, another protocol, a fragment: of the same two */
        frame_ip(&f, family, host, 1, PROTO_UDP, l4, 40);
        CHECK_U64(owner_of(f.b, f.len, 7), owner);
        /* An error about it, from somebody else. */
        const uint32_t l3 = f.l3, quoted = min_u32(f.len - l3, 100);
        uint8_t error[200] = {family == PAL_FAMILY_V4 ? 3 : 1};
        memcpy(error + 8, f.b + l3, quoted);
        frame_ip(&f, family, 200, 1, family == PAL_FAMILY_V4 ? PROTO_ICMP : PROTO_ICMP6, error, 8 + quoted);
        CHECK_U64(owner_of(f.b, f.len, 7), owner);
        /* The same behind a tag. */
        memmove(f.b + 16, f.b + 12, f.len - 12);
        store_be16(f.b + 12, 0x8100);
        CHECK_U64(owner_of(f.b, f.len + 4, 7), owner);
    }
    CHECK_U64(seen, 0x7f); /* and they are spread */
}

static void test_owner_of_anything(void)
{
    uint64_t x = 88172645463325252ull;
    check_where = "owner of anything";
    for (uint32_t round = 0; round < 3000; round++) {
        uint8_t b[120];
        for (uint32_t i = 0; i < sizeof b; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            b[i] = (uint8_t)x;
        }
        store_be16(b + 12, round % 3 == 0 ? 0x0800 : round % 3 == 1 ? 0x86dd : 0x8100);
        if (round % 3 == 1)
            b[14] = 0x60, b[20] = round % 2 ? PROTO_ICMP6 : (uint8_t)(x >> 20);
        if (round % 3 == 0)
            b[23] = round % 2 ? PROTO_ICMP : PROTO_TCP;
        const uint32_t len = (uint32_t)(x >> 40) % sizeof b;
        fenced e = fence(b, len);
        CHECK(owner_of(e.data, len, 3) < 3);
        unfence(e);
    }
}

/* ---- the ring ------------------------------------------------------------------------------------------------------------ */

static void test_ring(void)
{
    check_where = "ring";
    ring r = {.bytes = calloc(1, RING_BYTES)};
    uint32_t put = 0, taken = 0, full = 0;
    static uint8_t out[FRAME_ROOM];
    for (uint32_t round = 0; round < 4000; round++) {
        host_frame g = {.data = data, .len = 1 + round * 7919 % 60000, .from = put, .tos = 3, .encap = 1, .offload.gso_size = 9, .outer.family = 2};
        memset(data, (int)(put & 0xff), g.len);
        if (ring_put(&r, &g))
            put++;
        else
            full++;
        for (uint32_t k = 0; k < (round / 400) % 2 * 2 && ring_take(&r, out, &g); k++) {
            CHECK(g.from == taken && g.data == out && out[0] == (uint8_t)taken && out[g.len - 1] == (uint8_t)taken && g.tos == 3 && g.encap == 1);
            taken++;
        }
    }
    host_frame g;
    while (ring_take(&r, out, &g))
        CHECK_U64(g.from, taken++);
    CHECK(full > 0 && put > 1000);
    CHECK_U64(taken, put);
    free(r.bytes);
}

/* ---- cards ---------------------------------------------------------------------------------------------------------------- */

/* A card: fd[0] for us, fd[1] for whoever is behind it. */
static void card_make(int fd[2])
{
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
}

static void test_send(void)
{
    int fd[2];
    io_counts c = {0};
    check_where = "send";
    card_make(fd);
    host_out o = {.data = data, .len = 60, .offload = {.flags = VIRTIO_DATA_VALID}};
    uint32_t sent = 0;
    while (c.drop[PAL_REASON_QUEUE_FULL] == 0 && sent++ < 100000)
        tap_send(fd[0], &o, VIRTIO_BYTES, true, &c);
    CHECK_U64(c.tx_frames + 1, sent);
    CHECK_U64(c.tx_bytes, 60 * c.tx_frames);
    uint8_t got[200];
    CHECK_U64((uint64_t)read(fd[1], got, sizeof got), VIRTIO_BYTES + 60);
    CHECK(got[0] == VIRTIO_DATA_VALID);
    while (read(fd[1], got, sizeof got) > 0)
        ;
    tap_send(fd[0], &o, VIRTIO_SHORT_BYTES, true, &c); /* a packet socket's header */
    CHECK_U64((uint64_t)read(fd[1], got, sizeof got), VIRTIO_SHORT_BYTES + 60);
    CHECK(memcmp(got + VIRTIO_SHORT_BYTES, data, 60) == 0);
    close(fd[1]);
    tap_send(fd[0], &o, VIRTIO_BYTES, true, &c);
    CHECK_U64(c.drop[PAL_REASON_LINK_DOWN], 1);
    close(fd[0]);
    /* A kernel that knows no UDP super-packets gets them one by one. */
    card_make(fd);
    static uint8_t udp[8 + 250];
    store_be16(udp + 4, sizeof udp);
    frame_ip(&f, PAL_FAMILY_V6, 1, 2, PROTO_UDP, udp, sizeof udp);
    o = (host_out){.data = f.b, .len = f.len, .offload = {.flags = VIRTIO_NEEDS_CSUM, .gso_type = VIRTIO_GSO_UDP_L4, .gso_size = 100, .hdr_len = 62, .csum_start = 54, .csum_offset = 6}};
    c = (io_counts){0};
    tap_send(fd[0], &o, VIRTIO_BYTES, false, &c);
    CHECK_U64(c.tx_segments, 3);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_U64((uint64_t)read(fd[1], got, sizeof got), VIRTIO_BYTES + 62 + (i < 2 ? 100 : 50));
    o.offload.csum_start = 40;
    tap_send(fd[0], &o, VIRTIO_BYTES, false, &c);
    CHECK_U64(c.drop[PAL_REASON_OFFLOAD], 1);
    close(fd[0]);
    close(fd[1]);
}

/* From card 0: to the card whose number is the frame's sixth byte; 7 is for the host itself, 8 for the uplink. */
static void number_burst(void *context, uint32_t worker, host_frame *frame, uint32_t n, uint64_t now_ns, host_sink *sink, void *sink_context)
{
    uint64_t *latest = (uint64_t *)context + worker;
    host_out out[HOST_BURST];
    if (now_ns < __atomic_load_n(latest, __ATOMIC_RELAXED)) /* a clock that goes back would show in the test's last line */
        abort();
    __atomic_store_n(latest, now_ns, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t to = frame[i].data[5];
        out[i] = (host_out){.data = frame[i].data, .len = frame[i].len, .vnic = to == 7 ? HOST_CONTROL : to == 8 ? PAL_UPLINK : to, .inner = 8};
    }
    if (n)
        sink(sink_context, out, n);
}

/* Waits until a frame is there: its length with the header, or 0 after ten seconds. */
static uint32_t card_read(int fd, uint8_t *to, uint32_t room)
{
    for (uint32_t tries = 0; tries < 10000; tries++) {
        ssize_t n = read(fd, to, room);
        if (n > 0)
            return (uint32_t)n;
        usleep(1000);
    }
    return 0;
}

static void card_say(int fd, uint8_t to, uint8_t what)
{
    uint8_t b[VIRTIO_BYTES + 60] = {0};
    b[VIRTIO_BYTES + 5] = to;
    b[VIRTIO_BYTES + 20] = what;
    for (uint32_t tries = 0; tries < 10000 && write(fd, b, sizeof b) < 0; tries++)
        usleep(1000);
}

/* Of the processor, ns, as a thread has asked for it or as the kernel gives it; 0: this kernel does not say (before 6.12). */
static uint64_t slice_of(pid_t thread)
{
    uint64_t a[6] = {0}; /* struct sched_attr: [3] is sched_runtime */
    return syscall(SYS_sched_getattr, thread, a, sizeof a, 0) == 0 ? a[3] : 0;
}

static uint64_t live_slices_short(void)
{
    uint64_t found = 0;
    DIR *all = opendir("/proc/self/task");
    for (struct dirent *d; (d = readdir(all)) != NULL;)
        found += d->d_name[0] != '.' && slice_of(atoi(d->d_name)) == 100000;
    closedir(all);
    return found;
}

static void test_live(uint32_t workers)
{
    static uint64_t latest[LIVE_WORKERS];
    int card[3][2];
    uint8_t got[200];
    char err[200] = "";
    check_where = workers == 1 ? "live" : "live, two workers";
    memset(latest, 0, sizeof latest);
    pal_live *l = live_new((live_switch){number_burst, latest}, workers, err, sizeof err);
    CHECK(l != NULL);
    for (uint32_t i = 0; i < 3; i++) {
        card_make(card[i]);
        CHECK_U64((uint64_t)pal_live_port_add(l, i, &card[i][0], 1, 0, err, sizeof err), 0);
    }
    CHECK(pal_live_port_add(l, 1, &card[1][0], 1, 0, err, sizeof err) == -1);
    CHECK_TEXT(err, "port 1: there already");
    CHECK(pal_live_port_add(l, LIVE_PORTS, &card[1][0], 1, 0, err, sizeof err) == -1);
    CHECK(pal_live_port_add(l, 4, &(int){12345}, 1, 0, err, sizeof err) == -1);
    CHECK(pal_live_start(l, err, sizeof err) == 0 && pal_live_start(l, err, sizeof err) == 0);
    /* Nobody reads card 1: it fills up, and card 2 gets all that is for it, in order. */
    for (uint32_t i = 0; i < 1000; i++) {
        card_say(card[0][1], 1, 0);
        if (i % 10 == 9) {
            card_say(card[0][1], 2, (uint8_t)(i / 10));
            CHECK_U64(card_read(card[2][1], got, sizeof got), VIRTIO_BYTES + 60);
            CHECK_U64(got[VIRTIO_BYTES + 20], i / 10);
        }
    }
    pal_live_counts c, sum;
    CHECK(pal_live_port_read(l, 1, &c) == 0 && pal_live_port_read(l, 9, &sum) == -1);
    CHECK(c.drop[PAL_REASON_QUEUE_FULL] > 0);
    CHECK_U64(c.drop[PAL_REASON_QUEUE_FULL] + c.tx_frames, 1000);
    CHECK(pal_live_port_read(l, 0, &c) == 0);
    CHECK_U64(c.rx_frames, 1100);
    CHECK_U64(c.rx_bytes, 1100 * 60);
    CHECK(pal_live_port_read(l, 2, &c) == 0);
    CHECK_U64(c.tx_frames, 100);
    /* A header that lies is dropped and named. */
    uint8_t lie[VIRTIO_BYTES + 60] = {1, 1, 0, 0, 0, 0, 0xff, 0xff};
    CHECK(write(card[0][1], lie, sizeof lie) == (ssize_t)sizeof lie);
    card_say(card[0][1], 2, 77);
    CHECK_U64(card_read(card[2][1], got, sizeof got), VIRTIO_BYTES + 60);
    CHECK(pal_live_port_read(l, 0, &c) == 0 && c.drop[PAL_REASON_OFFLOAD] == 1);
    /* For nobody, for the host itself, for an uplink that is not there. */
    CHECK(pal_live_port_remove(l, 2, err, sizeof err) == 0 && pal_live_port_remove(l, 2, err, sizeof err) == -1);
    card_say(card[0][1], 2, 0);
    card_say(card[0][1], 8, 0);
    card_say(card[0][1], 7, 5);
    CHECK_U64(card_read(pal_live_control_fd(l), got, sizeof got), sizeof(pal_live_control) + 60);
    CHECK_U64(got[sizeof(pal_live_control) + 20], 5);
    CHECK_U64(got[sizeof(pal_live_control) - 2], 8);
    pal_live_lost_read(l, &c);
    CHECK_U64(c.drop[PAL_REASON_LINK_DOWN], 2);
    CHECK(pal_live_uplink_read(l, &c) == -1);
    /* What the host says goes to the uplink, which is not there: counted, and nothing worse. */
    uint8_t said[sizeof(pal_live_control) + 60] = {0};
    CHECK(write(pal_live_control_fd(l), said, sizeof said) == (ssize_t)sizeof said);
    CHECK(write(pal_live_control_fd(l), said, 3) == 3);
    for (uint32_t tries = 0; tries < 10000 && c.drop[PAL_REASON_LINK_DOWN] < 3; tries++) {
        usleep(1000);
        pal_live_lost_read(l, &c);
    }
    CHECK_U64(c.drop[PAL_REASON_LINK_DOWN], 3);
    /* Stopped, nothing moves; the frame waits at the card until it goes on. */
    CHECK(pal_live_port_add(l, 2, &card[2][0], 1, 0, err, sizeof err) == 0);
    pal_live_stop(l);
    card_say(card[0][1], 2, 9);
    usleep(20000);
    CHECK(read(card[2][1], got, sizeof got) < 0);
    CHECK(pal_live_start(l, err, sizeof err) == 0);
    CHECK_U64(card_read(card[2][1], got, sizeof got), VIRTIO_BYTES + 60);
    pal_live_worker w;
    CHECK(pal_live_worker_read(l, 0, &w) == 0 && pal_live_worker_read(l, workers, &w) == -1);
    CHECK_U64(live_slices_short(), slice_of(0) ? workers : 0);
    CHECK(w.frames == 1105 && w.bursts > 0 && w.bursts <= w.frames && w.sleeps > 0 && w.handed == 0);
    pal_live_free(l);
    for (uint32_t i = 0; i < 3; i++)
        close(card[i][0]), close(card[i][1]);
}

/* A UDP super-packet for card 1, of `bytes` of data in segments of 18, whose IP header says `more` than there is. */
static void card_say_short(int fd, uint32_t family, uint32_t bytes, uint32_t more)
{
    static uint8_t udp[8 + 8000], out[VIRTIO_BYTES + 9000];
    memset(out, 0, VIRTIO_BYTES);
    store_be16(udp + 4, (uint16_t)(8 + bytes));
    for (uint32_t i = 0; i < bytes; i++)
        udp[8 + i] = (uint8_t)(i + i / 256);
    frame_ip(&f, family, 1, 2, PROTO_UDP, udp, 8 + bytes);
    f.b[5] = 1;
    f.b[f.l3 + (family == PAL_FAMILY_V4 ? 3 : 5)] = (uint8_t)(f.b[f.l3 + (family == PAL_FAMILY_V4 ? 3 : 5)] + more);
    const virtio_header h = {.flags = VIRTIO_NEEDS_CSUM, .gso_type = VIRTIO_GSO_UDP_L4, .gso_size = 18, .csum_start = (uint16_t)f.l4, .csum_offset = 6};
    virtio_store(out, VIRTIO_BYTES, &h);
    memcpy(out + VIRTIO_BYTES, f.b, f.len);
    CHECK(write(fd, out, VIRTIO_BYTES + f.len) > 0);
}

/* Segments too short for the switch reach it, and what is behind it, one by one, between what came before and after them. */
static void test_short(uint32_t workers, uint32_t family)
{
    static uint64_t latest[LIVE_WORKERS];
    static uint8_t got[9000];
    const uint32_t bytes = 7 * 18 + 5;
    int card[2][2];
    char err[200] = "";
    check_where = "short segments";
    memset(latest, 0, sizeof latest);
    pal_live *l = live_new((live_switch){number_burst, latest}, workers, err, sizeof err);
    for (uint32_t i = 0; i < 2; i++) {
        card_make(card[i]);
        CHECK_U64((uint64_t)pal_live_port_add(l, i, &card[i][0], 1, 0, err, sizeof err), 0);
    }
    for (uint32_t round = 0; round < 30; round++) { /* stopped, so that they are one burst */
        pal_live_stop(l);
        if (workers == 1) /* else it is another's, perhaps */
            card_say(card[0][1], 1, 11);
        card_say_short(card[0][1], family, bytes, 0);
        if (workers == 1)
            card_say(card[0][1], 1, 12);
        CHECK(pal_live_start(l, err, sizeof err) == 0);
        for (uint32_t what = 11; what <= 12; what++) {
            if (workers == 1)
                CHECK(card_read(card[1][1], got, sizeof got) == VIRTIO_BYTES + 60 && got[VIRTIO_BYTES + 20] == what);
            for (uint32_t seen = 0; what == 11 && seen < bytes;) {
                const uint32_t some = min_u32(18, bytes - seen), len = card_read(card[1][1], got, sizeof got);
                CHECK_U64(len, VIRTIO_BYTES + f.l4 + 8 + some);
                if (len == 0)
                    break;
                CHECK(memcmp(got + VIRTIO_BYTES + f.l4 + 8, f.b + f.l4 + 8 + seen, some) == 0);
                pal_packet p = {.data = got + VIRTIO_BYTES, .family = (uint8_t)family, .l3 = f.l3, .l4 = f.l4, .cap = len - VIRTIO_BYTES, .l4_len = 8 + some, .proto = PROTO_UDP};
                CHECK_U64(l4_checksum(&p), SUM_GOOD);
                CHECK(got[0] == 0 && got[1] == VIRTIO_GSO_NONE);
                seen += some;
            }
        }
    }
    /* One that is not what it says, or of more segments than a kernel makes: the switch's to refuse. */
    card_say_short(card[0][1], family, bytes, 1);
    CHECK_U64(card_read(card[1][1], got, sizeof got), VIRTIO_BYTES + f.l4 + 8 + bytes);
    card_say_short(card[0][1], family, 128 * 18 + 1, 0);
    CHECK_U64(card_read(card[1][1], got, sizeof got), VIRTIO_BYTES + f.l4 + 8 + 128 * 18 + 1);
    pal_live_free(l);
    for (uint32_t i = 0; i < 2; i++)
        close(card[i][0]), close(card[i][1]);
}

static void test_refused(void)
{
    char err[200] = "";
    pal_tap tap;
    uplink u;
    pal_uplink_options o = {.name = "tep0", .local = {.family = PAL_FAMILY_V4, .addr = {203, 0, 113, 77}}, .tier = PAL_TIER_C};
    check_where = "refused";
    CHECK(live_new((live_switch){0}, 0, err, sizeof err) == NULL && live_new((live_switch){0}, 17, err, sizeof err) == NULL);
    CHECK(pal_tap_open(NULL, "", NULL, 1, 0, &tap, err, sizeof err) == -1 && tap.queues == 0);
    CHECK(pal_tap_open(NULL, "a-name-too-long-", NULL, 1, 0, &tap, err, sizeof err) == -1);
    CHECK(pal_tap_open("/nowhere", "x", NULL, 1, 0, &tap, err, sizeof err) == -1);
    CHECK_TEXT(err, "network namespace /nowhere: No such file or directory");
    CHECK(uplink_open(&u, &o, 1, err, sizeof err) == -1); /* an address of nobody's (RFC 5737) */
    CHECK_TEXT(err, "uplink: UDP socket at the TEP's address: Cannot assign requested address");
    o.tier = 9;
    CHECK(uplink_open(&u, &o, 1, err, sizeof err) == -1);
}

/* ---- how it waits ------------------------------------------------------------------------------------------------------ */

static uint64_t came_frames, came_bytes;

/* `rounds` rounds, each `pause` ns after the one before; in every `every`th `frames` frames of `bytes` bytes come. What it is to do
 * after the last round that had none. */
static enum pace_wait pace_rounds(pace *p, uint64_t *now, uint32_t rounds, uint64_t pause, uint32_t every, uint32_t frames, uint32_t bytes)
{
    enum pace_wait wait = PACE_LOOK;
    for (uint32_t i = 0; i < rounds; i++) {
        const bool some = i % every == 0;
        *now += pause;
        came_frames += some ? frames : 0;
        came_bytes += some ? frames * bytes : 0;
        const enum pace_wait next = pace_next(p, *now, some, came_frames, came_bytes);
        CHECK_U64(some && next != PACE_LOOK, 0);
        wait = some ? wait : next;
    }
    return wait;
}

static void test_pace(void)
{
    pace p = {0};
    uint64_t now = 1000000000;
    check_where = "pace";
    CHECK_U64(pace_next(&p, now, false, 0, 0), PACE_SLEEP); /* nothing has ever come */
    CHECK_U64(pace_rounds(&p, &now, 40, 150000, 2, 1, 100), PACE_SLEEP); /* pauses of 0.3 ms */
    /* A question and an answer, 20 us apart: awake, but asleep when none has come for a while. */
    CHECK_U64(pace_rounds(&p, &now, 4000, 5000, 4, 1, 100), PACE_YIELD);
    CHECK_U64(pace_rounds(&p, &now, 30, 5000, 100, 1, 100), PACE_SLEEP);
    /* Others need the processor, as yielding tells: asleep, till it is time to ask again. */
    CHECK_U64(pace_rounds(&p, &now, 400, 5000, 4, 1, 100), PACE_YIELD);
    pace_yielded(&p, now - PACE_OTHERS_NS, now);
    CHECK_U64(pace_rounds(&p, &now, 400, 5000, 4, 1, 100), PACE_YIELD); /* that was not long */
    pace_yielded(&p, now - PACE_OTHERS_NS - 1, now);
    CHECK_U64(pace_rounds(&p, &now, 400, 5000, 4, 1, 100), PACE_SLEEP);
    CHECK_U64(pace_rounds(&p, &now, PACE_HOLD_NS / 5000, 5000, 4, 1, 100), PACE_YIELD);
    /* They still do: we ask less and less often, till they don't. */
    for (uint64_t hold = PACE_HOLD_NS; hold <= 4 * PACE_HOLD_MAX_NS; hold *= 2) {
        pace_yielded(&p, now - PACE_OTHERS_NS - 1, now);
        CHECK_U64(p.hold - now, hold < PACE_HOLD_MAX_NS ? hold * 2 : PACE_HOLD_MAX_NS);
    }
    for (uint32_t i = 0; i < 10; i++)
        pace_yielded(&p, now - 1, now);
    pace_yielded(&p, now - PACE_OTHERS_NS - 1, now);
    CHECK_U64(p.hold - now, PACE_HOLD_NS);
    /* Many short frames: a nap, whoever needs the processor. Not if one comes at a time, nor of super-packets. */
    CHECK_U64(pace_rounds(&p, &now, 400, 5000, 4, 4, 100), PACE_NAP);
    pace_yielded(&p, now - PACE_OTHERS_NS - 1, now);
    CHECK_U64(pace_rounds(&p, &now, 400, 5000, 4, 4, 100), PACE_NAP);
    CHECK_U64(pace_rounds(&p, &now, 2 * PACE_HOLD_NS / 5000, 5000, 4, 4, 40000), PACE_YIELD);
    CHECK_U64(pace_rounds(&p, &now, 400, 5000, 2, 1, 100), PACE_YIELD);
    CHECK_U64(pace_rounds(&p, &now, 400, 5000, 4, 4, 100), PACE_NAP);
    CHECK_U64(pace_rounds(&p, &now, 30, 5000, 100, 4, 100), PACE_SLEEP); /* and when they end it sleeps */
}

int main(void)
{
    test_pace();
    test_owner(PAL_FAMILY_V4);
    test_owner(PAL_FAMILY_V6);
    test_owner_of_anything();
    test_ring();
    test_send();
    test_live(1);
    test_live(2);
    for (uint32_t workers = 1; workers <= 2; workers++) {
        test_short(workers, PAL_FAMILY_V4);
        test_short(workers, PAL_FAMILY_V6);
    }
    test_refused();
    return check_end("test_live");
}
