// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Work around a fault of testpmd with net_netvsc in DPDK 22.11 stable
 * releases (seen in 22.11.11): testpmd forwards nothing on a queue whose state
 * is "stopped", and net_netvsc never reports its queues as started. The
 * handshake succeeds, the port is up, and not a single packet moves - on real
 * Hyper-V just as here.
 *
 * testpmd keeps forwarding on drivers that do not report queue information at
 * all, so make every driver look like one of those. Load this library with
 * LD_PRELOAD, for testpmd only. It costs "show rxq info" and "show txq info",
 * nothing else: net_netvsc, which asks for its own queues when a virtual
 * function comes, is answered. Drivers since DPDK 23.11 set the state and do
 * not need it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

typedef int queue_info_get(uint16_t port_id, uint16_t queue_id, void *info);

static int answer(const char *name, const void *caller, uint16_t port_id,
		  uint16_t queue_id, void *info)
{
	queue_info_get *real;
	Dl_info who;

	if (dladdr(caller, &who) == 0 || who.dli_fname == NULL ||
	    strstr(who.dli_fname, "librte_net_netvsc") == NULL)
		return -ENOTSUP;
	*(void **)&real = dlsym(RTLD_NEXT, name);
	return real == NULL ? -ENOTSUP : real(port_id, queue_id, info);
}

int rte_eth_rx_queue_info_get(uint16_t port_id, uint16_t queue_id, void *info)
{
	return answer("rte_eth_rx_queue_info_get", __builtin_return_address(0),
		      port_id, queue_id, info);
}

int rte_eth_tx_queue_info_get(uint16_t port_id, uint16_t queue_id, void *info)
{
	return answer("rte_eth_tx_queue_info_get", __builtin_return_address(0),
		      port_id, queue_id, info);
}
