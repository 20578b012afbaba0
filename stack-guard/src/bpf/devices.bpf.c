// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The devices a group of processes may open and make nodes of: those without which no program runs, and terminals.
 * Everything else is refused. (The kernel itself lets overlayfs make its white-outs, character device 0:0.)
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define MAJOR_MEMORY 1
#define MINOR_NULL 3
#define MINOR_ZERO 5
#define MINOR_FULL 7
#define MINOR_RANDOM 8
#define MINOR_URANDOM 9
#define MAJOR_TTY 5
#define MINOR_TTY 0
#define MINOR_PTMX 2
/* Eight majors of 1,048,576 terminals: Documentation/admin-guide/devices.txt. */
#define MAJOR_PTS_FIRST 136
#define MAJOR_PTS_LAST 143

SEC("cgroup/dev")
int guard_devices(struct bpf_cgroup_dev_ctx *ctx)
{
	if ((ctx->access_type & 0xffff) != BPF_DEVCG_DEV_CHAR)
		return REFUSE;
	switch (ctx->major) {
	case MAJOR_MEMORY:
		return ctx->minor == MINOR_NULL || ctx->minor == MINOR_ZERO || ctx->minor == MINOR_FULL ||
		       ctx->minor == MINOR_RANDOM || ctx->minor == MINOR_URANDOM;
	case MAJOR_TTY:
		return ctx->minor == MINOR_TTY || ctx->minor == MINOR_PTMX;
	default:
		return ctx->major >= MAJOR_PTS_FIRST && ctx->major <= MAJOR_PTS_LAST;
	}
}
