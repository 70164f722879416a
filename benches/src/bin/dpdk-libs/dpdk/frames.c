// SPDX-License-Identifier: MIT OR Apache-2.0
/* Frames in mbufs. */
#include "work.h"

#include <rte_mbuf.h>

struct rte_mempool *pool(const char *name, unsigned int count, uint16_t room)
{
	/* Pools have to be larger than each processor's cache of them. */
	return rte_pktmbuf_pool_create(name, count + 512, 256, 0, room, SOCKET_ID_ANY);
}

struct rte_mbuf **frames_alloc(const struct records *input)
{
	struct rte_mbuf **frames = calloc(input->count, sizeof(*frames));
	struct rte_mempool *from;
	uint32_t longest = 0;

	for (size_t i = 0; i < input->count; i++)
		longest = RTE_MAX(longest, input->at[i].len);
	from = pool("frames", input->count,
		    RTE_PKTMBUF_HEADROOM + RTE_MAX(longest, 2048u));
	if (frames == NULL || from == NULL || rte_pktmbuf_alloc_bulk(from, frames, input->count) != 0)
		return NULL;
	for (size_t i = 0; i < input->count; i++)
		memcpy(rte_pktmbuf_mtod(frames[i], void *), input->at[i].bytes, input->at[i].len);
	return frames;
}

void frame_restore(struct rte_mbuf *frame, const struct record *from)
{
	rte_pktmbuf_reset(frame);
	frame->data_len = from->len;
	frame->pkt_len = from->len;
	memcpy(rte_pktmbuf_mtod(frame, void *), from->bytes, HEADERS);
}

size_t frame_read(const struct rte_mbuf *frame, uint8_t *into)
{
	size_t len = 0;

	for (; frame != NULL; frame = frame->next) {
		memcpy(into + len, rte_pktmbuf_mtod(frame, const void *), frame->data_len);
		len += frame->data_len;
	}
	return len;
}
