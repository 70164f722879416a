// SPDX-License-Identifier: MIT OR Apache-2.0
/* rte_softrss, rte_softrss_be. */
#include "work.h"

#include <rte_byteorder.h>
#include <rte_thash.h>

/* Addresses of IPv6 and ports. */
#define TUPLE_MAX 36

/* That of Microsoft's verification suite. */
const uint8_t rss_key[RSS_KEY_LEN] __rte_aligned(4) = {
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
	0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
	0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
};
static uint32_t converted[RSS_KEY_LEN / 4];

static const struct records *records;
static uint32_t words;
static uint32_t *hashes;
/* In the processor's order, which the plain functions want. */
static uint32_t (*tuples)[TUPLE_MAX / 4];

static const char *prepare(const struct records *input)
{
	records = input;
	words = input->at[0].len / 4;
	hashes = calloc(input->count, sizeof(*hashes));
	tuples = calloc(input->count, sizeof(*tuples));
	if (hashes == NULL || tuples == NULL)
		return "no memory";
	for (size_t i = 0; i < input->count; i++) {
		const uint32_t *from = (const void *)input->at[i].bytes;

		for (uint32_t word = 0; word < words; word++)
			tuples[i][word] = rte_be_to_cpu_32(from[word]);
	}
	rte_convert_rss_key((const uint32_t *)rss_key, converted, RSS_KEY_LEN);
	return NULL;
}

static void softrss_pass(void)
{
	for (size_t i = 0; i < records->count; i++)
		hashes[i] = rte_softrss(tuples[i], words, rss_key);
}

static void softrss_be_pass(void)
{
	for (size_t i = 0; i < records->count; i++)
		hashes[i] = rte_softrss_be(tuples[i], words, (const uint8_t *)converted);
}

static uint64_t digest(void)
{
	return digest_of(DIGEST_START, hashes, records->count * sizeof(*hashes));
}

const struct work softrss = { "softrss", prepare, NULL, softrss_pass, digest };
const struct work softrss_be = { "softrss-be", prepare, NULL, softrss_be_pass, digest };
