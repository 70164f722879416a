// SPDX-License-Identifier: MIT OR Apache-2.0
/* librte_gro, a burst at a time: nothing is held beyond it. */
#include "work.h"

#include <rte_gro.h>
#include <rte_mbuf.h>
#include <rte_net.h>

/* As many flows as a burst can have, and as many segments to a frame. */
static const struct rte_gro_param settings = {
	.gro_types = RTE_GRO_TCP_IPV4,
	.max_flow_num = BURST,
	.max_item_per_flow = BURST,
};

static const struct records *records;
static struct rte_mbuf **frames;
/* Frames of each burst, before and after. */
static struct rte_mbuf *(*bursts)[BURST];
static uint16_t *counts;
static size_t burst_count;
static uint8_t whole[1 << 16];

static const char *prepare(const struct records *input)
{
	records = input;
	frames = frames_alloc(input);
	burst_count = input->count / BURST;
	bursts = calloc(burst_count, sizeof(*bursts));
	counts = calloc(burst_count, sizeof(*counts));
	return frames == NULL || bursts == NULL || counts == NULL ? "no memory" : NULL;
}

static void restore(void)
{
	for (size_t i = 0; i < records->count; i++) {
		frame_restore(frames[i], &records->at[i]);
		bursts[i / BURST][i % BURST] = frames[i];
	}
}

/* As a network card that knows protocols fills in. */
static void restore_given(void)
{
	restore();
	for (size_t i = 0; i < records->count; i++) {
		frames[i]->packet_type = RTE_PTYPE_L2_ETHER | RTE_PTYPE_L3_IPV4 | RTE_PTYPE_L4_TCP;
		frames[i]->l2_len = L2_LEN;
		frames[i]->l3_len = L3_LEN;
		frames[i]->l4_len = L4_LEN;
	}
}

static void given_pass(void)
{
	for (size_t i = 0; i < burst_count; i++)
		counts[i] = rte_gro_reassemble_burst(bursts[i], BURST, &settings);
}

/* As an application does behind a card that does not, as net_netvsc's. */
static void parsed_pass(void)
{
	struct rte_net_hdr_lens lens;

	for (size_t i = 0; i < burst_count; i++) {
		for (size_t at = 0; at < BURST; at++) {
			struct rte_mbuf *frame = bursts[i][at];

			frame->packet_type = rte_net_get_ptype(
				frame, &lens, RTE_PTYPE_L2_MASK | RTE_PTYPE_L3_MASK | RTE_PTYPE_L4_MASK);
			frame->l2_len = lens.l2_len;
			frame->l3_len = lens.l3_len;
			frame->l4_len = lens.l4_len;
		}
		counts[i] = rte_gro_reassemble_burst(bursts[i], BURST, &settings);
	}
}

/* In no order: that between flows is nobody's promise. Without checksums, which librte_gro leaves. */
static uint64_t digest(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < burst_count; i++) {
		for (uint16_t at = 0; at < counts[i]; at++) {
			size_t len = frame_read(bursts[i][at], whole);

			memset(whole + IPV4_CHECKSUM, 0, 2);
			memset(whole + TCP_CHECKSUM, 0, 2);
			sum += digest_of(DIGEST_START, whole, len);
		}
	}
	return sum;
}

const struct work gro_parsed = { "gro-parsed", prepare, restore, parsed_pass, digest };
const struct work gro_given = { "gro-given", prepare, restore_given, given_pass, digest };
