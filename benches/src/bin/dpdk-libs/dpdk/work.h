/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What is asked of DPDK's libraries, and what it is done to. */
#ifndef WORK_H
#define WORK_H

#include <stddef.h>
#include <stdint.h>

#include <rte_mempool.h>

/* Frames handed to a library at a time. */
#define BURST 32

/* A frame, a buffer, a tuple. */
struct record {
	uint8_t *bytes;
	uint32_t len;
};

struct records {
	struct record *at;
	size_t count;
};

struct work {
	const char *name;
	/* Once. Why it cannot be done here, or NULL. */
	const char *(*prepare)(const struct records *input);
	/* Before each pass, not measured: what the last one changed is as it was. May be NULL. */
	void (*restore)(void);
	/* All of the input once: what is measured. */
	void (*pass)(void);
	/* Of what the last pass made. */
	uint64_t (*digest)(void);
};

/* FNV-1a, 64 bits. */
#define DIGEST_START 0xcbf29ce484222325ULL
static inline uint64_t digest_of(uint64_t digest, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;

	while (len--)
		digest = (digest ^ *at++) * 0x100000001b3ULL;
	return digest;
}

struct rte_mbuf;

/* Frames as a driver would hand them over, in buffers of their own. */
struct rte_mbuf **frames_alloc(const struct records *input);
/* What libraries change of one, headers included, is as it was. */
void frame_restore(struct rte_mbuf *frame, const struct record *from);
/* All bytes of a chain; `into` has room for the longest. Their number. */
size_t frame_read(const struct rte_mbuf *frame, uint8_t *into);
/* A pool of `count` buffers, with room for this many bytes each. */
struct rte_mempool *pool(const char *name, unsigned int count, uint16_t room);

/* Of hashes. */
#define RSS_KEY_LEN 40
extern const uint8_t rss_key[RSS_KEY_LEN];

extern const struct work raw_checksum, tcp_checksum;
extern const struct work softrss, softrss_be, gfni, gfni_bulk;
extern const struct work gro_parsed, gro_given;
extern const struct work gso, gso_checksums;

/* IPv4 without options and TCP without, behind an Ethernet header without tags. */
#define L2_LEN 14
#define L3_LEN 20
#define L4_LEN 20
#define HEADERS (L2_LEN + L3_LEN + L4_LEN)
#define IPV4_CHECKSUM (L2_LEN + 10)
#define TCP_CHECKSUM (L2_LEN + L3_LEN + 16)

#endif
