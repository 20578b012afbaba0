/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The few kernel constants used, so that a build needs neither headers of the running kernel nor its BTF.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6

/* What a cgroup program on sockets answers. */
#define REFUSE 0
#define ALLOW 1
