/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Why something was refused: the one list for C, Rust (build.rs makes `Refusal` of it) and the README.
 * A line is `REFUSED_NAME = number, / * what happened * /`. Numbers are never re-used, 0 means "not refused", and all
 * stay below REFUSAL_SLOTS, which is the size of a counter row (so an old row fits a new program).
 */
#pragma once

enum refusal {
	REFUSED_OTHER_STACK = 1, /* a process of one stack wanted a socket of another stack */
	REFUSED_NO_STACK = 2, /* a process of a stack wanted a socket of a namespace that is nobody's stack, such as the host's */
	REFUSED_STRANGER = 3, /* a process that belongs to no stack, and is not root of the host, wanted a socket of a stack */
	REFUSED_CONTRADICTION = 4, /* the cgroup and the group ids of a process, or two of its group ids, belong to different stacks */
	REFUSED_CONNECTIONS_OUT = 5, /* a stack wanted to open one more TCP connection than its limit */
	REFUSED_CONNECTIONS_IN = 6, /* a stack was asked to accept one more TCP connection than its limit */
	REFUSED_LISTEN = 7, /* a process listens on a socket that it should not have: reported only, the kernel lets no program refuse it */
};

#define REFUSAL_SLOTS 32
