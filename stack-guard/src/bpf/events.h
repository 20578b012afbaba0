/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Refusals: counted by the stack that is to blame, and told, so many a second.
 */
#pragma once

#include "hooks.h"
#include "refusals.h"
#include "task.h"

/* Events a stack may cause in one window of 2^30 ns; what is more is only counted. */
#define EVENTS_A_WINDOW 64
#define WINDOW_SHIFT 30

struct event {
	__u64 time; /* ns since boot, without sleep: CLOCK_MONOTONIC */
	__u64 wanted; /* cookie of the socket's namespace */
	__u64 owner; /* cookie of the process's stack, 0: none */
	__u64 other; /* the second stack of a contradiction */
	__u32 pid; /* 0: no process, a packet */
	__u32 uid;
	__u32 gid;
	__u32 hook;
	__u32 refusal;
	__u32 family;
	__u32 protocol;
	__u32 port; /* of the address bound or connected to, host order */
	char comm[16];
};
_Static_assert(sizeof(struct event) == 80, "the reader takes 80 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct refusal_row {
	__u64 count[REFUSAL_SLOTS];
	__u64 window;
	__u64 events; /* in this window */
	__u64 not_told; /* refusals without an event: too many, or the reader was too slow */
};
_Static_assert(sizeof(struct refusal_row) == 280, "the loader reads 280 bytes");

/* Preallocated: a row is made by the first refusal, where 6.1 may have no memory at hand. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64); /* cookie */
	__type(value, struct refusal_row);
} refusals SEC(".maps");

/* Makes the generated Rust types whole. */
const volatile struct event event_layout = {};

static const struct refusal_row no_refusals = {};

static __always_inline bool may_tell(struct refusal_row *row, __u64 now)
{
	__u64 window = now >> WINDOW_SHIFT;

	/* Two processors may both start a window: a few events more, no harm. */
	if (row->window != window) {
		row->window = window;
		row->events = 0;
	}
	return __sync_fetch_and_add(&row->events, 1) < EVENTS_A_WINDOW;
}

/* What happened: filled by the hook. */
struct incident {
	__u64 wanted;
	__u64 owner;
	__u64 other;
	__u32 hook;
	__u32 refusal;
	__u32 family;
	__u32 protocol;
	__u32 port;
	__u32 pad;
};

/* Counts, and gives the event to be filled with who and submitted; NULL: counted only. */
static __always_inline struct event *begin_event(const struct incident *incident)
{
	__u64 stack = incident->owner ? incident->owner : incident->wanted;
	struct refusal_row *row = bpf_map_lookup_elem(&refusals, &stack);
	struct event *event = NULL;
	__u64 now = bpf_ktime_get_ns();

	if (!row) {
		bpf_map_update_elem(&refusals, &stack, &no_refusals, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&refusals, &stack);
	}
	if (!row)
		return NULL;
	if (incident->refusal < REFUSAL_SLOTS)
		__sync_fetch_and_add(&row->count[incident->refusal], 1);
	if (may_tell(row, now))
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&row->not_told, 1);
		return NULL;
	}
	event->time = now;
	event->wanted = incident->wanted;
	event->owner = incident->owner;
	event->other = incident->other;
	event->pid = 0;
	event->uid = 0;
	event->gid = 0;
	event->hook = incident->hook;
	event->refusal = incident->refusal;
	event->family = incident->family;
	event->protocol = incident->protocol;
	event->port = incident->port;
	__builtin_memset(event->comm, 0, sizeof(event->comm));
	return event;
}

/* Where helpers may ask for the current process. */
static __noinline int tell(const struct incident *incident)
{
	struct event *event;
	__u64 ids;

	event = begin_event(incident);
	if (!event)
		return 0;
	event->pid = bpf_get_current_pid_tgid() >> 32;
	ids = bpf_get_current_uid_gid();
	event->uid = ids;
	event->gid = ids >> 32;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Where they may not, but there is a current process: sock_ops before 6.10. */
static __noinline int tell_by_task(const struct incident *incident)
{
	struct event *event;

	event = begin_event(incident);
	if (!event)
		return 0;
	if (task_readable) {
		void *task = current_task(), *cred = current_cred();

		event->pid = FIELD(__u32, task, at.task_tgid);
		event->uid = FIELD(__u32, cred, at.cred_uid);
		event->gid = FIELD(__u32, cred, at.cred_gid);
		bpf_probe_read_kernel(event->comm, sizeof(event->comm), task + at.task_comm);
	}
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* A packet, of no process. */
static __noinline int tell_of_packet(const struct incident *incident)
{
	struct event *event;

	event = begin_event(incident);
	if (event)
		bpf_ringbuf_submit(event, 0);
	return 0;
}
