// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * vmbus_uio_shim - run an unmodified user-space VMBus client (DPDK's net_netvsc
 * driver, or this project's own) against a simulated VMBus device, on a machine
 * that has neither Hyper-V nor the uio_hv_generic kernel driver.
 *
 * The library is loaded with LD_PRELOAD. It does four things:
 *
 *  1. Every path below /sys/bus/vmbus is looked up below
 *     $VMBUS_SHIM_ROOT/sys/bus/vmbus, where the simulated host has written an
 *     ordinary directory tree.
 *
 *  2. An open of /dev/uioN connects to the Unix socket (SOCK_SEQPACKET)
 *     $VMBUS_SHIM_ROOT/dev/uioN.sock and takes the five shared memory objects
 *     of the device from the host's first message. The client gets the socket
 *     itself as its file descriptor, so poll, 4-byte reads (event counts) and
 *     4-byte writes (interrupt control) work as they do on a UIO device. An
 *     mmap of that descriptor at offset K * page size maps memory object K.
 *
 *  3. The client's shareable memory (a memfd or a hugetlbfs file mapped with
 *     MAP_SHARED) is announced to the host, so that the host can follow the
 *     guest physical addresses in GPA direct packets. The "guest physical"
 *     address of a byte is its virtual address in the client: run DPDK with
 *     --iova-mode=va.
 *
 *  4. /proc/self/pagemap says so: the page number of a page that is present is
 *     that of its virtual address. And memfd_create has huge pages, whether the
 *     machine has any or not (they are ordinary ones).
 *
 * A program that makes system calls without the C library is not seen.
 *
 * README.md specifies the contract that a host must meet.
 *
 * Nothing here runs on the data path: packets move through shared memory only.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>

#define SYSFS_PREFIX	"/sys/bus/vmbus"
#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT	26
#define MFD_HUGE_MASK	0x3fU
#endif

#define UIO_PREFIX	"/dev/uio"
#define PAGEMAP		"/proc/self/pagemap"

#define NMAPS		5	/* rings, interrupt page, monitor page, recv, send */
#define MAX_DEVICES	16
#define MAX_REGIONS	4096

/* Host to guest, once, right after the connection: carries NMAPS descriptors. */
struct setup_msg {
	uint32_t magic;			/* SETUP_MAGIC */
	uint16_t version;		/* SHIM_VERSION */
	uint16_t nmaps;			/* NMAPS */
	uint64_t size[NMAPS];		/* bytes in each map */
};

/* Guest to host: this range of guest physical memory is that part of a file. */
struct region_msg {
	uint32_t magic;			/* REGION_MAGIC */
	uint32_t reserved;		/* 0 */
	uint64_t gpa;			/* first guest physical address */
	uint64_t len;			/* bytes */
	uint64_t offset;		/* of the first byte, in the file sent along */
};

#define SETUP_MAGIC	0x53424d56u	/* "VMBS", read as little endian */
#define REGION_MAGIC	0x52424d56u	/* "VMBR" */
#define SHIM_VERSION	1

struct device {
	unsigned int num;		/* N of /dev/uioN */
	int fd;				/* a descriptor that the client holds */
	dev_t st_dev;			/* identity of the socket behind it */
	ino_t st_ino;
	int map_fd[NMAPS];
	uint64_t size[NMAPS];
};

struct region {
	uint64_t gpa, len, offset;
	int fd;
};

/* What is open of /proc/self/pagemap: the descriptors are known by the file. */
static int pagemap_opened;
static dev_t pagemap_dev;
static ino_t pagemap_ino;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct device devices[MAX_DEVICES];
static unsigned int ndevices;
static struct region regions[MAX_REGIONS];
static unsigned int nregions;

static const char *shim_root(void)
{
	static const char *root;

	if (!root) {
		const char *env = getenv("VMBUS_SHIM_ROOT");

		root = env ? env : "";
	}
	return root;
}

#define DEBUG(...) do {							\
	if (getenv("VMBUS_SHIM_DEBUG"))					\
		fprintf(stderr, "vmbus_uio_shim: " __VA_ARGS__);	\
} while (0)

#define WARN(...) fprintf(stderr, "vmbus_uio_shim: " __VA_ARGS__)

/* The C library's own function behind one that this file replaces. */
#define REAL(name) __extension__ ({					\
	static __typeof__(&name) real;					\
	if (!real)							\
		real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);	\
	real; })

/*
 * Where a path really is: itself, or its place below the root. NULL with errno
 * set if the result would be too long.
 */
static const char *redirect(const char *path, char buf[PATH_MAX])
{
	size_t n = sizeof(SYSFS_PREFIX) - 1;

	if (!path || !*shim_root() || strncmp(path, SYSFS_PREFIX, n) != 0 ||
	    (path[n] != '\0' && path[n] != '/'))
		return path;
	if (snprintf(buf, PATH_MAX, "%s%s", shim_root(), path) >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	return buf;
}

/* N of "/dev/uioN", or -1 if the path is something else. */
static int uio_number(const char *path)
{
	const char *p;
	int num = 0;

	if (!path || !*shim_root() ||
	    strncmp(path, UIO_PREFIX, sizeof(UIO_PREFIX) - 1) != 0)
		return -1;
	p = path + sizeof(UIO_PREFIX) - 1;
	if (!*p)
		return -1;
	for (; *p; p++) {
		if (*p < '0' || *p > '9' || num > 9999)
			return -1;
		num = num * 10 + (*p - '0');
	}
	return num;
}

/* Send one message, with one descriptor along. */
static int send_with_fd(int sock, const void *msg, size_t len, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { (void *)msg, len };
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
	ssize_t ret;

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	do {
		ret = sendmsg(sock, &mh, MSG_NOSIGNAL);
	} while (ret < 0 && errno == EINTR);
	return ret == (ssize_t)len ? 0 : -1;
}

static void send_region(int sock, const struct region *r)
{
	struct region_msg msg = {
		.magic = REGION_MAGIC, .gpa = r->gpa, .len = r->len,
		.offset = r->offset,
	};

	DEBUG("guest memory %#llx..%#llx\n", (unsigned long long)r->gpa,
	      (unsigned long long)(r->gpa + r->len));
	if (send_with_fd(sock, &msg, sizeof(msg), r->fd) < 0)
		WARN("cannot announce guest memory: %s\n", strerror(errno));
}

/* Does the client still hold the descriptor by which we know this device? */
static int device_alive(const struct device *d)
{
	struct stat st;

	return d->fd >= 0 && fstat(d->fd, &st) == 0 && S_ISSOCK(st.st_mode) &&
		st.st_dev == d->st_dev && st.st_ino == d->st_ino;
}

/* Receive the setup message; on success d->size and d->map_fd are filled in. */
static int receive_setup(int sock, struct device *d)
{
	char control[CMSG_SPACE(NMAPS * sizeof(int))];
	struct setup_msg msg;
	struct iovec iov = { &msg, sizeof(msg) };
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	ssize_t ret;

	do {
		ret = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -1;

	c = CMSG_FIRSTHDR(&mh);
	if (ret != sizeof(msg) || msg.magic != SETUP_MAGIC ||
	    msg.version != SHIM_VERSION || msg.nmaps != NMAPS ||
	    (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || !c ||
	    c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
	    c->cmsg_len != CMSG_LEN(NMAPS * sizeof(int))) {
		WARN("bad setup message from the host\n");
		errno = EPROTO;
		return -1;
	}
	memcpy(d->map_fd, CMSG_DATA(c), sizeof(d->map_fd));
	memcpy(d->size, msg.size, sizeof(d->size));
	return 0;
}

/* open("/dev/uioN"); called with the lock held. */
static int open_uio(unsigned int num, int flags)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct device *d = NULL, fresh = { .num = num };
	struct stat st;
	unsigned int i;
	int fd, err;

	for (i = 0; i < ndevices; i++)
		if (devices[i].num == num)
			d = &devices[i];

	/*
	 * One connection serves all opens of a device, so the host sees the
	 * device closed (end of file) when the client closed the last of them.
	 */
	if (d && device_alive(d))
		return fcntl(d->fd, (flags & O_CLOEXEC) ?
			     F_DUPFD_CLOEXEC : F_DUPFD, 0);

	if (!d && ndevices == MAX_DEVICES) {
		errno = EMFILE;
		return -1;
	}
	if ((size_t)snprintf(sun.sun_path, sizeof(sun.sun_path),
			     "%s" UIO_PREFIX "%u.sock", shim_root(), num) >=
	    sizeof(sun.sun_path)) {
		WARN("VMBUS_SHIM_ROOT is too long for a socket address\n");
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET |
		    ((flags & O_CLOEXEC) ? SOCK_CLOEXEC : 0), 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ||
	    fstat(fd, &st) < 0 || receive_setup(fd, &fresh) < 0) {
		err = errno;
		WARN("%s: %s\n", sun.sun_path, strerror(err));
		close(fd);
		errno = err;
		return -1;
	}
	if (flags & O_NONBLOCK)
		fcntl(fd, F_SETFL, O_NONBLOCK);

	if (!d)
		d = &devices[ndevices++];
	else
		for (i = 0; i < NMAPS; i++)
			close(d->map_fd[i]);
	fresh.fd = fd;
	fresh.st_dev = st.st_dev;
	fresh.st_ino = st.st_ino;
	*d = fresh;
	DEBUG("connected to %s\n", sun.sun_path);

	for (i = 0; i < nregions; i++)
		send_region(fd, &regions[i]);
	return fd;
}

static int open_path(int dirfd, const char *path, int flags, mode_t mode)
{
	char buf[PATH_MAX];
	int num = uio_number(path), ret;

	if (num >= 0) {
		pthread_mutex_lock(&lock);
		ret = open_uio(num, flags);
		pthread_mutex_unlock(&lock);
		return ret;
	}
	path = redirect(path, buf);
	if (!path)
		return -1;
	ret = REAL(openat)(dirfd, path, flags, mode);
	if (ret >= 0 && *shim_root() && strcmp(path, PAGEMAP) == 0) {
		struct stat st;

		if (fstat(ret, &st) == 0) {
			pagemap_dev = st.st_dev;
			pagemap_ino = st.st_ino;
			__atomic_store_n(&pagemap_opened, 1, __ATOMIC_RELEASE);
		}
	}
	return ret;
}

/*
 * Bytes of /proc/self/pagemap that were read from offset: a present page has
 * the number of its virtual address. Whether it is present, and all other bits,
 * are the kernel's. Entries that are cut at either end are left alone.
 */
static void number_pages(int fd, void *data, ssize_t len, uint64_t offset)
{
	const uint64_t present = 1ull << 63, number = (1ull << 55) - 1;
	struct stat st;
	ssize_t i = (ssize_t)(-offset & 7);

	if (len <= 0 || fstat(fd, &st) < 0 || st.st_dev != pagemap_dev ||
	    st.st_ino != pagemap_ino)
		return;
	for (; i + 8 <= len; i += 8) {
		uint64_t entry;

		memcpy(&entry, (char *)data + i, 8);
		if (!(entry & present))
			continue;
		entry = (entry & ~number) | ((offset + (uint64_t)i) / 8 & number);
		memcpy((char *)data + i, &entry, 8);
	}
}

/* The path of a redirected one as the client knows it. */
static char *undirect(char *path)
{
	size_t n = strlen(shim_root());

	if (path && n && strncmp(path, shim_root(), n) == 0 &&
	    strncmp(path + n, SYSFS_PREFIX, sizeof(SYSFS_PREFIX) - 1) == 0)
		memmove(path, path + n, strlen(path + n) + 1);
	return path;
}

/*
 * Remember guest memory and tell the connected hosts. Only what another
 * process can map as well counts: memfds and hugetlbfs files (and the device
 * maps themselves, which come from memfds: a received packet may be sent on
 * straight from the receive buffer). DPDK's bookkeeping files, which live in
 * the file system, are left out.
 */
static void note_region(uint64_t gpa, uint64_t len, int fd, uint64_t offset)
{
	struct region *r = NULL;
	struct statfs fs;
	struct stat st;
	unsigned int i;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fstatfs(fd, &fs) < 0)
		return;
	if ((unsigned long)fs.f_type != HUGETLBFS_MAGIC &&
	    !((unsigned long)fs.f_type == TMPFS_MAGIC && st.st_nlink == 0))
		return;

	/* A mapping that is wholly covered by this new one is gone. */
	for (i = 0; i < nregions; i++) {
		if (regions[i].gpa < gpa ||
		    regions[i].gpa + regions[i].len > gpa + len)
			continue;
		close(regions[i].fd);
		if (!r)
			r = &regions[i];
		else
			regions[i--] = regions[--nregions];
	}
	if (!r) {
		if (nregions == MAX_REGIONS) {
			WARN("too many pieces of guest memory\n");
			return;
		}
		r = &regions[nregions++];
	}
	r->gpa = gpa;
	r->len = len;
	r->offset = offset;
	r->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (r->fd < 0) {
		WARN("cannot keep guest memory: %s\n", strerror(errno));
		*r = regions[--nregions];
		return;
	}
	for (i = 0; i < ndevices; i++)
		if (device_alive(&devices[i]))
			send_region(devices[i].fd, r);
}

/* The device behind a descriptor, if it is one of ours. */
static struct device *find_device(int fd)
{
	struct stat st;
	unsigned int i;

	if (ndevices == 0 || fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
		return NULL;
	for (i = 0; i < ndevices; i++)
		if (devices[i].st_dev == st.st_dev &&
		    devices[i].st_ino == st.st_ino)
			return &devices[i];
	return NULL;
}

/* The functions that replace the C library's start here. */

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t offset)
{
	struct device *d;
	uint64_t index;
	void *p;

	if (fd < 0 || (flags & MAP_ANONYMOUS) || !*shim_root())
		return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd,
				       offset);

	pthread_mutex_lock(&lock);
	d = find_device(fd);
	if (d) {
		index = (uint64_t)offset / (uint64_t)sysconf(_SC_PAGESIZE);
		if (index >= NMAPS || len > d->size[index]) {
			pthread_mutex_unlock(&lock);
			errno = EINVAL;
			return MAP_FAILED;
		}
		fd = d->map_fd[index];
		offset = 0;
	}
	p = (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
	if (d)
		DEBUG("map %d of uio%u: %zu bytes at %p\n",
		      (int)index, d->num, len, p);
	if (p != MAP_FAILED && (flags & MAP_TYPE) != MAP_PRIVATE &&
	    (prot & PROT_WRITE))
		note_region((uintptr_t)p, len, fd, offset);
	pthread_mutex_unlock(&lock);
	return p;
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	return mmap64(addr, len, prot, flags, fd, offset);
}

#define OPEN_MODE(flags, mode) do {					\
	if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) { \
		va_list ap;						\
		va_start(ap, flags);					\
		mode = va_arg(ap, mode_t);				\
		va_end(ap);						\
	}								\
} while (0)

int open(const char *path, int flags, ...)
{
	mode_t mode = 0;

	OPEN_MODE(flags, mode);
	return open_path(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	mode_t mode = 0;

	OPEN_MODE(flags, mode);
	return open_path(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int dirfd, const char *path, int flags, ...)
{
	mode_t mode = 0;

	OPEN_MODE(flags, mode);
	return open_path(dirfd, path, flags, mode);
}

int openat64(int dirfd, const char *path, int flags, ...)
{
	mode_t mode = 0;

	OPEN_MODE(flags, mode);
	return open_path(dirfd, path, flags | O_LARGEFILE, mode);
}

/* What open becomes in programs built with _FORTIFY_SOURCE. */
int __open_2(const char *path, int flags)
{
	return open_path(AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags)
{
	return open_path(AT_FDCWD, path, flags | O_LARGEFILE, 0);
}

FILE *fopen(const char *path, const char *mode)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(fopen)(path, mode) : NULL;
}

FILE *fopen64(const char *path, const char *mode)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(fopen64)(path, mode) : NULL;
}

DIR *opendir(const char *path)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(opendir)(path) : NULL;
}

int access(const char *path, int mode)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(access)(path, mode) : -1;
}

int stat(const char *restrict path, struct stat *restrict st)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(stat)(path, st) : -1;
}

int stat64(const char *restrict path, struct stat64 *restrict st)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(stat64)(path, st) : -1;
}

int lstat(const char *restrict path, struct stat *restrict st)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(lstat)(path, st) : -1;
}

int lstat64(const char *restrict path, struct stat64 *restrict st)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(lstat64)(path, st) : -1;
}

int fstatat(int dirfd, const char *restrict path, struct stat *restrict st,
	    int flags)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(fstatat)(dirfd, path, st, flags) : -1;
}

int fstatat64(int dirfd, const char *restrict path, struct stat64 *restrict st,
	      int flags)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(fstatat64)(dirfd, path, st, flags) : -1;
}

int statx(int dirfd, const char *restrict path, int flags, unsigned int mask,
	  struct statx *restrict st)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(statx)(dirfd, path, flags, mask, st) : -1;
}

int faccessat(int dirfd, const char *path, int mode, int flags)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(faccessat)(dirfd, path, mode, flags) : -1;
}

int scandir(const char *restrict path, struct dirent ***restrict list,
	    int (*select)(const struct dirent *),
	    int (*compare)(const struct dirent **, const struct dirent **))
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(scandir)(path, list, select, compare) : -1;
}

int scandir64(const char *restrict path, struct dirent64 ***restrict list,
	      int (*select)(const struct dirent64 *),
	      int (*compare)(const struct dirent64 **, const struct dirent64 **))
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(scandir64)(path, list, select, compare) : -1;
}

ssize_t readlink(const char *restrict path, char *restrict target, size_t len)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(readlink)(path, target, len) : -1;
}

ssize_t readlinkat(int dirfd, const char *restrict path,
		   char *restrict target, size_t len)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(readlinkat)(dirfd, path, target, len) : -1;
}

/*
 * The C library has two versions of realpath, of which dlsym finds the older:
 * it does not take NULL for the result.
 */
char *realpath(const char *restrict path, char *restrict resolved)
{
	static char *(*real)(const char *, char *);
	char buf[PATH_MAX];

	if (!real)
		real = (char *(*)(const char *, char *))dlvsym(RTLD_NEXT,
			"realpath", "GLIBC_2.3");
	if (!real)
		real = (char *(*)(const char *, char *))dlsym(RTLD_NEXT,
			"realpath");
	path = redirect(path, buf);
	return path ? undirect(real(path, resolved)) : NULL;
}

int inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	char buf[PATH_MAX];

	path = redirect(path, buf);
	return path ? REAL(inotify_add_watch)(fd, path, mask) : -1;
}

/*
 * Huge pages that the machine need not have: ordinary ones do as well. And it
 * must be possible to seal what is announced, or the host refuses it: else it
 * could be shortened under its mapping.
 */
int memfd_create(const char *name, unsigned int flags)
{
	if (*shim_root()) {
		flags |= MFD_ALLOW_SEALING;
		flags &= ~(unsigned int)MFD_HUGETLB;
		flags &= ~((unsigned int)MFD_HUGE_MASK << MFD_HUGE_SHIFT);
	}
	return REAL(memfd_create)(name, flags);
}

ssize_t pread64(int fd, void *data, size_t len, off64_t offset)
{
	ssize_t ret = REAL(pread64)(fd, data, len, offset);

	if (__atomic_load_n(&pagemap_opened, __ATOMIC_ACQUIRE))
		number_pages(fd, data, ret, (uint64_t)offset);
	return ret;
}

ssize_t pread(int fd, void *data, size_t len, off_t offset)
{
	return pread64(fd, data, len, offset);
}

ssize_t read(int fd, void *data, size_t len)
{
	ssize_t ret = REAL(read)(fd, data, len);

	if (ret > 0 && __atomic_load_n(&pagemap_opened, __ATOMIC_ACQUIRE)) {
		int err = errno;
		off64_t end = lseek64(fd, 0, SEEK_CUR);

		/* A pipe or a socket has no offset, and is no pagemap. */
		if (end >= ret)
			number_pages(fd, data, ret, (uint64_t)(end - ret));
		errno = err;
	}
	return ret;
}
