// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * DPDK's libraries at the same work as this project's: the other half of
 * dpdk-libs, which asks for one work and one input in a process, and then by
 * lines on standard input, answered by lines that begin with '=':
 *
 *   digest   does all of it once: a digest of what came out
 *   time N   does it N times: nanoseconds in all
 *
 *   dpdk_libs [EAL options] -- WORK FILE
 *
 * FILE has records: length in 32 bits, in the processor's order, and bytes.
 */
#include "work.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_common.h>

static const struct work *const works[] = {
	&raw_checksum, &tcp_checksum, &softrss,	  &softrss_be, &gfni,
	&gfni_bulk,    &gro_parsed,   &gro_given, &gso,	       &gso_checksums,
};

static uint64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static struct records read_records(const char *name)
{
	struct records all = { calloc(1 << 16, sizeof(struct record)), 0 };
	FILE *file = fopen(name, "rb");
	struct record next;

	while (all.at != NULL && file != NULL && all.count < 1 << 16 &&
	       fread(&next.len, sizeof(next.len), 1, file) == 1) {
		next.bytes = malloc(next.len);
		if (next.bytes == NULL || fread(next.bytes, 1, next.len, file) != next.len)
			break;
		all.at[all.count++] = next;
	}
	if (file != NULL)
		fclose(file);
	return all;
}

static void serve(const struct work *work)
{
	uint64_t passes;
	char line[64];

	while (fgets(line, sizeof(line), stdin) != NULL) {
		if (sscanf(line, "time %" SCNu64, &passes) == 1) {
			uint64_t sum = 0;

			while (passes--) {
				uint64_t start;

				if (work->restore != NULL)
					work->restore();
				start = now();
				work->pass();
				sum += now() - start;
			}
			printf("=%" PRIu64 "\n", sum);
		} else {
			if (work->restore != NULL)
				work->restore();
			work->pass();
			printf("=%" PRIu64 "\n", work->digest());
		}
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	int used = rte_eal_init(argc, argv);
	struct records records;

	if (used < 0 || argc - used != 3)
		rte_exit(EXIT_FAILURE, "dpdk_libs [EAL options] -- WORK FILE\n");
	records = read_records(argv[used + 2]);
	for (size_t i = 0; i < RTE_DIM(works); i++) {
		const char *obstacle;

		if (strcmp(works[i]->name, argv[used + 1]) != 0 || records.count == 0)
			continue;
		obstacle = works[i]->prepare(&records);
		printf("=%s\n", obstacle == NULL ? "ready" : obstacle);
		fflush(stdout);
		if (obstacle == NULL)
			serve(works[i]);
		return EXIT_SUCCESS;
	}
	rte_exit(EXIT_FAILURE, "no such work, or no input\n");
}
