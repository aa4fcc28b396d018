/*
 * A disk that may be slow and that remembers what it was told to keep, for the Git
 * processes of a node. Package disk does the same for the node itself.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *file(char *path, size_t size, const char *name)
{
	const char *state = getenv("GIT_CLUSTER_FAULT_DISK");
	if (!state || snprintf(path, size, "%s/%s", state, name) >= (int)size)
		return NULL;
	return path;
}

static void wait_for_disk(void)
{
	char path[4096], text[32];
	int fd;
	ssize_t n;

	if (!file(path, sizeof(path), "slow") || (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n > 0) {
		text[n] = 0;
		usleep(1000 * strtoul(text, NULL, 10));
	}
}

static void note(int fd)
{
	char path[4096], line[128];
	struct stat s;
	int log, n, failed = 1;

	if (!file(path, sizeof(path), "synced") || fstat(fd, &s) || !S_ISREG(s.st_mode))
		return;
	n = snprintf(line, sizeof(line), "%llu %lld %lld\n", (unsigned long long)s.st_ino, (long long)s.st_size,
		(long long)s.st_mtim.tv_sec * 1000000000 + s.st_mtim.tv_nsec);
	if ((log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) >= 0) {
		failed = write(log, line, n) != n;
		close(log);
	}
	if (failed && file(path, sizeof(path), "trusted"))
		unlink(path);
}

static int synced(int fd, long call)
{
	int r;

	wait_for_disk();
	if (!(r = syscall(call, fd)))
		note(fd);
	return r;
}

int fsync(int fd)
{
	return synced(fd, SYS_fsync);
}

int fdatasync(int fd)
{
	return synced(fd, SYS_fdatasync);
}
