/* What is fixed when the programs are loaded; a restart loads new ones over the same maps. */
#ifndef CONFIG_H
#define CONFIG_H

#include "headers.h"

#define ROLE_SERVER 0
#define ROLE_SITE 1

/* A site has one closed network and no tag: its row stands in this place of the VLAN table. */
#define SITE_VLAN 1

/* Set on frames that user space puts back after it fragmented them (see slow_path.h). */
#define INJECT_MARK 0x74640000U

const volatile __u8 role = ROLE_SERVER;

/* The device towards the servers (trunk) or hosts (LAN). */
const volatile __u32 inside_ifindex = 0;

/* The device is a veth end whose peer is in another namespace: hop straight into the peer. */
const volatile bool inside_is_peer = false;

/* Ethernet address of the LAN device; unused on a server. */
const volatile __u8 lan_mac[6] = {};

always_inline int send_inside(void)
{
	return inside_is_peer ? bpf_redirect_peer(inside_ifindex, 0) : bpf_redirect(inside_ifindex, 0);
}

#endif
