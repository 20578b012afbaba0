/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Where the kernel asked: one list for C and Rust (build.rs makes `Hook` of it).
 */
#pragma once

enum hook {
	HOOK_SOCK_CREATE = 1, /* a socket is made: socket(2), io_uring */
	HOOK_BIND4 = 2, /* bind(2) to an IPv4 address */
	HOOK_BIND6 = 3, /* bind(2) to an IPv6 address */
	HOOK_CONNECT4 = 4, /* connect(2) to an IPv4 address */
	HOOK_CONNECT6 = 5, /* connect(2) to an IPv6 address */
	HOOK_SENDMSG4 = 6, /* a datagram on an unconnected UDP socket to an IPv4 address */
	HOOK_SENDMSG6 = 7, /* a datagram on an unconnected UDP socket to an IPv6 address */
	HOOK_LISTEN = 8, /* listen(2), TCP */
	HOOK_INCOMING = 9, /* a packet looked for a listening TCP socket */
};

#define HOOK_SLOTS 16
