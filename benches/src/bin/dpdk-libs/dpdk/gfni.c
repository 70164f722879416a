// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * rte_thash_gfni, which is compiled into its users. Always for the processor
 * that it runs on: programs choose it when they run.
 */
#include "work.h"

#include <rte_thash.h>

#ifdef RTE_THASH_GFNI_DEFINED

static uint64_t matrices[RSS_KEY_LEN];
static uint8_t **tuples;
static uint32_t *hashes;
static size_t count;
static int len;

/*
 * rte_thash_gfni_supported() is not asked: it is part of the library, and says
 * "no" where that was compiled for less, as Debian's was.
 */
static const char *prepare(const struct records *input)
{
	count = input->count;
	len = input->at[0].len;
	tuples = calloc(count, sizeof(*tuples));
	hashes = calloc(count, sizeof(*hashes));
	if (tuples == NULL || hashes == NULL)
		return "no memory";
	for (size_t i = 0; i < count; i++)
		tuples[i] = input->at[i].bytes;
	rte_thash_complete_matrix(matrices, rss_key, RSS_KEY_LEN);
	return NULL;
}

static void pass(void)
{
	for (size_t i = 0; i < count; i++)
		hashes[i] = rte_thash_gfni(matrices, tuples[i], len);
}

static void bulk_pass(void)
{
	for (size_t i = 0; i < count; i += BURST)
		rte_thash_gfni_bulk(matrices, len, tuples + i, hashes + i,
				    RTE_MIN(count - i, (size_t)BURST));
}

static uint64_t digest(void)
{
	return digest_of(DIGEST_START, hashes, count * sizeof(*hashes));
}

#else

static const char *prepare(const struct records *input)
{
	(void)input;
	return "this processor has no GFNI with AVX-512";
}

#define pass NULL
#define bulk_pass NULL
#define digest NULL

#endif

const struct work gfni = { "gfni", prepare, NULL, pass, digest };
const struct work gfni_bulk = { "gfni-bulk", prepare, NULL, bulk_pass, digest };
