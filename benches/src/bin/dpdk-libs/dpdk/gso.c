// SPDX-License-Identifier: MIT OR Apache-2.0
/* librte_gso: headers in buffers of their own, payload where it is. */
#include "work.h"

#include <rte_ethdev.h>
#include <rte_gso.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_tcp.h>

#define MSS 1448
/* Of a frame. */
#define MAX_SEGMENTS 64

static const struct records *records;
static struct rte_mbuf **frames;
static struct rte_mbuf *(*segments)[MAX_SEGMENTS];
static int *counts;
static struct rte_gso_ctx settings = {
	.gso_types = RTE_ETH_TX_OFFLOAD_TCP_TSO,
	.gso_size = HEADERS + MSS,
};
static int with_checksums;
static uint8_t whole[1 << 16];

static const char *prepare_either(const struct records *input)
{
	unsigned int count = input->count * MAX_SEGMENTS;

	records = input;
	frames = frames_alloc(input);
	segments = calloc(input->count, sizeof(*segments));
	counts = calloc(input->count, sizeof(*counts));
	settings.direct_pool = pool("direct", count, RTE_PKTMBUF_HEADROOM + 128);
	settings.indirect_pool = pool("indirect", count, 0);
	if (frames == NULL || segments == NULL || counts == NULL ||
	    settings.direct_pool == NULL || settings.indirect_pool == NULL)
		return "no memory";
	return NULL;
}

static const char *prepare(const struct records *input)
{
	with_checksums = 0;
	return prepare_either(input);
}

static const char *prepare_checksums(const struct records *input)
{
	with_checksums = 1;
	return prepare_either(input);
}

/* Gives the segments back, which a driver does when they were sent. */
static void restore(void)
{
	for (size_t i = 0; i < records->count; i++) {
		if (counts[i] > 0)
			rte_pktmbuf_free_bulk(segments[i], counts[i]);
		frame_restore(frames[i], &records->at[i]);
		frames[i]->l2_len = L2_LEN;
		frames[i]->l3_len = L3_LEN;
		frames[i]->l4_len = L4_LEN;
		frames[i]->ol_flags = RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_IPV4;
	}
}

static void pass(void)
{
	for (size_t i = 0; i < records->count; i++)
		counts[i] = rte_gso_segment(frames[i], &settings, segments[i], MAX_SEGMENTS);
}

/* What librte_gso leaves to network cards. */
static void checksums(struct rte_mbuf *segment)
{
	struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod_offset(segment, struct rte_ipv4_hdr *, L2_LEN);
	struct rte_tcp_hdr *tcp =
		rte_pktmbuf_mtod_offset(segment, struct rte_tcp_hdr *, L2_LEN + L3_LEN);

	ip->hdr_checksum = 0;
	ip->hdr_checksum = rte_ipv4_cksum(ip);
	tcp->cksum = 0;
	tcp->cksum = rte_ipv4_udptcp_cksum_mbuf(segment, ip, L2_LEN + L3_LEN);
}

static void checksums_pass(void)
{
	for (size_t i = 0; i < records->count; i++) {
		counts[i] = rte_gso_segment(frames[i], &settings, segments[i], MAX_SEGMENTS);
		for (int at = 0; at < counts[i]; at++)
			checksums(segments[i][at]);
	}
}

static uint64_t digest(void)
{
	uint64_t digest = DIGEST_START;

	for (size_t i = 0; i < records->count; i++) {
		for (int at = 0; at < counts[i]; at++) {
			size_t len = frame_read(segments[i][at], whole);

			if (!with_checksums) {
				memset(whole + IPV4_CHECKSUM, 0, 2);
				memset(whole + TCP_CHECKSUM, 0, 2);
			}
			digest = digest_of(digest, whole, len);
		}
	}
	return digest;
}

const struct work gso = { "gso", prepare, restore, pass, digest };
const struct work gso_checksums = {
	"gso-checksums", prepare_checksums, restore, checksums_pass, digest
};
