/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The credentials of the current process, read out of its task. Where the fields are is found in the kernel's BTF by the
 * loader (tasks.rs) and set here before loading; the verifier knows them as constants and checks each access against
 * the same BTF. On a kernel without BTF `task_readable` stays false, the verifier removes the code, and only what
 * helpers give is seen: real uid, real gid, cgroup.
 */
#pragma once

#include "kernel.h"

const volatile bool task_readable = false;

/* Offsets in bytes. */
struct task_layout {
	__u32 task_tgid;
	__u32 task_comm;
	__u32 task_cred;
	__u32 task_cgroups;
	__u32 cred_uid;
	__u32 cred_gid;
	__u32 cred_sgid;
	__u32 cred_euid;
	__u32 cred_egid;
	__u32 cred_fsgid;
	__u32 cred_user_ns;
	__u32 cred_group_info;
	__u32 user_ns_level;
	__u32 group_info_ngroups;
	__u32 group_info_gid;
	__u32 css_set_dfl_cgrp;
	__u32 cgroup_kn;
	__u32 cgroup_parent; /* self.parent: the parent's `self`, at offset 0 of the parent */
	__u32 kernfs_node_id;
	__u32 pad;
};

const volatile struct task_layout at = {};

/* One field. The pointer is one the verifier knows the type of; a fault reads 0. */
#define FIELD(type, pointer, offset) (*(type *)((void *)(pointer) + (offset)))

static __always_inline void *current_task(void)
{
	return (void *)bpf_get_current_task_btf();
}

static __always_inline void *current_cred(void)
{
	return FIELD(void *, current_task(), at.task_cred);
}
