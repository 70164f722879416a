// SPDX-License-Identifier: MIT OR Apache-2.0
/* rte_raw_cksum, rte_ipv4_udptcp_cksum. */
#include "work.h"

#include <rte_ip.h>
#include <rte_tcp.h>

static const struct records *records;
static uint16_t *sums;

static const char *prepare(const struct records *input)
{
	records = input;
	sums = calloc(input->count, sizeof(*sums));
	return sums == NULL ? "no memory" : NULL;
}

static void raw_pass(void)
{
	for (size_t i = 0; i < records->count; i++)
		sums[i] = ~rte_raw_cksum(records->at[i].bytes, records->at[i].len);
}

static void tcp_pass(void)
{
	for (size_t i = 0; i < records->count; i++) {
		uint8_t *frame = records->at[i].bytes;
		struct rte_tcp_hdr *tcp = (void *)(frame + L2_LEN + L3_LEN);

		tcp->cksum = 0;
		tcp->cksum = rte_ipv4_udptcp_cksum((void *)(frame + L2_LEN), tcp);
		sums[i] = tcp->cksum;
	}
}

static uint64_t digest(void)
{
	return digest_of(DIGEST_START, sums, records->count * sizeof(*sums));
}

const struct work raw_checksum = { "raw-checksum", prepare, NULL, raw_pass, digest };
const struct work tcp_checksum = { "tcp-checksum", prepare, NULL, tcp_pass, digest };
