// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Makes an interface of the kernel's a virtual function that net_netvsc of
 * DPDK 22.11 takes. Load it with LD_PRELOAD, for testpmd only.
 *
 * net_netvsc configures its VF with the removal interrupt (intr_conf.rmv), and
 * learns only by that event that a VF is gone. Drivers of PCI devices have it;
 * of the virtual ones none has: rte_eth_dev_configure() refuses them ("Driver
 * net_af_packet does not support rmv", -EINVAL). So this library leaves that
 * flag out, and tells of the removal itself, as a PCI driver does: when the
 * interface with the port's if_index is no longer there. The drivers are as
 * they are.
 *
 * Needs DPDK's headers (Debian: libdpdk-dev).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <net/if.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include <rte_ethdev.h>

#define LOOK_US 2000

static struct {
	pthread_mutex_t lock;
	int watching;
	uint16_t port;
	unsigned int if_index;
	rte_eth_dev_cb_fn callback;
	void *argument;
} vf = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void *watch(void *unused)
{
	char name[IF_NAMESIZE];

	(void)unused;
	for (;;) {
		rte_eth_dev_cb_fn callback = NULL;
		void *argument = NULL;
		uint16_t port = 0;

		pthread_mutex_lock(&vf.lock);
		if (vf.callback != NULL &&
		    if_indextoname(vf.if_index, name) == NULL) {
			callback = vf.callback;
			argument = vf.argument;
			port = vf.port;
			/* Once. */
			vf.callback = NULL;
		}
		pthread_mutex_unlock(&vf.lock);
		if (callback != NULL) {
			fprintf(stderr, "testpmd_vf: port %u is gone\n", port);
			callback(port, RTE_ETH_EVENT_INTR_RMV, argument, NULL);
		}
		usleep(LOOK_US);
	}
	return NULL;
}

int rte_eth_dev_configure(uint16_t port_id, uint16_t nb_rx_q, uint16_t nb_tx_q,
			  const struct rte_eth_conf *conf)
{
	int (*real)(uint16_t, uint16_t, uint16_t, const struct rte_eth_conf *);
	struct rte_eth_conf without;

	*(void **)&real = dlsym(RTLD_NEXT, "rte_eth_dev_configure");
	if (conf == NULL)
		return real(port_id, nb_rx_q, nb_tx_q, conf);
	without = *conf;
	without.intr_conf.rmv = 0;
	return real(port_id, nb_rx_q, nb_tx_q, &without);
}

int rte_eth_dev_callback_register(uint16_t port_id,
				  enum rte_eth_event_type event,
				  rte_eth_dev_cb_fn cb_fn, void *cb_arg)
{
	int (*real)(uint16_t, enum rte_eth_event_type, rte_eth_dev_cb_fn,
		    void *);
	struct rte_eth_dev_info info;
	pthread_t thread;

	*(void **)&real = dlsym(RTLD_NEXT, "rte_eth_dev_callback_register");
	/* testpmd itself asks for the events of all ports. */
	if (event == RTE_ETH_EVENT_INTR_RMV && port_id != RTE_ETH_ALL &&
	    rte_eth_dev_info_get(port_id, &info) == 0 && info.if_index != 0) {
		pthread_mutex_lock(&vf.lock);
		vf.port = port_id;
		vf.if_index = info.if_index;
		vf.callback = cb_fn;
		vf.argument = cb_arg;
		if (!vf.watching)
			vf.watching =
				pthread_create(&thread, NULL, watch, NULL) == 0;
		pthread_mutex_unlock(&vf.lock);
	}
	return real(port_id, event, cb_fn, cb_arg);
}

int rte_eth_dev_callback_unregister(uint16_t port_id,
				    enum rte_eth_event_type event,
				    rte_eth_dev_cb_fn cb_fn, void *cb_arg)
{
	int (*real)(uint16_t, enum rte_eth_event_type, rte_eth_dev_cb_fn,
		    void *);

	*(void **)&real = dlsym(RTLD_NEXT, "rte_eth_dev_callback_unregister");
	pthread_mutex_lock(&vf.lock);
	if (event == RTE_ETH_EVENT_INTR_RMV && port_id == vf.port)
		vf.callback = NULL;
	pthread_mutex_unlock(&vf.lock);
	return real(port_id, event, cb_fn, cb_arg);
}
