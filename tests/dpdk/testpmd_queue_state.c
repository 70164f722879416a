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
 * nothing else. Drivers since DPDK 23.11 set the state and do not need it.
 */
#include <errno.h>
#include <stdint.h>

int rte_eth_rx_queue_info_get(uint16_t port_id, uint16_t queue_id, void *info)
{
	(void)port_id;
	(void)queue_id;
	(void)info;
	return -ENOTSUP;
}

int rte_eth_tx_queue_info_get(uint16_t port_id, uint16_t queue_id, void *info)
{
	(void)port_id;
	(void)queue_id;
	(void)info;
	return -ENOTSUP;
}
