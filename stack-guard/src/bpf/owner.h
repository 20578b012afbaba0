/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Whose the current process is: by the cgroup it is in, and by every group id it has.
 */
#pragma once

#include "stacks.h"
#include "task.h"

struct owner {
	__u64 stack; /* cookie; 0: nobody's */
	__u64 other; /* not 0: it is also this stack's, which cannot be */
	__u32 last_gids; /* the range looked up last */
	__u32 pad;
};

/* Only levels at which there are owners are looked at: mostly one. */
static __always_inline __u64 owner_by_cgroup(void)
{
	__u32 key = 0, levels;
	const struct guard_row *row = bpf_map_lookup_elem(&guard, &key);

	levels = row ? row->levels : ALL_LEVELS;
	for (int level = 1; level <= MAX_LEVEL; level++) {
		const struct owner_row *owner;
		__u64 cgroup;

		if (!(levels >> level))
			return 0;
		if (!(levels & (1u << level)))
			continue;
		cgroup = bpf_get_current_ancestor_cgroup_id(level);
		if (!cgroup)
			return 0;
		owner = bpf_map_lookup_elem(&owners_by_cgroup, &cgroup);
		if (owner)
			return owner->stack;
	}
	return 0;
}

/* As above where helpers do not tell the cgroup (sock_ops before 6.10): up from the task's own cgroup. Needs
 * task_readable. */
static __always_inline __u64 owner_by_task(void)
{
	void *cgroup = FIELD(void *, FIELD(void *, current_task(), at.task_cgroups), at.css_set_dfl_cgrp);

	for (int level = 0; level <= MAX_LEVEL; level++) {
		const struct owner_row *owner;
		void *node = NULL;
		__u64 id = 0;

		bpf_probe_read_kernel(&node, sizeof(node), cgroup + at.cgroup_kn);
		bpf_probe_read_kernel(&id, sizeof(id), node + at.kernfs_node_id);
		owner = bpf_map_lookup_elem(&owners_by_cgroup, &id);
		if (owner)
			return owner->stack;
		/* The parent's `self` is the first field of the parent, which the loader made sure of. */
		if (bpf_probe_read_kernel(&cgroup, sizeof(cgroup), cgroup + at.cgroup_parent) || !cgroup)
			return 0;
	}
	return 0;
}

/* Gids below 65,536 are the host's and cost nothing. */
static __always_inline void add_gid(struct owner *owner, __u32 gid)
{
	__u32 gids = gid >> 16;
	__u64 *stack;

	if (!gids || gids == owner->last_gids)
		return;
	owner->last_gids = gids;
	stack = bpf_map_lookup_elem(&owners_by_gids, &gids);
	if (!stack || *stack == owner->stack)
		return;
	if (owner->stack)
		owner->other = *stack;
	else
		owner->stack = *stack;
}

#define CHUNK 16

struct groups {
	struct owner *owner;
	void *gids;
	__u32 count;
	__u32 pad;
};

static long add_chunk(__u32 index, struct groups *groups)
{
	__u32 first = index * CHUNK, length;
	__u32 gids[CHUNK] = {};

	if (first >= groups->count)
		return 1;
	length = groups->count - first;
	if (length > CHUNK)
		length = CHUNK;
	if (bpf_probe_read_kernel(gids, length * sizeof(gids[0]), groups->gids + first * sizeof(gids[0])))
		return 1;
	for (int i = 0; i < CHUNK; i++)
		add_gid(groups->owner, gids[i]);
	return 0;
}

/* The kernel keeps supplementary groups in rising order (since 4.16), so the last one tells whether any is of
 * interest. */
static __noinline int add_groups(struct owner *owner, void *info, __u32 count)
{
	struct groups groups = { .owner = owner, .gids = info + at.group_info_gid, .count = count };
	__u32 last = 0;

	bpf_probe_read_kernel(&last, sizeof(last), groups.gids + (__u64)(count - 1) * sizeof(last));
	if (last >> 16)
		bpf_loop((count + CHUNK - 1) / CHUNK, add_chunk, &groups, 0);
	return 0;
}

static __always_inline void add_gids(struct owner *owner)
{
	void *cred, *info;
	__u32 count;

	if (!task_readable) {
		add_gid(owner, bpf_get_current_uid_gid() >> 32);
		return;
	}
	cred = current_cred();
	add_gid(owner, FIELD(__u32, cred, at.cred_gid));
	add_gid(owner, FIELD(__u32, cred, at.cred_egid));
	add_gid(owner, FIELD(__u32, cred, at.cred_sgid));
	add_gid(owner, FIELD(__u32, cred, at.cred_fsgid));
	info = FIELD(void *, cred, at.cred_group_info);
	count = FIELD(__u32, info, at.group_info_ngroups);
	if (count)
		add_groups(owner, info, count);
}

/* Root of the host: effective uid 0 in the initial user namespace; without BTF real uid 0. */
static __always_inline bool is_host_root(void)
{
	void *cred;

	if (!task_readable)
		return (__u32)bpf_get_current_uid_gid() == 0;
	cred = current_cred();
	return FIELD(__u32, cred, at.cred_euid) == 0 && FIELD(__u32, FIELD(void *, cred, at.cred_user_ns), at.user_ns_level) == 0;
}
